//! MXCSR, and what becomes of the exceptions that an operation raised (SDM vol. 1, 10.2.3, 11.5).

use crate::core::{Core, cr4};
use crate::fault::Fault;

/// Invalid operation.
pub(crate) const INVALID: u32 = 1;
/// Denormal operand.
pub(crate) const DENORMAL: u32 = 2;
/// Division by zero.
pub(crate) const ZERO_DIVIDE: u32 = 4;
/// Overflow.
pub(crate) const OVERFLOW: u32 = 8;
/// Underflow.
pub(crate) const UNDERFLOW: u32 = 0x10;
/// Inexact result.
pub(crate) const INEXACT: u32 = 0x20;
/// The six.
pub(crate) const EXCEPTIONS: u32 = 0x3f;
/// Denormal operands are zeros.
pub(crate) const DAZ: u32 = 0x40;
/// Results that underflow are zeros.
pub(crate) const FLUSH: u32 = 0x8000;
/// How far the masks stand from the exceptions.
pub(crate) const MASKS: u32 = 7;
/// MXCSR_MASK: the bits that exist.
pub(crate) const EXISTING: u32 = 0xffff;

/// MXCSR after reset, without exceptions: round to nearest, everything masked.
const DEFAULT: u32 = EXCEPTIONS << MASKS;

/// What is found before anything is computed.
const BEFORE: u32 = INVALID | DENORMAL | ZERO_DIVIDE;

/// Whether MXCSR is as programs leave it that never touch it, and has seen an inexact result: then
/// an operation on normal numbers with a normal result needs no look at it.
#[inline(always)]
pub(crate) fn is_settled(mxcsr: u32) -> bool {
    mxcsr & !(EXCEPTIONS & !INEXACT) == DEFAULT | INEXACT
}

/// The MXCSR to compute under: nothing raised, all masked.
#[inline(always)]
pub(crate) fn control(mxcsr: u32) -> u32 {
    mxcsr & !EXCEPTIONS | DEFAULT
}

/// Whether all that [`super::exact`] decides is masked.
#[inline(always)]
pub(crate) fn masks_range(mxcsr: u32) -> bool {
    const RANGE: u32 = (OVERFLOW | UNDERFLOW) << MASKS;
    mxcsr & RANGE == RANGE
}

impl Core {
    /// Takes over what an operation raised; fails where something of it is not masked.
    #[inline(always)]
    pub(crate) fn raise_sse(&mut self, raised: u32) -> Result<(), Fault> {
        if raised & !(self.mxcsr >> MASKS) == 0 {
            self.mxcsr |= raised;
            return Ok(());
        }
        self.sse_exception(raised)
    }

    #[cold]
    fn sse_exception(&mut self, raised: u32) -> Result<(), Fault> {
        let unmasked = raised & !(self.mxcsr >> MASKS);
        // An exception found beforehand keeps the operation from being carried out.
        self.mxcsr |= if unmasked & BEFORE != 0 {
            raised & BEFORE
        } else {
            raised
        };
        if self.cr4 & cr4::OSXMMEXCPT == 0 {
            return Err(Fault::UNDEFINED);
        }
        Err(Fault::SIMD)
    }
}
