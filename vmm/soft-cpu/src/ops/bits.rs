//! BT, BTS, BTR, BTC, BSF, BSR.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::Core;
use crate::decode::Lowering;
use crate::flags::{CF, ZF, flag, signed};
use crate::op::{ADDRESS, Handler, Leave, Op, attempt, next, next_after_write};

use super::{by_size, operand_size};

const TEST: usize = 0;
const SET: usize = 1;
const RESET: usize = 2;
const CHANGE: usize = 3;

/// The value with one bit changed, CF as the bit was.
#[inline(always)]
fn compute<const OP: usize>(core: &mut Core, value: u64, bit: u32) -> u64 {
    let one = 1u64 << bit;
    core.flags.change(CF, flag(CF, value & one != 0));
    match OP {
        SET => value | one,
        RESET => value & !one,
        CHANGE => value ^ one,
        _ => value,
    }
}

/// The bit's number, out of a register or the immediate (`extra`).
#[inline(always)]
fn number<const S: usize>(core: &Core, op: &Op) -> u64 {
    if op.extra != 0 {
        op.imm
    } else {
        core.get::<S>(op.src)
    }
}

fn r<const OP: usize, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let bit = number::<S>(core, op) as u32 & ((8 << S) - 1);
    let value = core.get::<S>(op.dst);
    let result = compute::<OP>(core, value, bit);
    if OP != TEST {
        core.set::<S>(op.dst, result);
    }
    next(core, rest)
}

fn m<const OP: usize, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let number = number::<S>(core, op);
    let mut address = core.address(op);
    if op.extra == 0 && op.base != ADDRESS {
        // A register reaches beyond the operand, in both directions. In an address that was
        // computed ahead this is contained: it is cut to the size of addresses with the rest.
        address = address.wrapping_add((signed::<S>(number) >> (3 + S) << S) as u64);
    }
    let bit = number as u32 & ((8 << S) - 1);
    if OP == TEST {
        let value = attempt!(core, op, core.load::<S>(address));
        compute::<OP>(core, value, bit);
        return next(core, rest);
    }
    let value = attempt!(core, op, core.load_for_write::<S>(address));
    let result = compute::<OP>(core, value, bit);
    attempt!(core, op, core.store::<S>(address, result));
    next_after_write(core, op, rest)
}

/// BSF and BSR. Of zero they leave the destination alone, as processors do.
#[inline(always)]
fn scan<const REVERSE: bool, const S: usize>(core: &mut Core, op: &Op, value: u64) {
    if value == 0 {
        core.flags.set_bits(ZF | crate::flags::PF);
        return;
    }
    let bit = if REVERSE {
        63 - value.leading_zeros()
    } else {
        value.trailing_zeros()
    };
    core.flags.set_bits(0);
    core.set::<S>(op.dst, u64::from(bit));
}

fn scan_r<const REVERSE: bool, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let value = core.get::<S>(op.src);
    scan::<REVERSE, S>(core, op, value);
    next(core, rest)
}

fn scan_m<const REVERSE: bool, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let value = attempt!(core, op, core.load::<S>(core.address(op)));
    scan::<REVERSE, S>(core, op, value);
    next(core, rest)
}

fn form<const OP: usize>(has_memory: bool, size: usize) -> Handler {
    if has_memory {
        by_size!(size, m, OP)
    } else {
        by_size!(size, r, OP)
    }
}

pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    if !matches!(mnemonic, Bt | Bts | Btr | Btc | Bsf | Bsr) {
        return None;
    }
    let size = operand_size(instruction);
    let has_memory = op.has_memory();
    op.extra = u16::from(instruction.op1_kind() == OpKind::Immediate8);
    let run = match mnemonic {
        Bt => form::<TEST>(has_memory, size),
        Bts => form::<SET>(has_memory, size),
        Btr => form::<RESET>(has_memory, size),
        Btc => form::<CHANGE>(has_memory, size),
        Bsf if has_memory => by_size!(size, scan_m, false),
        Bsf => by_size!(size, scan_r, false),
        _ if has_memory => by_size!(size, scan_m, true),
        _ => by_size!(size, scan_r, true),
    };
    Some(Lowering::of(run))
}
