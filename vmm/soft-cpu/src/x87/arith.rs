//! Addition, subtraction, multiplication, division and square root (SDM vol. 1, 8.3.3), and which
//! NaN comes out when one goes in (4.8.3.5, table 4-7).

use super::env::{DENORMAL, Env, INVALID, Rounding, ZERO_DIVIDE, shift_jam};
use super::format::{Class, F80, Finite, Operand};

/// What two operands have to do with one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arith {
    /// `a + b`.
    Add,
    /// `a * b`.
    Mul,
    /// `a - b`.
    Sub,
    /// `b - a`.
    SubR,
    /// `a / b`.
    Div,
    /// `b / a`.
    DivR,
}

impl Arith {
    /// The operation that bits 3 to 5 of ModRM name in D8 and its kin. 2 and 3 are comparisons.
    pub(crate) fn from_reg(reg: u8) -> Option<Arith> {
        Some(match reg & 7 {
            0 => Arith::Add,
            1 => Arith::Mul,
            4 => Arith::Sub,
            5 => Arith::SubR,
            6 => Arith::Div,
            7 => Arith::DivR,
            _ => return None,
        })
    }

    /// Computes.
    pub(crate) fn apply(self, a: Operand, b: Operand, env: &mut Env) -> F80 {
        match self {
            Arith::Add => add(a, b, false, env),
            Arith::Mul => mul(a, b, env),
            Arith::Sub => add(a, b, true, env),
            Arith::SubR => add(b, a, true, env),
            Arith::Div => div(a, b, env),
            Arith::DivR => div(b, a, env),
        }
    }
}

/// The NaN that comes of two operands of which at least one is a NaN, both supported.
///
/// A quiet one goes before a signalling one, then the larger significand, then the positive one.
fn choose_nan(a: F80, b: F80) -> F80 {
    let signalling = |v: F80| v.class() == Class::Signalling;
    let chosen = match (a.is_nan(), b.is_nan()) {
        (true, false) => a,
        (false, true) => b,
        _ if signalling(a) != signalling(b) => {
            if signalling(a) {
                b
            } else {
                a
            }
        }
        _ if a.sig != b.sig => {
            if a.sig > b.sig {
                a
            } else {
                b
            }
        }
        _ if a.sign() => b,
        _ => a,
    };
    chosen.quieted()
}

/// The result where an operand is unsupported or a NaN.
pub(crate) fn not_numbers(a: F80, b: F80, env: &mut Env) -> Option<F80> {
    let (ca, cb) = (a.class(), b.class());
    if ca == Class::Unsupported || cb == Class::Unsupported {
        return Some(env.invalid());
    }
    if !a.is_nan() && !b.is_nan() {
        return None;
    }
    if ca == Class::Signalling || cb == Class::Signalling {
        env.raise(INVALID);
    }
    Some(choose_nan(a, b))
}

/// The result where the operand is unsupported or a NaN.
pub(crate) fn not_number(a: F80, env: &mut Env) -> Option<F80> {
    match a.class() {
        Class::Unsupported => Some(env.invalid()),
        Class::Signalling => {
            env.raise(INVALID);
            Some(a.quieted())
        }
        Class::Quiet => Some(a),
        _ => None,
    }
}

/// Notes #D; true where it is not masked, so that nothing is computed.
fn denormal(env: &mut Env, any: bool) -> bool {
    if any {
        env.raise(DENORMAL);
    }
    env.blocked()
}

/// `a + b`, or `a - b`.
pub(crate) fn add(a: Operand, b: Operand, minus: bool, env: &mut Env) -> F80 {
    if let Some(nan) = not_numbers(a.value, b.value, env) {
        return nan;
    }
    let subtrahend = if minus { b.value.negated() } else { b.value };
    let (va, vb) = (a.value, subtrahend);
    let (ca, cb) = (va.class(), vb.class());
    if ca == Class::Infinity && cb == Class::Infinity && va.sign() != vb.sign() {
        return env.invalid();
    }
    if denormal(env, a.denormal || b.denormal) {
        return va;
    }
    match (ca, cb) {
        (Class::Infinity, _) => va,
        (_, Class::Infinity) => vb,
        (Class::Finite(x), Class::Finite(y)) => sum(x, y, env),
        (Class::Finite(x), _) | (_, Class::Finite(x)) => {
            env.round(x.sign, x.exp, u128::from(x.sig) << 64)
        }
        _ if va.sign() == vb.sign() => va,
        _ => F80::zero(env.rounding == Rounding::Down),
    }
}

fn sum(a: Finite, b: Finite, env: &mut Env) -> F80 {
    let (a, b) = if (a.exp, a.sig) >= (b.exp, b.sig) {
        (a, b)
    } else {
        (b, a)
    };
    // One bit of room above for the carry, 63 below: enough that the jammed bit is never near.
    let x = u128::from(a.sig) << 63;
    let y = shift_jam(u128::from(b.sig) << 63, (a.exp - b.exp) as u32);
    let total = if a.sign == b.sign { x + y } else { x - y };
    if total == 0 {
        return F80::zero(env.rounding == Rounding::Down);
    }
    let shift = total.leading_zeros();
    env.round(a.sign, a.exp + 1 - shift as i32, total << shift)
}

/// `a * b`.
pub(crate) fn mul(a: Operand, b: Operand, env: &mut Env) -> F80 {
    if let Some(nan) = not_numbers(a.value, b.value, env) {
        return nan;
    }
    let sign = a.value.sign() != b.value.sign();
    let (ca, cb) = (a.value.class(), b.value.class());
    if matches!(
        (ca, cb),
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity)
    ) {
        return env.invalid();
    }
    if denormal(env, a.denormal || b.denormal) {
        return a.value;
    }
    match (ca, cb) {
        (Class::Infinity, _) | (_, Class::Infinity) => F80::infinity(sign),
        (Class::Finite(x), Class::Finite(y)) => {
            let product = u128::from(x.sig) * u128::from(y.sig);
            let shift = product.leading_zeros();
            env.round(sign, x.exp + y.exp + 1 - shift as i32, product << shift)
        }
        _ => F80::zero(sign),
    }
}

/// `a / b`.
pub(crate) fn div(a: Operand, b: Operand, env: &mut Env) -> F80 {
    if let Some(nan) = not_numbers(a.value, b.value, env) {
        return nan;
    }
    let sign = a.value.sign() != b.value.sign();
    let (ca, cb) = (a.value.class(), b.value.class());
    match (ca, cb) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => return env.invalid(),
        (Class::Finite(_), Class::Zero) => {
            env.raise(ZERO_DIVIDE);
            return F80::infinity(sign);
        }
        _ => {}
    }
    if denormal(env, a.denormal || b.denormal) {
        return a.value;
    }
    match (ca, cb) {
        (Class::Infinity, _) => F80::infinity(sign),
        (Class::Finite(x), Class::Finite(y)) => {
            let (exp, sig) = quotient(x, y);
            env.round(sign, exp, sig)
        }
        _ => F80::zero(sign),
    }
}

/// The exponent and the 128-bit significand of `a / b`, its last bit jammed.
pub(crate) fn quotient(a: Finite, b: Finite) -> (i32, u128) {
    let less = a.sig < b.sig;
    let divisor = u128::from(b.sig);
    let dividend = u128::from(a.sig) << (63 + u32::from(less));
    let (high, rest) = (dividend / divisor, dividend % divisor);
    let (low, rest) = ((rest << 64) / divisor, (rest << 64) % divisor);
    (
        a.exp - b.exp - i32::from(less),
        high << 64 | low | u128::from(rest != 0),
    )
}

/// The square root.
pub(crate) fn sqrt(a: F80, env: &mut Env) -> F80 {
    if let Some(nan) = not_number(a, env) {
        return nan;
    }
    match a.class() {
        Class::Zero => a,
        _ if a.sign() => env.invalid(),
        Class::Finite(x) => {
            if denormal(env, a.is_denormal()) {
                return a;
            }
            // 2^exp has a whole root when exp is even.
            let radicand = u128::from(x.sig) << (63 + (x.exp & 1));
            let root = radicand.isqrt();
            let rest = radicand - root * root;
            // Never a tie: above one half exactly when the remainder exceeds the root.
            let tail: u128 = match rest {
                0 => 0,
                r if r > root => 3 << 62,
                _ => 1 << 62,
            };
            env.round(false, x.exp >> 1, root << 64 | tail)
        }
        _ => a,
    }
}
