//! The 80-bit extended format: its encodings, their classes, and the two memory formats that widen
//! into it without loss (SDM vol. 1, 4.2.2 and 8.2).
//!
//! ```text
//!  79   78            64 63 62                                0
//! +----+----------------+--+-----------------------------------+
//! |sign|exponent + 16383|J |             fraction              |
//! +----+----------------+--+-----------------------------------+
//! ```
//!
//! J is explicit. A finite number with a non-zero exponent and J clear (an unnormal), an infinity or
//! NaN with J clear: no instruction makes these, and every one that computes calls them invalid.

use super::env::{DENORMAL, Env, INVALID};

/// What the exponent field of the extended format adds.
pub(crate) const BIAS: i32 = 16383;
/// The J bit: the integer part of the significand.
pub(crate) const J: u64 = 1 << 63;
/// The bit that tells a quiet NaN from a signalling one.
pub(crate) const QUIET: u64 = 1 << 62;
/// The exponent field of infinities and NaNs.
const EXP_MAX: u16 = 0x7fff;

/// A value as it stands in a register of the stack: any of the 2^80 patterns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct F80 {
    /// Sign (bit 15) and biased exponent.
    pub(crate) se: u16,
    /// J and fraction.
    pub(crate) sig: u64,
}

/// A finite number that is not zero: `sig / 2^63 * 2^exp`, with bit 63 of `sig` set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finite {
    /// Negative.
    pub(crate) sign: bool,
    /// The exponent of the leading bit.
    pub(crate) exp: i32,
    /// The significand, normalised.
    pub(crate) sig: u64,
}

/// What a pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A zero.
    Zero,
    /// A number, denormal ones and pseudo-denormals normalised.
    Finite(Finite),
    /// An infinity.
    Infinity,
    /// A quiet NaN.
    Quiet,
    /// A signalling NaN.
    Signalling,
    /// An encoding that means nothing since the 80387.
    Unsupported,
}

impl F80 {
    /// +0.
    pub(crate) const ZERO: F80 = F80 { se: 0, sig: 0 };
    /// 1.
    pub(crate) const ONE: F80 = F80 {
        se: BIAS as u16,
        sig: J,
    };
    /// The NaN that a masked invalid operation gives.
    pub(crate) const INDEFINITE: F80 = F80 {
        se: 0xffff,
        sig: J | QUIET,
    };

    /// The value of `sign * sig / 2^63 * 2^exp`; `exp` and `sig` are those of a normal number.
    pub(crate) const fn normal(sign: bool, exp: i32, sig: u64) -> F80 {
        F80 {
            se: (sign as u16) << 15 | (exp + BIAS) as u16,
            sig,
        }
    }

    /// A zero of this sign.
    pub(crate) const fn zero(sign: bool) -> F80 {
        F80 {
            se: (sign as u16) << 15,
            sig: 0,
        }
    }

    /// An infinity of this sign.
    pub(crate) const fn infinity(sign: bool) -> F80 {
        F80 {
            se: (sign as u16) << 15 | EXP_MAX,
            sig: J,
        }
    }

    /// The exponent of a number that is not zero.
    pub(crate) fn exponent(self) -> Option<i32> {
        match self.class() {
            Class::Finite(x) => Some(x.exp),
            _ => None,
        }
    }

    /// The ten bytes of memory.
    pub(crate) fn from_bytes(b: [u8; 10]) -> F80 {
        let v = b.iter().rev().fold(0u128, |v, &b| v << 8 | u128::from(b));
        F80 {
            se: (v >> 64) as u16,
            sig: v as u64,
        }
    }

    /// The ten bytes of memory.
    pub(crate) fn to_bytes(self) -> [u8; 10] {
        let mut b = [0; 10];
        b[..8].copy_from_slice(&self.sig.to_le_bytes());
        b[8..].copy_from_slice(&self.se.to_le_bytes());
        b
    }

    /// The sign bit.
    pub(crate) const fn sign(self) -> bool {
        self.se >> 15 != 0
    }

    /// The exponent field, biased.
    pub(crate) const fn field(self) -> u16 {
        self.se & EXP_MAX
    }

    /// What the pattern stands for.
    pub(crate) const fn class(self) -> Class {
        let (sign, field) = (self.sign(), self.field() as i32);
        if field == 0 {
            if self.sig == 0 {
                return Class::Zero;
            }
            let shift = self.sig.leading_zeros();
            let exp = 1 - BIAS - shift as i32;
            return Class::Finite(Finite {
                sign,
                exp,
                sig: self.sig << shift,
            });
        }
        if self.sig & J == 0 {
            return Class::Unsupported;
        }
        if field != EXP_MAX as i32 {
            return Class::Finite(Finite {
                sign,
                exp: field - BIAS,
                sig: self.sig,
            });
        }
        if self.sig == J {
            Class::Infinity
        } else if self.sig & QUIET != 0 {
            Class::Quiet
        } else {
            Class::Signalling
        }
    }

    /// A denormal number or a pseudo-denormal: what raises #D when it is computed with.
    pub(crate) const fn is_denormal(self) -> bool {
        self.field() == 0 && self.sig != 0
    }

    /// A NaN, quiet or not.
    pub(crate) const fn is_nan(self) -> bool {
        matches!(self.class(), Class::Quiet | Class::Signalling)
    }

    /// The same with the sign turned.
    pub(crate) const fn negated(self) -> F80 {
        F80 {
            se: self.se ^ 0x8000,
            sig: self.sig,
        }
    }

    /// The same with the sign cleared.
    pub(crate) const fn magnitude(self) -> F80 {
        F80 {
            se: self.se & EXP_MAX,
            sig: self.sig,
        }
    }

    /// A NaN made quiet.
    pub(crate) const fn quieted(self) -> F80 {
        F80 {
            se: self.se,
            sig: self.sig | QUIET,
        }
    }

    /// Widens an integer; exact.
    pub(crate) fn from_i64(v: i64) -> F80 {
        if v == 0 {
            return F80::ZERO;
        }
        let m = v.unsigned_abs();
        let shift = m.leading_zeros();
        F80::normal(v < 0, 63 - shift as i32, m << shift)
    }
}

/// An operand as an instruction takes it: its value, and whether it was a denormal in the format
/// that it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    /// The value, widened. A signalling NaN is still one.
    pub(crate) value: F80,
    /// Raises #D when computed with.
    pub(crate) denormal: bool,
}

impl From<F80> for Operand {
    fn from(value: F80) -> Operand {
        Operand {
            value,
            denormal: value.is_denormal(),
        }
    }
}

/// Widens a number with `exp_bits` of exponent and `frac_bits` of fraction.
fn widen(bits: u64, exp_bits: u32, frac_bits: u32) -> Operand {
    let sign = bits >> (exp_bits + frac_bits) & 1 != 0;
    let max = (1u64 << exp_bits) - 1;
    let field = bits >> frac_bits & max;
    let frac = (bits & ((1 << frac_bits) - 1)) << (63 - frac_bits);
    let bias = (max >> 1) as i32;
    if field == max {
        let se = F80::infinity(sign).se;
        return Operand {
            value: F80 { se, sig: J | frac },
            denormal: false,
        };
    }
    if field != 0 {
        return Operand {
            value: F80::normal(sign, field as i32 - bias, J | frac),
            denormal: false,
        };
    }
    if frac == 0 {
        return Operand {
            value: F80::zero(sign),
            denormal: false,
        };
    }
    let shift = frac.leading_zeros();
    let value = F80::normal(sign, 1 - bias - shift as i32, frac << shift);
    Operand {
        value,
        denormal: true,
    }
}

/// A number of the single format, as an operand.
pub(crate) fn from_f32(bits: u32) -> Operand {
    widen(u64::from(bits), 8, 23)
}

/// A number of the double format, as an operand.
pub(crate) fn from_f64(bits: u64) -> Operand {
    widen(bits, 11, 52)
}

/// FLD of a single or double: the value in a register, with #D and #IA for what memory held.
pub(crate) fn load(op: Operand, env: &mut Env) -> F80 {
    if op.denormal {
        env.raise(DENORMAL);
    }
    if op.value.class() == Class::Signalling {
        env.raise(INVALID);
        return op.value.quieted();
    }
    op.value
}
