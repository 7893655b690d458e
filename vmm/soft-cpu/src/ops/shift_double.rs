//! SHLD and SHRD.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::core::{Core, reg};
use crate::decode::Lowering;
use crate::flags::{kind, mask};
use crate::op::{HAS_MEMORY, Leave, Op, attempt, next_after_write};

use super::{by_size, operand_size};

/// Shifts the destination, and fills it from the source. The count stands in `imm`, or in CL if
/// `extra` says so.
fn shift<const LEFT: bool, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let count = if op.extra != 0 {
        core.get::<0>(reg::RCX)
    } else {
        op.imm
    };
    let count = count as u32 & if S == 3 { 63 } else { 31 };
    let has_memory = op.marks & HAS_MEMORY != 0;
    let address = core.address(op);
    let a = if has_memory {
        attempt!(core, op, core.load_for_write::<S>(address))
    } else {
        core.get::<S>(op.dst)
    };
    let result = if count == 0 {
        a
    } else {
        let bits = 8 << S;
        let b = core.get::<S>(op.src);
        // Three operands wide, so that 16-bit operands can be shifted by up to 31: what
        // processors do, though the manual leaves it undefined.
        let (result, out) = if LEFT {
            let wide = u128::from(a) << bits | u128::from(b);
            let (wide, width) = if S == 1 {
                (wide << 16 | u128::from(a), 48)
            } else {
                (wide, 2 * bits)
            };
            (
                (shifted_left(wide, count, width) >> (width - bits)) as u64 & mask::<S>(),
                (wide >> (width - count)) as u64 & 1,
            )
        } else {
            let wide = u128::from(b) << bits | u128::from(a);
            let wide = if S == 1 {
                u128::from(a) << 32 | wide
            } else {
                wide
            };
            (
                (wide >> count) as u64 & mask::<S>(),
                (wide >> (count - 1)) as u64 & 1,
            )
        };
        if LEFT {
            core.flags.set::<S>(kind::SHL, result, out);
        } else {
            core.flags.set::<S>(kind::SHR, result, out);
        }
        result
    };
    if has_memory {
        if count != 0 {
            attempt!(core, op, core.store::<S>(address, result));
        }
    } else {
        core.set::<S>(op.dst, result);
    }
    next_after_write(core, op, rest)
}

/// A shift within the low `width` bits.
fn shifted_left(value: u128, count: u32, width: u32) -> u128 {
    let shifted = value << count;
    if width == 128 {
        shifted
    } else {
        shifted & ((1 << width) - 1)
    }
}

pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Lowering> {
    let size = operand_size(instruction);
    let run = match instruction.mnemonic() {
        Mnemonic::Shld => by_size!(size, shift, true),
        Mnemonic::Shrd => by_size!(size, shift, false),
        _ => return None,
    };
    op.extra = u16::from(instruction.op2_kind() == OpKind::Register);
    Some(Lowering::of(run))
}
