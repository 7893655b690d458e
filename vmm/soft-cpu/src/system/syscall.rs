//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, as on Intel's processors: SYSCALL and SYSRET exist
//! in 64-bit mode only.

use iced_x86::{Code, Instruction, Mnemonic};

use crate::core::{CodeSize, Core, reg, seg};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::flags::{ARITHMETIC, FIXED, Flags, IF, RF, VM};
use crate::memory::paging::is_canonical;
use crate::op::{Op, SEGMENT_BASES, WIDE, handler};

use super::system;

fn syscall(core: &mut Core, _: &Op) -> Result<(), Fault> {
    if !core.syscall_enabled() {
        return Err(Fault::UNDEFINED);
    }
    let flags = core.rflags();
    core.set::<3>(reg::RCX, core.rip);
    core.set::<3>(reg::R11, flags);
    core.rip = core.lstar;
    let flags = flags & !core.fmask & !RF;
    core.flags = Flags::from_bits(flags);
    core.system_flags = flags & !ARITHMETIC | FIXED;
    // The flags that the kernel wants, not those before, say whether it is stepped.
    core.entered_kernel = true;
    let code = (core.star >> 32) as u16;
    core.set_flat_segments(code, code.wrapping_add(8), 0, true);
    Ok(())
}

fn sysret(core: &mut Core, op: &Op) -> Result<(), Fault> {
    if !core.syscall_enabled() {
        return Err(Fault::UNDEFINED);
    }
    core.require_kernel()?;
    let wide = op.marks & WIDE != 0;
    let rip = core.get::<3>(reg::RCX);
    if wide && !is_canonical(rip) {
        return Err(Fault::PROTECTION);
    }
    let flags = core.get::<3>(reg::R11) & 0x3C_7FD7;
    core.flags = Flags::from_bits(flags);
    core.system_flags = flags & !ARITHMETIC & !(RF | VM) | FIXED;
    let base = (core.star >> 48) as u16;
    let code = if wide { base.wrapping_add(16) } else { base };
    core.set_flat_segments(code, base.wrapping_add(8), 3, wide);
    core.rip = if wide { rip } else { rip & 0xFFFF_FFFF };
    Ok(())
}

fn sysenter(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let [code, stack, rip] = core.sysenter;
    if code & 0xFFFC == 0 {
        return Err(Fault::PROTECTION);
    }
    core.system_flags &= !(IF | RF | VM);
    let long = core.long_mode();
    let code = code as u16;
    core.set_flat_segments(code, code.wrapping_add(8), 0, long);
    let cut = if long { !0 } else { 0xFFFF_FFFF };
    core.set::<3>(reg::RSP, stack & cut);
    core.rip = rip & cut;
    Ok(())
}

fn sysexit(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let base = core.sysenter[0] as u16;
    if base & 0xFFFC == 0 {
        return Err(Fault::PROTECTION);
    }
    core.require_kernel()?;
    let wide = op.marks & WIDE != 0;
    let (rip, stack) = (core.get::<3>(reg::RDX), core.get::<3>(reg::RCX));
    if wide && !(is_canonical(rip) && is_canonical(stack)) {
        return Err(Fault::PROTECTION);
    }
    let code = base.wrapping_add(if wide { 32 } else { 16 });
    core.set_flat_segments(code, code.wrapping_add(8), 3, wide);
    let cut = if wide { !0 } else { 0xFFFF_FFFF };
    core.set::<3>(reg::RSP, stack & cut);
    core.rip = rip & cut;
    Ok(())
}

fn swapgs(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let base = &mut core.regs[usize::from(SEGMENT_BASES) + seg::GS];
    std::mem::swap(base, &mut core.kernel_gs_base);
    Ok(())
}

pub(super) fn select(instruction: &Instruction, size: CodeSize, op: &mut Op) -> Option<Lowering> {
    let long = size == CodeSize::Long;
    if matches!(instruction.code(), Code::Sysretq | Code::Sysexitq) {
        op.marks |= WIDE;
    }
    Some(match instruction.mnemonic() {
        Mnemonic::Syscall if long => system!(syscall),
        Mnemonic::Sysret | Mnemonic::Sysretq if long => system!(sysret),
        Mnemonic::Sysenter => system!(sysenter),
        Mnemonic::Sysexit | Mnemonic::Sysexitq => system!(sysexit),
        Mnemonic::Swapgs if long => Lowering::of(handler!(swapgs)),
        _ => return None,
    })
}
