//! MOV of general registers, immediates and memory: a third of what programs do, so an operand
//! without an index has handlers of its own.

use iced_x86::{Instruction, Mnemonic};

use crate::core::Core;
use crate::decode::Lowering;
use crate::op::{Handler, Leave, Op, ZERO, next, next_on, reach};

use super::{Form, Kind, by_size, operand_size};

/// Register to register.
#[inline(always)]
pub(super) fn register<const S: usize>(core: &mut Core, op: &Op) -> bool {
    let value = core.get::<S>(op.src);
    core.set::<S>(op.dst, value);
    true
}

fn rr<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    register::<S>(core, op);
    next(core, rest)
}

fn ri<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    core.set::<S>(op.dst, op.imm);
    next(core, rest)
}

/// The linear address of the memory operand.
#[inline(always)]
fn address<const INDEXED: bool>(core: &Core, op: &Op) -> u64 {
    if INDEXED {
        core.address(op)
    } else {
        core.address_without_index(op)
    }
}

/// Loads if that is quick.
#[inline(always)]
pub(super) fn load_quickly<const INDEXED: bool, const S: usize>(core: &mut Core, op: &Op) -> bool {
    let loaded = core.load_on::<true, S>(address::<INDEXED>(core, op));
    if let Ok(value) = loaded {
        core.set::<S>(op.dst, value);
    }
    loaded.is_ok()
}

/// Stores a register if that is quick.
#[inline(always)]
pub(super) fn store_quickly<const INDEXED: bool, const S: usize>(core: &mut Core, op: &Op) -> bool {
    let value = core.get::<S>(op.src);
    let address = address::<INDEXED>(core, op);
    core.store_on::<true, S>(address, value).is_ok()
}

#[inline(never)]
pub(super) fn load<const FAST: bool, const INDEXED: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let loaded = core.load_on::<FAST, S>(address::<INDEXED>(core, op));
    let value = reach!(FAST, core, op, rest, loaded, load::<false, true, S>);
    core.set::<S>(op.dst, value);
    next(core, rest)
}

#[inline(never)]
pub(super) fn store<
    const FAST: bool,
    const INDEXED: bool,
    const IMMEDIATE: bool,
    const S: usize,
>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let value = if IMMEDIATE {
        op.imm
    } else {
        core.get::<S>(op.src)
    };
    let stored = core.store_on::<FAST, S>(address::<INDEXED>(core, op), value);
    let slow = store::<false, true, IMMEDIATE, S>;
    reach!(FAST, core, op, rest, stored, slow);
    next_on::<FAST>(core, op, rest)
}

/// Whether an instruction is a MOV between registers, and nothing of what it writes outlasts the one
/// behind it, if that overwrites the same register.
pub(crate) fn moves_whole(instruction: &Instruction, behind: &Instruction) -> bool {
    const DOUBLEWORD: usize = 2;
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_register().is_gpr()
        && instruction.op1_register().is_gpr()
        && (DOUBLEWORD..=operand_size(instruction)).contains(&operand_size(behind))
}

fn kind(form: Form, size: usize, indexed: bool) -> Option<Kind> {
    Some(match (form, size, indexed) {
        (Form::Rr, 2, _) => Kind::Move4,
        (Form::Rr, 3, _) => Kind::Move8,
        (Form::Rm, 2, false) => Kind::Load4,
        (Form::Rm, 3, false) => Kind::Load8,
        (Form::Rm, 2, true) => Kind::LoadIndexed4,
        (Form::Rm, 3, true) => Kind::LoadIndexed8,
        (Form::Mr, 2, false) => Kind::Store4,
        (Form::Mr, 3, false) => Kind::Store8,
        (Form::Mr, 2, true) => Kind::StoreIndexed4,
        (Form::Mr, 3, true) => Kind::StoreIndexed8,
        _ => return None,
    })
}

pub(super) fn select(instruction: &Instruction, op: &Op) -> Option<Lowering> {
    let registers = [instruction.op0_register(), instruction.op1_register()];
    if instruction.mnemonic() != Mnemonic::Mov
        || registers
            .iter()
            .any(|r| r.is_segment_register() || r.is_cr() || r.is_dr())
    {
        return None;
    }
    let (size, indexed) = (operand_size(instruction), op.index != ZERO);
    let run: Handler = match (Form::of(instruction), indexed) {
        (Form::Rr, _) => by_size!(size, rr),
        (Form::Ri, _) => by_size!(size, ri),
        (Form::Rm, false) => by_size!(size, load, true, false),
        (Form::Rm, true) => by_size!(size, load, true, true),
        (Form::Mr, false) => by_size!(size, store, true, false, false),
        (Form::Mr, true) => by_size!(size, store, true, true, false),
        (Form::Mi, false) => by_size!(size, store, true, false, true),
        (Form::Mi, true) => by_size!(size, store, true, true, true),
    };
    Some(Lowering {
        pure: !op.has_memory(),
        kind: kind(Form::of(instruction), size, indexed),
        ..Lowering::of(run)
    })
}
