//! SSE, SSE2 and MMX.

use iced_x86::Instruction;

use crate::op::{Handler, Op};

/// The handler of an SSE, SSE2 or MMX instruction, if it is one. The registers, the immediate and
/// the memory operand are in the `Op`: see [`crate::decode`].
pub(crate) fn select(_instruction: &Instruction, _op: &mut Op) -> Option<Handler> {
    None
}
