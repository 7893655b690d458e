//! Determinism, on every KVM at hand: this machine's own, and a mainline one on a processor that
//! QEMU emulates, where this same program runs its tests once more.

mod cpu;
mod hardware;
mod replay;

use kvm_ioctls::Kvm;
use vmm::cpu::kvm::host;

/// This machine's KVM; `None`, loudly, where there is none.
fn kvm() -> Option<Kvm> {
    host::open()
        .inspect_err(|error| eprintln!("SKIPPED: {error}"))
        .ok()
}
