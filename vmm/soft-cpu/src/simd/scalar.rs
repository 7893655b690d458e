//! Scalar arithmetic and conversions in plain Rust, for the case that programs are nearly always in:
//! MXCSR at its default, an inexact result seen before, normal numbers in and out. Everything else
//! answers `None`, and goes to the host under the guest's MXCSR.
//!
//! In that case the result is the correctly rounded one, which Rust's arithmetic is as well; the
//! only exception it can raise is #P, whose flag is set already.

use std::cmp::Ordering;

use super::mxcsr::{DAZ, DENORMAL, INEXACT, INVALID, MASKS, is_settled};

/// What a format of floating-point numbers needs here.
pub(crate) trait Float: Copy + PartialOrd {
    /// From its bits, in the low part.
    fn from_bits(bits: u64) -> Self;
    /// To its bits.
    fn bits(self) -> u64;
    /// Bits of exponent and of fraction.
    const FORMAT: (u32, u32);
}

impl Float for f32 {
    fn from_bits(bits: u64) -> f32 {
        f32::from_bits(bits as u32)
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
    const FORMAT: (u32, u32) = (8, 23);
}

impl Float for f64 {
    fn from_bits(bits: u64) -> f64 {
        f64::from_bits(bits)
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
    const FORMAT: (u32, u32) = (11, 52);
}

/// The exponent field.
#[inline(always)]
fn exponent<F: Float>(bits: u64) -> u64 {
    let (exponent_bits, fraction_bits) = F::FORMAT;
    bits >> fraction_bits & ((1 << exponent_bits) - 1)
}

#[inline(always)]
fn largest<F: Float>() -> u64 {
    (1 << F::FORMAT.0) - 1
}

#[inline(always)]
fn magnitude<F: Float>(bits: u64) -> u64 {
    bits & ((1 << (F::FORMAT.0 + F::FORMAT.1)) - 1)
}

/// A normal number or a zero.
#[inline(always)]
fn plain<F: Float>(bits: u64) -> bool {
    exponent::<F>(bits).wrapping_sub(1) < largest::<F>() - 1 || magnitude::<F>(bits) == 0
}

/// A normal number that was not rounded up from a denormal one.
#[inline(always)]
fn safe<F: Float>(bits: u64) -> bool {
    exponent::<F>(bits).wrapping_sub(2) < largest::<F>() - 2
}

/// `compute(a, b)`. `ZERO` tells that a result of zero is exact when the operands are plain.
#[inline(always)]
pub(crate) fn arithmetic<F: Float, const ZERO: bool>(
    mxcsr: u32,
    a: u64,
    b: u64,
    compute: impl FnOnce(F, F) -> F,
) -> Option<u64> {
    if !is_settled(mxcsr) || !plain::<F>(a) || !plain::<F>(b) {
        return None;
    }
    let result = compute(F::from_bits(a), F::from_bits(b)).bits();
    let exact_zero = ZERO && magnitude::<F>(result) == 0;
    (safe::<F>(result) || exact_zero).then_some(result)
}

/// The square root.
#[inline(always)]
pub(crate) fn root<F: Float>(mxcsr: u32, b: u64, compute: impl FnOnce(F) -> F) -> Option<u64> {
    let positive = b >> (F::FORMAT.0 + F::FORMAT.1) & 1 == 0;
    if !is_settled(mxcsr) || !plain::<F>(b) || !positive {
        return None;
    }
    Some(compute(F::from_bits(b)).bits())
}

/// A conversion between the two formats.
#[inline(always)]
pub(crate) fn convert<F: Float, T: Float>(
    mxcsr: u32,
    b: u64,
    compute: impl FnOnce(F) -> T,
) -> Option<u64> {
    if !is_settled(mxcsr) || !plain::<F>(b) {
        return None;
    }
    let result = compute(F::from_bits(b)).bits();
    (safe::<T>(result) || magnitude::<F>(b) == 0).then_some(result)
}

/// A conversion to an integer that cuts off, of a number whose magnitude is below `2^limit`: the
/// result, and the exceptions, all masked.
#[inline(always)]
pub(crate) fn truncate<F: Float + Into<f64>>(mxcsr: u32, b: u64, limit: u32) -> Option<(i64, u32)> {
    let bias = largest::<F>() / 2;
    if !plain::<F>(b) || exponent::<F>(b) >= bias + u64::from(limit) {
        return None;
    }
    let value: f64 = F::from_bits(b).into();
    let result = value as i64;
    if result as f64 == value {
        return Some((result, 0));
    }
    (mxcsr & INEXACT << MASKS != 0).then_some((result, INEXACT))
}

/// ZF, PF and CF in their places, as COMISD and its kin set them.
#[inline(always)]
fn order<F: Float>(a: u64, b: u64) -> u64 {
    match F::from_bits(a).partial_cmp(&F::from_bits(b)) {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => 1,
        Some(Ordering::Equal) => 0x40,
        None => 0x45,
    }
}

/// COMISS, UCOMISD and the like on two operands that are normal or zero: the flags.
#[inline(always)]
pub(crate) fn compare_plain<F: Float>(a: u64, b: u64) -> Option<u64> {
    (plain::<F>(a) && plain::<F>(b)).then(|| order::<F>(a, b))
}

/// COMISS, UCOMISD and the like: the flags, and the exceptions. `quiet` lets quiet NaNs pass.
pub(crate) fn compare<F: Float>(mxcsr: u32, a: u64, b: u64, quiet: bool) -> (u64, u32) {
    let nan = |v: u64| magnitude::<F>(v) > largest::<F>() << F::FORMAT.1;
    let signalling = |v: u64| nan(v) && v >> (F::FORMAT.1 - 1) & 1 == 0;
    if nan(a) || nan(b) {
        let invalid = !quiet || signalling(a) || signalling(b);
        return (order::<F>(a, b), if invalid { INVALID } else { 0 });
    }
    let denormal = |v: u64| exponent::<F>(v) == 0 && magnitude::<F>(v) != 0;
    let zeroed = |v: u64| {
        if mxcsr & DAZ != 0 && denormal(v) {
            0
        } else {
            v
        }
    };
    let raised = if mxcsr & DAZ == 0 && (denormal(a) || denormal(b)) {
        DENORMAL
    } else {
        0
    };
    (order::<F>(zeroed(a), zeroed(b)), raised)
}
