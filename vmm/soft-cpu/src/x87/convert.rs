//! From the extended format to the others: single, double, integers, packed decimal (SDM vol. 1,
//! 8.3.3, 8.5; vol. 2, FST, FIST, FBLD, FBSTP, FRNDINT).

use super::arith::not_number;
use super::env::{Env, INEXACT, INVALID, OVERFLOW, Rounding, UNDERFLOW, shift_jam};
use super::format::{Class, F80, Finite};

/// Narrows for FST. `None` where an unmasked exception keeps memory as it is.
fn narrow(v: F80, exp_bits: u32, frac_bits: u32, env: &mut Env) -> Option<u64> {
    let max = (1u64 << exp_bits) - 1;
    let bias = (max >> 1) as i32;
    let sign = u64::from(v.sign()) << (exp_bits + frac_bits);
    let quiet = 1u64 << (frac_bits - 1);
    let kept = if v.class() == Class::Unsupported {
        env.invalid()
    } else {
        v
    };
    let nan = not_number(kept, env);
    if env.blocked() {
        return None;
    }
    if let Some(nan) = nan {
        let sign = u64::from(nan.sign()) << (exp_bits + frac_bits);
        return Some(sign | max << frac_bits | quiet | nan.sig << 1 >> (64 - frac_bits));
    }
    let Class::Finite(x) = v.class() else {
        return Some(if v.class() == Class::Zero {
            sign
        } else {
            sign | max << frac_bits
        });
    };
    let sig = u128::from(x.sig) << 64;
    let drop = 127 - frac_bits;
    let round = |env: &Env, sig: u128| {
        let rest = sig & ((1 << drop) - 1);
        let up = env.rounds_up(x.sign, sig >> drop & 1 != 0, rest, 1 << (drop - 1));
        ((sig >> drop) as u64 + u64::from(up), rest != 0, up)
    };
    let (rounded, inexact, up) = round(env, sig);
    let exp = x.exp + (rounded >> (frac_bits + 1)) as i32;
    if exp < 1 - bias {
        let (rounded, inexact, up) = round(env, shift_jam(sig, (1 - bias - x.exp) as u32));
        if inexact || env.unmasked(UNDERFLOW) {
            env.raise(UNDERFLOW);
        }
        if env.unmasked(env.flags & UNDERFLOW) {
            return None;
        }
        if inexact {
            env.raise(INEXACT);
        }
        env.up = up;
        return Some(sign | rounded);
    }
    if exp > bias {
        env.raise(OVERFLOW);
        if env.unmasked(OVERFLOW) {
            return None;
        }
        env.raise(INEXACT);
        env.up = match env.rounding {
            Rounding::Nearest => true,
            Rounding::Down => x.sign,
            Rounding::Up => !x.sign,
            Rounding::Zero => false,
        };
        return Some(sign | ((max << frac_bits) - u64::from(!env.up)));
    }
    if inexact {
        env.raise(INEXACT);
    }
    env.up = up;
    // The leading bit of the significand adds one to the exponent field, a carry a second one.
    let field = (x.exp + bias - 1) as u64;
    Some(sign | ((field << frac_bits) + rounded))
}

/// A single. `None` where an unmasked exception keeps memory as it is.
pub(crate) fn to_f32(v: F80, env: &mut Env) -> Option<u32> {
    narrow(v, 8, 23, env).map(|bits| bits as u32)
}

/// A double. `None` where an unmasked exception keeps memory as it is.
pub(crate) fn to_f64(v: F80, env: &mut Env) -> Option<u64> {
    narrow(v, 11, 52, env)
}

/// The magnitude of a number rounded to a whole one; whether it was not whole; whether it grew.
/// A number of 2^64 or more gives `None`.
fn whole(x: Finite, env: &Env) -> Option<(u64, bool, bool)> {
    if x.exp > 63 {
        return None;
    }
    let fixed = shift_jam(u128::from(x.sig) << 64, (63 - x.exp) as u32);
    let (int, rest) = ((fixed >> 64) as u64, fixed & u128::from(u64::MAX));
    let up = env.rounds_up(x.sign, int & 1 != 0, rest, 1 << 63);
    Some((int.checked_add(u64::from(up))?, rest != 0, up))
}

/// FIST to an integer of `bits` bits. `None` where an unmasked exception keeps memory as it is.
pub(crate) fn to_integer(v: F80, bits: u32, env: &mut Env) -> Option<i64> {
    let largest = i64::MAX as u64 >> (64 - bits);
    let found = match v.class() {
        Class::Zero => Some((0, false, false)),
        Class::Finite(x) => whole(x, env).filter(|&(int, ..)| int <= largest + u64::from(x.sign)),
        _ => None,
    };
    let Some((int, inexact, up)) = found else {
        env.raise(INVALID);
        return (!env.blocked()).then_some(i64::MIN >> (64 - bits));
    };
    if inexact {
        env.raise(INEXACT);
    }
    env.up = up;
    Some(if v.sign() {
        (int as i64).wrapping_neg()
    } else {
        int as i64
    })
}

/// FRNDINT.
pub(crate) fn to_whole(v: F80, env: &mut Env) -> F80 {
    if let Some(nan) = not_number(v, env) {
        return nan;
    }
    let Class::Finite(x) = v.class() else {
        return v;
    };
    if v.is_denormal() {
        env.raise(super::env::DENORMAL);
        if env.blocked() {
            return v;
        }
    }
    if x.exp >= 63 {
        return v;
    }
    let Some((int, inexact, up)) = whole(x, env) else {
        return v;
    };
    if inexact {
        env.raise(INEXACT);
    }
    env.up = up;
    if int == 0 {
        return F80::zero(v.sign());
    }
    let shift = int.leading_zeros();
    F80::normal(v.sign(), 63 - shift as i32, int << shift)
}

/// What FBSTP stores when #IA is masked.
const BCD_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// FBLD: eighteen digits and a sign. A digit above nine counts with its weight (undefined in the
/// SDM).
pub(crate) fn from_bcd(b: [u8; 10]) -> F80 {
    let digits = b[..9].iter().rev();
    let value = digits.fold(0i64, |v, &d| {
        v * 100 + i64::from(d >> 4) * 10 + i64::from(d & 15)
    });
    let v = F80::from_i64(value);
    if b[9] & 0x80 != 0 { v.negated() } else { v }
}

/// FBSTP. `None` where an unmasked exception keeps memory as it is.
pub(crate) fn to_bcd(v: F80, env: &mut Env) -> Option<[u8; 10]> {
    const LIMIT: i64 = 1_000_000_000_000_000_000;
    let mut probe = *env;
    let int = to_integer(v, 64, &mut probe).filter(|i| i.unsigned_abs() < LIMIT as u64);
    let Some(int) = int.filter(|_| probe.flags & INVALID == 0) else {
        env.raise(INVALID);
        return (!env.blocked()).then_some(BCD_INDEFINITE);
    };
    *env = probe;
    let mut rest = int.unsigned_abs();
    let mut b = [0; 10];
    for byte in &mut b[..9] {
        *byte = ((rest % 10) | ((rest / 10 % 10) << 4)) as u8;
        rest /= 100;
    }
    b[9] = u8::from(v.sign()) << 7;
    Some(b)
}
