//! The CPU as the machine sees it: something that runs to the guest's next access, and whose
//! position is exact.

pub mod kvm;
pub mod soft;
mod state;

use ft_logging::initial::CpuIdentity;
use ft_logging::types::{Position, VirtualTime};

pub use soft_cpu::Executed;
pub use state::{CPU_STATE_VERSION, CpuState, DescriptorTable, Segment};

/// A CPU backend.
///
/// A backend upholds DET-1: from equal states, with equal answers and interrupts at equal
/// positions, two CPUs return equal exits at equal positions.
pub trait Cpu {
    /// Runs until the guest's next access or HLT, or to `limit` where the backend can stop there.
    ///
    /// # Errors
    ///
    /// If this host cannot run the guest any further.
    fn run(&mut self, limit: Limit) -> Result<Exit, CpuError>;

    /// How far a live machine lets the CPU run before it looks for inputs; `None` if the CPU stops
    /// only of itself, and inputs enter where it does.
    fn slice(&self) -> Option<u64>;

    /// How far the CPU has run. It grows with every [`Exit::Access`] and [`Exit::Halt`], and
    /// includes the one returned last.
    fn position(&self) -> Position;

    /// Answers the read that [`Cpu::run`] returned last.
    fn answer(&mut self, value: u64);

    /// Whether the CPU is just behind the access or HLT of its position: not amid a REP string, nor
    /// where [`Exit::Interrupted`] found it. Only there does its state belong to the position.
    fn at_boundary(&self) -> bool;

    /// Virtual time has moved to `now`: what the guest's time stamp counter goes on from, where the
    /// backend has one.
    fn set_time(&mut self, now: VirtualTime);

    /// Whether an interrupt waits for the CPU. A CPU that can stop anywhere then stops, with
    /// [`Exit::Limit`], as soon as [`Cpu::takes_interrupts`] holds: a function of the state alone.
    fn expect_interrupt(&mut self, pending: bool);

    /// Whether an interrupt injected here, after the last exit was handled, would be taken before
    /// the next instruction.
    fn takes_interrupts(&mut self) -> bool;

    /// Injects an interrupt. [`Cpu::takes_interrupts`] must hold.
    ///
    /// # Errors
    ///
    /// If the backend refuses.
    fn interrupt(&mut self, vector: u8) -> Result<(), CpuError>;

    /// The whole state of the CPU at an instruction boundary. A call is an event of the machine's:
    /// a CPU whose translation buffers are part of its behaviour empties them, so that what was
    /// saved and what goes on are the same. Both nodes save at the same positions.
    ///
    /// # Errors
    ///
    /// If the state cannot be read.
    fn save(&mut self) -> Result<CpuState, CpuError>;

    /// Goes on from a saved state and position.
    ///
    /// # Errors
    ///
    /// If this host cannot hold the state.
    fn restore(&mut self, state: &CpuState, position: Position) -> Result<(), CpuError>;

    /// The last instructions, `count` at most, the latest last. `read` gives a byte at
    /// a virtual address, where there is memory. `None` if a CPU that has shut down keeps no state to
    /// look at.
    fn executed(&self, count: usize, read: &dyn Fn(u64) -> Option<u8>) -> Option<Vec<Executed>>;

    /// Adds the RAM pages that the CPU wrote since the last call to `dirty`, a bit each. A
    /// superset is allowed.
    ///
    /// # Errors
    ///
    /// If the backend cannot tell.
    fn take_dirty(&mut self, dirty: &mut Vec<u64>) -> Result<(), CpuError>;
}

/// The CPU backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// [`kvm`]: the host's CPU.
    Kvm,
    /// The same, for a guest whom nobody could follow anyway: inputs enter at any instruction, and
    /// its log is for reading only.
    #[serde(rename = "kvm-free")]
    KvmFree,
    /// [`soft`]: a CPU in software.
    Soft,
}

impl Backend {
    /// What the handshake compares, as it is on this host (DET-4).
    ///
    /// # Errors
    ///
    /// If KVM cannot be asked.
    pub fn identity(self) -> anyhow::Result<CpuIdentity> {
        match self {
            Backend::Kvm | Backend::KvmFree => kvm::host::identity(&kvm::host::open()?, self),
            Backend::Soft => Ok(soft::identity()),
        }
    }
}

impl std::fmt::Display for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Backend::Kvm => "kvm",
            Backend::KvmFree => "kvm-free",
            Backend::Soft => "soft",
        })
    }
}

impl std::str::FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        [Backend::Kvm, Backend::KvmFree, Backend::Soft]
            .into_iter()
            .find(|backend| backend.to_string() == name)
            .ok_or_else(|| UnknownBackend(name.to_owned()))
    }
}

/// A name that no backend has.
#[derive(Debug, thiserror::Error)]
#[error("there is no CPU backend {0:?} in this release")]
pub struct UnknownBackend(String);

/// How far a CPU may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// To this position, and no further.
    At(Position),
    /// To where the CPU stops with ease at this position or a little before it.
    About(Position),
}

impl Limit {
    /// As far as the CPU goes.
    pub const NONE: Limit = Limit::About(Position(u64::MAX));

    /// This limit, or that position if it comes first.
    #[must_use]
    pub fn and_at(self, position: Position) -> Limit {
        match self {
            Limit::At(earlier) | Limit::About(earlier) if earlier < position => self,
            _ => Limit::At(position),
        }
    }
}

/// Why the CPU stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest accesses a device.
    Access(Access),
    /// The guest waits for an interrupt.
    Halt,
    /// The limit was reached, or the CPU takes the interrupt that waits for it, or one that runs
    /// freely was stopped for something to enter.
    Limit,
    /// Somebody wants the thread's attention: no position, nothing may enter here.
    Interrupted,
    /// The guest's fault handlers faulted three times over.
    TripleFault,
}

/// One access to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where to.
    pub target: Target,
    /// Bytes: 1, 2, 4, and for memory any number up to 8.
    pub size: u8,
    /// What the guest writes; `None` for a read, which wants [`Cpu::answer`].
    pub write: Option<u64>,
}

/// The two address spaces of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An I/O port.
    Port(u16),
    /// A guest-physical address outside RAM.
    Memory(u64),
}

/// The host cannot run the guest.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// An operation of the backend failed.
    #[error("{operation}: {source}")]
    Backend {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The guest did something that this backend cannot do.
    #[error("{0}")]
    Unsupported(String),
}
