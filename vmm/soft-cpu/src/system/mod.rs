//! What the operating system sees: segments, exceptions, privileged instructions.

mod saved;

use iced_x86::Instruction;

use crate::core::{CodeSize, Core};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::flags::IF;
use crate::op::Op;

/// How a system instruction is carried out, if it is one.
pub(crate) fn select(_: &Instruction, _: CodeSize, _: &mut Op) -> Option<Lowering> {
    None
}

impl Core {
    /// Whether interrupts are enabled.
    pub(crate) fn interrupts_enabled(&self) -> bool {
        self.system_flags & IF != 0
    }

    /// Whether an interrupt would be taken before the next instruction.
    pub(crate) fn interrupts_open(&self) -> bool {
        self.interrupts_enabled() && self.shadow_at != Some(self.position)
    }

    pub(crate) fn raise(&mut self, _fault: Fault) {
        self.triple_fault = true;
    }

    pub(crate) fn external_interrupt(&mut self, _vector: u8) {}

    pub(crate) fn single_step_trap(&mut self) {}
}
