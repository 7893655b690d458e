//! Near jumps, calls and returns in 64-bit mode, and LOOP.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::{CodeSize, Core, reg};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::memory::paging::is_canonical;
use crate::op::{Handler, Leave, Op, START, THROUGH_STACK, attempt};

use super::{branch_legacy, by_condition, condition_number};

/// RIP as a direct branch sets it.
#[inline(always)]
fn target(core: &Core, op: &Op) -> u64 {
    core.regs[usize::from(START)].wrapping_add(op.imm)
}

fn jcc<const CC: u8>(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    if core.flags.holds::<CC>() {
        core.rip = target(core, op);
        Leave::Branch
    } else {
        Leave::Through
    }
}

fn jmp(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    core.rip = target(core, op);
    Leave::Branch
}

/// Goes to an address out of a register or memory; to one that is none, #GP before it goes.
#[inline(always)]
fn indirect(core: &mut Core, op: &Op, to: u64) -> Leave {
    if !is_canonical(to) {
        return core.stop_before(op, Fault::PROTECTION);
    }
    core.rip = to;
    Leave::Indirect
}

fn jmp_r(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    let to = core.get::<3>(op.dst);
    indirect(core, op, to)
}

fn jmp_m(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    let to = attempt!(core, op, core.load::<3>(core.address(op)));
    indirect(core, op, to)
}

/// Pushes the return address; false if the block must be left for the write.
#[inline(always)]
fn push_return(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let back = core.address_behind(op);
    let stack = core.get::<3>(reg::RSP).wrapping_sub(8);
    core.store::<3>(stack, back)?;
    core.set::<3>(reg::RSP, stack);
    Ok(())
}

fn call(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    attempt!(core, op, push_return(core, op));
    core.rip = target(core, op);
    if core.attention {
        return core.stop_at(op, core.rip);
    }
    Leave::Branch
}

#[inline(always)]
fn call_to(core: &mut Core, op: &Op, to: u64) -> Leave {
    if !is_canonical(to) {
        return core.stop_before(op, Fault::PROTECTION);
    }
    attempt!(core, op, push_return(core, op));
    core.rip = to;
    if core.attention {
        return core.stop_at(op, to);
    }
    Leave::Indirect
}

fn call_r(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    let to = core.get::<3>(op.dst);
    call_to(core, op, to)
}

fn call_m(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    let to = attempt!(core, op, core.load::<3>(core.address(op)));
    call_to(core, op, to)
}

fn ret(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    let stack = core.get::<3>(reg::RSP);
    let to = attempt!(core, op, core.load::<3>(stack));
    if !is_canonical(to) {
        return core.stop_before(op, Fault::PROTECTION);
    }
    core.set::<3>(reg::RSP, stack.wrapping_add(8).wrapping_add(op.imm));
    core.rip = to;
    Leave::Indirect
}

pub(super) fn select(instruction: &Instruction, size: CodeSize, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    let kind = instruction.op0_kind();
    let wide = match kind {
        OpKind::NearBranch64 => true,
        OpKind::Register => instruction.op0_register().size() == 8,
        OpKind::Memory => instruction.memory_size().size() == 8,
        _ => size == CodeSize::Long,
    };
    let direct = matches!(kind, OpKind::NearBranch64);
    let long = size == CodeSize::Long && wide;
    let run: Handler = match mnemonic {
        Call | Ret | Jmp if mnemonic != Jmp => {
            op.marks |= THROUGH_STACK;
            match (mnemonic, kind) {
                (Ret, _)
                    if long
                        && instruction.code() != iced_x86::Code::Retnw
                        && instruction.code() != iced_x86::Code::Retnw_imm16 =>
                {
                    ret
                }
                (Call, _) if long && direct => call,
                (Call, OpKind::Register) if long => call_r,
                (Call, OpKind::Memory) if long && !is_far(instruction) => call_m,
                _ => return branch_legacy::select(instruction, size, op),
            }
        }
        Jmp if long && direct => jmp,
        Jmp if long && kind == OpKind::Register => jmp_r,
        Jmp if long && kind == OpKind::Memory && !is_far(instruction) => jmp_m,
        _ if long && instruction.is_jcc_short_or_near() => {
            by_condition!(condition_number(instruction)?, jcc)
        }
        _ => return branch_legacy::select(instruction, size, op),
    };
    Some(Lowering::last(run))
}

/// Whether a branch through memory takes a selector along.
fn is_far(instruction: &Instruction) -> bool {
    instruction.is_call_far_indirect() || instruction.is_jmp_far_indirect()
}
