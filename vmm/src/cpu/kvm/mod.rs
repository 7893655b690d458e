//! The `kvm` backend: positions are the guest's accesses and HLTs.
//!
//! Interrupts are injected only at these. Exits for signals come at points that vary from run to
//! run: nothing enters there, and they do not count. A REP string that KVM hands over as one exit
//! is taken apart, so that its accesses count one by one whatever the kernel batches.
//!
//! A guest that reads the time stamp counter cannot be replayed here. For such a one the CPU can run
//! freely ([`KvmCpu::free`]): a tick stops it, and inputs enter there.

mod convert;
pub mod cpuid;
pub mod host;
pub mod probe;

use std::io;
use std::time::Duration;

use ft_logging::types::{Position, VirtualTime};
use kvm_ioctls::{Kvm, MsrFilterDefaultAction, MsrFilterRange, MsrFilterRangeFlags};

use super::{Access, Cpu, CpuError, CpuState, Exit, Limit, Target};
use crate::sys::kick::Ticker;
use crate::sys::vcpu::{RawExit, Vcpu};
use crate::sys::vm::{GuestMemory, Vm};

/// A vCPU of KVM.
#[derive(Debug)]
pub struct KvmCpu {
    vcpu: Vcpu,
    vm: Vm,
    position: Position,
    /// What is left of a port exit with several accesses.
    string: Option<StringIo>,
    /// What [`Cpu::answer`] answers.
    open: Option<OpenRead>,
    /// The last exit's access is not yet completed in KVM's registers.
    incomplete: bool,
    /// The last run was interrupted: the CPU stands somewhere behind its position, and where
    /// varies from run to run.
    adrift: bool,
    /// How it runs.
    pace: Pace,
}

/// Where inputs enter.
#[derive(Debug)]
enum Pace {
    /// At positions only.
    Exact,
    /// Wherever a tick finds the guest. The ticks begin with the first run, on its thread.
    Free(Option<Ticker>),
}

/// How long a guest that runs freely computes until inputs are looked at.
const TICK: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, Debug)]
struct StringIo {
    port: u16,
    size: u8,
    count: u32,
    next: u32,
    write: bool,
}

#[derive(Clone, Copy, Debug)]
enum OpenRead {
    Port { offset: usize, size: usize },
    Mmio,
}

fn backend(operation: &'static str) -> impl Fn(io::Error) -> CpuError {
    move |source| CpuError::Backend { operation, source }
}

fn ioctl(operation: &'static str) -> impl Fn(kvm_ioctls::Error) -> CpuError {
    move |error| CpuError::Backend {
        operation,
        source: error.into(),
    }
}

impl KvmCpu {
    /// Creates a vCPU with `ram`, which shows the guest the CPUID leaves of [`cpuid::filtered`].
    ///
    /// # Errors
    ///
    /// If KVM refuses.
    pub fn new(kvm: &Kvm, ram: &GuestMemory) -> Result<Self, CpuError> {
        let vm = Vm::new(kvm, ram).map_err(backend("creating a KVM virtual machine"))?;
        deny_msrs(&vm);
        let vcpu = vm.create_vcpu().map_err(backend("creating a vCPU"))?;
        let leaves = cpuid::filtered(kvm).map_err(backend("reading the host's CPUID"))?;
        vcpu.fd()
            .set_cpuid2(&leaves)
            .map_err(ioctl("setting the guest's CPUID"))?;
        hide_apic(&vcpu)?;
        Ok(KvmCpu {
            vcpu,
            vm,
            position: Position(0),
            string: None,
            open: None,
            incomplete: false,
            adrift: false,
            pace: Pace::Exact,
        })
    }

    /// The same, but inputs enter at any instruction: where varies from run to run, so nobody can
    /// follow.
    ///
    /// # Errors
    ///
    /// As [`KvmCpu::new`].
    pub fn free(kvm: &Kvm, ram: &GuestMemory) -> Result<Self, CpuError> {
        let mut cpu = Self::new(kvm, ram)?;
        cpu.pace = Pace::Free(None);
        Ok(cpu)
    }

    fn is_free(&self) -> bool {
        matches!(self.pace, Pace::Free(_))
    }

    fn next_of_string(&mut self, mut string: StringIo) -> Exit {
        let size = usize::from(string.size);
        let offset = string.next as usize * size;
        string.next += 1;
        self.string = (string.next < string.count).then_some(string);
        self.position = self.position.next();
        let write = if string.write {
            let mut bytes = [0; 8];
            bytes[..size].copy_from_slice(&self.vcpu.io_data()[offset..offset + size]);
            Some(u64::from_le_bytes(bytes))
        } else {
            self.open = Some(OpenRead::Port { offset, size });
            None
        };
        Exit::Access(Access {
            target: Target::Port(string.port),
            size: string.size,
            write,
        })
    }
}

/// The bit of the APIC's base that switches it on (SDM vol. 3, 11.4.4).
const APIC_ENABLED: u64 = 1 << 11;

/// DET-4: there is no local APIC, but KVM's CPUID says so only once it is switched off, whatever
/// its leaves were set to.
fn hide_apic(vcpu: &Vcpu) -> Result<(), CpuError> {
    let mut sregs = vcpu.fd().get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
    sregs.apic_base &= !APIC_ENABLED;
    vcpu.fd()
        .set_sregs(&sregs)
        .map_err(ioctl("switching the local APIC off"))
}

/// DET-4: MSRs that tell the time or count events fault in the guest, where KVM can do that.
fn deny_msrs(vm: &Vm) {
    // TSC; APERF and MPERF; the counters; kvmclock in its two places.
    let ranges: [(u32, u32); 5] = [(0x10, 1), (0xE7, 2), (0xC1, 8), (0x11, 2), (0x4B56_4D00, 8)];
    let filter = ranges.map(|(base, msr_count)| MsrFilterRange {
        flags: MsrFilterRangeFlags::READ | MsrFilterRangeFlags::WRITE,
        base,
        msr_count,
        bitmap: &[0],
    });
    if let Err(error) = vm
        .fd()
        .set_msr_filter(MsrFilterDefaultAction::ALLOW, &filter)
    {
        tracing::debug!(%error, "this KVM cannot filter MSRs");
    }
}

impl Cpu for KvmCpu {
    fn run(&mut self, _limit: Limit) -> Result<Exit, CpuError> {
        assert!(self.open.is_none(), "a read was not answered");
        if let Some(string) = self.string.take() {
            return Ok(self.next_of_string(string));
        }
        if let Pace::Free(ticks @ None) = &mut self.pace {
            *ticks = Some(Ticker::for_this_thread(TICK).map_err(backend("starting a timer"))?);
        }
        let exit = self.vcpu.run();
        self.incomplete = false;
        self.adrift = exit == RawExit::Interrupted;
        match exit {
            RawExit::Port {
                port,
                size,
                count,
                write,
            } => {
                self.incomplete = true;
                Ok(self.next_of_string(StringIo {
                    port,
                    size,
                    count,
                    next: 0,
                    write,
                }))
            }
            RawExit::Mmio {
                address,
                size,
                write,
            } => {
                self.incomplete = true;
                self.position = self.position.next();
                if write.is_none() {
                    self.open = Some(OpenRead::Mmio);
                }
                Ok(Exit::Access(Access {
                    target: Target::Memory(address),
                    size,
                    write,
                }))
            }
            RawExit::Halt => {
                self.position = self.position.next();
                Ok(Exit::Halt)
            }
            RawExit::Shutdown => Ok(Exit::TripleFault),
            RawExit::Interrupted if self.is_free() => Ok(Exit::Limit),
            RawExit::Interrupted => Ok(Exit::Interrupted),
            RawExit::Failed(why) => Err(CpuError::Unsupported(why)),
        }
    }

    fn position(&self) -> Position {
        self.position
    }

    fn answer(&mut self, value: u64) {
        match self.open.take().expect("no read is open") {
            OpenRead::Port { offset, size } => {
                self.vcpu.io_data()[offset..offset + size]
                    .copy_from_slice(&value.to_le_bytes()[..size]);
            }
            OpenRead::Mmio => self.vcpu.answer_mmio_read(value),
        }
    }

    fn slice(&self) -> Option<u64> {
        None
    }

    fn at_boundary(&self) -> bool {
        self.string.is_none() && !self.adrift
    }

    /// Its guests see no time stamp counter (DET-4).
    fn set_time(&mut self, _now: VirtualTime) {}

    /// One that stops at accesses only looks there.
    fn expect_interrupt(&mut self, pending: bool) {
        if self.is_free() {
            self.vcpu.stop_for_interrupts(pending);
        }
    }

    fn takes_interrupts(&mut self) -> bool {
        let may_enter = self.at_boundary() || self.is_free() && self.string.is_none();
        may_enter && self.vcpu.takes_interrupts()
    }

    fn interrupt(&mut self, vector: u8) -> Result<(), CpuError> {
        self.vcpu
            .interrupt(vector)
            .map_err(backend("injecting an interrupt"))
    }

    fn save(&mut self) -> Result<CpuState, CpuError> {
        assert!(
            self.string.is_none() && self.open.is_none(),
            "amid an access"
        );
        if std::mem::take(&mut self.incomplete) {
            self.vcpu
                .complete_access()
                .map_err(backend("completing an access"))?;
        }
        convert::save(&self.vcpu)
    }

    fn restore(&mut self, state: &CpuState, position: Position) -> Result<(), CpuError> {
        convert::restore(&self.vcpu, state)?;
        // `takes_interrupts` looks at what KVM says with each exit: let it say it of this state.
        // The shadow, which this would use up, comes afterwards.
        self.vcpu
            .complete_access()
            .map_err(backend("entering a restored state"))?;
        convert::set_events(&self.vcpu, state, true)?;
        self.position = position;
        self.string = None;
        self.open = None;
        self.incomplete = false;
        self.adrift = false;
        Ok(())
    }

    fn executed(&self, _: usize, _: &dyn Fn(u64) -> Option<u8>) -> Option<Vec<super::Executed>> {
        // KVM resets a vCPU that AMD's hardware has shut down.
        None
    }

    fn take_dirty(&mut self, dirty: &mut Vec<u64>) -> Result<(), CpuError> {
        let log = self
            .vm
            .take_dirty_log()
            .map_err(backend("reading the dirty page log"))?;
        dirty.resize(dirty.len().max(log.len()), 0);
        dirty.iter_mut().zip(log).for_each(|(all, new)| *all |= new);
        Ok(())
    }
}
