//! Near jumps, calls and returns in 64-bit mode, and LOOP.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::core::{CodeSize, Core, reg};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::memory::paging::is_canonical;
use crate::op::{Handler, Leave, Op, THROUGH_STACK, next, reach};

use super::{branch_legacy, by_condition, condition_number};

fn jcc<const CC: u8>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    if core.flags.holds::<CC>() {
        core.branch(op, 1)
    } else {
        next(core, rest)
    }
}

fn jmp(core: &mut Core, op: &Op, _: &[Op]) -> Leave {
    core.branch(op, 1)
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

#[inline(never)]
fn jmp_m<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let loaded = core.load_on::<FAST, 3>(core.address(op));
    let to = reach!(FAST, core, op, rest, loaded, jmp_m::<false>);
    indirect(core, op, to)
}

/// Pushes the return address.
#[inline(always)]
fn push_return<const FAST: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    // 64-bit code: nothing is cut off.
    let back = core.address_of(op).wrapping_add(u64::from(op.len));
    let stack = core.get::<3>(reg::RSP).wrapping_sub(8);
    if !FAST && !is_canonical(stack) {
        return Err(Fault::STACK);
    }
    core.store_on::<FAST, 3>(stack, back)?;
    core.set::<3>(reg::RSP, stack);
    Ok(())
}

#[inline(never)]
fn call<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let pushed = push_return::<FAST>(core, op);
    reach!(FAST, core, op, rest, pushed, call::<false>);
    let leave = core.branch(op, 1);
    if !FAST && core.attention {
        return core.stop_at(op, core.rip);
    }
    leave
}

#[inline(always)]
fn call_to<const FAST: bool>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
    to: u64,
    slow: Handler,
) -> Leave {
    if !is_canonical(to) {
        return core.stop_before(op, Fault::PROTECTION);
    }
    let pushed = push_return::<FAST>(core, op);
    reach!(FAST, core, op, rest, pushed, slow);
    core.rip = to;
    if !FAST && core.attention {
        return core.stop_at(op, to);
    }
    Leave::Indirect
}

#[inline(never)]
fn call_r<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let to = core.get::<3>(op.dst);
    call_to::<FAST>(core, op, rest, to, call_r::<false>)
}

#[inline(never)]
fn call_m<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let loaded = core.load_on::<FAST, 3>(core.address(op));
    let to = reach!(FAST, core, op, rest, loaded, call_m::<false>);
    call_to::<FAST>(core, op, rest, to, call_m::<false>)
}

#[inline(never)]
fn ret<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let stack = core.get::<3>(reg::RSP);
    let loaded = core.load_on::<FAST, 3>(stack);
    let to = reach!(FAST, core, op, rest, loaded, ret::<false>);
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
    let is_64_bit = match kind {
        _ if mnemonic == Ret => matches!(instruction.code(), Code::Retnq | Code::Retnq_imm16),
        OpKind::NearBranch64 => true,
        OpKind::Register => instruction.op0_register().size() == 8,
        OpKind::Memory => instruction.memory_size().size() == 8 && !is_far(instruction),
        _ => false,
    };
    if matches!(mnemonic, Call | Ret) && !op.has_memory() {
        op.marks |= THROUGH_STACK;
    }
    if !is_64_bit || size != CodeSize::Long {
        return branch_legacy::select(instruction, size, op);
    }
    let run: Handler = match (mnemonic, kind) {
        (Ret, _) => ret::<true>,
        (Call, OpKind::NearBranch64) => call::<true>,
        (Call, OpKind::Register) => call_r::<true>,
        (Call, OpKind::Memory) => call_m::<true>,
        (Jmp, OpKind::NearBranch64) => jmp,
        (Jmp, OpKind::Register) => jmp_r,
        (Jmp, OpKind::Memory) => jmp_m::<true>,
        _ if instruction.is_jcc_short_or_near() => {
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
