//! The handlers of MMX instructions, the ones that SSE and SSE2 added, and those that work on MMX
//! and XMM registers.
//!
//! Every one first hears of a pending x87 exception, and leaves the FPU in MMX state: TOP zero, no
//! register empty. Operations are those on XMM registers, of which the low half counts.

use iced_x86::{Code, Instruction};

use super::exact::Kind;
use super::float::under_mxcsr;
use super::host::{self, Operation};
use super::integer as int;
use super::moves::{prepare_masked, store_masked};
use crate::core::Core;
use crate::fault::Fault;
use crate::op::{Handler, Op, handler};

/// What every MMX instruction begins with.
fn begin(core: &Core) -> Result<(), Fault> {
    core.require_mmx()?;
    if core.fpu.pending() {
        return Err(Fault::X87);
    }
    Ok(())
}

/// What an SSE instruction with an MMX register begins with.
fn begin_sse(core: &Core) -> Result<(), Fault> {
    core.require_sse()?;
    begin(core)
}

/// The source operand: an MMX register or `1 << S` bytes of memory.
fn source<const S: usize>(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    if op.has_memory() {
        return core.load::<S>(core.address(op));
    }
    Ok(core.fpu.mmx(op.src))
}

/// `mm = f(mm, source)`.
fn binary<const S: usize>(
    core: &mut Core,
    op: &Op,
    f: impl Fn(u128, u128) -> u128,
) -> Result<(), Fault> {
    begin(core)?;
    let b = source::<S>(core, op)?;
    set(core, op, f(u128::from(core.fpu.mmx(op.dst)), u128::from(b)));
    Ok(())
}

/// Writes the destination.
fn set(core: &mut Core, op: &Op, v: u128) {
    core.fpu.enter_mmx();
    core.fpu.set_mmx(op.dst, v as u64);
}

macro_rules! mmx {
    ($f:expr) => {
        mmx!(3, $f)
    };
    ($size:literal, $f:expr) => {{
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            binary::<$size>(core, op, $f)
        }
        handler!(carry_out)
    }};
}

/// A shift by the immediate.
macro_rules! by_immediate {
    ($f:path) => {{
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            begin(core)?;
            set(
                core,
                op,
                $f(u128::from(core.fpu.mmx(op.dst)), u128::from(op.imm as u8)),
            );
            Ok(())
        }
        handler!(carry_out)
    }};
}

/// A conversion to integers.
macro_rules! convert {
    ($convert:ident, $run:ident) => {{
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            $convert(core, op, host::$run)
        }
        handler!(carry_out)
    }};
}

/// A pack: on XMM registers, the destination's words fill the low half, the source's the high one.
fn pack(f: impl Fn(u128, u128) -> u128) -> impl Fn(u128, u128) -> u128 {
    move |a, b| f(a | b << 64, 0)
}

/// An unpack of high halves: of the low ones, once they are moved there.
fn high(f: impl Fn(u128, u128) -> u128) -> impl Fn(u128, u128) -> u128 {
    move |a, b| f(a >> 32, b >> 32)
}

/// The handler of an instruction that computes.
fn select_packed(code: Code) -> Option<Handler> {
    Some(match code {
        Code::Paddb_mm_mmm64 => mmx!(host::paddb),
        Code::Paddw_mm_mmm64 => mmx!(host::paddw),
        Code::Paddd_mm_mmm64 => mmx!(host::paddd),
        Code::Paddq_mm_mmm64 => mmx!(host::paddq),
        Code::Psubb_mm_mmm64 => mmx!(host::psubb),
        Code::Psubw_mm_mmm64 => mmx!(host::psubw),
        Code::Psubd_mm_mmm64 => mmx!(host::psubd),
        Code::Psubq_mm_mmm64 => mmx!(host::psubq),
        Code::Paddsb_mm_mmm64 => mmx!(host::paddsb),
        Code::Paddsw_mm_mmm64 => mmx!(host::paddsw),
        Code::Paddusb_mm_mmm64 => mmx!(host::paddusb),
        Code::Paddusw_mm_mmm64 => mmx!(host::paddusw),
        Code::Psubsb_mm_mmm64 => mmx!(host::psubsb),
        Code::Psubsw_mm_mmm64 => mmx!(host::psubsw),
        Code::Psubusb_mm_mmm64 => mmx!(host::psubusb),
        Code::Psubusw_mm_mmm64 => mmx!(host::psubusw),
        Code::Pmullw_mm_mmm64 => mmx!(host::pmullw),
        Code::Pmulhw_mm_mmm64 => mmx!(host::pmulhw),
        Code::Pmulhuw_mm_mmm64 => mmx!(host::pmulhuw),
        Code::Pmuludq_mm_mmm64 => mmx!(host::pmuludq),
        Code::Pmaddwd_mm_mmm64 => mmx!(host::pmaddwd),
        Code::Psadbw_mm_mmm64 => mmx!(host::psadbw),
        Code::Pavgb_mm_mmm64 => mmx!(host::pavgb),
        Code::Pavgw_mm_mmm64 => mmx!(host::pavgw),
        Code::Pminub_mm_mmm64 => mmx!(host::pminub),
        Code::Pminsw_mm_mmm64 => mmx!(host::pminsw),
        Code::Pmaxub_mm_mmm64 => mmx!(host::pmaxub),
        Code::Pmaxsw_mm_mmm64 => mmx!(host::pmaxsw),
        Code::Pcmpeqb_mm_mmm64 => mmx!(host::pcmpeqb),
        Code::Pcmpeqw_mm_mmm64 => mmx!(host::pcmpeqw),
        Code::Pcmpeqd_mm_mmm64 => mmx!(host::pcmpeqd),
        Code::Pcmpgtb_mm_mmm64 => mmx!(host::pcmpgtb),
        Code::Pcmpgtw_mm_mmm64 => mmx!(host::pcmpgtw),
        Code::Pcmpgtd_mm_mmm64 => mmx!(host::pcmpgtd),
        Code::Pand_mm_mmm64 => mmx!(int::pand),
        Code::Pandn_mm_mmm64 => mmx!(int::pandn),
        Code::Por_mm_mmm64 => mmx!(int::por),
        Code::Pxor_mm_mmm64 => mmx!(int::pxor),
        Code::Packsswb_mm_mmm64 => mmx!(pack(host::packsswb)),
        Code::Packssdw_mm_mmm64 => mmx!(pack(host::packssdw)),
        Code::Packuswb_mm_mmm64 => mmx!(pack(host::packuswb)),
        Code::Punpcklbw_mm_mmm32 => mmx!(2, host::punpcklbw),
        Code::Punpcklwd_mm_mmm32 => mmx!(2, host::punpcklwd),
        Code::Punpckldq_mm_mmm32 => mmx!(2, host::punpckldq),
        Code::Punpckhbw_mm_mmm64 => mmx!(high(host::punpcklbw)),
        Code::Punpckhwd_mm_mmm64 => mmx!(high(host::punpcklwd)),
        Code::Punpckhdq_mm_mmm64 => mmx!(high(host::punpckldq)),
        Code::Psllw_mm_mmm64 => mmx!(host::psllw),
        Code::Pslld_mm_mmm64 => mmx!(host::pslld),
        Code::Psllq_mm_mmm64 => mmx!(host::psllq),
        Code::Psrlw_mm_mmm64 => mmx!(host::psrlw),
        Code::Psrld_mm_mmm64 => mmx!(host::psrld),
        Code::Psrlq_mm_mmm64 => mmx!(host::psrlq),
        Code::Psraw_mm_mmm64 => mmx!(host::psraw),
        Code::Psrad_mm_mmm64 => mmx!(host::psrad),
        Code::Psllw_mm_imm8 => by_immediate!(host::psllw),
        Code::Pslld_mm_imm8 => by_immediate!(host::pslld),
        Code::Psllq_mm_imm8 => by_immediate!(host::psllq),
        Code::Psrlw_mm_imm8 => by_immediate!(host::psrlw),
        Code::Psrld_mm_imm8 => by_immediate!(host::psrld),
        Code::Psrlq_mm_imm8 => by_immediate!(host::psrlq),
        Code::Psraw_mm_imm8 => by_immediate!(host::psraw),
        Code::Psrad_mm_imm8 => by_immediate!(host::psrad),
        _ => return None,
    })
}

/// The handler of an instruction with an MMX register, or of EMMS.
pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    Some(match instruction.code() {
        Code::Emms => handler!(emms),
        Code::Movd_mm_rm32 => handler!(from_general::<2>),
        Code::Movq_mm_rm64 => handler!(from_general::<3>),
        Code::Movd_rm32_mm => handler!(to_general::<2>),
        Code::Movq_rm64_mm => handler!(to_general::<3>),
        Code::Movq_mm_mmm64 => mmx!(|_, b| b),
        Code::Movq_mmm64_mm if !op.has_memory() => mmx!(|_, b| b),
        Code::Movq_mmm64_mm | Code::Movntq_m64_mm => handler!(to_general::<3>),
        Code::Pshufw_mm_mmm64_imm8 => handler!(shuffle),
        Code::Pmovmskb_r32_mm | Code::Pmovmskb_r64_mm => handler!(sign_mask),
        Code::Pextrw_r32_mm_imm8 | Code::Pextrw_r64_mm_imm8 => handler!(extract_word),
        Code::Pinsrw_mm_r32m16_imm8 | Code::Pinsrw_mm_r64m16_imm8 => handler!(insert_word),
        Code::Maskmovq_rDI_mm_mm => {
            prepare_masked(instruction, op);
            handler!(masked)
        }
        Code::Movq2dq_xmm_mm => handler!(to_xmm),
        Code::Movdq2q_mm_xmm => handler!(from_xmm),
        Code::Cvtpi2ps_xmm_mmm64 => handler!(integers_to_singles),
        Code::Cvtpi2pd_xmm_mmm64 => handler!(integers_to_doubles),
        Code::Cvtps2pi_mm_xmmm64 => convert!(singles_to_integers, cvtps2dq),
        Code::Cvttps2pi_mm_xmmm64 => convert!(singles_to_integers, cvttps2dq),
        Code::Cvtpd2pi_mm_xmmm128 => convert!(doubles_to_integers, cvtpd2dq),
        Code::Cvttpd2pi_mm_xmmm128 => convert!(doubles_to_integers, cvttpd2dq),
        code => return select_packed(code),
    })
}

/// EMMS: all registers are empty.
fn emms(core: &mut Core, _: &Op) -> Result<(), Fault> {
    begin(core)?;
    core.fpu.leave_mmx();
    Ok(())
}

/// MOVD and MOVQ to an MMX register.
fn from_general<const S: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    let value = if op.has_memory() {
        core.load::<S>(core.address(op))?
    } else {
        core.get::<S>(op.src)
    };
    set(core, op, u128::from(value));
    Ok(())
}

/// MOVD and MOVQ from an MMX register, to a general one or memory.
fn to_general<const S: usize>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    let value = core.fpu.mmx(op.src);
    if op.has_memory() {
        core.store::<S>(core.address(op), value)?;
    } else {
        core.set::<S>(op.dst, value);
    }
    core.fpu.enter_mmx();
    Ok(())
}

/// PSHUFW.
fn shuffle(core: &mut Core, op: &Op) -> Result<(), Fault> {
    binary::<3>(core, op, |a, b| int::pshuflw(a, b, op.imm as u8))
}

/// PMOVMSKB.
fn sign_mask(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    core.set::<3>(op.dst, host::pmovmskb(u128::from(core.fpu.mmx(op.src))));
    core.fpu.enter_mmx();
    Ok(())
}

/// PEXTRW.
fn extract_word(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    let word = (core.fpu.mmx(op.src) >> (16 * (op.imm & 3))) as u16;
    core.set::<3>(op.dst, u64::from(word));
    core.fpu.enter_mmx();
    Ok(())
}

/// PINSRW.
fn insert_word(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    let word = if op.has_memory() {
        core.load::<1>(core.address(op))?
    } else {
        core.get::<1>(op.src)
    };
    let shift = 16 * (op.imm & 3);
    set(
        core,
        op,
        u128::from(core.fpu.mmx(op.dst) & !(0xffff << shift) | word << shift),
    );
    Ok(())
}

/// MASKMOVQ.
fn masked(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    let (value, mask) = (
        core.fpu.mmx(op.dst).to_le_bytes(),
        core.fpu.mmx(op.src).to_le_bytes(),
    );
    store_masked(core, op, &value, &mask)?;
    core.fpu.enter_mmx();
    Ok(())
}

/// MOVQ2DQ.
fn to_xmm(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin_sse(core)?;
    core.xmm[usize::from(op.dst & 15)] = u128::from(core.fpu.mmx(op.src));
    core.fpu.enter_mmx();
    Ok(())
}

/// MOVDQ2Q.
fn from_xmm(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin_sse(core)?;
    set(core, op, core.xmm[usize::from(op.src & 15)]);
    Ok(())
}

/// The integers of CVTPI2PS and CVTPI2PD. Memory does not make them MMX instructions.
fn integers(core: &mut Core, op: &Op) -> Result<u128, Fault> {
    if op.has_memory() {
        core.require_sse()?;
        return core.load::<3>(core.address(op)).map(u128::from);
    }
    begin_sse(core)?;
    Ok(u128::from(core.fpu.mmx(op.src)))
}

/// CVTPI2PS.
fn integers_to_singles(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let b = integers(core, op)?;
    let to = usize::from(op.dst & 15);
    let result = under_mxcsr(core, host::cvtdq2ps, Kind::Other, 0, b)?;
    core.xmm[to] = core.xmm[to] >> 64 << 64 | u128::from(result as u64);
    if !op.has_memory() {
        core.fpu.enter_mmx();
    }
    Ok(())
}

/// CVTPI2PD, which is exact.
fn integers_to_doubles(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let b = integers(core, op)?;
    let double = |v: i32| u128::from(f64::from(v).to_bits());
    core.xmm[usize::from(op.dst & 15)] = double(b as i32) | double((b >> 32) as i32) << 64;
    if !op.has_memory() {
        core.fpu.enter_mmx();
    }
    Ok(())
}

/// CVTPS2PI and CVTTPS2PI. Zeros in the upper half raise nothing.
fn singles_to_integers(core: &mut Core, op: &Op, run: Operation) -> Result<(), Fault> {
    begin_sse(core)?;
    let b = super::access::source::<false, 3>(core, op)?;
    let result = under_mxcsr(core, run, Kind::Other, 0, u128::from(b as u64))?;
    set(core, op, result);
    Ok(())
}

/// CVTPD2PI and CVTTPD2PI.
fn doubles_to_integers(core: &mut Core, op: &Op, run: Operation) -> Result<(), Fault> {
    begin_sse(core)?;
    let b = super::access::source::<false, 4>(core, op)?;
    let result = under_mxcsr(core, run, Kind::Other, 0, b)?;
    set(core, op, result);
    Ok(())
}
