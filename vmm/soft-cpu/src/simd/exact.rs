//! Overflow, underflow and inexact results as they are when overflow or underflow is not masked:
//! decided on the result with an exponent of any size (SDM vol. 1, 4.9.1.4 to 4.9.1.6), which the
//! host does not give when it masks them. Rare: few programs unmask these two.

use super::mxcsr::{DAZ, FLUSH, INEXACT, MASKS, OVERFLOW, UNDERFLOW};
use crate::x87::{Arith, Env, F80, Operand, from_f32, from_f64};

/// Exceptions found after the computation.
const AFTER: u32 = OVERFLOW | UNDERFLOW | INEXACT;

/// What an operation computes, and on elements of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Arithmetic on this many singles.
    Single(Arith, u32),
    /// Arithmetic on this many doubles.
    Double(Arith, u32),
    /// This many doubles become singles.
    Narrow(u32),
    /// Anything that neither overflows nor underflows.
    Other,
}

/// The exceptions of an operation, where the masked ones were `raised`.
pub(crate) fn exceptions(kind: Kind, a: u128, b: u128, mxcsr: u32, raised: u32) -> u32 {
    let mut after = 0;
    let mut element = |op, a: Operand, b: Operand, single: bool| {
        after |= one(op, [a, b].map(|v| zeroed(v, mxcsr)), mxcsr, single);
    };
    let single = |v: u128, i: u32| from_f32((v >> (32 * i)) as u32);
    let double = |v: u128, i: u32| from_f64((v >> (64 * i)) as u64);
    match kind {
        Kind::Single(op, n) => {
            (0..n).for_each(|i| element(Some(op), single(a, i), single(b, i), true));
        }
        Kind::Double(op, n) => {
            (0..n).for_each(|i| element(Some(op), double(a, i), double(b, i), false));
        }
        Kind::Narrow(n) => (0..n).for_each(|i| element(None, double(b, i), double(b, i), true)),
        Kind::Other => return raised,
    }
    raised & !AFTER | after
}

fn zeroed(v: Operand, mxcsr: u32) -> Operand {
    if v.denormal && mxcsr & DAZ != 0 {
        return F80::zero(v.value.sign()).into();
    }
    v
}

/// One element: arithmetic, or rounding of the first operand.
fn one(op: Option<Arith>, [a, b]: [Operand; 2], mxcsr: u32, single: bool) -> u32 {
    // Rounding control is coded as in x87's control word, and everything is masked.
    let mut env = Env::new(((mxcsr >> 13 & 3) << 10) as u16 | 0x3f);
    env.precision = if single { 24 } else { 53 };
    // Extended exponents hold any sum, product or quotient of the two formats.
    let result = match op {
        Some(op) => op.apply(a, b, &mut env),
        None => Arith::Add.apply(a, F80::zero(a.value.sign()).into(), &mut env),
    };
    let mut found = if env.flags & crate::x87::INEXACT != 0 {
        INEXACT
    } else {
        0
    };
    let (least, most) = if single { (-126, 127) } else { (-1022, 1023) };
    let Some(exponent) = result.exponent() else {
        return found;
    };
    let masked = |exception: u32| mxcsr & exception << MASKS != 0;
    if exponent > most {
        found |= OVERFLOW;
        if masked(OVERFLOW) {
            found |= INEXACT;
        }
    }
    if exponent < least {
        // A masked underflow is one only if it loses digits of the denormal result.
        let places = 64 - env.precision + (least - exponent) as u32;
        let loses =
            found & INEXACT != 0 || mxcsr & FLUSH != 0 || result.sig.trailing_zeros() < places;
        if !masked(UNDERFLOW) {
            found |= UNDERFLOW;
        } else if loses {
            found |= UNDERFLOW | INEXACT;
        }
    }
    found
}
