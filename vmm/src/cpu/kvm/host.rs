//! What kind of KVM this host has.

use std::time::{Duration, Instant};
use std::{fs, io};

use kvm_bindings::kvm_regs;
use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};

use ft_logging::initial::CpuIdentity;

use super::probe::{self, Executed};
use super::{KvmCpu, cpuid};
use crate::cpu::{Backend, Cpu, Exit, Limit};
use crate::sys::vm::allocate_ram;

/// Why KVM cannot be used here, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no device.
    #[error(
        "/dev/kvm does not exist: this host has no virtualisation, or its kvm module is not loaded (try `modprobe kvm_intel` or `modprobe kvm_amd`, or switch nested virtualisation on where this is itself a VM)"
    )]
    Missing,
    /// It may not be opened.
    #[error(
        "no permission to open /dev/kvm: add yourself to the group that owns it (`sudo usermod -aG kvm $USER`, then log in again)"
    )]
    Permission,
    /// Something else.
    #[error("opening /dev/kvm: {0}")]
    Other(io::Error),
}

/// Opens KVM.
///
/// # Errors
///
/// With what to do about it.
pub fn open() -> Result<Kvm, KvmError> {
    Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => KvmError::Missing,
        libc::EACCES | libc::EPERM => KvmError::Permission,
        _ => KvmError::Other(error.into()),
    })
}

/// How this KVM runs guest code at the highest privilege.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Millions of instructions a second at CPL 0: fewer than ten by an interpreter, hundreds even
    /// by an emulated processor, as far as the host is not busy with other things.
    pub mips: f64,
    kind: &'static str,
}

impl Speed {
    /// The kind of KVM: `software` or `hardware`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        self.kind
    }
}

/// FWAIT: every processor executes it, and KVM's interpreter of instructions does not know it.
const FWAIT: [u8; 1] = [0x9B];

/// Whether a processor runs guest code at CPL 0, or an interpreter: `hardware` or `software`. What
/// the handshake compares must not depend on how busy the host is, so no clock is looked at.
fn kind(kvm: &Kvm) -> anyhow::Result<&'static str> {
    Ok(match probe::execute(kvm, &FWAIT, 0, 0)? {
        Executed::NotSupported => "software",
        Executed::Done(_) | Executed::Faulted => "hardware",
    })
}

/// Instructions in a round of the probe's loop.
const LOOP_INSTRUCTIONS: u64 = 2;

/// Measures guest code at CPL 0 for about 10 ms.
///
/// # Errors
///
/// If KVM refuses to run it.
pub fn probe_speed(kvm: &Kvm) -> anyhow::Result<Speed> {
    let kind = kind(kvm)?;
    let mut rounds: u32 = 1 << 10;
    loop {
        let elapsed = time_loop(kvm, rounds)?;
        if elapsed >= Duration::from_millis(5) || rounds >= 1 << 28 {
            let instructions = LOOP_INSTRUCTIONS * u64::from(rounds);
            let mips = instructions as f64 / elapsed.as_secs_f64() / 1e6;
            return Ok(Speed { mips, kind });
        }
        rounds *= 4;
    }
}

fn time_loop(kvm: &Kvm, rounds: u32) -> anyhow::Result<Duration> {
    let ram = allocate_ram(0x4000)?;
    // Real mode, 32-bit operands: 1: dec ecx; jnz 1b; hlt
    ram.write_slice(&[0x66, 0x49, 0x75, 0xFC, 0xF4], GuestAddress(0x1000))?;
    let mut cpu = KvmCpu::new(kvm, &ram)?;
    let fd = cpu.vcpu.fd();
    let mut sregs = fd.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    fd.set_sregs(&sregs)?;
    let regs = kvm_regs {
        rip: 0x1000,
        rcx: u64::from(rounds),
        rflags: 2,
        ..Default::default()
    };
    fd.set_regs(&regs)?;
    let start = Instant::now();
    loop {
        match cpu.run(Limit::NONE)? {
            Exit::Halt => return Ok(start.elapsed()),
            Exit::Interrupted => {}
            other => anyhow::bail!("the probe's loop ended in {other:?}"),
        }
    }
}

/// The host's CPU model, as the kernel names it.
#[must_use]
pub fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

/// What the handshake compares (DET-4).
///
/// # Errors
///
/// If KVM cannot be asked.
pub fn identity(kvm: &Kvm, backend: Backend) -> anyhow::Result<CpuIdentity> {
    Ok(CpuIdentity {
        backend: backend.to_string(),
        model: cpu_model(),
        kind: kind(kvm)?.to_owned(),
        cpuid: cpuid::digest(&cpuid::filtered(kvm)?),
    })
}
