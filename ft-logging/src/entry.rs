//! The one enum of everything that enters a machine or marks its run.
//!
//! A machine's state at a position is a function of its initial state and of the entries up to
//! there (DET-1), so this enum is closed on purpose: what is not in it cannot reach a guest.
//!
//! Entries of one position stand in this order, and mean:
//!
//! ```text
//!   inputs        take effect before the access that ended the position is carried out
//!   Interrupt     the vector that the machine itself then injected: a check
//!   Output        what the access, or an input, made the machine say: a check, and what the gate
//!                 waits for
//!   Digest        the state after all of this: a check
//!   Progress      nothing more belongs here
//! ```
//!
//! While the vCPU is halted the position stands still, and the whole order may repeat at it.

use serde::{Deserialize, Serialize};

use crate::types::{EntryIndex, OutputSeq, Position, VirtualTime};

/// The largest Ethernet frame that a machine takes or makes, in bytes: an MTU of 1,500, the
/// header, and room for one VLAN tag.
pub const MAX_FRAME_BYTES: usize = 1518;

/// The most console bytes in one entry or output.
pub const MAX_CONSOLE_BYTES: usize = 4096;

/// The most entropy that one entry carries to the guest, in bytes.
pub const MAX_ENTROPY_BYTES: usize = 4096;

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number; consecutive within a life (LOG-1).
    pub index: EntryIndex,
    /// Where in the run it takes effect.
    pub position: Position,
    /// What it is.
    pub payload: Payload,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// Virtual time moves to `now`. At most one second in a step.
    Clock {
        /// The new virtual time.
        now: VirtualTime,
    },
    /// A frame for the network device, at most [`MAX_FRAME_BYTES`].
    NetRx {
        /// The frame without preamble and checksum.
        #[serde(with = "serde_bytes")]
        frame: Vec<u8>,
    },
    /// Bytes for the UART, at most [`MAX_CONSOLE_BYTES`].
    ConsoleRx {
        /// What was typed.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Random bytes for the guest's pending request, at most [`MAX_ENTROPY_BYTES`].
    Entropy {
        /// The bytes.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// An operator's command.
    Control(Control),
    /// A request to the block device is completed here. Each node carries it out on its own image;
    /// only the moment and the outcome are said.
    BlockDone {
        /// Which request: they are numbered from 1, in the order in which the guest made them.
        tag: u64,
        /// What the guest is told.
        status: BlockStatus,
    },
    /// The machine injected this vector here.
    Interrupt {
        /// The IDT vector.
        vector: u8,
    },
    /// The machine said something here.
    Output(OutputMark),
    /// The state of the machine here.
    Digest(Digest),
    /// The access of this position is done, and no later input belongs at or before it.
    Progress,
    /// The primary has sent every output up to this one into the world (OUT-3).
    Released {
        /// The last output that left.
        through: OutputSeq,
    },
}

/// Operator commands travel in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// The vCPU stands still until [`Control::Resume`].
    Pause,
    /// The vCPU runs again.
    Resume,
    /// The ACPI power button is pressed; what it does is up to the guest.
    PowerButton,
    /// The machine starts anew from its boot images.
    Reset,
    /// The machine is switched off.
    PowerOff,
}

/// How a request to the block device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockStatus {
    /// It was carried out.
    Ok,
    /// It was not, as far as the guest may know.
    IoError,
}

/// What an output looked like, without its bytes: the backup makes the bytes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputMark {
    /// Its place among all outputs of the life.
    pub seq: OutputSeq,
    /// Which device said it.
    pub device: OutputDevice,
    /// Its length in bytes.
    pub len: u32,
    /// The CRC-32C of its bytes.
    pub crc: u32,
}

/// The devices that speak to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OutputDevice {
    /// The network device: an Ethernet frame.
    Net,
    /// The UART: console bytes.
    Console,
}

/// Something that leaves a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Which device said it.
    pub device: OutputDevice,
    /// The frame or the console bytes.
    pub bytes: Vec<u8>,
}

impl Output {
    /// The entry that stands for this output in the log.
    #[must_use]
    pub fn mark(&self, seq: OutputSeq) -> OutputMark {
        OutputMark {
            seq,
            device: self.device,
            len: u32::try_from(self.bytes.len()).expect("devices bound their outputs"),
            crc: crc32c::crc32c(&self.bytes),
        }
    }
}

/// Hashes of a machine's state (DET-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Over the vCPU and every device.
    pub machine: u64,
    /// Over all of RAM, when this digest covers it.
    pub ram: Option<u64>,
}

/// The name of an entry's kind, for filters and statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each is the payload of the same name")]
pub enum Kind {
    Clock,
    NetRx,
    ConsoleRx,
    Entropy,
    Control,
    Interrupt,
    Output,
    Digest,
    Progress,
    Released,
    BlockDone,
}

impl Kind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Kind; 11] = [
        Kind::Clock,
        Kind::NetRx,
        Kind::ConsoleRx,
        Kind::Entropy,
        Kind::Control,
        Kind::Interrupt,
        Kind::Output,
        Kind::Digest,
        Kind::Progress,
        Kind::Released,
        Kind::BlockDone,
    ];

    /// The name that people write and read: `net-rx`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Clock => "clock",
            Kind::NetRx => "net-rx",
            Kind::ConsoleRx => "console-rx",
            Kind::Entropy => "entropy",
            Kind::Control => "control",
            Kind::Interrupt => "interrupt",
            Kind::Output => "output",
            Kind::Digest => "digest",
            Kind::Progress => "progress",
            Kind::Released => "released",
            Kind::BlockDone => "block-done",
        }
    }
}

impl Payload {
    /// Which kind of entry this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Payload::Clock { .. } => Kind::Clock,
            Payload::NetRx { .. } => Kind::NetRx,
            Payload::ConsoleRx { .. } => Kind::ConsoleRx,
            Payload::Entropy { .. } => Kind::Entropy,
            Payload::Control(_) => Kind::Control,
            Payload::Interrupt { .. } => Kind::Interrupt,
            Payload::Output(_) => Kind::Output,
            Payload::Digest(_) => Kind::Digest,
            Payload::Progress => Kind::Progress,
            Payload::Released { .. } => Kind::Released,
            Payload::BlockDone { .. } => Kind::BlockDone,
        }
    }

    /// Whether the entry changes the machine; the others mark or check its run.
    #[must_use]
    pub fn is_input(&self) -> bool {
        matches!(
            self,
            Payload::Clock { .. }
                | Payload::NetRx { .. }
                | Payload::ConsoleRx { .. }
                | Payload::Entropy { .. }
                | Payload::Control(_)
                | Payload::BlockDone { .. }
        )
    }

    /// How much memory the entry holds beyond its own size, in bytes: what buffers count.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match self {
            Payload::NetRx { frame: bytes }
            | Payload::ConsoleRx { bytes }
            | Payload::Entropy { bytes } => bytes.len(),
            _ => 0,
        }
    }

    /// Whether every length is within its bound (SEC-2).
    #[must_use]
    pub fn is_within_bounds(&self) -> bool {
        match self {
            Payload::NetRx { frame } => frame.len() <= MAX_FRAME_BYTES,
            Payload::ConsoleRx { bytes } => bytes.len() <= MAX_CONSOLE_BYTES,
            Payload::Entropy { bytes } => bytes.len() <= MAX_ENTROPY_BYTES,
            Payload::Output(mark) => match mark.device {
                OutputDevice::Net => mark.len as usize <= MAX_FRAME_BYTES,
                OutputDevice::Console => mark.len as usize <= MAX_CONSOLE_BYTES,
            },
            _ => true,
        }
    }
}
