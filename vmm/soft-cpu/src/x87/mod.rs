//! The x87 FPU, and the registers that it shares with MMX.

use iced_x86::Instruction;

use crate::op::Handler;

/// The x87 state, as FXSAVE spells it out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fpu {
    /// R0 to R7, by physical number: significand, and sign with exponent.
    pub(crate) registers: [(u64, u16); 8],
    /// The control word.
    pub(crate) control: u16,
    /// The status word; bits 11 to 13 are the number of the stack's top.
    pub(crate) status: u16,
    /// A bit for each physical register that is in use.
    pub(crate) in_use: u8,
    /// The opcode of the last instruction, 11 bits.
    pub(crate) opcode: u16,
    /// Where the last instruction was.
    pub(crate) instruction_pointer: u64,
    /// Where its memory operand was.
    pub(crate) data_pointer: u64,
}

/// The handler of an x87 instruction, if it is one.
pub(crate) fn select(_instruction: &Instruction) -> Option<Handler> {
    None
}
