//! A floating-point number with 128 bits of significand: what the transcendental functions compute
//! in, so that one rounding to 64 bits is all the error that shows.
//!
//! Every operation truncates: its result is less than one unit in the 128th place too small in
//! magnitude. A function of some forty operations is thus right to about 120 bits.

use super::env::{Env, shift_jam};
use super::format::{F80, Finite};

/// `sig / 2^127 * 2^exp`, with bit 127 of `sig` set; or zero, with `sig` zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide {
    pub(crate) sign: bool,
    pub(crate) exp: i32,
    pub(crate) sig: u128,
}

/// The upper half of a product, truncated.
fn high(a: u128, b: u128) -> u128 {
    let mask = u128::from(u64::MAX);
    let (a1, a0, b1, b0) = (a >> 64, a & mask, b >> 64, b & mask);
    let (low, m0, m1) = (a0 * b0, a1 * b0, a0 * b1);
    let carry = ((low >> 64) + (m0 & mask) + (m1 & mask)) >> 64;
    a1 * b1 + (m0 >> 64) + (m1 >> 64) + carry
}

impl Wide {
    pub(crate) const ZERO: Wide = Wide {
        sign: false,
        exp: 0,
        sig: 0,
    };
    pub(crate) const ONE: Wide = Wide::new(0, 1 << 127);

    /// A positive number.
    pub(crate) const fn new(exp: i32, sig: u128) -> Wide {
        Wide {
            sign: false,
            exp,
            sig,
        }
    }

    /// `value * 2^exp`, normalised.
    pub(crate) fn scaled(sign: bool, value: u128, exp: i32) -> Wide {
        if value == 0 {
            return Wide::ZERO;
        }
        let shift = value.leading_zeros();
        Wide {
            sign,
            exp: exp + 127 - shift as i32,
            sig: value << shift,
        }
    }

    pub(crate) fn from_int(v: i32) -> Wide {
        Wide::scaled(v < 0, u128::from(v.unsigned_abs()), 0)
    }

    pub(crate) fn negated(self) -> Wide {
        Wide {
            sign: !self.sign,
            ..self
        }
    }

    pub(crate) fn with_sign(self, sign: bool) -> Wide {
        Wide { sign, ..self }
    }

    pub(crate) fn twice(self) -> Wide {
        Wide {
            exp: self.exp + 1,
            ..self
        }
    }

    pub(crate) fn mul(self, b: Wide) -> Wide {
        if self.sig == 0 || b.sig == 0 {
            return Wide::ZERO;
        }
        let top = high(self.sig, b.sig);
        let shift = top.leading_zeros();
        let sig = top << shift;
        Wide {
            sign: self.sign != b.sign,
            exp: self.exp + b.exp + 1 - shift as i32,
            sig,
        }
    }

    pub(crate) fn add(self, b: Wide) -> Wide {
        if self.sig == 0 {
            return b;
        }
        if b.sig == 0 {
            return self;
        }
        let larger = (self.exp, self.sig) >= (b.exp, b.sig);
        let (a, b) = if larger { (self, b) } else { (b, self) };
        let by = (a.exp - b.exp) as u32;
        let aligned = b.sig.checked_shr(by).unwrap_or(0);
        if a.sign == b.sign {
            let (sum, carry) = a.sig.overflowing_add(aligned);
            let carry = u32::from(carry);
            let sig = if carry == 1 { sum >> 1 | 1 << 127 } else { sum };
            return Wide {
                sign: a.sign,
                exp: a.exp + carry as i32,
                sig,
            };
        }
        // What was shifted out takes one more off.
        let lost = by >= 128 || aligned << by != b.sig;
        Wide::scaled(a.sign, a.sig - aligned - u128::from(lost), a.exp - 127)
    }

    pub(crate) fn sub(self, b: Wide) -> Wide {
        self.add(b.negated())
    }

    /// Division by a small number.
    pub(crate) fn over(self, n: u32) -> Wide {
        let n = u128::from(n);
        let (q, r) = (self.sig / n, self.sig % n);
        let shift = q.leading_zeros();
        // The places that `q` lost come from the remainder.
        let low = (r << shift) / n;
        if self.sig == 0 {
            return Wide::ZERO;
        }
        Wide {
            sign: self.sign,
            exp: self.exp - shift as i32,
            sig: q << shift | low,
        }
    }

    /// Division; the divisor is not zero.
    pub(crate) fn div(self, b: Wide) -> Wide {
        if self.sig == 0 {
            return Wide::ZERO;
        }
        let less = self.sig < b.sig;
        // Bit by bit: `rest` stays below the divisor, so that one carry is all it can lose.
        let mut rest = if less { self.sig } else { self.sig - b.sig };
        let mut sig = u128::from(!less);
        for _ in 0..127 + u32::from(less) {
            let carry = rest >> 127 != 0;
            rest <<= 1;
            sig <<= 1;
            if carry || rest >= b.sig {
                rest = rest.wrapping_sub(b.sig);
                sig |= 1;
            }
        }
        Wide {
            sign: self.sign != b.sign,
            exp: self.exp - b.exp - i32::from(less),
            sig,
        }
    }

    /// Rounds to an extended number at full precision; `exact` tells that no digits follow.
    pub(crate) fn round(self, exact: bool, env: &mut Env) -> F80 {
        if self.sig == 0 {
            return F80::zero(self.sign);
        }
        let sticky = u128::from(!exact);
        env.full()
            .round(self.sign, self.exp, shift_jam(self.sig, 0) | sticky)
    }
}

impl From<Finite> for Wide {
    fn from(x: Finite) -> Wide {
        Wide {
            sign: x.sign,
            exp: x.exp,
            sig: u128::from(x.sig) << 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Random;

    fn noise(r: &mut Random) -> u128 {
        u128::from(r.next()) << 64 | u128::from(r.next())
    }

    /// The upper half by schoolbook, 32 bits at a time.
    fn slow_high(a: u128, b: u128) -> u128 {
        let digits = |v: u128| [0, 32, 64, 96].map(|shift| (v >> shift) as u32);
        let mut product = [0u64; 8];
        for (i, x) in digits(a).into_iter().enumerate() {
            let mut carry = 0;
            for (j, y) in digits(b).into_iter().enumerate() {
                let sum = product[i + j] + u64::from(x) * u64::from(y) + carry;
                product[i + j] = sum & 0xffff_ffff;
                carry = sum >> 32;
            }
            product[i + 4] += carry;
        }
        (4..8)
            .rev()
            .fold(0, |v, i| v << 32 | u128::from(product[i]))
    }

    #[test]
    fn products_are_exact_to_the_last_bit() {
        let mut r = Random(1);
        for _ in 0..10_000 {
            let (a, b) = (noise(&mut r), noise(&mut r));
            assert_eq!(high(a, b), slow_high(a, b), "{a:x} * {b:x}");
        }
        assert_eq!(high(u128::MAX, u128::MAX), u128::MAX - 1);
    }

    /// A quotient times its divisor comes back to the dividend, less than two units short.
    #[test]
    fn quotients_are_exact_but_for_the_last_bits() {
        let mut r = Random(2);
        let one = 1 << 127;
        for _ in 0..2000 {
            let (a, b) = (
                Wide::new(0, noise(&mut r) | one),
                Wide::new(0, noise(&mut r) | one),
            );
            let back = a.div(b).mul(b);
            let short = a.sub(back);
            assert!(
                short.sig == 0 || !short.sign && short.exp <= -125,
                "{a:x?} / {b:x?}"
            );
            let n = r.next() as u32 | 1;
            let (fast, slow) = (a.over(n), a.div(Wide::scaled(false, u128::from(n), 0)));
            assert_eq!((fast.exp, fast.sig), (slow.exp, slow.sig), "{a:x?} / {n}");
        }
    }

    #[test]
    fn differences_are_never_too_large() {
        // 1 - 2^-200 is below 1, and shows it.
        let tiny = Wide::new(-200, 1 << 127);
        let below = Wide::ONE.sub(tiny);
        assert_eq!((below.exp, below.sig), (-1, u128::MAX - 1));
        assert_eq!(Wide::ONE.sub(Wide::ONE).sig, 0);
    }
}
