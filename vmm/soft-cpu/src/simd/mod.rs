//! SSE, SSE2 and MMX.
//!
//! ```text
//!   moves, packed, mmx ──► integer          no MXCSR, no exceptions
//!   float ──► scalar                        the case programs are nearly always in
//!         └─► host ──► mxcsr                any other, under the guest's MXCSR; #XM
//!               └────► exact                overflow or underflow not masked
//!   approximate                             RCPPS, RSQRTPS
//!   control                                 MXCSR, FXSAVE, fences
//! ```

mod access;
mod approximate;
mod control;
#[cfg(test)]
mod coverage_tests;
mod exact;
#[cfg(test)]
mod fault_tests;
mod float;
mod host;
mod integer;
mod mmx;
mod moves;
mod mxcsr;
mod packed;
mod scalar;
#[cfg(test)]
mod tests;

use iced_x86::Instruction;

use crate::op::{Handler, Op};

/// The handler of an SSE, SSE2 or MMX instruction, if it is one. The registers, the immediate and
/// the memory operand are in the `Op`: see [`crate::decode`].
pub(crate) fn select(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    let code = instruction.code();
    moves::select(instruction, op)
        .or_else(|| packed::select(code, op))
        .or_else(|| float::select(code, op))
        .or_else(|| mmx::select(instruction, op))
        .or_else(|| control::select(code))
}
