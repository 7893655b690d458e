//! What the two nodes of a pair say to each other.
//!
//! ```text
//!   backup                                   primary
//!     │ Hello ──────────────────────────────▶ │   who I am, my configuration
//!     │ ◀────────────────────────────── Welcome │   the initial state: build your machine
//!     │ Ready ──────────────────────────────▶ │   it is built, this is its digest
//!     │ ◀─────────────────────────────── Opened │   the arbiter opened our generation
//!     │ ◀────────────────────────────── Entries │
//!     │ Ack ────────────────────────────────▶ │
//!     │ ◀──────────────────────────▶ Heartbeat │
//! ```
//!
//! After a broken channel the backup dials again with `Hello { resume }`, and the primary answers
//! `Resumed` and goes on with the first entry that the backup does not hold.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::entry::{Digest, Entry};
use crate::initial::{Configuration, Difference, InitialState};
use crate::types::{EntryIndex, Incarnation, Life, Token};

/// The version of these messages and of how they are exchanged.
pub const PROTOCOL_VERSION: u32 = 2;

/// The most entries in one batch.
pub const MAX_BATCH_ENTRIES: usize = 16_384;

/// The payload bytes after which a sender closes a batch: far below the largest frame that the
/// codec takes.
pub const BATCH_TARGET_BYTES: usize = 256 << 10;

/// A run of entries without a gap, never empty; shared, since the sender keeps it until it is
/// acknowledged while the disk log writes it.
pub type Batch = Arc<[Entry]>;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Entries for the backup.
    Entries(Batch),
    /// Everything else.
    Signal(Signal),
}

impl From<Signal> for Message {
    fn from(signal: Signal) -> Self {
        Message::Signal(signal)
    }
}

/// Every message but the entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// The backup introduces itself.
    Hello(Box<Hello>),
    /// The primary takes it.
    Welcome(Box<Welcome>),
    /// The backup has built its machine.
    Ready {
        /// Its state before the first instruction.
        digest: Digest,
    },
    /// The generation is open: the guest runs from here on.
    Opened {
        /// The pair's token.
        token: Token,
    },
    /// The channel was broken and is good again.
    Resumed {
        /// The first entry that follows.
        next: EntryIndex,
    },
    /// Entries up to `received` are held (LOG-2), and replayed up to `replayed`.
    Ack {
        /// The last entry held.
        received: EntryIndex,
        /// The last entry replayed.
        replayed: EntryIndex,
    },
    /// The sender's vCPU thread is alive (FAIL-1).
    Heartbeat {
        /// A number of the sender's choice, growing.
        nonce: u64,
        /// The last nonce that the sender got.
        echo: u64,
    },
    /// The primary stands still, everything it said is acknowledged and sent: take over.
    HandOver,
    /// The VM was stopped and the arbiter knows (FAIL-10).
    Stopped,
    /// The backup's machine parted from the log and will never go live (DET-5).
    Diverged {
        /// The entry at which it showed.
        at: EntryIndex,
        /// What differed.
        what: String,
    },
    /// The sender will not go on with the receiver.
    Rejected(Rejection),
}

/// Who the backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub protocol: u32,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// The sender's name for people: a host name.
    pub node: String,
    /// Where the sender listens, to be probed when the channel closes.
    pub probe: String,
    /// How the sender's machine is configured.
    pub configuration: Configuration,
    /// Set when a broken channel is to be resumed.
    pub resume: Option<Resume>,
}

/// Where a broken channel is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The life that the sender is a member of.
    pub life: Life,
    /// The last entry that the sender holds.
    pub received: EntryIndex,
}

/// The primary's answer to a new backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The primary's incarnation.
    pub incarnation: Incarnation,
    /// The primary's name for people.
    pub node: String,
    /// What both machines start from.
    pub initial: InitialState,
}

/// Why a node will not go on with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// The programs speak different protocols.
    #[error(
        "the other node speaks protocol version {theirs}, this one {PROTOCOL_VERSION}: run the same release of ftvm on both"
    )]
    Protocol {
        /// The version that the rejecting node speaks.
        theirs: u32,
    },
    /// The machines are configured differently.
    #[error("the two nodes are configured differently: {0}; start both with the same options")]
    Configuration(Difference),
    /// The primary has a backup already, or no use for one.
    #[error("the primary takes no backup now: it {0}")]
    Busy(String),
    /// The machines are not in the same state before the first instruction.
    #[error("the machines differ before the first instruction: {0}")]
    InitialState(String),
    /// A resume that cannot be: another life or incarnation, or the claim was sent (FAIL-8).
    #[error("this pair cannot be resumed: {0}")]
    Resume(String),
    /// The sender's token is lower than one already seen (FAIL-6).
    #[error("token {stale} is stale: {highest} was seen")]
    Fenced {
        /// The sender's.
        stale: Token,
        /// The highest one seen.
        highest: Token,
    },
}
