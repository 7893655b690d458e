//! The handlers of the integer instructions.

use iced_x86::Instruction;

use crate::core::{CodeSize, Core};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::op::Op;

/// How an integer instruction is carried out, if it is one.
pub(crate) fn select(_: &Instruction, _: CodeSize, _: &mut Op) -> Option<Lowering> {
    None
}

/// Makes one operation of a comparison and the branch behind it, if it can.
pub(crate) fn fuse(_: &Instruction, _: &mut Op, _: &Instruction, _: &Op) -> bool {
    false
}

/// What this CPU does not have.
pub(crate) fn undefined(_: &mut Core, _: &Op) -> Result<(), Fault> {
    Err(Fault::UNDEFINED)
}
