//! What the operating system sees: segments, exceptions, privileged instructions.

mod control;
mod debug;
mod exceptions;
mod far;
mod flag_ops;
mod msr;
mod ports;
mod saved;
mod segment_ops;
mod segments;
mod syscall;
mod tables;

use iced_x86::Instruction;

use crate::core::{CodeSize, Core};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::op::Op;

/// Makes a [`crate::op::Handler`] of a `fn(&mut Core, &Op) -> Result<(), Fault>` that changes how
/// the CPU goes on: what is enabled, which code is seen, where RIP is. RIP already stands behind
/// the instruction when it is called; it may set it anew.
macro_rules! system {
    ($carry_out:expr) => {{
        fn run(
            core: &mut $crate::core::Core,
            op: &$crate::op::Op,
            _: &[$crate::op::Op],
        ) -> $crate::op::Leave {
            core.rip = core.address_behind(op);
            $crate::op::attempt!(core, op, $carry_out(core, op));
            core.retired = u64::from(op.number) + 1;
            $crate::op::Leave::Recheck
        }
        $crate::decode::Lowering::last(run)
    }};
}
use system;

/// How a system instruction is carried out, if it is one.
pub(crate) fn select(instruction: &Instruction, size: CodeSize, op: &mut Op) -> Option<Lowering> {
    segment_ops::select(instruction, op)
        .or_else(|| tables::select(instruction, size, op))
        .or_else(|| flag_ops::select(instruction, op))
        .or_else(|| ports::select(instruction, op))
        .or_else(|| exceptions::select(instruction, size, op))
        .or_else(|| far::select(instruction, op))
        .or_else(|| syscall::select(instruction, size, op))
        .or_else(|| control::select(instruction, size, op))
        .or_else(|| msr::select(instruction))
}

impl Core {
    /// Fails outside privilege level 0.
    pub(crate) fn require_kernel(&self) -> Result<(), Fault> {
        if self.cpl == 0 {
            Ok(())
        } else {
            Err(Fault::PROTECTION)
        }
    }
}
