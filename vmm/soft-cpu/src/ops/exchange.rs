//! XCHG with memory, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B. With one CPU, LOCK asks for nothing more.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::{Core, reg};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::flags::{ZF, flag, kind};
use crate::op::{HAS_MEMORY, Handler, Leave, Op, attempt, handler, next_after_write};

use super::{by_size, operand_size};

fn xchg<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let address = core.address(op);
    let old = attempt!(core, op, core.load_for_write::<S>(address));
    let register = if op.src == crate::op::ZERO {
        op.dst
    } else {
        op.src
    };
    let new = core.get::<S>(register);
    attempt!(core, op, core.store::<S>(address, new));
    core.set::<S>(register, old);
    next_after_write(core, op, rest)
}

/// The destination of XADD and CMPXCHG.
#[inline(always)]
fn load<const S: usize>(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    if op.marks & HAS_MEMORY != 0 {
        core.load_for_write::<S>(core.address(op))
    } else {
        Ok(core.get::<S>(op.dst))
    }
}

#[inline(always)]
fn store<const S: usize>(core: &mut Core, op: &Op, value: u64) -> Result<(), Fault> {
    if op.marks & HAS_MEMORY != 0 {
        core.store::<S>(core.address(op), value)
    } else {
        core.set::<S>(op.dst, value);
        Ok(())
    }
}

fn xadd<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let old = attempt!(core, op, load::<S>(core, op));
    let addend = core.get::<S>(op.src);
    let sum = old.wrapping_add(addend);
    if op.marks & HAS_MEMORY != 0 {
        attempt!(core, op, store::<S>(core, op, sum));
        core.set::<S>(op.src, old);
    } else {
        // In this order: of one register twice, the sum stays.
        core.set::<S>(op.src, old);
        core.set::<S>(op.dst, sum);
    }
    core.flags.set::<S>(kind::ADD, sum, addend);
    next_after_write(core, op, rest)
}

fn cmpxchg<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let old = attempt!(core, op, load::<S>(core, op));
    let expected = core.get::<S>(reg::RAX);
    // Also where the comparison fails, the destination is written: with what it held.
    let equal = old == expected;
    let new = if equal { core.get::<S>(op.src) } else { old };
    if equal || op.marks & HAS_MEMORY != 0 {
        attempt!(core, op, store::<S>(core, op, new));
    }
    if !equal {
        core.set::<S>(reg::RAX, old);
    }
    core.flags
        .set::<S>(kind::SUB, expected.wrapping_sub(old), old);
    next_after_write(core, op, rest)
}

fn cmpxchg8b(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let address = core.address(op);
    let old = core.load_for_write::<3>(address)?;
    let pair = |core: &Core, high: u8, low: u8| core.get::<2>(high) << 32 | core.get::<2>(low);
    let equal = old == pair(core, reg::RDX, reg::RAX);
    let new = if equal {
        pair(core, reg::RCX, reg::RBX)
    } else {
        old
    };
    core.store::<3>(address, new)?;
    if !equal {
        core.set::<2>(reg::RAX, old);
        core.set::<2>(reg::RDX, old >> 32);
    }
    core.flags.change(ZF, flag(ZF, equal));
    Ok(())
}

fn cmpxchg16b(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let address = core.address(op);
    if !address.is_multiple_of(16) {
        return Err(Fault::PROTECTION);
    }
    core.probe_write(address, 16)?;
    let old = core.load_16(address)?;
    let pair = |core: &Core, high: u8, low: u8| {
        u128::from(core.get::<3>(high)) << 64 | u128::from(core.get::<3>(low))
    };
    let equal = old == pair(core, reg::RDX, reg::RAX);
    let new = if equal {
        pair(core, reg::RCX, reg::RBX)
    } else {
        old
    };
    core.store_16(address, new)?;
    if !equal {
        core.set::<3>(reg::RAX, old as u64);
        core.set::<3>(reg::RDX, (old >> 64) as u64);
    }
    core.flags.change(ZF, flag(ZF, equal));
    Ok(())
}

pub(super) fn select(instruction: &Instruction) -> Option<Lowering> {
    use Mnemonic::*;
    let has_memory = instruction.op0_kind() == OpKind::Memory
        || instruction.op_count() > 1 && instruction.op1_kind() == OpKind::Memory;
    let size = operand_size(instruction);
    let run: Handler = match instruction.mnemonic() {
        Xchg if has_memory => by_size!(size, xchg),
        Xadd => by_size!(size, xadd),
        Cmpxchg => by_size!(size, cmpxchg),
        Cmpxchg8b => handler!(cmpxchg8b),
        Cmpxchg16b => handler!(cmpxchg16b),
        _ => return None,
    };
    Some(Lowering::of(run))
}
