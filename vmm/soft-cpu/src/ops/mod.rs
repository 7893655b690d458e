//! The handlers of the integer instructions.
//!
//! Each file holds a group: its handlers, and a `select` that picks one for an instruction. Those
//! that programs spend their time in are generic over operand size and form, so that each is a
//! function of its own, without a decision left for run time.

// The fast twin of a handler that ends its block hands `rest` to the slow one, and that is all.
#![allow(clippy::only_used_in_recursion)]

mod alu;
mod bits;
mod branch;
mod branch_legacy;
mod compare_branch;
mod decimal;
mod exchange;
mod misc;
mod mov;
mod moves;
mod muldiv;
mod pair;
mod shift;
mod shift_double;
mod stack;
mod strings;
mod strings_rep;

use iced_x86::{Instruction, OpKind};

use crate::core::{CodeSize, Core};
use crate::decode::{Lowering, size_of};
use crate::fault::Fault;
use crate::op::Op;

pub(crate) use compare_branch::fuse;
pub(crate) use mov::moves_whole;
pub(crate) use pair::{Kind, pair};

/// How an integer instruction is carried out, if it is one.
pub(crate) fn select(instruction: &Instruction, size: CodeSize, op: &mut Op) -> Option<Lowering> {
    mov::select(instruction, op)
        .or_else(|| alu::select(instruction, op))
        .or_else(|| moves::select(instruction, op))
        .or_else(|| branch::select(instruction, size, op))
        .or_else(|| stack::select(instruction, size, op))
        .or_else(|| shift::select(instruction, op))
        .or_else(|| shift_double::select(instruction, op))
        .or_else(|| muldiv::select(instruction, op))
        .or_else(|| bits::select(instruction, op))
        .or_else(|| exchange::select(instruction))
        .or_else(|| strings::select(instruction, size, op))
        .or_else(|| decimal::select(instruction))
        .or_else(|| misc::select(instruction, op))
}

/// What this CPU does not have.
pub(crate) fn undefined(_: &mut Core, _: &Op) -> Result<(), Fault> {
    Err(Fault::UNDEFINED)
}

/// Where the first two operands of an instruction are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Register, register.
    Rr,
    /// Register, immediate.
    Ri,
    /// Register, memory.
    Rm,
    /// Memory, register.
    Mr,
    /// Memory, immediate.
    Mi,
}

impl Form {
    fn of(instruction: &Instruction) -> Form {
        match (instruction.op0_kind(), instruction.op1_kind()) {
            (OpKind::Register, OpKind::Register) => Form::Rr,
            (OpKind::Register, OpKind::Memory) => Form::Rm,
            (OpKind::Register, _) => Form::Ri,
            (_, OpKind::Register) => Form::Mr,
            _ => Form::Mi,
        }
    }
}

/// The size of the first operand: `1 << S` bytes.
fn operand_size(instruction: &Instruction) -> usize {
    size_of(match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    })
}

/// The function `$name::<$first, …, S>` for a size known only now.
macro_rules! by_size {
    ($size:expr, $name:ident $(, $parameter:expr)*) => {
        match $size {
            0 => $name::<$({ $parameter },)* 0> as $crate::op::Handler,
            1 => $name::<$({ $parameter },)* 1>,
            2 => $name::<$({ $parameter },)* 2>,
            _ => $name::<$({ $parameter },)* 3>,
        }
    };
}
use by_size;

/// The function `$name::<CC, $parameter…>` for a condition known only now.
macro_rules! by_condition {
    ($condition:expr, $name:ident $(, $parameter:expr)*) => {
        match $condition {
            0 => $name::<0 $(, { $parameter })*> as $crate::op::Handler,
            1 => $name::<1 $(, { $parameter })*>,
            2 => $name::<2 $(, { $parameter })*>,
            3 => $name::<3 $(, { $parameter })*>,
            4 => $name::<4 $(, { $parameter })*>,
            5 => $name::<5 $(, { $parameter })*>,
            6 => $name::<6 $(, { $parameter })*>,
            7 => $name::<7 $(, { $parameter })*>,
            8 => $name::<8 $(, { $parameter })*>,
            9 => $name::<9 $(, { $parameter })*>,
            10 => $name::<10 $(, { $parameter })*>,
            11 => $name::<11 $(, { $parameter })*>,
            12 => $name::<12 $(, { $parameter })*>,
            13 => $name::<13 $(, { $parameter })*>,
            14 => $name::<14 $(, { $parameter })*>,
            _ => $name::<15 $(, { $parameter })*>,
        }
    };
}
use by_condition;

/// The number of an instruction's condition, as in the low bits of its opcode.
fn condition_number(instruction: &Instruction) -> Option<u8> {
    use iced_x86::ConditionCode as Cc;
    Some(match instruction.condition_code() {
        Cc::None => return None,
        Cc::o => 0,
        Cc::no => 1,
        Cc::b => 2,
        Cc::ae => 3,
        Cc::e => 4,
        Cc::ne => 5,
        Cc::be => 6,
        Cc::a => 7,
        Cc::s => 8,
        Cc::ns => 9,
        Cc::p => 10,
        Cc::np => 11,
        Cc::l => 12,
        Cc::ge => 13,
        Cc::le => 14,
        Cc::g => 15,
    })
}
