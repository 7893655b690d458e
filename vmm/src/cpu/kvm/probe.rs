//! What a guest sees on this host's KVM, found out by having one execute an instruction (DET-4).
//!
//! What KVM says that it does and what its guests see are not always the same: a software KVM runs
//! some instructions on the host's CPU whatever it was told to hide.

use kvm_bindings::{kvm_cpuid_entry2, kvm_regs};
use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};

use super::{KvmCpu, cpuid};
use crate::cpu::{Cpu, CpuError, Exit, Limit};
use crate::sys::vm::allocate_ram;

const CODE: u64 = 0x1000;
const FAULTED: u16 = 0x2000;
const STACK: u64 = 0x3000;
const HLT: u8 = 0xF4;

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Executed {
    /// It was executed; the registers after it.
    Done(kvm_regs),
    /// It raised an exception.
    Faulted,
    /// This KVM cannot execute it.
    NotSupported,
}

/// Has a guest execute one instruction, in real mode at CPL 0, with these values in RAX and RCX.
///
/// # Errors
///
/// If KVM refuses to run a guest.
pub fn execute(kvm: &Kvm, code: &[u8], rax: u64, rcx: u64) -> anyhow::Result<Executed> {
    let ram = allocate_ram(0x4000)?;
    // Every exception and interrupt leads to a HLT of its own.
    for vector in 0..256 {
        ram.write_obj(u32::from(FAULTED), GuestAddress(vector * 4))?;
    }
    ram.write_obj(HLT, GuestAddress(FAULTED.into()))?;
    ram.write_slice(code, GuestAddress(CODE))?;
    let end = CODE + code.len() as u64;
    ram.write_obj(HLT, GuestAddress(end))?;

    let mut cpu = KvmCpu::new(kvm, &ram)?;
    let fd = cpu.vcpu.fd();
    let mut sregs = fd.get_sregs()?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    fd.set_sregs(&sregs)?;
    fd.set_regs(&kvm_regs {
        rip: CODE,
        rsp: STACK,
        rax,
        rcx,
        rflags: 2,
        ..Default::default()
    })?;
    loop {
        match cpu.run(Limit::NONE) {
            Ok(Exit::Halt) => break,
            Ok(Exit::Interrupted) => {}
            Ok(Exit::TripleFault) => return Ok(Executed::Faulted),
            Err(CpuError::Unsupported(_)) => return Ok(Executed::NotSupported),
            Err(error) => return Err(error.into()),
            Ok(other) => anyhow::bail!("a probe's instruction ended in {other:?}"),
        }
    }
    let regs = cpu.vcpu.fd().get_regs()?;
    Ok(match regs.rip == end + 1 {
        true => Executed::Done(regs),
        false => Executed::Faulted,
    })
}

/// The CPUID leaves that a guest sees otherwise than it was told: each as it was set, and what the
/// guest read in EAX, EBX, ECX and EDX; none if CPUID cannot be executed.
///
/// # Errors
///
/// If KVM refuses to run a guest.
pub fn cpuid_not_honoured(kvm: &Kvm) -> anyhow::Result<Vec<(kvm_cpuid_entry2, Option<[u32; 4]>)>> {
    let mut differing = Vec::new();
    for leaf in cpuid::filtered(kvm)?.as_slice() {
        let (function, index) = (leaf.function.into(), leaf.index.into());
        let seen = match execute(kvm, &[0x0F, 0xA2], function, index)? {
            Executed::Done(regs) => {
                Some([regs.rax, regs.rbx, regs.rcx, regs.rdx].map(|value| value as u32))
            }
            Executed::Faulted | Executed::NotSupported => None,
        };
        if seen != Some([leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]) {
            differing.push((*leaf, seen));
        }
    }
    Ok(differing)
}
