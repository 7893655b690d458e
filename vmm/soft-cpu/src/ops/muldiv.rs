//! MUL, IMUL, DIV, IDIV.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{Core, reg};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::flags::{CF, OF, mask, of_result, signed};
use crate::op::{Handler, Leave, Op, attempt, next, reach};

use super::{by_size, operand_size};

/// CF and OF say whether the upper half matters; the rest is undefined, and follows the lower half.
#[inline(always)]
fn note<const S: usize>(core: &mut Core, low: u64, overflow: bool) {
    let overflow = if overflow { CF | OF } else { 0 };
    core.flags.set_bits(of_result::<S>(low) | overflow);
}

/// IMUL with two or three operands: the product, cut to the operand size.
#[inline(always)]
fn product<const F: bool, const S: usize>(core: &mut Core, a: u64, b: u64) -> u64 {
    let product = i128::from(signed::<S>(a)) * i128::from(signed::<S>(b));
    let low = product as u64;
    if F {
        note::<S>(core, low, i128::from(signed::<S>(low)) != product);
    }
    low
}

fn imul_rr<const F: bool, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let (a, b) = (core.get::<S>(op.base), core.get::<S>(op.src));
    let result = product::<F, S>(core, a, b);
    core.set::<S>(op.dst, result);
    next(core, rest)
}

fn imul_rri<const F: bool, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let a = core.get::<S>(op.src);
    let result = product::<F, S>(core, a, op.imm);
    core.set::<S>(op.dst, result);
    next(core, rest)
}

#[inline(never)]
fn imul_rm<const FAST: bool, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let loaded = core.load_on::<FAST, S>(core.address(op));
    let b = reach!(FAST, core, op, rest, loaded, imul_rm::<false, F, S>);
    let a = core.get::<S>(op.dst);
    let result = product::<F, S>(core, a, b);
    core.set::<S>(op.dst, result);
    next(core, rest)
}

#[inline(never)]
fn imul_rmi<const FAST: bool, const F: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let loaded = core.load_on::<FAST, S>(core.address(op));
    let a = reach!(FAST, core, op, rest, loaded, imul_rmi::<false, F, S>);
    let result = product::<F, S>(core, a, op.imm);
    core.set::<S>(op.dst, result);
    next(core, rest)
}

const MUL: usize = 0;
const IMUL: usize = 1;
const DIV: usize = 2;
const IDIV: usize = 3;

/// RDX:RAX of size `S`; AX for bytes.
#[inline(always)]
fn wide<const S: usize>(core: &Core) -> u128 {
    if S == 0 {
        return u128::from(core.get::<1>(reg::RAX));
    }
    u128::from(core.get::<S>(reg::RDX)) << (8 << S) | u128::from(core.get::<S>(reg::RAX))
}

#[inline(always)]
fn set_wide<const S: usize>(core: &mut Core, low: u64, high: u64) {
    if S == 0 {
        core.set::<1>(reg::RAX, high << 8 | low & 0xFF);
    } else {
        core.set::<S>(reg::RAX, low);
        core.set::<S>(reg::RDX, high);
    }
}

#[inline(always)]
fn carry_out<const OP: usize, const S: usize>(core: &mut Core, b: u64) -> Result<(), Fault> {
    let bits = 8 << S;
    match OP {
        MUL => {
            let product = u128::from(core.get::<S>(reg::RAX)) * u128::from(b);
            let (low, high) = (product as u64 & mask::<S>(), (product >> bits) as u64);
            set_wide::<S>(core, low, high);
            note::<S>(core, low, high != 0);
        }
        IMUL => {
            let a = signed::<S>(core.get::<S>(reg::RAX));
            let product = i128::from(a) * i128::from(signed::<S>(b));
            let low = product as u64;
            set_wide::<S>(core, low, (product >> bits) as u64);
            note::<S>(core, low, i128::from(signed::<S>(low)) != product);
        }
        DIV => {
            if b == 0 {
                return Err(Fault::DIVIDE);
            }
            let dividend = wide::<S>(core);
            // The hardware's own division is for 64 bits; most dividends fit.
            let (quotient, remainder) = match u64::try_from(dividend) {
                Ok(dividend) => (u128::from(dividend / b), dividend % b),
                Err(_) => (dividend / u128::from(b), (dividend % u128::from(b)) as u64),
            };
            if quotient > u128::from(mask::<S>()) {
                return Err(Fault::DIVIDE);
            }
            set_wide::<S>(core, quotient as u64, remainder);
        }
        _ => {
            let divisor = i128::from(signed::<S>(b));
            let unused = 128 - 2 * bits;
            let dividend = ((wide::<S>(core) << unused) as i128) >> unused;
            if divisor == 0 || dividend == i128::MIN {
                return Err(Fault::DIVIDE);
            }
            let (quotient, remainder) = match (i64::try_from(dividend), divisor as i64) {
                (Ok(dividend), small) if small != -1 => {
                    (i128::from(dividend / small), (dividend % small) as u64)
                }
                _ => (dividend / divisor, (dividend % divisor) as u64),
            };
            if i128::from(signed::<S>(quotient as u64)) != quotient {
                return Err(Fault::DIVIDE);
            }
            set_wide::<S>(core, quotient as u64, remainder);
        }
    }
    Ok(())
}

fn r<const OP: usize, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let b = core.get::<S>(op.dst);
    attempt!(core, op, carry_out::<OP, S>(core, b));
    next(core, rest)
}

fn m<const OP: usize, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let b = attempt!(core, op, core.load::<S>(core.address(op)));
    attempt!(core, op, carry_out::<OP, S>(core, b));
    next(core, rest)
}

fn wide_form<const OP: usize>(has_memory: bool, size: usize) -> Handler {
    if has_memory {
        by_size!(size, m, OP)
    } else {
        by_size!(size, r, OP)
    }
}

pub(super) fn select(instruction: &Instruction, op: &Op) -> Option<Lowering> {
    use Mnemonic::*;
    let has_memory = op.has_memory();
    let mnemonic = instruction.mnemonic();
    if !matches!(mnemonic, Mul | Imul | Div | Idiv) {
        return None;
    }
    let size = operand_size(instruction);
    if mnemonic == Imul && instruction.op_count() > 1 {
        let three = instruction.op_count() == 3;
        let (run, quiet) = match (has_memory, three) {
            (false, false) => (
                by_size!(size, imul_rr, true),
                by_size!(size, imul_rr, false),
            ),
            (false, true) => (
                by_size!(size, imul_rri, true),
                by_size!(size, imul_rri, false),
            ),
            (true, false) => (
                by_size!(size, imul_rm, true, true),
                by_size!(size, imul_rm, true, false),
            ),
            (true, true) => (
                by_size!(size, imul_rmi, true, true),
                by_size!(size, imul_rmi, true, false),
            ),
        };
        return Some(Lowering {
            run,
            quiet: Some(quiet),
            ends: false,
            pure: !has_memory,
            takes_base: !has_memory && !three,
            ..Lowering::of(run)
        });
    }
    let run = match mnemonic {
        Mul => wide_form::<MUL>(has_memory, size),
        Imul => wide_form::<IMUL>(has_memory, size),
        Div => wide_form::<DIV>(has_memory, size),
        _ => wide_form::<IDIV>(has_memory, size),
    };
    Some(Lowering {
        pure: !has_memory && matches!(mnemonic, Mul | Imul),
        ..Lowering::of(run)
    })
}
