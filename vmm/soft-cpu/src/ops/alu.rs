//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, and INC, DEC, NEG, NOT.

use iced_x86::{Instruction, Mnemonic};

use crate::core::Core;
use crate::decode::Lowering;
use crate::flags::{AF, CF, OF, flag, kind, mask, of_result};
use crate::op::{Handler, Leave, Op, next, next_on, reach};

use super::{Form, Kind, by_size, operand_size};

/// The operations with two operands.
pub(super) const ADD: usize = 0;
pub(super) const OR: usize = 1;
pub(super) const ADC: usize = 2;
const SBB: usize = 3;
pub(super) const AND: usize = 4;
pub(super) const SUB: usize = 5;
pub(super) const XOR: usize = 6;
const CMP: usize = 7;
const TEST: usize = 8;

/// The operations with one.
const INC: usize = 0;
const DEC: usize = 1;
const NEG: usize = 2;
const NOT: usize = 3;

/// Whether an operation keeps its result.
const fn keeps(operation: usize) -> bool {
    operation != CMP && operation != TEST
}

/// The result of an operation, with its flags noted if `F`.
#[inline(always)]
fn compute<const OP: usize, const F: bool, const S: usize>(core: &mut Core, a: u64, b: u64) -> u64 {
    match OP {
        ADD => {
            let result = a.wrapping_add(b);
            if F {
                core.flags.set::<S>(kind::ADD, result, b);
            }
            result
        }
        SUB | CMP => {
            let result = a.wrapping_sub(b);
            if F {
                core.flags.set::<S>(kind::SUB, result, b);
            }
            result
        }
        OR | AND | XOR | TEST => {
            let result = match OP {
                OR => a | b,
                XOR => a ^ b,
                _ => a & b,
            };
            if F {
                core.flags.set::<S>(kind::LOGIC, result, 0);
            }
            result
        }
        ADC => {
            let carry = u64::from(core.flags.carry());
            let result = a.wrapping_add(b).wrapping_add(carry) & mask::<S>();
            if F {
                let (a, b) = (a & mask::<S>(), b & mask::<S>());
                let sign = 1 << ((8 << S) - 1);
                core.flags.set_bits(
                    of_result::<S>(result)
                        | flag(CF, result < a || carry != 0 && result == a)
                        | flag(OF, (a ^ result) & (b ^ result) & sign != 0)
                        | (a ^ b ^ result) & AF,
                );
            }
            result
        }
        _ => {
            let carry = u64::from(core.flags.carry());
            let result = a.wrapping_sub(b).wrapping_sub(carry) & mask::<S>();
            if F {
                let (a, b) = (a & mask::<S>(), b & mask::<S>());
                let sign = 1 << ((8 << S) - 1);
                core.flags.set_bits(
                    of_result::<S>(result)
                        | flag(CF, a < b || carry != 0 && a == b)
                        | flag(OF, (a ^ b) & (a ^ result) & sign != 0)
                        | (a ^ b ^ result) & AF,
                );
            }
            result
        }
    }
}

fn rr<const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let b = core.get::<S>(op.src);
    let a = core.get::<S>(op.base);
    let result = compute::<OP, F, S>(core, a, b);
    if keeps(OP) {
        core.set::<S>(op.dst, result);
    }
    next(core, rest)
}

/// Of registers, where nobody looks at the flags.
#[inline(always)]
pub(super) fn registers<const OP: usize, const S: usize>(core: &mut Core, op: &Op) -> bool {
    let (a, b) = (core.get::<S>(op.base), core.get::<S>(op.src));
    let result = compute::<OP, false, S>(core, a, b);
    core.set::<S>(op.dst, result);
    true
}

/// CMP of registers.
#[inline(always)]
pub(super) fn compare<const S: usize>(core: &mut Core, op: &Op) -> bool {
    let (a, b) = (core.get::<S>(op.base), core.get::<S>(op.src));
    compute::<CMP, true, S>(core, a, b);
    true
}

/// Of a register and an immediate, where nobody looks at the flags.
#[inline(always)]
pub(super) fn immediate<const OP: usize, const S: usize>(core: &mut Core, op: &Op) -> bool {
    let a = core.get::<S>(op.base);
    let result = compute::<OP, false, S>(core, a, op.imm);
    core.set::<S>(op.dst, result);
    true
}

fn ri<const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let a = core.get::<S>(op.base);
    let result = compute::<OP, F, S>(core, a, op.imm);
    if keeps(OP) {
        core.set::<S>(op.dst, result);
    }
    next(core, rest)
}

#[inline(never)]
fn rm<const FAST: bool, const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let loaded = core.load_on::<FAST, S>(core.address(op));
    let b = reach!(FAST, core, op, rest, loaded, rm::<false, OP, F, S>);
    let a = core.get::<S>(op.dst);
    let result = compute::<OP, F, S>(core, a, b);
    if keeps(OP) {
        core.set::<S>(op.dst, result);
    }
    next(core, rest)
}

/// Memory as the first operand; the second is the immediate or a register.
#[inline(never)]
fn m<const FAST: bool, const IMMEDIATE: bool, const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let slow = m::<false, IMMEDIATE, OP, F, S>;
    let address = core.address(op);
    let b = if IMMEDIATE {
        op.imm
    } else {
        core.get::<S>(op.src)
    };
    if !keeps(OP) {
        let loaded = core.load_on::<FAST, S>(address);
        let a = reach!(FAST, core, op, rest, loaded, slow);
        compute::<OP, F, S>(core, a, b);
        return next(core, rest);
    }
    let loaded = core.load_for_write_on::<FAST, S>(address);
    let a = reach!(FAST, core, op, rest, loaded, slow);
    // From here on flags change. The store cannot fail: the load was checked as a write.
    let result = compute::<OP, F, S>(core, a, b);
    let stored = core.store_on::<FAST, S>(address, result);
    reach!(FAST, core, op, rest, stored, slow);
    next_on::<FAST>(core, op, rest)
}

/// A handler for a form and size.
fn binary<const OP: usize, const F: bool>(form: Form, size: usize) -> Handler {
    match form {
        Form::Rr => by_size!(size, rr, OP, F),
        Form::Ri => by_size!(size, ri, OP, F),
        Form::Rm => by_size!(size, rm, true, OP, F),
        Form::Mr => by_size!(size, m, true, false, OP, F),
        Form::Mi => by_size!(size, m, true, true, OP, F),
    }
}

fn both<const OP: usize>(form: Form, size: usize) -> (Handler, Option<Handler>) {
    (
        binary::<OP, true>(form, size),
        Some(binary::<OP, false>(form, size)),
    )
}

/// The result of an operation with one operand.
#[inline(always)]
fn compute_one<const OP: usize, const F: bool, const S: usize>(core: &mut Core, a: u64) -> u64 {
    let result = match OP {
        INC => a.wrapping_add(1),
        DEC => a.wrapping_sub(1),
        NEG => a.wrapping_neg(),
        _ => !a,
    };
    if F && OP != NOT {
        let (kind, operand) = match OP {
            INC => (kind::INC, u64::from(core.flags.carry())),
            DEC => (kind::DEC, u64::from(core.flags.carry())),
            _ => (kind::SUB, a),
        };
        core.flags.set::<S>(kind, result, operand);
    }
    result
}

fn one_r<const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let a = core.get::<S>(op.base);
    let result = compute_one::<OP, F, S>(core, a);
    core.set::<S>(op.dst, result);
    next(core, rest)
}

#[inline(never)]
fn one_m<const FAST: bool, const OP: usize, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let slow = one_m::<false, OP, F, S>;
    let address = core.address(op);
    let loaded = core.load_for_write_on::<FAST, S>(address);
    let a = reach!(FAST, core, op, rest, loaded, slow);
    let result = compute_one::<OP, F, S>(core, a);
    let stored = core.store_on::<FAST, S>(address, result);
    reach!(FAST, core, op, rest, stored, slow);
    next_on::<FAST>(core, op, rest)
}

fn unary<const OP: usize>(has_memory: bool, size: usize) -> (Handler, Option<Handler>) {
    if has_memory {
        (
            by_size!(size, one_m, true, OP, true),
            Some(by_size!(size, one_m, true, OP, false)),
        )
    } else {
        (
            by_size!(size, one_r, OP, true),
            Some(by_size!(size, one_r, OP, false)),
        )
    }
}

/// XOR of a register with itself, and SUB: zero, whatever was in it.
fn clear<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    core.set::<S>(op.dst, 0);
    core.flags.set::<S>(kind::LOGIC, 0, 0);
    next(core, rest)
}

fn quiet_kind(mnemonic: Mnemonic, form: Form, size: usize) -> Option<Kind> {
    use Mnemonic::{Adc, Add, And, Or, Sub, Xor};
    Some(match (mnemonic, form, size) {
        (Add, Form::Rr, 2) => Kind::Add4,
        (Add, Form::Rr, 3) => Kind::Add8,
        (Add, Form::Ri, 3) => Kind::AddImmediate8,
        (Adc, Form::Rr, 3) => Kind::AddWithCarry8,
        (Sub, Form::Rr, 3) => Kind::Sub8,
        (Xor, Form::Rr, 2) => Kind::Xor4,
        (Xor, Form::Rr, 3) => Kind::Xor8,
        (And, Form::Rr, 2) => Kind::And4,
        (And, Form::Rr, 3) => Kind::And8,
        (And, Form::Ri, 2) => Kind::AndImmediate4,
        (Or, Form::Rr, 3) => Kind::Or8,
        _ => return None,
    })
}

pub(super) fn select(instruction: &Instruction, op: &Op) -> Option<Lowering> {
    use Mnemonic::*;
    let (form, has_memory) = (Form::of(instruction), op.has_memory());
    let mnemonic = instruction.mnemonic();
    if !matches!(
        mnemonic,
        Add | Or | Adc | Sbb | And | Sub | Xor | Cmp | Test | Inc | Dec | Neg | Not
    ) {
        return None;
    }
    let size = operand_size(instruction);
    let (run, quiet) = match mnemonic {
        Add => both::<ADD>(form, size),
        Or => both::<OR>(form, size),
        Adc => both::<ADC>(form, size),
        Sbb => both::<SBB>(form, size),
        And => both::<AND>(form, size),
        Xor if form == Form::Rr && op.dst == op.src => (
            by_size!(size, clear),
            Some(binary::<XOR, false>(form, size)),
        ),
        Sub => both::<SUB>(form, size),
        Xor => both::<XOR>(form, size),
        Cmp => both::<CMP>(form, size),
        Test => both::<TEST>(form, size),
        Inc => unary::<INC>(has_memory, size),
        Dec => unary::<DEC>(has_memory, size),
        Neg => unary::<NEG>(has_memory, size),
        _ => unary::<NOT>(has_memory, size),
    };
    Some(Lowering {
        run,
        quiet,
        ends: false,
        pure: !has_memory,
        takes_base: !has_memory && !matches!(mnemonic, Cmp | Test),
        kind: match (mnemonic, form, size) {
            (Cmp, Form::Rr, 2) => Some(Kind::Compare4),
            (Cmp, Form::Rr, 3) => Some(Kind::Compare8),
            _ => None,
        },
        quiet_kind: quiet_kind(mnemonic, form, size),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{self, PF, SF, ZF};

    /// Flags of one operation on bytes: by definition, bit by bit, for every pair of bytes.
    #[test]
    fn flags_of_bytes_are_as_defined() {
        let mut core = Core::new(crate::Ram::anonymous(4096), Default::default());
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                for carry in [false, true] {
                    let c = u8::from(carry);
                    let sum = u16::from(a) + u16::from(b) + u16::from(c);
                    let sum_overflow = i16::from(a as i8) + i16::from(b as i8) + i16::from(c);
                    core.flags.set_bits(flag(CF, carry));
                    let result = compute::<ADC, true, 0>(&mut core, a.into(), b.into()) as u8;
                    assert_eq!(result, sum as u8);
                    let expected = flag(CF, sum > 255)
                        | flag(OF, i8::try_from(sum_overflow).is_err())
                        | flag(AF, (a & 15) + (b & 15) + c > 15)
                        | common(result);
                    assert_eq!(core.flags.bits(), expected, "{a} + {b} + {c}");
                    if !carry {
                        compute::<ADD, true, 0>(&mut core, a.into(), b.into());
                        assert_eq!(core.flags.bits(), expected, "{a} + {b}");
                    }

                    let difference = i16::from(a as i8) - i16::from(b as i8) - i16::from(c);
                    core.flags.set_bits(flag(CF, carry));
                    let result = compute::<SBB, true, 0>(&mut core, a.into(), b.into()) as u8;
                    assert_eq!(result, a.wrapping_sub(b).wrapping_sub(c));
                    let expected = flag(CF, u16::from(a) < u16::from(b) + u16::from(c))
                        | flag(OF, i8::try_from(difference).is_err())
                        | flag(AF, a & 15 < (b & 15) + c)
                        | common(result);
                    assert_eq!(core.flags.bits(), expected, "{a} - {b} - {c}");
                    if !carry {
                        compute::<CMP, true, 0>(&mut core, a.into(), b.into());
                        assert_eq!(core.flags.bits(), expected, "{a} - {b}");
                        conditions_agree(&core);
                    }
                }
            }
        }
    }

    fn common(result: u8) -> u64 {
        flag(ZF, result == 0)
            | flag(SF, result >= 128)
            | flag(PF, result.count_ones().is_multiple_of(2))
    }

    /// The shortcuts of conditions say what the flags say.
    fn conditions_agree(core: &Core) {
        let bits = core.flags.bits();
        macro_rules! check {
            ($($cc:literal)*) => {$(
                assert_eq!(core.flags.holds::<$cc>(), flags::condition($cc, bits), "{}", $cc);
            )*};
        }
        check!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }

    #[test]
    fn one_operand_flags_are_as_defined() {
        let mut core = Core::new(crate::Ram::anonymous(4096), Default::default());
        for a in 0..=255u8 {
            for carry in [0, CF] {
                core.flags.set_bits(carry);
                let result = compute_one::<INC, true, 0>(&mut core, a.into()) as u8;
                let expected = carry | flag(OF, a == 127) | flag(AF, a & 15 == 15) | common(result);
                assert_eq!(core.flags.bits(), expected, "inc {a}");
                conditions_agree(&core);

                core.flags.set_bits(carry);
                let result = compute_one::<DEC, true, 0>(&mut core, a.into()) as u8;
                let expected = carry | flag(OF, a == 128) | flag(AF, a & 15 == 0) | common(result);
                assert_eq!(core.flags.bits(), expected, "dec {a}");
                conditions_agree(&core);
            }
            let result = compute_one::<NEG, true, 0>(&mut core, a.into()) as u8;
            let expected =
                flag(CF, a != 0) | flag(OF, a == 128) | flag(AF, a & 15 != 0) | common(result);
            assert_eq!(core.flags.bits(), expected, "neg {a}");
        }
    }
}
