//! SHL, SHR, SAR, ROL, ROR, RCL, RCR.
//!
//! A count of zero leaves the flags alone. Counts are masked to five bits, or six for 64-bit
//! operands; RCL and RCR go round through the carry.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::{Core, reg};
use crate::decode::Lowering;
use crate::flags::{CF, OF, flag, kind, mask, signed};
use crate::op::{Handler, Leave, Op, next, next_on, reach};

use super::{Kind, by_size, operand_size};

pub(super) const SHL: usize = 0;
pub(super) const SHR: usize = 1;
const SAR: usize = 2;
pub(super) const ROL: usize = 3;
pub(super) const ROR: usize = 4;
const RCL: usize = 5;
const RCR: usize = 6;

/// The result for a count that is masked, and not zero.
#[inline(always)]
fn compute<const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    a: u64,
    count: u32,
) -> u64 {
    let bits = 8 << S;
    let a = a & mask::<S>();
    match OP {
        SHL => {
            // Counts may pass the width of bytes and words.
            let result = a.checked_shl(count).unwrap_or(0);
            if F {
                let out = if count <= bits {
                    a >> (bits - count) & 1
                } else {
                    0
                };
                core.flags.set::<S>(kind::SHL, result, out);
            }
            result
        }
        SHR => {
            let result = a >> count;
            if F {
                core.flags.set::<S>(kind::SHR, result, a >> (count - 1) & 1);
            }
            result
        }
        SAR => {
            let value = signed::<S>(a);
            let result = (value >> count) as u64;
            if F {
                core.flags
                    .set::<S>(kind::SAR, result, (value >> (count - 1)) as u64 & 1);
            }
            result
        }
        ROL | ROR => {
            let result = rotated::<OP, S>(a, count);
            if F {
                let top = result >> (bits - 1) & 1;
                let (carry, overflow) = if OP == ROL {
                    (result & 1, top ^ result & 1)
                } else {
                    (top, top ^ result >> (bits - 2) & 1)
                };
                core.flags
                    .change(CF | OF, flag(CF, carry != 0) | flag(OF, overflow != 0));
            }
            result
        }
        _ => {
            // One bit wider: the carry stands above the operand.
            let width = bits + 1;
            let count = count % width;
            let wide = u128::from(a) | u128::from(core.flags.carry()) << bits;
            let turned = if count == 0 {
                wide
            } else if OP == RCL {
                wide << count | wide >> (width - count)
            } else {
                wide >> count | wide << (width - count)
            };
            let result = turned as u64 & mask::<S>();
            let carry = turned >> bits & 1 != 0;
            let top = result >> (bits - 1) & 1;
            let overflow = if OP == RCL {
                (top != 0) != carry
            } else {
                top != result >> (bits - 2) & 1
            };
            core.flags
                .change(CF | OF, flag(CF, carry) | flag(OF, overflow));
            result
        }
    }
}

/// `a`, which has no bits beyond its size, rotated by any count.
#[inline(always)]
fn rotated<const OP: usize, const S: usize>(a: u64, count: u32) -> u64 {
    match (OP, S) {
        (ROL, 0) => (a as u8).rotate_left(count).into(),
        (ROL, 1) => (a as u16).rotate_left(count).into(),
        (ROL, 2) => (a as u32).rotate_left(count).into(),
        (ROL, _) => a.rotate_left(count),
        (_, 0) => (a as u8).rotate_right(count).into(),
        (_, 1) => (a as u16).rotate_right(count).into(),
        (_, 2) => (a as u32).rotate_right(count).into(),
        _ => a.rotate_right(count),
    }
}

/// The count of an instruction that takes it from CL.
#[inline(always)]
fn count_in_cl<const S: usize>(core: &Core) -> u32 {
    core.get::<0>(reg::RCX) as u32 & if S == 3 { 63 } else { 31 }
}

/// Of a register by a constant, where nobody looks at the flags.
#[inline(always)]
pub(super) fn immediate<const OP: usize, const S: usize>(core: &mut Core, op: &Op) -> bool {
    let a = core.get::<S>(op.base);
    let result = compute::<OP, false, S>(core, a, op.imm as u32);
    core.set::<S>(op.dst, result);
    true
}

fn r_imm<const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let a = core.get::<S>(op.base);
    let result = compute::<OP, F, S>(core, a, op.imm as u32);
    core.set::<S>(op.dst, result);
    next(core, rest)
}

fn r_cl<const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let count = count_in_cl::<S>(core);
    let a = core.get::<S>(op.dst);
    let result = if count == 0 {
        a
    } else {
        compute::<OP, F, S>(core, a, count)
    };
    core.set::<S>(op.dst, result);
    next(core, rest)
}

#[inline(never)]
fn m<const FAST: bool, const BY_CL: bool, const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let slow = m::<false, BY_CL, OP, F, S>;
    let count = if BY_CL {
        count_in_cl::<S>(core)
    } else {
        op.imm as u32
    };
    let address = core.address(op);
    let loaded = core.load_for_write_on::<FAST, S>(address);
    let a = reach!(FAST, core, op, rest, loaded, slow);
    if count != 0 {
        let result = compute::<OP, F, S>(core, a, count);
        let stored = core.store_on::<FAST, S>(address, result);
        reach!(FAST, core, op, rest, stored, slow);
    }
    next_on::<FAST>(core, op, rest)
}

fn forms<const OP: usize, const F: bool>(has_memory: bool, by_cl: bool, size: usize) -> Handler {
    match (has_memory, by_cl) {
        (false, false) => by_size!(size, r_imm, OP, F),
        (false, true) => by_size!(size, r_cl, OP, F),
        (true, false) => by_size!(size, m, true, false, OP, F),
        (true, true) => by_size!(size, m, true, true, OP, F),
    }
}

fn both<const OP: usize>(has_memory: bool, by_cl: bool, size: usize) -> (Handler, Option<Handler>) {
    (
        forms::<OP, true>(has_memory, by_cl, size),
        Some(forms::<OP, false>(has_memory, by_cl, size)),
    )
}

/// A shift of a register by nothing: only, of 32 bits, the upper half is cleared.
fn keep<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let value = core.get::<S>(op.dst);
    core.set::<S>(op.dst, value);
    next(core, rest)
}

fn quiet_kind(mnemonic: Mnemonic, size: usize) -> Option<Kind> {
    use Mnemonic::{Rol, Ror, Shl, Shr};
    Some(match (mnemonic, size) {
        (Shl, 3) => Kind::ShiftLeft8,
        (Shr, 2) => Kind::ShiftRight4,
        (Shr, 3) => Kind::ShiftRight8,
        (Rol, 2) => Kind::RotateLeft4,
        (Ror, 2) => Kind::RotateRight4,
        _ => return None,
    })
}

pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    if !matches!(mnemonic, Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr) {
        return None;
    }
    let size = operand_size(instruction);
    let (has_memory, by_cl) = (op.has_memory(), instruction.op1_kind() == OpKind::Register);
    if !by_cl {
        op.imm &= if size == 3 { 63 } else { 31 };
        if op.imm == 0 && !has_memory {
            return Some(Lowering::of(by_size!(size, keep)));
        }
    }
    let (run, quiet) = match mnemonic {
        Shr => both::<SHR>(has_memory, by_cl, size),
        Sar => both::<SAR>(has_memory, by_cl, size),
        Rol => both::<ROL>(has_memory, by_cl, size),
        Ror => both::<ROR>(has_memory, by_cl, size),
        Rcl => both::<RCL>(has_memory, by_cl, size),
        Rcr => both::<RCR>(has_memory, by_cl, size),
        _ => both::<SHL>(has_memory, by_cl, size),
    };
    // By CL, the flags stay if the count is zero: that is a look at them.
    let pure = !has_memory && !by_cl;
    Some(Lowering {
        run,
        quiet,
        ends: false,
        pure,
        takes_base: pure,
        quiet_kind: quiet_kind(mnemonic, size).filter(|_| pure),
        ..Lowering::of(run)
    })
}
