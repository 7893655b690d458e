//! FPREM and FPREM1, FSCALE and FXTRACT: what works on exponents (SDM vol. 2).

use super::arith::{not_number, not_numbers};
use super::env::{DENORMAL, Env, ZERO_DIVIDE};
use super::format::{Class, F80, Finite};

/// What FPREM leaves beside the remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quotient {
    /// There is none: a NaN came in or out.
    None,
    /// The reduction is not complete: C2.
    Partial,
    /// The three last bits of the quotient.
    Low(u8),
}

/// `a mod b`: towards zero (FPREM), or to the nearest (FPREM1).
///
/// A difference of exponents of 64 or more is reduced in part, by 32 to 63 binary places, as the
/// SDM leaves to the implementation: by those that leave a difference that is a multiple of 32
/// less than before.
pub(crate) fn remainder(a: F80, b: F80, nearest: bool, env: &mut Env) -> (F80, Quotient) {
    let none = Quotient::None;
    if let Some(nan) = not_numbers(a, b, env) {
        return (nan, none);
    }
    let (ca, cb) = (a.class(), b.class());
    if ca == Class::Infinity || cb == Class::Zero {
        return (env.invalid(), none);
    }
    if a.is_denormal() || b.is_denormal() {
        env.raise(DENORMAL);
        if env.blocked() {
            return (a, none);
        }
    }
    let (Class::Finite(x), Class::Finite(y)) = (ca, cb) else {
        return (renormal(a, env), Quotient::Low(0));
    };
    let gap = x.exp - y.exp;
    if gap < -1 || gap < 0 && !nearest {
        return (renormal(a, env), Quotient::Low(0));
    }
    if gap >= 64 {
        let places = gap & 31 | 32;
        let rest = modulo(x.sig, y.sig, places as u32).1;
        return (pack(x.sign, x.exp - places, rest, env), Quotient::Partial);
    }
    let (mut quotient, mut rest, mut exp) = if gap < 0 {
        (0, u128::from(x.sig), x.exp)
    } else {
        let (q, r) = modulo(x.sig, y.sig, gap as u32);
        (q, u128::from(r), y.exp)
    };
    let mut sign = x.sign;
    if nearest {
        // In units of the last place of `exp`: `rest` against half of the divisor.
        let divisor = u128::from(y.sig) << (y.exp - exp);
        let twice = rest << 1;
        if twice > divisor || twice == divisor && quotient & 1 != 0 {
            rest = divisor - rest;
            sign = !sign;
            quotient = quotient.wrapping_add(1);
        }
    }
    if rest >> 64 != 0 {
        rest >>= 1;
        exp += 1;
    }
    let low = (quotient & 7) as u8;
    let value = if rest == 0 {
        F80::zero(x.sign)
    } else {
        pack(sign, exp, rest as u64, env)
    };
    (value, Quotient::Low(low))
}

/// The last 64 bits of `a * 2^places / b`, and the remainder. `places` is below 64, and `a` and `b`
/// are normalised.
fn modulo(a: u64, b: u64, places: u32) -> (u64, u64) {
    let (dividend, divisor) = (u128::from(a) << places, u128::from(b));
    ((dividend / divisor) as u64, (dividend % divisor) as u64)
}

fn pack(sign: bool, exp: i32, sig: u64, env: &mut Env) -> F80 {
    if sig == 0 {
        return F80::zero(sign);
    }
    let shift = sig.leading_zeros();
    env.full()
        .round(sign, exp - shift as i32, u128::from(sig << shift) << 64)
}

/// A number given back as it came; a pseudo-denormal as the normal number that it is.
fn renormal(a: F80, env: &mut Env) -> F80 {
    match a.class() {
        Class::Finite(Finite { sign, exp, sig }) => pack(sign, exp, sig, env),
        _ => a,
    }
}

/// FSCALE: `a * 2^trunc(b)`.
pub(crate) fn scale(a: F80, b: F80, env: &mut Env) -> F80 {
    if let Some(nan) = not_numbers(a, b, env) {
        return nan;
    }
    let (ca, cb) = (a.class(), b.class());
    match (ca, cb) {
        (Class::Zero, Class::Infinity) if !b.sign() => return env.invalid(),
        (Class::Infinity, Class::Infinity) if b.sign() => return env.invalid(),
        _ => {}
    }
    if a.is_denormal() || b.is_denormal() {
        env.raise(DENORMAL);
        if env.blocked() {
            return a;
        }
    }
    match (ca, cb) {
        (Class::Finite(_), Class::Infinity) if b.sign() => F80::zero(a.sign()),
        (Class::Finite(_), Class::Infinity) => F80::infinity(a.sign()),
        (Class::Finite(x), Class::Finite(y)) => {
            // 2^17 leaves the range from anywhere in it.
            let places = match y.exp {
                ..0 => 0,
                0..17 => (y.sig >> (63 - y.exp)) as i32,
                _ => 1 << 17,
            };
            let places = if y.sign { -places } else { places };
            env.full()
                .round(x.sign, x.exp + places, u128::from(x.sig) << 64)
        }
        (Class::Infinity | Class::Zero, Class::Infinity) if ca == Class::Zero => a,
        (Class::Finite(_), _) => renormal(a, env),
        _ => a,
    }
}

/// FXTRACT: the exponent as a number, and the significand.
pub(crate) fn extract(a: F80, env: &mut Env) -> (F80, F80) {
    if let Some(nan) = not_number(a, env) {
        return (nan, nan);
    }
    match a.class() {
        Class::Zero => {
            env.raise(ZERO_DIVIDE);
            (F80::infinity(true), a)
        }
        Class::Finite(x) => {
            if a.is_denormal() {
                env.raise(DENORMAL);
            }
            (
                F80::from_i64(i64::from(x.exp)),
                F80::normal(x.sign, 0, x.sig),
            )
        }
        _ => (F80::infinity(false), a),
    }
}
