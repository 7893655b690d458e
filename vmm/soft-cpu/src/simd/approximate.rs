//! RCPPS, RCPSS, RSQRTPS and RSQRTSS, in which processors differ: here they are functions of the
//! operand's leading bits, computed in integers, with a relative error below the 1.5 * 2^-12 that
//! the SDM allows (vol. 2, RCPPS and RSQRTPS). They raise nothing and ignore MXCSR: denormal
//! operands count as zeros, and a result that would be denormal is a zero.

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0xff << 23;
const QUIET: u32 = 1 << 22;
/// The NaN of an invalid operation.
const INDEFINITE: u32 = 0xffc0_0000;
/// Bits of the operand's fraction that count.
const INDEX: u32 = 11;
/// Bits of the result's fraction.
const RESULT: u32 = 13;

/// The middle of the interval of significands that share their leading bits, times
/// `2^(INDEX + 1)`.
fn middle(fraction: u32) -> u64 {
    u64::from(2 * ((1 << INDEX) + (fraction >> (23 - INDEX))) + 1)
}

/// `1 / v`.
pub(crate) fn reciprocal(v: u32) -> u32 {
    let (sign, exponent, fraction) = (v & SIGN, v >> 23 & 0xff, v & 0x7f_ffff);
    match exponent {
        0 => return sign | INFINITY,
        0xff if fraction == 0 => return sign,
        0xff => return v | QUIET,
        _ => {}
    }
    // Between one and two, exclusive: the middle is never a power of two.
    let two = 1u64 << (INDEX + 2 + RESULT + 1);
    let significand = (two / middle(fraction) + 1) >> 1;
    // 1 / (m * 2^(e - 127)) = 2 / m * 2^(126 - e).
    match 253u32.checked_sub(exponent) {
        None | Some(0) => sign,
        Some(exponent) => {
            sign | ((exponent << RESULT) + significand as u32 - (1 << RESULT)) << (23 - RESULT)
        }
    }
}

/// `1 / sqrt(v)`.
pub(crate) fn reciprocal_root(v: u32) -> u32 {
    let (sign, exponent, fraction) = (v & SIGN, v >> 23 & 0xff, v & 0x7f_ffff);
    match exponent {
        0 => return sign | INFINITY,
        0xff if fraction != 0 => return v | QUIET,
        _ if sign != 0 => return INDEFINITE,
        0xff => return 0,
        _ => {}
    }
    // v = m * 4^k with m from 1 to 4; 1 / sqrt(v) = 2 / sqrt(m) * 2^(-k - 1).
    let unbiased = exponent as i32 - 127;
    let m = middle(fraction) << (unbiased & 1);
    let k = unbiased >> 1;
    // (2 / sqrt(m))^2 = 4 / m, with 2 * (RESULT + 1) bits behind the point.
    let square = (4u64 << (INDEX + 1 + 2 * (RESULT + 1))) / m;
    let significand = (square.isqrt() + 1) >> 1;
    let exponent = (126 - k) as u32;
    ((exponent << RESULT) + significand as u32 - (1 << RESULT)) << (23 - RESULT)
}

/// `each` on four elements of `b`.
fn map(b: u128, each: impl Fn(u32) -> u32) -> u128 {
    (0..4).fold(0, |v, i| {
        v | u128::from(each((b >> (32 * i)) as u32)) << (32 * i)
    })
}

/// RCPPS.
pub(crate) fn rcpps(_: u128, b: u128) -> u128 {
    map(b, reciprocal)
}

/// RSQRTPS.
pub(crate) fn rsqrtps(_: u128, b: u128) -> u128 {
    map(b, reciprocal_root)
}

/// RCPSS.
pub(crate) fn rcpss(a: u128, b: u128) -> u128 {
    a >> 32 << 32 | u128::from(reciprocal(b as u32))
}

/// RSQRTSS.
pub(crate) fn rsqrtss(a: u128, b: u128) -> u128 {
    a >> 32 << 32 | u128::from(reciprocal_root(b as u32))
}
