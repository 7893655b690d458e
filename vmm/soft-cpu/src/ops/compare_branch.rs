//! CMP or TEST with the conditional branch behind it, as one operation.
//!
//! The branch is decided on the operands, without a detour over the flags; they are noted as well,
//! since the code after the branch may look at them.

use iced_x86::{Instruction, Mnemonic};

use crate::core::Core;
use crate::flags::{kind, mask, signed};
use crate::op::{Handler, Leave, Op, next, reach};

use super::{Form, by_condition, condition_number, operand_size};

/// Whether condition `CC` holds after CMP or TEST of `a` and `b`.
#[inline(always)]
fn holds<const CC: u8, const TEST: bool, const S: usize>(a: u64, b: u64) -> bool {
    let (a, b) = (a & mask::<S>(), b & mask::<S>());
    let even_parity = |value: u64| (value as u8).count_ones().is_multiple_of(2);
    let positive = if TEST {
        let result = a & b;
        match CC >> 1 {
            0 | 1 => false,
            2 | 3 => result == 0,
            4 | 6 => signed::<S>(result) < 0,
            5 => even_parity(result),
            _ => signed::<S>(result) <= 0,
        }
    } else {
        let result = a.wrapping_sub(b);
        match CC >> 1 {
            0 => signed::<S>((a ^ b) & (a ^ result)) < 0,
            1 => a < b,
            2 => a == b,
            3 => a <= b,
            4 => signed::<S>(result) < 0,
            5 => even_parity(result),
            6 => signed::<S>(a) < signed::<S>(b),
            _ => signed::<S>(a) <= signed::<S>(b),
        }
    };
    positive != (CC & 1 != 0)
}

#[inline(always)]
fn decide<const CC: u8, const TEST: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
    (a, b): (u64, u64),
    target: u64,
) -> Leave {
    if TEST {
        core.flags.set::<S>(kind::LOGIC, a & b, 0);
    } else {
        core.flags.set::<S>(kind::SUB, a.wrapping_sub(b), b);
    }
    if holds::<CC, TEST, S>(a, b) {
        core.branch_to(op, 2, target)
    } else {
        next(core, rest)
    }
}

/// An immediate operand and the branch's target share the field for immediates.
fn pack(immediate: u64, target: u64) -> u64 {
    immediate & 0xFFFF_FFFF | target << 32
}

#[inline(always)]
fn unpack(packed: u64) -> (u64, u64) {
    (packed as i32 as u64, (packed as i64 >> 32) as u64)
}

fn rr<const CC: u8, const TEST: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let (a, b) = (core.get::<S>(op.dst), core.get::<S>(op.src));
    decide::<CC, TEST, S>(core, op, rest, (a, b), op.imm)
}

fn ri<const CC: u8, const TEST: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let (immediate, target) = unpack(op.imm);
    let a = core.get::<S>(op.dst);
    decide::<CC, TEST, S>(core, op, rest, (a, immediate), target)
}

#[inline(never)]
fn rm<const CC: u8, const FAST: bool, const TEST: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let loaded = core.load_on::<FAST, S>(core.address(op));
    let b = reach!(FAST, core, op, rest, loaded, rm::<CC, false, TEST, S>);
    let a = core.get::<S>(op.dst);
    decide::<CC, TEST, S>(core, op, rest, (a, b), op.imm)
}

#[inline(never)]
fn mr<const CC: u8, const FAST: bool, const TEST: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let loaded = core.load_on::<FAST, S>(core.address(op));
    let a = reach!(FAST, core, op, rest, loaded, mr::<CC, false, TEST, S>);
    let b = core.get::<S>(op.src);
    decide::<CC, TEST, S>(core, op, rest, (a, b), op.imm)
}

#[inline(never)]
fn mi<const CC: u8, const FAST: bool, const TEST: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let (immediate, target) = unpack(op.imm);
    let loaded = core.load_on::<FAST, S>(core.address(op));
    let a = reach!(FAST, core, op, rest, loaded, mi::<CC, false, TEST, S>);
    decide::<CC, TEST, S>(core, op, rest, (a, immediate), target)
}

fn handler<const TEST: bool, const S: usize>(form: Form, condition: u8) -> Handler {
    match form {
        Form::Rr => by_condition!(condition, rr, TEST, S),
        Form::Ri => by_condition!(condition, ri, TEST, S),
        Form::Rm => by_condition!(condition, rm, true, TEST, S),
        Form::Mr => by_condition!(condition, mr, true, TEST, S),
        Form::Mi => by_condition!(condition, mi, true, TEST, S),
    }
}

fn of_size<const TEST: bool>(size: usize, form: Form, condition: u8) -> Handler {
    match size {
        0 => handler::<TEST, 0>(form, condition),
        1 => handler::<TEST, 1>(form, condition),
        2 => handler::<TEST, 2>(form, condition),
        _ => handler::<TEST, 3>(form, condition),
    }
}

/// Makes one operation of a comparison, whose operation is `last`, and the branch behind it, if
/// that is what they are.
pub(crate) fn fuse(
    comparison: &Instruction,
    last: &mut Op,
    branch: &Instruction,
    branch_op: &Op,
) -> bool {
    let test = match comparison.mnemonic() {
        Mnemonic::Cmp => false,
        Mnemonic::Test => true,
        _ => return false,
    };
    let in_long_mode = matches!(branch.op0_kind(), iced_x86::OpKind::NearBranch64);
    if !branch.is_jcc_short_or_near() || !in_long_mode {
        return false;
    }
    let Some(condition) = condition_number(branch) else {
        return false;
    };
    let form = Form::of(comparison);
    let target = branch_op.imm;
    if target as i32 as u64 != target {
        return false;
    }
    last.imm = match form {
        Form::Ri | Form::Mi => pack(last.imm, target),
        _ => target,
    };
    let size = operand_size(comparison);
    last.run = if test {
        of_size::<true>(size, form, condition)
    } else {
        of_size::<false>(size, form, condition)
    };
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flags, condition};

    /// The shortcut and the flags agree for all bytes.
    #[test]
    fn branches_decide_as_the_flags_say() {
        for a in 0..=255u64 {
            for b in 0..=255u64 {
                let mut compared = Flags::default();
                compared.set::<0>(kind::SUB, a.wrapping_sub(b), b);
                let compared = compared.bits();
                let mut tested = Flags::default();
                tested.set::<0>(kind::LOGIC, a & b, 0);
                let tested = tested.bits();
                macro_rules! check {
                    ($($cc:literal)*) => {$(
                        assert_eq!(holds::<$cc, false, 0>(a, b), condition($cc, compared));
                        assert_eq!(holds::<$cc, true, 0>(a, b), condition($cc, tested));
                    )*};
                }
                check!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            }
        }
    }
}
