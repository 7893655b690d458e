//! SSE by the host's own SSE unit: the one place of `simd` with unsafe code.
//!
//! Packed integer instructions read no MXCSR and raise nothing, and are the host's. Arithmetic is
//! carried out under the guest's MXCSR: every operation is one instruction between two loads of MXCSR, in one piece of assembly: the
//! compiler's own arithmetic never sees another rounding mode, nor an exception that is not masked.
//! What SSE computes is IEEE 754 in all details (which NaN, when tiny, what a conversion out of
//! range gives; SDM vol. 1, 4.8.3.5, 11.5), so hosts do not differ. The two that do, RCPPS and
//! RSQRTPS, are in `approximate`.

#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::*;

/// An operation on two registers: the result, and the exceptions it raised, as bits of MXCSR.
/// `control` is an MXCSR with all exceptions masked and none raised.
pub(crate) type Operation = fn(destination: u128, source: u128, control: u32) -> (u128, u32);

/// MXCSR as Rust code expects it.
static DEFAULT: u32 = 0x1f80;
/// The exceptions.
const RAISED: u32 = 0x3f;

/// A register of the guest as one of the host.
#[inline(always)]
fn vector(v: u128) -> __m128i {
    // SAFETY: x86-64 always has SSE2.
    unsafe { _mm_set_epi64x((v >> 64) as i64, v as i64) }
}

/// The reverse of [`vector`].
#[inline(always)]
fn bits(v: __m128i) -> u128 {
    // SAFETY: As above.
    let halves = unsafe { [v, _mm_unpackhi_epi64(v, v)].map(|v| _mm_cvtsi128_si64(v) as u64) };
    u128::from(halves[1]) << 64 | u128::from(halves[0])
}

macro_rules! registers {
    ($($name:ident $instruction:literal;)*) => { $(
        #[doc = concat!("`", $instruction, "`.")]
        pub(crate) fn $name(destination: u128, source: u128, control: u32) -> (u128, u32) {
            debug_assert_eq!(control & (RAISED << 7 | RAISED), RAISED << 7);
            let (mut to, mut status) = (vector(destination), control);
            // SAFETY: The instruction has register operands only. `status` and `DEFAULT` are four
            // bytes each. All exceptions are masked, so nothing traps; MXCSR is as it was at the
            // end, but for exception flags, which may change.
            unsafe {
                asm!(
                    "ldmxcsr [{status}]",
                    concat!($instruction, " {to}, {from}"),
                    "stmxcsr [{status}]",
                    "ldmxcsr [{default}]",
                    status = in(reg) &mut status,
                    default = in(reg) &DEFAULT,
                    to = inout(xmm_reg) to,
                    from = in(xmm_reg) vector(source),
                    options(nostack),
                );
            }
            (bits(to), status & RAISED)
        }
    )* };
}

registers! {
    addps "addps"; addpd "addpd"; addss "addss"; addsd "addsd";
    subps "subps"; subpd "subpd"; subss "subss"; subsd "subsd";
    mulps "mulps"; mulpd "mulpd"; mulss "mulss"; mulsd "mulsd";
    divps "divps"; divpd "divpd"; divss "divss"; divsd "divsd";
    minps "minps"; minpd "minpd"; minss "minss"; minsd "minsd";
    maxps "maxps"; maxpd "maxpd"; maxss "maxss"; maxsd "maxsd";
    sqrtps "sqrtps"; sqrtpd "sqrtpd"; sqrtss "sqrtss"; sqrtsd "sqrtsd";
    cvtps2pd "cvtps2pd"; cvtpd2ps "cvtpd2ps"; cvtss2sd "cvtss2sd"; cvtsd2ss "cvtsd2ss";
    cvtdq2ps "cvtdq2ps"; cvtdq2pd "cvtdq2pd"; cvtps2dq "cvtps2dq"; cvttps2dq "cvttps2dq";
    cvtpd2dq "cvtpd2dq"; cvttpd2dq "cvttpd2dq";
}

macro_rules! compares {
    ($($name:ident $table:ident $instruction:literal;)*) => { $(
        #[doc = concat!("`", $instruction, "` with predicate `P`.")]
        fn $name<const P: i32>(destination: u128, source: u128, control: u32) -> (u128, u32) {
            let (mut to, mut status) = (vector(destination), control);
            // SAFETY: As above.
            unsafe {
                asm!(
                    "ldmxcsr [{status}]",
                    concat!($instruction, " {to}, {from}, {predicate}"),
                    "stmxcsr [{status}]",
                    "ldmxcsr [{default}]",
                    status = in(reg) &mut status,
                    default = in(reg) &DEFAULT,
                    to = inout(xmm_reg) to,
                    from = in(xmm_reg) vector(source),
                    predicate = const P,
                    options(nostack),
                );
            }
            (bits(to), status & RAISED)
        }

        #[doc = concat!("`", $instruction, "`, by predicate.")]
        pub(crate) const $table: [Operation; 8] = [
            $name::<0>, $name::<1>, $name::<2>, $name::<3>,
            $name::<4>, $name::<5>, $name::<6>, $name::<7>,
        ];
    )* };
}

compares! {
    cmpps CMPPS "cmpps"; cmppd CMPPD "cmppd"; cmpss CMPSS "cmpss"; cmpsd CMPSD "cmpsd";
}

macro_rules! to_integer {
    ($($name:ident $instruction:literal $register:literal;)*) => { $(
        #[doc = concat!("`", $instruction, "` to a general register: the result, zero-extended.")]
        pub(crate) fn $name(source: u128, control: u32) -> (u64, u32) {
            let mut status = control;
            let result: u64;
            // SAFETY: As above.
            unsafe {
                asm!(
                    "ldmxcsr [{status}]",
                    concat!($instruction, " {to", $register, "}, {from}"),
                    "stmxcsr [{status}]",
                    "ldmxcsr [{default}]",
                    status = in(reg) &mut status,
                    default = in(reg) &DEFAULT,
                    to = out(reg) result,
                    from = in(xmm_reg) vector(source),
                    options(nostack),
                );
            }
            (result, status & RAISED)
        }
    )* };
}

to_integer! {
    cvtss2si_32 "cvtss2si" ":e"; cvtss2si_64 "cvtss2si" ":r";
    cvtsd2si_32 "cvtsd2si" ":e"; cvtsd2si_64 "cvtsd2si" ":r";
    cvttss2si_32 "cvttss2si" ":e"; cvttss2si_64 "cvttss2si" ":r";
    cvttsd2si_32 "cvttsd2si" ":e"; cvttsd2si_64 "cvttsd2si" ":r";
}

macro_rules! from_integer {
    ($($name:ident $instruction:literal $register:literal;)*) => { $(
        #[doc = concat!("`", $instruction, "` of a general register, the low part of `source`.")]
        pub(crate) fn $name(destination: u128, source: u128, control: u32) -> (u128, u32) {
            let (mut to, mut status) = (vector(destination), control);
            // SAFETY: As above.
            unsafe {
                asm!(
                    "ldmxcsr [{status}]",
                    concat!($instruction, " {to}, {from", $register, "}"),
                    "stmxcsr [{status}]",
                    "ldmxcsr [{default}]",
                    status = in(reg) &mut status,
                    default = in(reg) &DEFAULT,
                    to = inout(xmm_reg) to,
                    from = in(reg) source as u64,
                    options(nostack),
                );
            }
            (bits(to), status & RAISED)
        }
    )* };
}

from_integer! {
    cvtsi2ss_32 "cvtsi2ss" ":e"; cvtsi2ss_64 "cvtsi2ss" ":r";
    cvtsi2sd_32 "cvtsi2sd" ":e"; cvtsi2sd_64 "cvtsi2sd" ":r";
}

macro_rules! packed {
    ($($name:ident $intrinsic:ident;)*) => { $(
        #[doc = concat!("`", stringify!($name), "`.")]
        #[inline(always)]
        pub(crate) fn $name(a: u128, b: u128) -> u128 {
            // SAFETY: x86-64 always has SSE2.
            bits(unsafe { $intrinsic(vector(a), vector(b)) })
        }
    )* };
}

packed! {
    paddb _mm_add_epi8; paddw _mm_add_epi16; paddd _mm_add_epi32; paddq _mm_add_epi64;
    psubb _mm_sub_epi8; psubw _mm_sub_epi16; psubd _mm_sub_epi32; psubq _mm_sub_epi64;
    paddsb _mm_adds_epi8; paddsw _mm_adds_epi16; paddusb _mm_adds_epu8; paddusw _mm_adds_epu16;
    psubsb _mm_subs_epi8; psubsw _mm_subs_epi16; psubusb _mm_subs_epu8; psubusw _mm_subs_epu16;
    pmullw _mm_mullo_epi16; pmulhw _mm_mulhi_epi16; pmulhuw _mm_mulhi_epu16;
    pmuludq _mm_mul_epu32; pmaddwd _mm_madd_epi16; psadbw _mm_sad_epu8;
    pavgb _mm_avg_epu8; pavgw _mm_avg_epu16;
    pminub _mm_min_epu8; pminsw _mm_min_epi16; pmaxub _mm_max_epu8; pmaxsw _mm_max_epi16;
    pcmpeqb _mm_cmpeq_epi8; pcmpeqw _mm_cmpeq_epi16; pcmpeqd _mm_cmpeq_epi32;
    pcmpgtb _mm_cmpgt_epi8; pcmpgtw _mm_cmpgt_epi16; pcmpgtd _mm_cmpgt_epi32;
    packsswb _mm_packs_epi16; packssdw _mm_packs_epi32; packuswb _mm_packus_epi16;
    punpcklbw _mm_unpacklo_epi8; punpcklwd _mm_unpacklo_epi16; punpckldq _mm_unpacklo_epi32;
    punpckhbw _mm_unpackhi_epi8; punpckhwd _mm_unpackhi_epi16; punpckhdq _mm_unpackhi_epi32;
    punpcklqdq _mm_unpacklo_epi64; punpckhqdq _mm_unpackhi_epi64;
    psllw _mm_sll_epi16; pslld _mm_sll_epi32; psllq _mm_sll_epi64;
    psrlw _mm_srl_epi16; psrld _mm_srl_epi32; psrlq _mm_srl_epi64;
    psraw _mm_sra_epi16; psrad _mm_sra_epi32;
}

/// The sign bits of sixteen bytes.
#[inline(always)]
pub(crate) fn pmovmskb(a: u128) -> u64 {
    // SAFETY: As above.
    u64::from(unsafe { _mm_movemask_epi8(vector(a)) } as u32)
}

/// The sign bits of four doublewords.
#[inline(always)]
pub(crate) fn movmskps(a: u128) -> u64 {
    // SAFETY: As above.
    u64::from(unsafe { _mm_movemask_ps(_mm_castsi128_ps(vector(a))) } as u32)
}

/// The sign bits of two quadwords.
#[inline(always)]
pub(crate) fn movmskpd(a: u128) -> u64 {
    // SAFETY: As above.
    u64::from(unsafe { _mm_movemask_pd(_mm_castsi128_pd(vector(a))) } as u32)
}
