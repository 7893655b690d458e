//! The software backend: exact at every instruction, on any host.
//!
//! Its time stamp counter counts nanoseconds of virtual time: it goes on from the last `Clock` by
//! counting instructions, so the guest reads clocks without an entry in the log.

mod convert;

use ft_logging::codec;
use ft_logging::initial::CpuIdentity;
use ft_logging::types::{Position, VirtualTime};
use soft_cpu::{CpuidTable, SoftCpu as Engine, TSC_HZ};
use xxhash_rust::xxh3::xxh3_64;

use super::{Access, Cpu, CpuError, CpuState, Executed, Exit, Limit, Target};
use crate::sys::tracker::Fresh;
use crate::sys::vm::{GuestMemory, PAGE_BYTES, software_ram, tracker};

/// Changes with every release in which an instruction has another effect, or another count, than
/// before: logs and peers of another version are refused.
const VERSION: u32 = 1;

/// Instructions that a live machine runs before it looks for inputs: some 50 µs, so a frame waits
/// no longer, and a look costs far less.
const SLICE: u64 = 20_000;

/// A software CPU and the RAM that it shares with the devices.
pub struct SoftCpu {
    engine: Engine,
    ram: GuestMemory,
}

impl std::fmt::Debug for SoftCpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftCpu")
            .field("position", &self.engine.position())
            .finish_non_exhaustive()
    }
}

impl SoftCpu {
    /// A CPU for a machine with this RAM.
    #[must_use]
    pub fn new(ram: &GuestMemory) -> Self {
        SoftCpu {
            engine: Engine::new(software_ram(ram), CpuidTable::default()),
            ram: ram.clone(),
        }
    }

    /// Tells the engine what devices and boot loader wrote: it may have translated code there.
    fn hear_of_writes(&mut self) {
        match tracker(&self.ram).take_fresh() {
            Fresh::Pages(pages) => {
                for page in pages {
                    let start = page * PAGE_BYTES;
                    self.engine.written(start..start + PAGE_BYTES);
                }
            }
            Fresh::All => self.engine.written(0..self.engine.ram().len()),
        }
    }
}

/// What the handshake compares (DET-4): the same on every host.
#[must_use]
pub fn identity() -> CpuIdentity {
    let mut bytes = Vec::new();
    for leaf in CpuidTable::default().leaves() {
        codec::encode(&leaf, &mut bytes);
    }
    CpuIdentity {
        backend: super::Backend::Soft.to_string(),
        model: "x86-64-v1".to_owned(),
        kind: format!("version {VERSION}"),
        cpuid: xxh3_64(&bytes),
    }
}

impl Cpu for SoftCpu {
    fn run(&mut self, limit: Limit) -> Result<Exit, CpuError> {
        self.hear_of_writes();
        let exit = match limit {
            Limit::At(position) => self.engine.run(position.0),
            Limit::About(position) => self.engine.run_about(position.0),
        };
        Ok(match exit {
            soft_cpu::Exit::Access(access) => Exit::Access(Access {
                target: match access.target {
                    soft_cpu::Target::Port(port) => Target::Port(port),
                    soft_cpu::Target::Memory(address) => Target::Memory(address),
                },
                size: access.size,
                write: access.write,
            }),
            soft_cpu::Exit::Halt => Exit::Halt,
            soft_cpu::Exit::Limit | soft_cpu::Exit::Window => Exit::Limit,
            soft_cpu::Exit::Interrupted => Exit::Interrupted,
            soft_cpu::Exit::TripleFault => Exit::TripleFault,
        })
    }

    fn slice(&self) -> Option<u64> {
        Some(SLICE)
    }

    fn position(&self) -> Position {
        Position(self.engine.position())
    }

    fn answer(&mut self, value: u64) {
        self.engine.answer(value);
    }

    fn at_boundary(&self) -> bool {
        self.engine.at_boundary()
    }

    fn set_time(&mut self, now: VirtualTime) {
        const { assert!(TSC_HZ == 1_000_000_000, "a tick is a nanosecond") };
        self.engine.set_tsc(now.0);
    }

    fn expect_interrupt(&mut self, pending: bool) {
        self.engine.want_interrupt(pending);
    }

    fn takes_interrupts(&mut self) -> bool {
        self.engine.takes_interrupts()
    }

    fn interrupt(&mut self, vector: u8) -> Result<(), CpuError> {
        self.engine.interrupt(vector);
        Ok(())
    }

    fn save(&mut self) -> Result<CpuState, CpuError> {
        Ok(convert::to_neutral(&self.engine.save()))
    }

    fn restore(&mut self, state: &CpuState, position: Position) -> Result<(), CpuError> {
        self.hear_of_writes();
        self.engine
            .restore(&convert::from_neutral(state)?, position.0);
        Ok(())
    }

    fn executed(&self, count: usize, read: &dyn Fn(u64) -> Option<u8>) -> Option<Vec<Executed>> {
        Some(self.engine.executed(count, read))
    }

    fn take_dirty(&mut self, dirty: &mut Vec<u64>) -> Result<(), CpuError> {
        self.engine.take_dirty(dirty);
        Ok(())
    }
}
