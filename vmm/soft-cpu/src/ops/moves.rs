//! MOVZX, MOVSX, MOVSXD, LEA, CMOVcc, SETcc, CBW and its relatives, XCHG of registers, BSWAP, NOP.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::{Core, reg};
use crate::decode::{Lowering, size_of};
use crate::flags::signed;
use crate::op::{Handler, Leave, Op, attempt, next, next_after_write, reach};

use super::pair::BELOW;
use super::{Kind, by_condition, by_size, condition_number, operand_size};

/// Extends from size `F` to size `S`.
#[inline(always)]
fn extended<const SIGNED: bool, const F: usize>(value: u64) -> u64 {
    if SIGNED {
        signed::<F>(value) as u64
    } else {
        value
    }
}

fn extend_r<const SIGNED: bool, const F: usize, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let value = core.get::<F>(op.src);
    core.set::<S>(op.dst, extended::<SIGNED, F>(value));
    next(core, rest)
}

#[inline(never)]
fn extend_m<const FAST: bool, const SIGNED: bool, const F: usize, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    let loaded = core.load_on::<FAST, F>(core.address(op));
    let value = reach!(
        FAST,
        core,
        op,
        rest,
        loaded,
        extend_m::<false, SIGNED, F, S>
    );
    core.set::<S>(op.dst, extended::<SIGNED, F>(value));
    next(core, rest)
}

fn extend<const SIGNED: bool>(has_memory: bool, from: usize, to: usize) -> Handler {
    match (has_memory, from) {
        (false, 0) => by_size!(to, extend_r, SIGNED, 0),
        (false, 1) => by_size!(to, extend_r, SIGNED, 1),
        (false, _) => by_size!(to, extend_r, SIGNED, 2),
        (true, 0) => by_size!(to, extend_m, true, SIGNED, 0),
        (true, 1) => by_size!(to, extend_m, true, SIGNED, 1),
        (true, _) => by_size!(to, extend_m, true, SIGNED, 2),
    }
}

/// LEA.
#[inline(always)]
pub(super) fn lea_only<const S: usize>(core: &mut Core, op: &Op) -> bool {
    let address = core.address(op);
    core.set::<S>(op.dst, address);
    true
}

fn lea<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    lea_only::<S>(core, op);
    next(core, rest)
}

fn cmov_r<const CC: u8, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let from = if core.flags.holds::<CC>() {
        op.src
    } else {
        op.base
    };
    // Also where nothing moves, a 32-bit destination loses its upper half.
    let value = core.get::<S>(from);
    core.set::<S>(op.dst, value);
    next(core, rest)
}

#[inline(never)]
fn cmov_m<const CC: u8, const FAST: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
) -> Leave {
    // The operand is read, and may fault, either way.
    let loaded = core.load_on::<FAST, S>(core.address(op));
    let loaded = reach!(FAST, core, op, rest, loaded, cmov_m::<CC, false, S>);
    let value = if core.flags.holds::<CC>() {
        loaded
    } else {
        core.get::<S>(op.dst)
    };
    core.set::<S>(op.dst, value);
    next(core, rest)
}

/// SETcc of a register.
#[inline(always)]
pub(super) fn set_only<const CC: u8>(core: &mut Core, op: &Op) -> bool {
    let value = u64::from(core.flags.holds::<CC>());
    core.set::<0>(op.dst, value);
    true
}

fn set_r<const CC: u8>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    set_only::<CC>(core, op);
    next(core, rest)
}

fn set_m<const CC: u8>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let value = u64::from(core.flags.holds::<CC>());
    attempt!(core, op, core.store::<0>(core.address(op), value));
    next_after_write(core, op, rest)
}

/// CBW, CWDE, CDQE: RAX of size `F` to the next size.
fn widen<const F: usize, const S: usize>(core: &mut Core, _: &Op, rest: &[Op]) -> Leave {
    let value = signed::<F>(core.get::<F>(reg::RAX)) as u64;
    core.set::<S>(reg::RAX, value);
    next(core, rest)
}

/// CWD, CDQ, CQO: RDX becomes the sign of RAX.
fn sign<const S: usize>(core: &mut Core, _: &Op, rest: &[Op]) -> Leave {
    let value = (signed::<S>(core.get::<S>(reg::RAX)) >> 63) as u64;
    core.set::<S>(reg::RDX, value);
    next(core, rest)
}

fn exchange<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let (a, b) = (core.get::<S>(op.dst), core.get::<S>(op.src));
    core.set::<S>(op.dst, b);
    core.set::<S>(op.src, a);
    next(core, rest)
}

/// BSWAP. Of 16 bits it is undefined; processors clear them.
fn swap<const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let value = core.get::<S>(op.dst);
    let swapped = match S {
        1 => 0,
        2 => u64::from((value as u32).swap_bytes()),
        _ => value.swap_bytes(),
    };
    core.set::<S>(op.dst, swapped);
    next(core, rest)
}

fn nothing(core: &mut Core, _: &Op, rest: &[Op]) -> Leave {
    next(core, rest)
}

pub(super) fn select(instruction: &Instruction, op: &Op) -> Option<Lowering> {
    use Mnemonic::*;
    let has_memory = op.has_memory();
    let mnemonic = instruction.mnemonic();
    let mut pure = !has_memory;
    let mut takes_base = false;
    let mut kind = None;
    let run = match mnemonic {
        Movzx | Movsx | Movsxd => {
            let from = size_of(match instruction.op1_kind() {
                OpKind::Memory => instruction.memory_size().size(),
                _ => instruction.op1_register().size(),
            });
            let to = operand_size(instruction);
            if mnemonic == Movzx {
                extend::<false>(has_memory, from, to)
            } else {
                extend::<true>(has_memory, from, to)
            }
        }
        Lea => {
            pure = true;
            let size = operand_size(instruction);
            kind = (size == 3).then_some(Kind::Lea8);
            by_size!(size, lea)
        }
        Cbw => widen::<0, 1>,
        Cwde => widen::<1, 2>,
        Cdqe => widen::<2, 3>,
        Cwd => sign::<1>,
        Cdq => sign::<2>,
        Cqo => sign::<3>,
        Xchg if !has_memory => by_size!(operand_size(instruction), exchange),
        Bswap => by_size!(operand_size(instruction), swap),
        // PREFETCHx, ENDBR and other hints come as reserved NOPs: see the decoder's options.
        Nop | Reservednop | Pause | Lfence | Mfence | Sfence | Prefetchw | Prefetch
        | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchnta | Endbr64 | Endbr32 => {
            pure = true;
            nothing
        }
        _ => {
            let condition = condition_number(instruction)?;
            match (instruction.op_count(), has_memory) {
                // CMOVcc has two operands, SETcc one; Jcc has one that is a branch target.
                (2, false) => {
                    takes_base = true;
                    match operand_size(instruction) {
                        1 => by_condition!(condition, cmov_r, 1),
                        2 => by_condition!(condition, cmov_r, 2),
                        _ => by_condition!(condition, cmov_r, 3),
                    }
                }
                (2, true) => match operand_size(instruction) {
                    1 => by_condition!(condition, cmov_m, true, 1),
                    2 => by_condition!(condition, cmov_m, true, 2),
                    _ => by_condition!(condition, cmov_m, true, 3),
                },
                _ if instruction.op0_kind() == OpKind::Register => {
                    kind = (condition == BELOW).then_some(Kind::SetIfBelow);
                    by_condition!(condition, set_r)
                }
                _ if has_memory => by_condition!(condition, set_m),
                _ => return None,
            }
        }
    };
    Some(Lowering {
        pure,
        takes_base,
        kind,
        ..Lowering::of(run)
    })
}
