//! The machine: one vCPU, RAM and the board, a deterministic state machine (DET-1).
//!
//! Nothing here knows the time, a socket or a file. What enters comes as an [`Input`] at a
//! position; what leaves is an [`Output`] with a number. [`run`] drives it.

mod acpi;
pub mod boot;
mod ram;
mod run;
mod shutdown;
mod state;

use ft_logging::codec;
use ft_logging::entry::{BlockStatus, Control, Digest, Output, OutputDevice};
use ft_logging::initial::InitialState;
use ft_logging::types::{OutputSeq, Position, VirtualTime};
use xxhash_rust::xxh3::Xxh3;

use crate::cpu::{Access, Cpu, CpuError, Exit, Target};
use crate::devices::{Board, BoardConfig, DiskShape, PowerRequest, layout};
use crate::sys::vm::{GuestMemory, allocate_ram};

pub use boot::{BootError, BootImages};
pub use run::{Moment, Source, Stop, run};
pub use shutdown::Shutdown;
pub use state::{MachineState, StateError};

/// Anything that enters a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Virtual time moves.
    Clock(VirtualTime),
    /// A frame for the network device.
    NetRx(Vec<u8>),
    /// Bytes for the UART.
    ConsoleRx(Vec<u8>),
    /// Random bytes for the guest's request.
    Entropy(Vec<u8>),
    /// A request to the disk is done.
    BlockDone {
        /// Which.
        tag: u64,
        /// What the guest is told.
        status: BlockStatus,
        /// What was read.
        data: Vec<u8>,
    },
    /// An operator's command.
    Control(Control),
}

/// Why a machine is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// The guest switched it off.
    Guest,
    /// The operator did.
    Operator,
    /// The guest's fault handlers faulted three times over.
    TripleFault,
}

/// What a machine starts from, apart from its boot images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// RAM in MiB, within [`boot::MEMORY_MIB`].
    pub memory_mib: u32,
    /// The network device's address.
    pub mac: [u8; 6],
    /// What the real-time clock says at virtual time 0, in seconds since 1970.
    pub rtc_epoch_s: u64,
    /// The random seed that the boot loader gives to a Linux guest.
    pub seed: [u8; 32],
    /// The guest's disk, if it has one.
    pub disk: Option<DiskShape>,
}

impl MachineConfig {
    /// The part of an initial state that the machine itself is made of.
    #[must_use]
    pub fn of(initial: &InitialState) -> Self {
        MachineConfig {
            memory_mib: initial.configuration.memory_mib,
            mac: initial.configuration.mac,
            rtc_epoch_s: initial.rtc_epoch_s,
            seed: initial.seed,
            disk: initial.configuration.disk.as_ref().map(|disk| DiskShape {
                sectors: disk.sectors,
                read_only: disk.read_only,
            }),
        }
    }

    /// The virtio-mmio slots with a device.
    fn slots(&self) -> Vec<u64> {
        let block = self.disk.map(|_| layout::SLOT_BLOCK);
        [layout::SLOT_NET, layout::SLOT_RNG]
            .into_iter()
            .chain(block)
            .collect()
    }
}

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// RAM could not be allocated.
    #[error("allocating {0} MiB of guest memory: {1}")]
    Memory(u32, std::io::Error),
    /// The images do not boot.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The CPU backend failed.
    #[error(transparent)]
    Cpu(#[from] CpuError),
}

/// A machine on the CPU backend `C`.
#[derive(Debug)]
pub struct Machine<C> {
    cpu: C,
    board: Board,
    ram: GuestMemory,
    ram_digest: ram::RamDigest,
    config: MachineConfig,
    images: BootImages,
    /// The vCPU executed HLT and waits for an interrupt.
    halted: bool,
    /// The operator stopped the vCPU.
    paused: bool,
    off: Option<PowerOff>,
    /// The number of the last output.
    outputs: OutputSeq,
}

impl<C: Cpu> Machine<C> {
    /// Builds a machine that stands before its first instruction. `cpu` makes the CPU for the RAM.
    ///
    /// # Errors
    ///
    /// [`BuildError`].
    pub fn build(
        config: MachineConfig,
        images: BootImages,
        cpu: impl FnOnce(&GuestMemory) -> Result<C, CpuError>,
    ) -> Result<Self, BuildError> {
        let ram = allocate_ram(u64::from(config.memory_mib) << 20)
            .map_err(|error| BuildError::Memory(config.memory_mib, error))?;
        let first = boot::load(&images, &config.seed, &config.slots(), &ram)?;
        let mut cpu = cpu(&ram)?;
        cpu.restore(&first, Position(0))?;
        Ok(Machine {
            board: Board::new(board_config(&config)),
            ram_digest: ram::RamDigest::new(&ram),
            cpu,
            ram,
            config,
            images,
            halted: false,
            paused: false,
            off: None,
            outputs: OutputSeq(0),
        })
    }

    /// How far it has run.
    #[must_use]
    pub fn position(&self) -> Position {
        self.cpu.position()
    }

    /// The devices, to look at.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The guest's RAM, to look at.
    #[must_use]
    pub fn ram(&self) -> &GuestMemory {
        &self.ram
    }

    /// The CPU.
    pub fn cpu(&mut self) -> &mut C {
        &mut self.cpu
    }

    /// Whether the vCPU stands still until an input lets it run.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.halted || self.paused
    }

    /// Whether the CPU is just behind the access of its position: only there does its state belong
    /// to the position.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.cpu.at_boundary()
    }

    /// How far a live machine runs before it looks for inputs ([`Cpu::slice`]).
    #[must_use]
    pub fn slice(&self) -> Option<u64> {
        self.cpu.slice()
    }

    /// Whether the operator has paused it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether the vCPU waits for an interrupt.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Why it is off, if it is.
    #[must_use]
    pub fn off(&self) -> Option<PowerOff> {
        self.off
    }

    /// The number of the last output.
    #[must_use]
    pub fn outputs(&self) -> OutputSeq {
        self.outputs
    }

    /// The digest of the machine's state, of RAM too if `with_ram` (DET-5).
    ///
    /// # Errors
    ///
    /// If the CPU's state cannot be read.
    pub fn digest(&mut self, with_ram: bool) -> Result<Digest, CpuError> {
        let mut hasher = Xxh3::new();
        let mut bytes = Vec::with_capacity(4096);
        codec::encode(&self.cpu.save()?, &mut bytes);
        codec::encode(&self.board.save(), &mut bytes);
        codec::encode(
            &(self.position(), self.halted, self.paused, self.outputs),
            &mut bytes,
        );
        hasher.update(&bytes);
        let ram = match with_ram {
            true => Some(self.hash_ram()?),
            false => None,
        };
        Ok(Digest {
            machine: hasher.digest(),
            ram,
        })
    }

    fn hash_ram(&mut self) -> Result<u64, CpuError> {
        let mut dirty = Vec::new();
        self.cpu.take_dirty(&mut dirty)?;
        ram::take_written(&self.ram, &mut dirty);
        Ok(self.ram_digest.refresh(&self.ram, &dirty))
    }

    /// Lets an input take effect.
    fn apply(&mut self, input: Input) -> Result<(), CpuError> {
        match input {
            Input::Clock(now) => {
                self.board.set_time(now);
                self.cpu.set_time(now);
            }
            Input::NetRx(frame) => {
                self.board.net_receive(&frame, &self.ram);
            }
            Input::ConsoleRx(bytes) => self.board.console_receive(&bytes),
            Input::Entropy(bytes) => self.board.entropy(&bytes, &self.ram),
            Input::BlockDone { tag, status, data } => {
                self.board.block_done(tag, status, &data, &self.ram);
            }
            Input::Control(Control::Pause) => self.paused = true,
            Input::Control(Control::Resume) => self.paused = false,
            Input::Control(Control::PowerButton) => self.board.press_power_button(),
            Input::Control(Control::Reset) => self.reset()?,
            Input::Control(Control::PowerOff) => self.off = Some(PowerOff::Operator),
        }
        Ok(())
    }

    /// Carries out what the CPU stopped for.
    fn handle(&mut self, exit: Exit) -> Result<(), CpuError> {
        match exit {
            Exit::Access(access) => {
                self.access(access);
                match self.board.power_request() {
                    Some(PowerRequest::PowerOff) => self.off = Some(PowerOff::Guest),
                    Some(PowerRequest::Reset) => self.reset()?,
                    None => {}
                }
            }
            Exit::Halt => self.halted = true,
            Exit::TripleFault => self.off = Some(PowerOff::TripleFault),
            Exit::Limit | Exit::Interrupted => {}
        }
        Ok(())
    }

    fn access(
        &mut self,
        Access {
            target,
            size,
            write,
        }: Access,
    ) {
        let answer = match (target, write) {
            (Target::Port(port), None) => Some(u64::from(self.board.port_read(port, size))),
            (Target::Memory(address), None) => Some(self.board.mmio_read(address, size)),
            (Target::Port(port), Some(value)) => {
                self.board.port_write(port, size, value as u32, &self.ram);
                None
            }
            (Target::Memory(address), Some(value)) => {
                self.board.mmio_write(address, size, value, &self.ram);
                None
            }
        };
        if let Some(value) = answer {
            self.cpu.answer(value);
        }
    }

    /// Injects what the interrupt controller wants injected, if the CPU takes it here; a function
    /// of the state alone.
    fn deliver_interrupt(&mut self) -> Result<Option<u8>, CpuError> {
        if self.paused || !self.board.interrupt_pending() || !self.cpu.takes_interrupts() {
            return Ok(None);
        }
        let vector = self.board.acknowledge_interrupt();
        self.cpu.interrupt(vector)?;
        self.halted = false;
        Ok(Some(vector))
    }

    /// What the machine has said since the last call, numbered.
    fn take_outputs(&mut self) -> Vec<(OutputSeq, Output)> {
        if !self.board.has_outputs() {
            return Vec::new();
        }
        self.board
            .take_outputs()
            .into_iter()
            .map(|output| {
                self.outputs = self.outputs.next();
                let output = match output {
                    crate::devices::Output::Net { frame } => Output {
                        device: OutputDevice::Net,
                        bytes: frame,
                    },
                    crate::devices::Output::Console { bytes } => Output {
                        device: OutputDevice::Console,
                        bytes,
                    },
                };
                (self.outputs, output)
            })
            .collect()
    }

    /// Starts anew from the boot images. Position, time and the numbers of outputs go on.
    fn reset(&mut self) -> Result<(), CpuError> {
        let now = self.board.time();
        ram::clear(&self.ram);
        let first = boot::load(
            &self.images,
            &self.config.seed,
            &self.config.slots(),
            &self.ram,
        )
        .expect("the images booted before");
        let position = self.cpu.position();
        self.cpu.restore(&first, position)?;
        self.cpu.set_time(now);
        self.board.reset(board_config(&self.config));
        self.halted = false;
        Ok(())
    }
}

fn board_config(config: &MachineConfig) -> BoardConfig {
    BoardConfig {
        mac: config.mac,
        rtc_epoch_s: config.rtc_epoch_s,
        ram_bytes: u64::from(config.memory_mib) << 20,
        disk: config.disk,
    }
}
