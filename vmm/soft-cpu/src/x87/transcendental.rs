//! F2XM1, FYL2X, FYL2XP1, FSIN, FCOS, FSINCOS, FPTAN and FPATAN (SDM vol. 1, 8.3.7, 8.3.9, 8.3.10;
//! vol. 2, the tables of each).
//!
//! Every function is computed in 128 bits ([`Wide`]) and rounded once, as rounding control says, so
//! that results are right to within the last bit of a correctly rounded one, on every host the same.
//! A processor may be off by one unit in the last place; where it differs it is further off.
//!
//! Angles are reduced by pi with 66 bits of significand, as processors do (8.3.8): FSIN of a number
//! near a multiple of pi is the sine of that reduced angle.

use super::arith::{not_number, not_numbers};
use super::env::{DENORMAL, Env, INEXACT, UNDERFLOW, ZERO_DIVIDE};
use super::format::{Class, F80, Finite};
use super::wide::Wide;

/// ln(2).
const LN_2: Wide = Wide::new(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
/// log2(e).
const LOG2_E: Wide = Wide::new(0, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e88);
/// pi.
const PI: Wide = Wide::new(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);
/// pi / 2 in units of 2^-65: pi in the 66 bits that argument reduction uses.
const HALF_PI_66: u128 = PI.sig >> 62;
/// atan(i / 8) for i from 1.
const ATAN: [Wide; 8] = [
    Wide::new(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef7),
    Wide::new(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e5),
    Wide::new(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::new(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::new(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3747),
    Wide::new(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9e),
    Wide::new(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    Wide::new(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];

/// Notes #D; true where it is not masked, so that nothing is computed.
fn denormal(env: &mut Env, any: bool) -> bool {
    if any {
        env.raise(DENORMAL);
    }
    env.blocked()
}

/// `x + x^2/2! + x^3/3! + ..`, for `x` of at most one in magnitude.
fn exp_minus_1(x: Wide) -> Wide {
    const TERMS: u32 = 36;
    let mut sum = Wide::ONE;
    for n in (2..=TERMS).rev() {
        sum = Wide::ONE.add(x.mul(sum).over(n));
    }
    x.mul(sum)
}

/// F2XM1: `2^x - 1`. Outside -1 to 1, where the SDM leaves it undefined, the operand.
pub(crate) fn exp2_minus_1(a: F80, env: &mut Env) -> F80 {
    if let Some(nan) = not_number(a, env) {
        return nan;
    }
    match a.class() {
        Class::Infinity if a.sign() => F80::ONE.negated(),
        Class::Finite(x) => {
            if denormal(env, a.is_denormal()) {
                return a;
            }
            match x.exp {
                0.. => {
                    env.raise(INEXACT);
                    let minus_one = x.exp == 0 && x.sig == 1 << 63 && x.sign;
                    if minus_one {
                        F80::normal(true, -1, 1 << 63)
                    } else {
                        a
                    }
                }
                _ => exp_minus_1(Wide::from(x).mul(LN_2)).round(false, env),
            }
        }
        _ => a,
    }
}

/// `log2((1 + s) / (1 - s))`, for a small `s`.
fn log2_of_ratio(s: Wide) -> Wide {
    const TERMS: u32 = 61;
    let square = s.mul(s);
    let mut sum = Wide::ZERO;
    for n in (0..TERMS / 2 + 1).rev() {
        sum = square.mul(sum).add(Wide::ONE.over(2 * n + 1));
    }
    s.mul(sum).twice().mul(LOG2_E)
}

/// The binary logarithm of a positive number, and whether it is exact.
fn log2(x: Wide) -> (Wide, bool) {
    // 1.5 parts the octave: the rest lies between 3/4 and 3/2.
    let above = x.sig >> 126 == 3;
    let whole = Wide::from_int(x.exp + i32::from(above));
    let m = Wide {
        exp: -i32::from(above),
        sign: false,
        ..x
    };
    if m.exp == 0 && m.sig == 1 << 127 {
        return (whole, true);
    }
    let s = m.sub(Wide::ONE).div(m.add(Wide::ONE));
    (whole.add(log2_of_ratio(s)), false)
}

/// FYL2X: `y * log2(x)`.
pub(crate) fn y_log2_x(x: F80, y: F80, env: &mut Env) -> F80 {
    if let Some(nan) = not_numbers(x, y, env) {
        return nan;
    }
    let (cx, cy) = (x.class(), y.class());
    if x.sign() && cx != Class::Zero {
        return env.invalid();
    }
    let one = cx
        == Class::Finite(Finite {
            sign: false,
            exp: 0,
            sig: 1 << 63,
        });
    match (cx, cy) {
        (Class::Zero | Class::Infinity, Class::Zero) => return env.invalid(),
        (_, Class::Infinity) if one => return env.invalid(),
        (Class::Zero, Class::Finite(_)) => {
            env.raise(ZERO_DIVIDE);
            return F80::infinity(!y.sign());
        }
        _ => {}
    }
    if denormal(env, x.is_denormal() || y.is_denormal()) {
        return y;
    }
    let negative = match cx {
        Class::Finite(v) => v.exp < 0,
        c => c == Class::Zero,
    };
    match (cx, cy) {
        (Class::Finite(vx), Class::Finite(vy)) => {
            let (log, exact) = log2(Wide::from(vx));
            if log.sig == 0 {
                return F80::zero(y.sign());
            }
            product(log, vy, exact, env)
        }
        (_, Class::Zero) => F80::zero(y.sign() != negative),
        _ => F80::infinity(y.sign() != negative),
    }
}

/// `log * y`, rounded once. #P, and #U where the result is denormal, are raised even if it is exact,
/// as processors do.
fn product(log: Wide, y: Finite, exact: bool, env: &mut Env) -> F80 {
    // An exact logarithm is a whole number of 15 bits: the product loses nothing either.
    let product = log.mul(Wide::from(y)).round(exact, env);
    env.raise(if product.is_denormal() {
        INEXACT | UNDERFLOW
    } else {
        INEXACT
    });
    product
}

/// FYL2XP1: `y * log2(x + 1)`, without loss for a small `x`. For an `x` of -1 or less, where the SDM
/// leaves it undefined, `x`.
pub(crate) fn y_log2_x_plus_1(x: F80, y: F80, env: &mut Env) -> F80 {
    if let Some(nan) = not_numbers(x, y, env) {
        return nan;
    }
    let (cx, cy) = (x.class(), y.class());
    match (cx, cy) {
        (Class::Infinity, _) if x.sign() => return env.invalid(),
        (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => return env.invalid(),
        _ => {}
    }
    if denormal(env, x.is_denormal() || y.is_denormal()) {
        return y;
    }
    let sign = x.sign() != y.sign();
    match (cx, cy) {
        (Class::Finite(vx), Class::Finite(_)) if vx.sign && vx.exp >= 0 => {
            env.raise(INEXACT);
            x
        }
        (Class::Finite(vx), Class::Finite(vy)) => {
            let w = Wide::from(vx);
            let sum = Wide::ONE.add(w);
            let (log, exact) = if vx.exp < -1 {
                (log2_of_ratio(w.div(Wide::from_int(2).add(w))), false)
            } else {
                log2(sum)
            };
            product(log, vy, exact, env)
        }
        (_, Class::Infinity) | (Class::Infinity, _) => F80::infinity(sign),
        _ => F80::zero(sign),
    }
}

/// An angle between -pi/4 and pi/4, and the number of the quadrant it was turned by, modulo 4.
fn reduce(x: Finite) -> (Wide, u32) {
    // Below pi/4 nothing is taken off.
    if x.exp < -1 || x.exp == -1 && x.sig < (PI.sig >> 64) as u64 {
        return (Wide::from(x), 0);
    }
    // x = sig * 2^(exp - 63) = (sig << (exp + 2)) * 2^-65, in steps that fit.
    let (mut rest, mut turns) = (u128::from(x.sig), 0u128);
    let mut places = (x.exp + 2) as u32;
    loop {
        let step = places.min(60);
        rest <<= step;
        turns = (turns << step) | (rest / HALF_PI_66);
        rest %= HALF_PI_66;
        places -= step;
        if places == 0 {
            break;
        }
    }
    let mut sign = x.sign;
    if rest > HALF_PI_66 / 2 {
        rest = HALF_PI_66 - rest;
        sign = !sign;
        turns = turns.wrapping_add(1);
    }
    let quadrant = if x.sign { turns.wrapping_neg() } else { turns } as u32 & 3;
    (Wide::scaled(sign, rest, -65), quadrant)
}

/// The sine of an angle of at most pi/4.
fn sine_of(r: Wide) -> Wide {
    const TERMS: u32 = 17;
    let square = r.mul(r).negated();
    let mut sum = Wide::ONE;
    for n in (1..TERMS).rev() {
        sum = Wide::ONE.add(square.mul(sum).over(2 * n * (2 * n + 1)));
    }
    r.mul(sum)
}

/// The cosine of an angle of at most pi/4.
fn cosine_of(r: Wide) -> Wide {
    const TERMS: u32 = 18;
    let square = r.mul(r).negated();
    let mut sum = Wide::ONE;
    for n in (1..TERMS).rev() {
        sum = Wide::ONE.add(square.mul(sum).over(2 * n * (2 * n - 1)));
    }
    sum
}

/// Sine and cosine of `turned` quadrants more than a number within range.
fn turned(x: Finite, more: u32) -> Wide {
    let (r, quadrant) = reduce(x);
    match (quadrant + more) & 3 {
        0 => sine_of(r),
        1 => cosine_of(r),
        2 => sine_of(r).negated(),
        _ => cosine_of(r).negated(),
    }
}

/// The rounded sine (`more` 0) or cosine (`more` 1) of a number within range.
fn trigonometric(a: F80, more: u32, env: &mut Env) -> F80 {
    if let Some(nan) = not_number(a, env) {
        return nan;
    }
    match a.class() {
        Class::Zero if more == 1 => F80::ONE,
        Class::Zero => a,
        Class::Finite(x) => {
            if denormal(env, a.is_denormal()) {
                return a;
            }
            turned(x, more).round(false, env)
        }
        _ => env.invalid(),
    }
}

/// FSIN.
pub(crate) fn sine(a: F80, env: &mut Env) -> F80 {
    trigonometric(a, 0, env)
}

/// FCOS.
pub(crate) fn cosine(a: F80, env: &mut Env) -> F80 {
    trigonometric(a, 1, env)
}

/// FSINCOS.
pub(crate) fn sine_cosine(a: F80, env: &mut Env) -> (F80, F80) {
    let cosine = trigonometric(a, 1, env);
    (trigonometric(a, 0, env), cosine)
}

/// FPTAN: the tangent, and the 1 that it pushes (or the NaN again).
pub(crate) fn tangent(a: F80, env: &mut Env) -> (F80, F80) {
    if let Some(nan) = not_number(a, env) {
        return (nan, nan);
    }
    match a.class() {
        Class::Zero => (a, F80::ONE),
        Class::Finite(x) => {
            if denormal(env, a.is_denormal()) {
                return (a, a);
            }
            (turned(x, 0).div(turned(x, 1)).round(false, env), F80::ONE)
        }
        _ => {
            let nan = env.invalid();
            (nan, nan)
        }
    }
}

/// The arc tangent of a number between 0 and 1.
fn atan_of(t: Wide) -> Wide {
    const TERMS: u32 = 18;
    // The nearest eighth.
    let eighth = match t.exp {
        ..-4 => 0,
        e => ((t.sig >> (123 - e)) as u32).div_ceil(2),
    };
    let (s, base) = match eighth {
        0 => (t, Wide::ZERO),
        i => {
            let c = Wide::from_int(i as i32).over(8);
            (t.sub(c).div(Wide::ONE.add(t.mul(c))), ATAN[i as usize - 1])
        }
    };
    let square = s.mul(s).negated();
    let mut sum = Wide::ZERO;
    for n in (0..TERMS).rev() {
        sum = square.mul(sum).add(Wide::ONE.over(2 * n + 1));
    }
    base.add(s.mul(sum))
}

/// FPATAN: the angle of the point (`x`, `y`), which are ST(0) and ST(1).
pub(crate) fn arctangent(x: F80, y: F80, env: &mut Env) -> F80 {
    if let Some(nan) = not_numbers(x, y, env) {
        return nan;
    }
    let (cx, cy) = (x.class(), y.class());
    if denormal(env, x.is_denormal() || y.is_denormal()) {
        return y;
    }
    let sign = y.sign();
    let half_pi = Wide { exp: 0, ..PI };
    let quarter_pi = Wide { exp: -1, ..PI };
    let angle = match (cx, cy) {
        (Class::Infinity, Class::Infinity) if x.sign() => half_pi.add(quarter_pi),
        (Class::Infinity, Class::Infinity) => quarter_pi,
        (_, Class::Infinity) | (Class::Zero, Class::Finite(_)) => half_pi,
        (Class::Infinity, _) | (_, Class::Zero) if x.sign() => PI,
        (Class::Infinity, _) | (_, Class::Zero) => return F80::zero(sign),
        (Class::Finite(vx), Class::Finite(vy)) => {
            let (wx, wy) = (
                Wide::from(vx).with_sign(false),
                Wide::from(vy).with_sign(false),
            );
            let steep = (vy.exp, vy.sig) > (vx.exp, vx.sig);
            let acute = atan_of(if steep { wx.div(wy) } else { wy.div(wx) });
            match (steep, vx.sign) {
                (false, false) => acute,
                (false, true) => PI.sub(acute),
                (true, false) => half_pi.sub(acute),
                (true, true) => half_pi.add(acute),
            }
        }
        _ => return env.invalid(),
    };
    angle.with_sign(sign).round(false, env)
}
