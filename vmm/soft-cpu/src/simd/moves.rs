//! The handlers of moves to, from and between XMM registers.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::access::{load, register, store};
use super::host;
use crate::core::{CodeSize, Core, reg, seg};
use crate::decode::segment_number;
use crate::fault::Fault;
use crate::op::{Handler, Leave, Op, attempt, handler, next, next_on, reach};

/// The low quadword of a register.
const LOW: u128 = u64::MAX as u128;

/// A register set from a general one or from memory, zero-extended.
macro_rules! from_general {
    ($size:literal, $op:expr) => {{
        fn run(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            core.xmm[usize::from(op.dst & 15)] = u128::from(core.get::<$size>(op.src));
            next(core, rest)
        }
        if $op.has_memory() {
            load!($size, false, |_, v, _: &Op| v)
        } else {
            run as Handler
        }
    }};
}

/// A general register set from `f(xmm, op)`.
macro_rules! to_general {
    ($size:literal, $f:expr) => {{
        fn run(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let value: u64 = $f(core.xmm[usize::from(op.src & 15)], op);
            core.set::<$size>(op.dst, value);
            next(core, rest)
        }
        run as Handler
    }};
}

/// A move of whole registers, to or from memory.
macro_rules! whole {
    (load, $aligned:literal, $op:expr) => {
        if $op.has_memory() {
            load!(4, $aligned, |_, v, _: &Op| v)
        } else {
            whole!()
        }
    };
    (store, $aligned:literal, $op:expr) => {
        if $op.has_memory() {
            store!(4, $aligned, |v| v)
        } else {
            whole!()
        }
    };
    () => {
        register!(|_, from, _: &Op| from)
    };
}

/// A move of the low `1 << $size` bytes: from memory they fill the register up with zeros, from a
/// register they leave the rest of it.
macro_rules! low {
    (load, $size:literal, $op:expr) => {
        if $op.has_memory() {
            load!($size, false, |_, v, _: &Op| v)
        } else {
            low!($size)
        }
    };
    (store, $size:literal, $op:expr) => {
        if $op.has_memory() {
            store!($size, false, |v| v)
        } else {
            low!($size)
        }
    };
    ($size:literal) => {
        register!(|to: u128, from, _: &Op| {
            const PART: u128 = u128::MAX >> (128 - (8 << $size));
            to & !PART | from & PART
        })
    };
}

/// The handler of a move.
pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match instruction.code() {
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            whole!(load, true, op)
        }
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm => whole!(store, true, op),
        Code::Movups_xmm_xmmm128 | Code::Movupd_xmm_xmmm128 | Code::Movdqu_xmm_xmmm128 => {
            whole!(load, false, op)
        }
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            whole!(store, false, op)
        }
        Code::Movss_xmm_xmmm32 => low!(load, 2, op),
        Code::Movss_xmmm32_xmm => low!(store, 2, op),
        Code::Movsd_xmm_xmmm64 => low!(load, 3, op),
        Code::Movsd_xmmm64_xmm => low!(store, 3, op),

        // The upper half becomes zero.
        Code::Movq_xmm_xmmm64 | Code::Movq_xmmm64_xmm if !op.has_memory() => {
            register!(|_, from, _: &Op| from & LOW)
        }
        Code::Movq_xmm_xmmm64 => load!(3, false, |_, v, _: &Op| v),
        Code::Movd_xmm_rm32 => from_general!(2, op),
        Code::Movq_xmm_rm64 => from_general!(3, op),
        Code::Movd_rm32_xmm if op.has_memory() => store!(2, false, |v| v),
        Code::Movd_rm32_xmm => to_general!(2, |v: u128, _: &Op| v as u64),
        Code::Movq_rm64_xmm if op.has_memory() => store!(3, false, |v| v),
        Code::Movq_rm64_xmm => to_general!(3, |v: u128, _: &Op| v as u64),

        // Halves.
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => {
            load!(3, false, |to: u128, v, _: &Op| to & !LOW | v)
        }
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => {
            load!(3, false, |to: u128, v: u128, _: &Op| to & LOW | v << 64)
        }
        Code::Movlps_m64_xmm | Code::Movlpd_m64_xmm | Code::Movq_xmmm64_xmm => {
            store!(3, false, |v| v)
        }
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => store!(3, false, |v: u128| v >> 64),
        Code::Movlhps_xmm_xmm => register!(|to: u128, from: u128, _: &Op| to & LOW | from << 64),
        Code::Movhlps_xmm_xmm => register!(|to: u128, from: u128, _: &Op| to & !LOW | from >> 64),

        // Masks and words. Their general register is always cleared above what it gets.
        Code::Pmovmskb_r32_xmm | Code::Pmovmskb_r64_xmm => {
            to_general!(3, |v, _: &Op| host::pmovmskb(v))
        }
        Code::Movmskps_r32_xmm | Code::Movmskps_r64_xmm => {
            to_general!(3, |v, _: &Op| host::movmskps(v))
        }
        Code::Movmskpd_r32_xmm | Code::Movmskpd_r64_xmm => {
            to_general!(3, |v, _: &Op| host::movmskpd(v))
        }
        Code::Pextrw_r32_xmm_imm8 | Code::Pextrw_r64_xmm_imm8 => {
            to_general!(3, |v: u128, op: &Op| u64::from(
                (v >> (16 * (op.imm & 7))) as u16
            ))
        }
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => handler!(insert_word),
        Code::Movnti_m32_r32 => handler!(move_general::<2>),
        Code::Movnti_m64_r64 => handler!(move_general::<3>),
        Code::Maskmovdqu_rDI_xmm_xmm => {
            prepare_masked(instruction, op);
            handler!(masked)
        }
        _ => return None,
    })
}

/// PINSRW.
fn insert_word(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_sse()?;
    let word = if op.has_memory() {
        core.load::<1>(core.address(op))?
    } else {
        core.get::<1>(op.src)
    };
    let (to, shift) = (usize::from(op.dst & 15), 16 * (op.imm & 7));
    core.xmm[to] = core.xmm[to] & !(0xffff << shift) | u128::from(word) << shift;
    Ok(())
}

/// MOVNTI: an SSE2 instruction that no check of SSE concerns.
fn move_general<const S: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.store::<S>(core.address(op), core.get::<S>(op.src))
}

/// Puts the operands of MASKMOVDQU or MASKMOVQ where [`masked_address`] looks for them: its two
/// registers, and the size of the address and the segment.
pub(super) fn prepare_masked(instruction: &Instruction, op: &mut Op) {
    op.dst = instruction.op_register(1).number() as u8;
    op.src = instruction.op_register(2).number() as u8;
    op.imm = match instruction.op_kind(0) {
        OpKind::MemorySegDI => u64::from(u16::MAX),
        OpKind::MemorySegEDI => u64::from(u32::MAX),
        _ => u64::MAX,
    };
    let segment = instruction.memory_segment();
    let segment = if segment == Register::None {
        Register::DS
    } else {
        segment
    };
    op.extra = segment_number(segment) as u16;
}

/// Where MASKMOVDQU and MASKMOVQ store `len` bytes.
fn masked_address(core: &Core, op: &Op, len: u64) -> Result<u64, Fault> {
    let offset = core.regs[usize::from(reg::RDI)] & op.imm;
    let segment = usize::from(op.extra);
    match core.code_size {
        CodeSize::Long if segment < seg::FS => Ok(offset),
        CodeSize::Long => Ok(core.segment_base(segment).wrapping_add(offset)),
        _ => core.segment_address_for(segment, offset, len, true),
    }
}

/// Stores the bytes of `value` whose sign bit is set in `mask`. Faults where storing all would;
/// without a byte to store nothing is touched.
pub(super) fn store_masked(
    core: &mut Core,
    op: &Op,
    value: &[u8],
    mask: &[u8],
) -> Result<(), Fault> {
    if mask.iter().all(|m| m & 0x80 == 0) {
        return Ok(());
    }
    let address = masked_address(core, op, value.len() as u64)?;
    core.probe_write(address, value.len())?;
    for (i, (byte, _)) in value
        .iter()
        .zip(mask)
        .enumerate()
        .filter(|(_, (_, m))| **m & 0x80 != 0)
    {
        core.store::<0>(address.wrapping_add(i as u64), u64::from(*byte))?;
    }
    Ok(())
}

/// MASKMOVDQU.
fn masked(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_sse()?;
    let register = |number: u8| core.xmm[usize::from(number & 15)].to_le_bytes();
    let (value, mask) = (register(op.dst), register(op.src));
    store_masked(core, op, &value, &mask)
}
