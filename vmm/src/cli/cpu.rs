//! `--cpu`: which CPU runs the guest.

use clap::ValueEnum;

use crate::cpu::Backend;

/// Which CPU runs the guest. A pair must be told the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum CpuChoice {
    /// The fastest that runs the guest deterministically: KVM.
    #[default]
    Auto,
    /// The host's CPU, through /dev/kvm.
    Kvm,
}

impl CpuChoice {
    /// The CPU that it means here.
    pub(super) fn backend(self) -> Backend {
        match self {
            CpuChoice::Auto | CpuChoice::Kvm => Backend::Kvm,
        }
    }
}
