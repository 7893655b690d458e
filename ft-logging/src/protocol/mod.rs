//! The protocol of a pair, without I/O: events go in through `handle_*(now, …)`, what is to be
//! done comes out of `poll()`.
//!
//! [`Primary`] is the node that runs the guest and speaks for it, [`Backup`] the one that replays
//! it. A backup that goes live becomes a [`Primary`] that is alone.
//!
//! ```text
//!  Primary                                       Backup
//!
//!   Waiting ─Hello─▶ Greeting ─Ready─▶ Opening    Joining ─Welcome─▶ Building ─built─▶ Ready
//!                                         │                                              │
//!                                      granted                                    Opened │
//!                                         ▼                                              ▼
//!        ┌─────────resumed────────── Protected    Following ◀──────────resumed────────┐
//!        │                                │            │                              │
//!        │                  channel closed│silent      │channel closed, silent        │
//!        │                                ▼            ▼  handed over                 │
//!        └─────────────────────────── Suspecting ── Suspecting (frozen) ──────────────┘
//!                                      claim sent: no way back (FAIL-8)
//!                                     won │   │ lost        won │
//!                                         ▼   ▼                 ▼
//!                                      Alone  Halted         live: a Primary, Alone
//! ```
//!
//! Rules for the caller, which is the node and the simulator alike:
//! * Take everything that has arrived before `handle_tick` (FAIL-1).
//! * Carry out the effects in order, and all of them before the next event.
//! * Answer each [`Effect::Ask`] exactly once; there is never more than one open.
//! * Call `handle_tick` every [`Timing::tick_ns`].

mod backup;
#[cfg(test)]
mod fixtures;
mod gate;
mod histogram;
mod lag;
mod primary;
mod tail;
mod takeover;
mod watch;

pub use backup::{Backup, BackupState};
pub use histogram::Histogram;
pub use lag::Brake;
pub use primary::{Primary, PrimaryState, Wish};

use crate::entry::{Output, Payload};
use crate::initial::InitialState;
use crate::message::{Batch, Message};
use crate::types::{Generation, Incarnation, OutputSeq, Position, Token};

/// Nanoseconds since some moment; never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub u64);

impl Now {
    /// How long ago `earlier` was, in nanoseconds.
    #[must_use]
    pub fn since(self, earlier: Now) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The protocol's times, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `--detect`: a peer that is silent for this long is suspected (FAIL-1).
    pub detect_ns: u64,
    /// How often the caller ticks.
    pub tick_ns: u64,
    /// `--max-lag`: replay this far behind stops the primary's vCPU, half as far begins to slow it
    /// (LOG-5).
    pub max_lag_ns: u64,
    /// How long to wait before an arbiter that did not answer is asked again (FAIL-4).
    pub retry_ns: u64,
}

impl Timing {
    /// Times that follow from a detection time and a largest lag, both in milliseconds.
    #[must_use]
    pub fn new(detect_ms: u64, max_lag_ms: u64) -> Self {
        let ms = 1_000_000;
        Timing {
            detect_ns: detect_ms * ms,
            // Ten heartbeats fit into a detection time, so that losing a few means nothing.
            tick_ns: (detect_ms * ms / 10).max(ms),
            max_lag_ns: max_lag_ms * ms,
            retry_ns: (detect_ms * ms / 5).max(ms),
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Timing::new(500, 100)
    }
}

/// The bounds of the protocol's buffers (LOG-4), in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries that the backup has not yet acknowledged or replayed.
    pub log_bytes: usize,
    /// Outputs that wait at the gate.
    pub gate_bytes: usize,
    /// Outputs that the backup keeps until it knows that they were sent (OUT-3).
    pub tail_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // A gigabit link fills each in half a second: time to notice, not to run out of memory.
        Limits {
            log_bytes: 64 << 20,
            gate_bytes: 64 << 20,
            tail_bytes: 64 << 20,
        }
    }
}

/// One thing that the vCPU thread reports: an entry to be, with the bytes of the output it marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where in the run.
    pub position: Position,
    /// What the entry will say.
    pub payload: Payload,
    /// The output itself, beside its mark.
    pub output: Option<Output>,
    /// The operator's request that this entry carries out: its answer is an output too (OUT-1).
    pub request: Option<RequestId>,
}

/// The number of an operator's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the caller is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this to the peer, with the token, or drop it if there is no channel.
    Send(Message),
    /// Close the channel after what was sent.
    CloseChannel,
    /// Try to connect to the peer's port, and tell `handle_probe` what came of it.
    Probe,
    /// Ask the arbiter, and tell `handle_answer`.
    Ask(Question),
    /// Build a machine from this, and tell `handle_built`.
    Build(Box<InitialState>),
    /// The generation is open: let the guest run, or run on after a failed hand-over.
    Run,
    /// Hand these entries to the replaying machine.
    Replay(Batch),
    /// These entries belong to the log now; a log on disk takes them (LOG-6).
    Append(Batch),
    /// Send this output into the world, and tell `handle_released` once it is written (OUT-3).
    Release {
        /// Its place among all outputs.
        seq: OutputSeq,
        /// The frame or bytes.
        output: Output,
    },
    /// Answer the operator.
    Answer(RequestId),
    /// This node is the VM from now on: announce it, and let the guest run on live. The kept
    /// outputs follow as [`Effect::Release`] (OUT-4).
    GoLive(Token),
    /// Slow the vCPU so much, or let it run freely again (LOG-5).
    SlowDown(Brake),
    /// Stop for good: say nothing more, keep the state (FAIL-3).
    Halt(Halt),
    /// The VM has ended in order, or is someone else's: leave.
    Finish(Finish),
}

/// What the arbiter is asked; who asks, for which life and generation, the caller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Create the life with these members (ONE-2).
    Open {
        /// The pair, or one node that runs alone.
        members: Vec<Incarnation>,
    },
    /// Linearizable read of the VM's record.
    Read,
    /// Claim the generation (TAS-2).
    Claim,
    /// Record that the VM was stopped (FAIL-10).
    Stop,
}

/// What the arbiter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The generation is open.
    Opened,
    /// It cannot be opened: why, and what to do.
    Refused(String),
    /// The VM's record, if there is one of this life.
    Record(Option<RecordView>),
    /// The generation is the asker's.
    Won,
    /// The generation is another's, for ever.
    Lost {
        /// Whose.
        to: Incarnation,
    },
    /// The VM is recorded as stopped.
    Stopped,
    /// The VM was deleted.
    Deleted,
    /// No answer: what became of the question is not known (TAS-4).
    Unknown(String),
}

/// The arbiter's record of a VM, as far as a node needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView {
    /// The current generation.
    pub generation: Generation,
    /// Its members.
    pub members: Vec<Incarnation>,
    /// Who has won it.
    pub winner: Option<Incarnation>,
    /// Whether the VM was stopped.
    pub stopped: bool,
}

/// What a probe of the peer's port found (FAIL-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Nobody listens: the peer's process is gone.
    Refused,
    /// Somebody listens: the peer may come back.
    Accepted,
    /// No answer: nothing is known.
    NoAnswer,
}

/// Why a node has stopped for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// The other node is the VM.
    #[error("the generation was granted to {to}: the VM goes on there")]
    Lost {
        /// Who has won.
        to: Incarnation,
    },
    /// The arbiter knows a later generation: others have gone on.
    #[error("the VM has moved on to generation {0} without this node")]
    Outdated(Generation),
    /// The arbiter refused to open the generation.
    #[error("the arbiter refused: {0}")]
    Refused(String),
    /// The life is not, or no longer, known to the arbiter.
    #[error("the VM was deleted from the arbiter")]
    Deleted,
    /// The machine here parted from the log (DET-5).
    #[error("divergence at entry {at}: {what}")]
    Diverged {
        /// The entry at which it showed.
        at: crate::types::EntryIndex,
        /// What differed.
        what: String,
    },
    /// The peer broke the protocol or the log (LOG-1).
    #[error("the other node broke the protocol: {0}")]
    Broken(String),
    /// The peer will not go on with this node.
    #[error("refused by the other node: {0}")]
    Rejected(crate::message::Rejection),
    /// The machine cannot go on here.
    #[error("the machine failed: {0}")]
    Machine(String),
}

/// How a node's part has ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The VM was stopped, and the arbiter knows (FAIL-10).
    Stopped,
    /// The other node has taken over.
    HandedOver,
    /// The primary went away before the guest ever ran: a new one may come.
    NeverStarted,
}
