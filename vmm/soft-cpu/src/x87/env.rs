//! Rounding, precision and exceptions: what an operation takes from the control word and what it
//! leaves for the status word (SDM vol. 1, 8.1.3, 8.1.5, 8.5; rounding 4.8.4, 4.9.1).

use super::format::{BIAS, F80, J};

/// #IA or #IS: bit 0 of status and control word.
pub(crate) const INVALID: u16 = 1;
/// #D.
pub(crate) const DENORMAL: u16 = 2;
/// #Z.
pub(crate) const ZERO_DIVIDE: u16 = 4;
/// #O.
pub(crate) const OVERFLOW: u16 = 8;
/// #U.
pub(crate) const UNDERFLOW: u16 = 0x10;
/// #P.
pub(crate) const INEXACT: u16 = 0x20;

/// What is found before anything is computed: when one of these is not masked, the destination
/// keeps its value.
pub(crate) const BEFORE: u16 = INVALID | DENORMAL | ZERO_DIVIDE;

/// The smallest exponent of a normal number.
pub(crate) const EMIN: i32 = 1 - BIAS;
/// The largest exponent of a number.
pub(crate) const EMAX: i32 = BIAS;
/// What an unmasked overflow takes from the exponent, and an unmasked underflow adds (8.5.4).
pub(crate) const WRAP: i32 = 24576;

/// Where a result goes that lies between two representable numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// To the nearest, ties to even.
    Nearest,
    /// Towards minus infinity.
    Down,
    /// Towards plus infinity.
    Up,
    /// Towards zero.
    Zero,
}

/// One operation's surroundings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Env {
    /// Rounding control.
    pub(crate) rounding: Rounding,
    /// Bits of significand that add, subtract, multiply, divide and square root round to.
    pub(crate) precision: u32,
    /// Exceptions that are masked.
    pub(crate) masks: u16,
    /// Exceptions that were found.
    pub(crate) flags: u16,
    /// The last rounding went away from zero: C1 of the status word.
    pub(crate) up: bool,
}

/// A significand cut to fewer bits.
struct Cut {
    sig: u64,
    carry: bool,
    inexact: bool,
    up: bool,
}

/// Shifts right; what falls out stays visible in the last bit.
pub(crate) fn shift_jam(v: u128, by: u32) -> u128 {
    match by {
        0 => v,
        1..=127 => v >> by | u128::from(v << (128 - by) != 0),
        _ => u128::from(v != 0),
    }
}

impl Env {
    /// The surroundings that a control word describes.
    pub(crate) fn new(control: u16) -> Env {
        Env {
            rounding: match control >> 10 & 3 {
                0 => Rounding::Nearest,
                1 => Rounding::Down,
                2 => Rounding::Up,
                _ => Rounding::Zero,
            },
            // 01 is reserved and acts as full precision.
            precision: match control >> 8 & 3 {
                0 => 24,
                2 => 53,
                _ => 64,
            },
            masks: control & 0x3f,
            flags: 0,
            up: false,
        }
    }

    /// Notes an exception.
    pub(crate) fn raise(&mut self, flag: u16) {
        self.flags |= flag;
    }

    /// Whether an exception of `flags` is not masked.
    pub(crate) fn unmasked(&self, flags: u16) -> bool {
        flags & !self.masks != 0
    }

    /// Whether the operation ends without a result: an exception found beforehand is not masked.
    pub(crate) fn blocked(&self) -> bool {
        self.unmasked(self.flags & BEFORE)
    }

    /// #IA with its masked answer.
    pub(crate) fn invalid(&mut self) -> F80 {
        self.raise(INVALID);
        F80::INDEFINITE
    }

    /// The same with full precision, whatever the control word says.
    pub(crate) fn full(&mut self) -> &mut Env {
        self.precision = 64;
        self
    }

    /// Whether what is left below the last kept place rounds the magnitude up.
    pub(crate) fn rounds_up(&self, sign: bool, odd: bool, rest: u128, half: u128) -> bool {
        match self.rounding {
            Rounding::Nearest => rest > half || rest == half && odd,
            Rounding::Down => sign && rest != 0,
            Rounding::Up => !sign && rest != 0,
            Rounding::Zero => false,
        }
    }

    fn cut(&self, sign: bool, sig: u128, bits: u32) -> Cut {
        let unit = 1u128 << (128 - bits);
        let rest = sig & (unit - 1);
        let up = self.rounds_up(sign, sig & unit != 0, rest, unit >> 1);
        let kept = sig - rest;
        let (sum, carry) = if up {
            kept.overflowing_add(unit)
        } else {
            (kept, false)
        };
        let sig = if carry { J } else { (sum >> 64) as u64 };
        Cut {
            sig,
            carry,
            inexact: rest != 0,
            up,
        }
    }

    /// Rounds `sig / 2^127 * 2^exp` to the precision. Bit 127 of `sig` is set; its last bit may
    /// stand for everything below.
    ///
    /// Tininess is found after rounding, as the SDM says of x87 (4.9.1.5).
    pub(crate) fn round(&mut self, sign: bool, exp: i32, sig: u128) -> F80 {
        let cut = self.cut(sign, sig, self.precision);
        let rounded = exp + i32::from(cut.carry);
        if rounded < EMIN {
            return self.underflow(sign, exp, sig, &cut);
        }
        self.up = cut.up;
        if rounded > EMAX {
            return self.overflow(sign, rounded, &cut);
        }
        if cut.inexact {
            self.raise(INEXACT);
        }
        F80::normal(sign, rounded, cut.sig)
    }

    fn underflow(&mut self, sign: bool, exp: i32, sig: u128, cut: &Cut) -> F80 {
        if self.unmasked(UNDERFLOW) {
            self.raise(UNDERFLOW);
            let wrapped = exp + i32::from(cut.carry) + WRAP;
            if wrapped < EMIN {
                self.raise(INEXACT);
                return F80::zero(sign);
            }
            self.up = cut.up;
            if cut.inexact {
                self.raise(INEXACT);
            }
            return F80::normal(sign, wrapped, cut.sig);
        }
        let cut = self.cut(sign, shift_jam(sig, (EMIN - exp) as u32), self.precision);
        self.up = cut.up;
        if cut.inexact {
            self.raise(UNDERFLOW | INEXACT);
        }
        F80 {
            se: u16::from(sign) << 15 | (cut.sig >> 63) as u16,
            sig: cut.sig,
        }
    }

    fn overflow(&mut self, sign: bool, rounded: i32, cut: &Cut) -> F80 {
        self.raise(OVERFLOW);
        if self.unmasked(OVERFLOW) {
            if cut.inexact {
                self.raise(INEXACT);
            }
            if rounded - WRAP > EMAX {
                self.raise(INEXACT);
                self.up = true;
                return F80::infinity(sign);
            }
            return F80::normal(sign, rounded - WRAP, cut.sig);
        }
        self.raise(INEXACT);
        let infinite = match self.rounding {
            Rounding::Nearest => true,
            Rounding::Down => sign,
            Rounding::Up => !sign,
            Rounding::Zero => false,
        };
        self.up = infinite;
        if infinite {
            return F80::infinity(sign);
        }
        F80::normal(sign, EMAX, u64::MAX << (64 - self.precision))
    }
}
