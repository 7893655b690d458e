//! `--cpu`: which CPU runs the guest.

use clap::ValueEnum;

use crate::cpu::Backend;
use crate::cpu::kvm::host;

/// Which CPU runs the guest. A pair must be told the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum CpuChoice {
    /// KVM for the embedded guests where it runs kernel code at the speed of hardware, else soft.
    #[default]
    Auto,
    /// The host's CPU, through /dev/kvm.
    Kvm,
    /// A CPU in software: on any host, for any guest.
    Soft,
}

impl CpuChoice {
    /// The CPU that it means here; says why on standard error, where it was asked to choose.
    pub(super) fn choose(self, embedded_guest: bool) -> Backend {
        let (backend, why) = match self {
            CpuChoice::Kvm if embedded_guest => return Backend::Kvm,
            CpuChoice::Kvm => return Backend::KvmFree,
            CpuChoice::Soft => return Backend::Soft,
            // An embedded guest reads nothing that KVM cannot hide from it (DET-4).
            CpuChoice::Auto if embedded_guest => fastest(),
            CpuChoice::Auto => (
                Backend::Soft,
                "KVM cannot hide the time stamp counter from such a kernel".to_owned(),
            ),
        };
        eprintln!("ftvm: --cpu {backend}: {why}");
        backend
    }
}

/// The faster one for kernel code, and why.
pub(super) fn fastest() -> (Backend, String) {
    let speed = match host::open() {
        Ok(kvm) => host::probe_speed(&kvm),
        Err(error) => return (Backend::Soft, error.to_string()),
    };
    match speed {
        Ok(speed) if speed.kind() == "hardware" => (
            Backend::Kvm,
            format!("/dev/kvm runs kernel code at {:.0} MIPS", speed.mips),
        ),
        Ok(speed) => (
            Backend::Soft,
            format!(
                "/dev/kvm runs kernel code by an interpreter, at {:.1} MIPS",
                speed.mips
            ),
        ),
        Err(error) => (Backend::Soft, format!("/dev/kvm: {error:#}")),
    }
}
