//! The handlers of moves to, from and between XMM registers.

use iced_x86::{Code, Instruction, OpKind, Register};

use super::host;
use crate::core::{CodeSize, Core, reg, seg};
use crate::decode::segment_number;
use crate::fault::Fault;
use crate::op::{Handler, Leave, Op, attempt, handler, next, next_after_write};

/// The low quadword of a register.
const LOW: u128 = u64::MAX as u128;

/// Registers of an operation: destination and source.
#[inline(always)]
fn numbers(op: &Op) -> (usize, usize) {
    (usize::from(op.dst & 15), usize::from(op.src & 15))
}

/// A handler that puts `$value` into the destination, given the core and its operation.
macro_rules! load {
    ($value:expr) => {{
        fn run(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let value: Result<u128, Fault> = $value(core, op);
            core.xmm[usize::from(op.dst & 15)] = attempt!(core, op, value);
            next(core, rest)
        }
        run as Handler
    }};
}

/// A handler that stores something of the source, given the core, the address and the source.
macro_rules! store {
    ($store:expr) => {{
        fn run(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let source = core.xmm[usize::from(op.src & 15)];
            let done: Result<(), Fault> = $store(core, core.address(op), source);
            attempt!(core, op, done);
            next_after_write(core, op, rest)
        }
        run as Handler
    }};
}

/// A handler that stores a register of the general ones, or sets one.
macro_rules! to_general {
    ($size:literal, $value:expr) => {{
        fn run(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let value: u64 = $value(core.xmm[usize::from(op.src & 15)], op);
            if op.has_memory() {
                attempt!(core, op, core.store::<$size>(core.address(op), value));
                return next_after_write(core, op, rest);
            }
            core.set::<$size>(op.dst, value);
            next(core, rest)
        }
        run as Handler
    }};
}

/// A general register or memory, zero-extended.
#[inline(always)]
fn general<const S: usize>(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    if op.has_memory() {
        return core.load::<S>(core.address(op));
    }
    Ok(core.get::<S>(op.src))
}

/// A whole register.
fn whole(store: bool, op: &Op, aligned: bool) -> Handler {
    match (op.has_memory(), store, aligned) {
        (false, ..) => load!(|core: &mut Core, op| Ok(core.xmm[numbers(op).1])),
        (_, false, false) => load!(|core: &mut Core, op| core.load_16(core.address(op))),
        (_, false, true) => load!(|core: &mut Core, op| core.load_16_aligned(core.address(op))),
        (_, true, false) => store!(|core: &mut Core, at, v| core.store_16(at, v)),
        (_, true, true) => store!(|core: &mut Core, at, v| core.store_16_aligned(at, v)),
    }
}

/// The low `1 << $size` bytes: from memory they fill the register up with zeros, from a register
/// they leave the rest of it.
macro_rules! low {
    ($size:literal, $op:expr, load) => {
        if $op.has_memory() {
            load!(|core: &mut Core, op| core.load::<$size>(core.address(op)).map(u128::from))
        } else {
            low!($size)
        }
    };
    ($size:literal, $op:expr, store) => {
        if $op.has_memory() {
            store!(|core: &mut Core, at, v| core.store::<$size>(at, v as u64))
        } else {
            low!($size)
        }
    };
    ($size:literal) => {
        load!(|core: &mut Core, op| {
            const LOW_PART: u128 = u128::MAX >> (128 - (8 << $size));
            let (to, from) = numbers(op);
            Ok(core.xmm[to] & !LOW_PART | core.xmm[from] & LOW_PART)
        })
    };
}

/// The handler of a move.
pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match instruction.code() {
        Code::Movaps_xmm_xmmm128 | Code::Movapd_xmm_xmmm128 | Code::Movdqa_xmm_xmmm128 => {
            whole(false, op, true)
        }
        Code::Movaps_xmmm128_xmm
        | Code::Movapd_xmmm128_xmm
        | Code::Movdqa_xmmm128_xmm
        | Code::Movntps_m128_xmm
        | Code::Movntpd_m128_xmm
        | Code::Movntdq_m128_xmm => whole(true, op, true),
        Code::Movups_xmm_xmmm128 | Code::Movupd_xmm_xmmm128 | Code::Movdqu_xmm_xmmm128 => {
            whole(false, op, false)
        }
        Code::Movups_xmmm128_xmm | Code::Movupd_xmmm128_xmm | Code::Movdqu_xmmm128_xmm => {
            whole(true, op, false)
        }
        Code::Movss_xmm_xmmm32 => low!(2, op, load),
        Code::Movss_xmmm32_xmm => low!(2, op, store),
        Code::Movsd_xmm_xmmm64 => low!(3, op, load),
        Code::Movsd_xmmm64_xmm => low!(3, op, store),

        // The upper half becomes zero.
        Code::Movq_xmm_xmmm64 | Code::Movq_xmmm64_xmm if !op.has_memory() => {
            load!(|core: &mut Core, op| Ok(core.xmm[numbers(op).1] & LOW))
        }
        Code::Movq_xmm_xmmm64 => low!(3, op, load),
        Code::Movd_xmm_rm32 => load!(|core, op| general::<2>(core, op).map(u128::from)),
        Code::Movq_xmm_rm64 => load!(|core, op| general::<3>(core, op).map(u128::from)),
        Code::Movd_rm32_xmm => to_general!(2, |v: u128, _: &Op| u64::from(v as u32)),
        Code::Movq_rm64_xmm => to_general!(3, |v: u128, _: &Op| v as u64),

        // Halves.
        Code::Movlps_xmm_m64 | Code::Movlpd_xmm_m64 => load!(|core: &mut Core, op| {
            let low = core.load::<3>(core.address(op))?;
            Ok(core.xmm[numbers(op).0] & !LOW | u128::from(low))
        }),
        Code::Movhps_xmm_m64 | Code::Movhpd_xmm_m64 => load!(|core: &mut Core, op| {
            let high = core.load::<3>(core.address(op))?;
            Ok(core.xmm[numbers(op).0] & LOW | u128::from(high) << 64)
        }),
        Code::Movlps_m64_xmm | Code::Movlpd_m64_xmm | Code::Movq_xmmm64_xmm => {
            store!(|core: &mut Core, at, v| core.store::<3>(at, v as u64))
        }
        Code::Movhps_m64_xmm | Code::Movhpd_m64_xmm => {
            store!(|core: &mut Core, at, v: u128| core.store::<3>(at, (v >> 64) as u64))
        }
        Code::Movlhps_xmm_xmm => load!(|core: &mut Core, op| {
            let (to, from) = numbers(op);
            Ok(core.xmm[to] & LOW | core.xmm[from] << 64)
        }),
        Code::Movhlps_xmm_xmm => load!(|core: &mut Core, op| {
            let (to, from) = numbers(op);
            Ok(core.xmm[to] & !LOW | core.xmm[from] >> 64)
        }),

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
            to_general!(3, |v: u128, op: &Op| u64::from((v >> (16 * (op.imm & 7))) as u16))
        }
        Code::Pinsrw_xmm_r32m16_imm8 | Code::Pinsrw_xmm_r64m16_imm8 => {
            load!(|core: &mut Core, op| {
                let word = u128::from(general::<1>(core, op)?);
                let shift = 16 * (op.imm & 7);
                Ok(core.xmm[numbers(op).0] & !(0xffff << shift) | word << shift)
            })
        }
        Code::Movnti_m32_r32 => handler!(move_general::<2>),
        Code::Movnti_m64_r64 => handler!(move_general::<3>),
        Code::Maskmovdqu_rDI_xmm_xmm => {
            prepare_masked(instruction, op);
            handler!(masked)
        }
        _ => return None,
    })
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
    let segment = if segment == Register::None { Register::DS } else { segment };
    op.extra = segment_number(segment) as u16;
}

/// Where MASKMOVDQU and MASKMOVQ store `len` bytes.
fn masked_address(core: &Core, op: &Op, len: u64) -> Result<u64, Fault> {
    let offset = core.regs[usize::from(reg::RDI)] & op.imm;
    let segment = usize::from(op.extra);
    match core.code_size {
        CodeSize::Long if segment < seg::FS => Ok(offset),
        CodeSize::Long => Ok(core.segment_base(segment).wrapping_add(offset)),
        _ => core.segment_address(segment, offset, len),
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
    for (i, (byte, _)) in value.iter().zip(mask).enumerate().filter(|(_, (_, m))| **m & 0x80 != 0) {
        core.store::<0>(address.wrapping_add(i as u64), u64::from(*byte))?;
    }
    Ok(())
}

/// MASKMOVDQU.
fn masked(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_sse()?;
    let (value, mask) = numbers(op);
    let (value, mask) = (core.xmm[value].to_le_bytes(), core.xmm[mask].to_le_bytes());
    store_masked(core, op, &value, &mask)
}
