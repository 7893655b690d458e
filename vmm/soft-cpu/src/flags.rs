//! The arithmetic flags, computed when somebody looks.
//!
//! An instruction leaves its kind, its result and one operand behind; what the flags are follows
//! from these. Most are overwritten unseen. `S` is the operand size throughout: `1 << S` bytes.

/// Carry.
pub(crate) const CF: u64 = 1;
/// Parity of the result's low byte.
pub(crate) const PF: u64 = 1 << 2;
/// Carry out of bit 3.
pub(crate) const AF: u64 = 1 << 4;
/// Zero.
pub(crate) const ZF: u64 = 1 << 6;
/// Sign.
pub(crate) const SF: u64 = 1 << 7;
/// Signed overflow.
pub(crate) const OF: u64 = 1 << 11;
/// All six.
pub(crate) const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// Trap after each instruction.
pub(crate) const TF: u64 = 1 << 8;
/// Interrupts are enabled.
pub(crate) const IF: u64 = 1 << 9;
/// String instructions go downwards.
pub(crate) const DF: u64 = 1 << 10;
/// The privilege level that may do I/O.
pub(crate) const IOPL: u64 = 3 << 12;
/// Nested task.
pub(crate) const NT: u64 = 1 << 14;
/// Resume: no instruction breakpoint.
pub(crate) const RF: u64 = 1 << 16;
/// Virtual-8086 mode, which this CPU does not have.
pub(crate) const VM: u64 = 1 << 17;
/// Alignment check.
pub(crate) const AC: u64 = 1 << 18;
/// Can be toggled where CPUID exists.
pub(crate) const ID: u64 = 1 << 21;
/// The bit that is always set.
pub(crate) const FIXED: u64 = 2;

/// What the flags follow from; the operand size is added.
pub(crate) mod kind {
    /// `operand` holds the flags themselves.
    pub(crate) const KNOWN: u8 = 0;
    /// `result = x + operand`.
    pub(crate) const ADD: u8 = 4;
    /// `result = x - operand`.
    pub(crate) const SUB: u8 = 8;
    /// AND, OR, XOR, TEST.
    pub(crate) const LOGIC: u8 = 12;
    /// `result = x + 1`; `operand` is the carry before.
    pub(crate) const INC: u8 = 16;
    /// `result = x - 1`; `operand` is the carry before.
    pub(crate) const DEC: u8 = 20;
    /// A shift to the left; bit 0 of `operand` is the last bit shifted out.
    pub(crate) const SHL: u8 = 24;
    /// A shift to the right, unsigned; likewise.
    pub(crate) const SHR: u8 = 28;
    /// A shift to the right, signed; likewise.
    pub(crate) const SAR: u8 = 32;
}

/// The six arithmetic flags.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    kind: u8,
    result: u64,
    operand: u64,
}

/// The bits of an operand of size `S`.
#[inline(always)]
pub(crate) const fn mask<const S: usize>() -> u64 {
    !0 >> (64 - (8 << S))
}

/// An operand of size `S`, sign-extended.
#[inline(always)]
pub(crate) const fn signed<const S: usize>(value: u64) -> i64 {
    let unused = 64 - (8 << S);
    ((value << unused) as i64) >> unused
}

impl Flags {
    /// Flags by their bits.
    pub(crate) fn from_bits(bits: u64) -> Flags {
        Flags {
            kind: kind::KNOWN,
            result: 0,
            operand: bits & ARITHMETIC,
        }
    }

    /// Notes what the flags follow from.
    #[inline(always)]
    pub(crate) fn set<const S: usize>(&mut self, kind: u8, result: u64, operand: u64) {
        *self = Flags {
            kind: kind + S as u8,
            result,
            operand,
        };
    }

    /// Sets them to what they are.
    #[inline(always)]
    pub(crate) fn set_bits(&mut self, bits: u64) {
        *self = Flags::from_bits(bits);
    }

    /// Changes some of them.
    #[inline(always)]
    pub(crate) fn change(&mut self, which: u64, to: u64) {
        self.set_bits(self.bits() & !which | to & which);
    }

    /// How far a value of the noted size is shifted to stand at the top of 64 bits.
    #[inline(always)]
    fn unused(self) -> u32 {
        64 - (8 << (self.kind & 3))
    }

    /// The flags.
    pub(crate) fn bits(self) -> u64 {
        let unused = self.unused();
        // All at the top of the word, so that its sign is theirs.
        let (result, operand) = (self.result << unused, self.operand << unused);
        if self.kind & !3 == kind::KNOWN {
            return self.operand;
        }
        let mut bits = sign_zero_parity(result, self.result);
        let sign = |value: u64| value >> 63 != 0;
        let carry_out = self.operand & 1 != 0;
        match self.kind & !3 {
            kind::ADD => {
                let first = result.wrapping_sub(operand);
                bits |= flag(CF, result < operand);
                bits |= flag(OF, sign((first ^ result) & (operand ^ result)));
                bits |= (self.result ^ self.operand ^ self.result.wrapping_sub(self.operand)) & AF;
            }
            kind::SUB => {
                let first = result.wrapping_add(operand);
                bits |= flag(CF, first < operand);
                bits |= flag(OF, sign((first ^ operand) & (first ^ result)));
                bits |= (self.result ^ self.operand ^ self.result.wrapping_add(self.operand)) & AF;
            }
            kind::INC => {
                bits |= flag(CF, carry_out);
                bits |= flag(OF, result == 1 << 63) | flag(AF, self.result & 15 == 0);
            }
            kind::DEC => {
                bits |= flag(CF, carry_out);
                bits |= flag(OF, result == (!0 >> 1) & (!0 << unused));
                bits |= flag(AF, self.result & 15 == 15);
            }
            kind::SHL => {
                bits |= flag(CF, carry_out) | flag(OF, sign(result) != carry_out);
            }
            kind::SHR => {
                // For a count of 1 the overflow is the operand's sign, which moved one down.
                bits |= flag(CF, carry_out) | flag(OF, sign(result ^ (result << 1)));
            }
            kind::SAR => bits |= flag(CF, carry_out),
            _ => {}
        }
        bits
    }

    /// The carry flag.
    #[inline(always)]
    pub(crate) fn carry(self) -> bool {
        let unused = self.unused();
        let (result, operand) = (self.result << unused, self.operand << unused);
        match self.kind & !3 {
            kind::ADD => result < operand,
            kind::SUB => result.wrapping_add(operand) < operand,
            kind::LOGIC => false,
            _ => self.operand & 1 != 0,
        }
    }

    /// The zero flag.
    #[inline(always)]
    fn zero(self) -> bool {
        if self.kind & !3 == kind::KNOWN {
            self.operand & ZF != 0
        } else {
            self.result << self.unused() == 0
        }
    }

    /// The sign flag.
    #[inline(always)]
    fn sign(self) -> bool {
        if self.kind & !3 == kind::KNOWN {
            self.operand & SF != 0
        } else {
            ((self.result << self.unused()) as i64) < 0
        }
    }

    /// Whether the condition with number `CC` holds, as in the low bits of Jcc's opcode.
    #[inline(always)]
    pub(crate) fn holds<const CC: u8>(self) -> bool {
        let unused = self.unused();
        let subtraction = self.kind & !3 == kind::SUB;
        // The operands of the comparison, if it was one.
        let second = self.operand << unused;
        let first = (self.result << unused).wrapping_add(second);
        let bits = |of: u64| self.bits() & of != 0;
        let positive = match CC >> 1 {
            0 => bits(OF),
            1 => self.carry(),
            2 => self.zero(),
            3 if subtraction => first <= second,
            3 => bits(CF | ZF),
            4 => self.sign(),
            5 => (self.bits() & PF) != 0,
            6 if subtraction => (first as i64) < second as i64,
            6 => less(self.bits()),
            _ if subtraction => first as i64 <= second as i64,
            _ => {
                let bits = self.bits();
                less(bits) || bits & ZF != 0
            }
        };
        positive != (CC & 1 != 0)
    }

    /// Whether condition number `cc` holds.
    pub(crate) fn holds_number(self, cc: u8) -> bool {
        condition(cc, self.bits())
    }
}

/// Whether condition number `cc` holds for flags `bits` (SDM vol. 1, B.1).
pub(crate) fn condition(cc: u8, bits: u64) -> bool {
    let positive = match cc >> 1 & 7 {
        0 => bits & OF != 0,
        1 => bits & CF != 0,
        2 => bits & ZF != 0,
        3 => bits & (CF | ZF) != 0,
        4 => bits & SF != 0,
        5 => bits & PF != 0,
        6 => less(bits),
        _ => less(bits) || bits & ZF != 0,
    };
    positive != (cc & 1 != 0)
}

/// SF ≠ OF.
#[inline(always)]
fn less(bits: u64) -> bool {
    (bits >> 7 ^ bits >> 11) & 1 != 0
}

/// `bit` if `on`.
#[inline(always)]
pub(crate) fn flag(bit: u64, on: bool) -> u64 {
    if on { bit } else { 0 }
}

/// SF and ZF of a result that stands at the top of its word, PF of its low byte.
#[inline(always)]
fn sign_zero_parity(top: u64, result: u64) -> u64 {
    flag(SF, top >> 63 != 0)
        | flag(ZF, top == 0)
        | flag(PF, (result as u8).count_ones().is_multiple_of(2))
}

/// SF, ZF and PF of a result of size `S`.
#[inline(always)]
pub(crate) fn of_result<const S: usize>(result: u64) -> u64 {
    sign_zero_parity(result << (64 - (8 << S)), result)
}
