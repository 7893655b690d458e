//! The handlers of floating-point arithmetic, comparisons and conversions.

use iced_x86::Code;

use super::access::{binary, load, register, source};
use super::exact::{self, Kind};
use super::host::{self, Operation};
use super::{approximate, mxcsr, scalar};
use crate::core::Core;
use crate::fault::Fault;
use crate::op::{Handler, Leave, Op, attempt, handler, next, reach};
use crate::x87::Arith::{Add, Div, Mul, Sub};

/// Carries out `run` under the guest's MXCSR.
pub(super) fn under_mxcsr(
    core: &mut Core,
    run: Operation,
    kind: Kind,
    a: u128,
    b: u128,
) -> Result<u128, Fault> {
    let (result, mut raised) = run(a, b, mxcsr::control(core.mxcsr));
    if !mxcsr::masks_range(core.mxcsr) {
        raised = exact::exceptions(kind, a, b, core.mxcsr, raised);
    }
    core.raise_sse(raised)?;
    Ok(result)
}

/// `xmm = run(xmm, source)`, the source `1 << S` bytes.
fn arithmetic<const S: usize>(
    core: &mut Core,
    op: &Op,
    run: Operation,
    kind: Kind,
) -> Result<(), Fault> {
    core.require_sse()?;
    let b = source::<false, S>(core, op)?;
    let to = usize::from(op.dst & 15);
    core.xmm[to] = under_mxcsr(core, run, kind, core.xmm[to], b)?;
    Ok(())
}

/// A handler of [`arithmetic`].
macro_rules! plain {
    ($size:literal, $run:ident) => {
        plain!($size, $run, Kind::Other)
    };
    ($size:literal, $run:ident, $kind:expr) => {{
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            arithmetic::<$size>(core, op, host::$run, $kind)
        }
        handler!(carry_out)
    }};
}

/// A handler that tries `$quick`, a `fn(&mut Core, &Op) -> Option<()>` that changes nothing unless
/// it succeeds, and otherwise carries out the instruction from the beginning. The quick part needs
/// no stack frame.
macro_rules! quick_or {
    ($quick:expr, $carry_out:expr) => {{
        fn run(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            match $quick(core, op) {
                Some(()) => next(core, rest),
                None => slowly(core, op, rest),
            }
        }
        #[inline(never)]
        fn slowly(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            handler!($carry_out)(core, op, rest)
        }
        run as Handler
    }};
}

/// A handler of a scalar operation with a quick way, which is given MXCSR and the low parts of the
/// operands, and answers with the low `$bits` of the result.
macro_rules! quick {
    ($size:literal, $bits:literal, $run:ident, $kind:expr, $quick:expr) => {{
        #[inline(always)]
        fn quick(core: &mut Core, op: &Op) -> Option<()> {
            const LOW: u128 = u128::MAX >> (128 - $bits);
            core.require_sse().ok()?;
            let b = low::<$size>(source::<true, $size>(core, op).ok()?);
            let to = usize::from(op.dst & 15);
            let a = core.xmm[to];
            let result: u64 = $quick(core.mxcsr, (a & LOW) as u64, b)?;
            core.xmm[to] = a & !LOW | u128::from(result);
            Some(())
        }
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            arithmetic::<$size>(core, op, host::$run, $kind)
        }
        quick_or!(quick, carry_out)
    }};
}

/// The low `1 << S` bytes.
#[inline(always)]
fn low<const S: usize>(v: u128) -> u64 {
    if S == 2 {
        u64::from(v as u32)
    } else {
        v as u64
    }
}

/// The integer operand of CVTSI2SS and CVTSI2SD.
#[inline(always)]
fn integer<const FAST: bool, const S: usize>(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    if op.has_memory() {
        return core.load_on::<FAST, S>(core.address(op));
    }
    Ok(core.get::<S>(op.src))
}

/// A handler of CVTSI2SS or CVTSI2SD with a quick way, which is given MXCSR and the integer.
macro_rules! from_integer {
    ($size:literal, $bits:literal, $run:ident, $quick:expr) => {{
        #[inline(always)]
        fn quick(core: &mut Core, op: &Op) -> Option<()> {
            const LOW: u128 = u128::MAX >> (128 - $bits);
            core.require_sse().ok()?;
            let b = integer::<true, $size>(core, op).ok()?;
            let result: u64 = $quick(core.mxcsr, b)?;
            let to = usize::from(op.dst & 15);
            core.xmm[to] = core.xmm[to] & !LOW | u128::from(result);
            Some(())
        }
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            core.require_sse()?;
            let b = u128::from(integer::<false, $size>(core, op)?);
            let to = usize::from(op.dst & 15);
            core.xmm[to] = under_mxcsr(core, host::$run, Kind::Other, core.xmm[to], b)?;
            Ok(())
        }
        quick_or!(quick, carry_out)
    }};
}

/// A handler of a conversion from a scalar of `1 << $size` bytes to an integer of `1 << $to`, with a
/// quick way, which is given MXCSR and the scalar, and answers with exceptions, too.
macro_rules! to_integer {
    ($size:literal, $to:literal, $run:ident, $quick:expr) => {{
        #[inline(always)]
        fn quick(core: &mut Core, op: &Op) -> Option<()> {
            core.require_sse().ok()?;
            let b = low::<$size>(source::<true, $size>(core, op).ok()?);
            let (result, raised): (i64, u32) = $quick(core.mxcsr, b)?;
            core.mxcsr |= raised;
            core.set::<$to>(op.dst, result as u64);
            Some(())
        }
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            core.require_sse()?;
            let b = source::<false, $size>(core, op)?;
            let (result, raised) = host::$run(b, mxcsr::control(core.mxcsr));
            core.raise_sse(raised)?;
            core.set::<$to>(op.dst, result);
            Ok(())
        }
        quick_or!(quick, carry_out)
    }};
}

/// A handler of COMISS and its kin.
macro_rules! compare {
    ($size:literal, $float:ty, $quiet:literal) => {{
        #[inline(always)]
        fn quick(core: &mut Core, op: &Op) -> Option<()> {
            core.require_sse().ok()?;
            let b = low::<$size>(source::<true, $size>(core, op).ok()?);
            let a = low::<$size>(core.xmm[usize::from(op.dst & 15)]);
            let flags = scalar::compare_plain::<$float>(a, b)?;
            core.flags.set_bits(flags);
            Some(())
        }
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            core.require_sse()?;
            let b = low::<$size>(source::<false, $size>(core, op)?);
            let a = low::<$size>(core.xmm[usize::from(op.dst & 15)]);
            let (flags, raised) = scalar::compare::<$float>(core.mxcsr, a, b, $quiet);
            core.raise_sse(raised)?;
            core.flags.set_bits(flags);
            Ok(())
        }
        quick_or!(quick, carry_out)
    }};
}

/// A handler of CMPPS and its kin: the immediate chooses the predicate. Its upper bits do not
/// count.
macro_rules! predicate {
    ($size:literal, $table:ident) => {{
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            arithmetic::<$size>(core, op, host::$table[(op.imm & 7) as usize], Kind::Other)
        }
        handler!(carry_out)
    }};
}

/// A handler of RCPSS or RSQRTSS, whose source is four bytes.
macro_rules! approximate_scalar {
    ($f:ident) => {{
        fn carry_out(core: &mut Core, op: &Op) -> Result<(), Fault> {
            core.require_sse()?;
            let b = source::<false, 2>(core, op)?;
            let to = usize::from(op.dst & 15);
            core.xmm[to] = approximate::$f(core.xmm[to], b);
            Ok(())
        }
        handler!(carry_out)
    }};
}

fn no_quick(_: u32, _: u64) -> Option<(i64, u32)> {
    None
}

/// The handler of an arithmetic instruction.
fn select_arithmetic(code: Code) -> Option<Handler> {
    use Kind::{Double, Single};
    use scalar::{arithmetic as quickly, root};
    Some(match code {
        Code::Addps_xmm_xmmm128 => plain!(4, addps, Single(Add, 4)),
        Code::Addpd_xmm_xmmm128 => plain!(4, addpd, Double(Add, 2)),
        Code::Addss_xmm_xmmm32 => quick!(2, 32, addss, Single(Add, 1), |m, a, b| {
            quickly::<f32, true>(m, a, b, |a, b| a + b)
        }),
        Code::Addsd_xmm_xmmm64 => quick!(3, 64, addsd, Double(Add, 1), |m, a, b| {
            quickly::<f64, true>(m, a, b, |a, b| a + b)
        }),
        Code::Subps_xmm_xmmm128 => plain!(4, subps, Single(Sub, 4)),
        Code::Subpd_xmm_xmmm128 => plain!(4, subpd, Double(Sub, 2)),
        Code::Subss_xmm_xmmm32 => quick!(2, 32, subss, Single(Sub, 1), |m, a, b| {
            quickly::<f32, true>(m, a, b, |a, b| a - b)
        }),
        Code::Subsd_xmm_xmmm64 => quick!(3, 64, subsd, Double(Sub, 1), |m, a, b| {
            quickly::<f64, true>(m, a, b, |a, b| a - b)
        }),
        Code::Mulps_xmm_xmmm128 => plain!(4, mulps, Single(Mul, 4)),
        Code::Mulpd_xmm_xmmm128 => plain!(4, mulpd, Double(Mul, 2)),
        Code::Mulss_xmm_xmmm32 => quick!(2, 32, mulss, Single(Mul, 1), |m, a, b| {
            quickly::<f32, false>(m, a, b, |a, b| a * b)
        }),
        Code::Mulsd_xmm_xmmm64 => quick!(3, 64, mulsd, Double(Mul, 1), |m, a, b| {
            quickly::<f64, false>(m, a, b, |a, b| a * b)
        }),
        Code::Divps_xmm_xmmm128 => plain!(4, divps, Single(Div, 4)),
        Code::Divpd_xmm_xmmm128 => plain!(4, divpd, Double(Div, 2)),
        Code::Divss_xmm_xmmm32 => quick!(2, 32, divss, Single(Div, 1), |m, a, b| {
            quickly::<f32, false>(m, a, b, |a, b| a / b)
        }),
        Code::Divsd_xmm_xmmm64 => quick!(3, 64, divsd, Double(Div, 1), |m, a, b| {
            quickly::<f64, false>(m, a, b, |a, b| a / b)
        }),
        Code::Sqrtps_xmm_xmmm128 => plain!(4, sqrtps),
        Code::Sqrtpd_xmm_xmmm128 => plain!(4, sqrtpd),
        Code::Sqrtss_xmm_xmmm32 => quick!(2, 32, sqrtss, Kind::Other, |m, _, b| {
            root::<f32>(m, b, f32::sqrt)
        }),
        Code::Sqrtsd_xmm_xmmm64 => quick!(3, 64, sqrtsd, Kind::Other, |m, _, b| {
            root::<f64>(m, b, f64::sqrt)
        }),
        Code::Minps_xmm_xmmm128 => plain!(4, minps),
        Code::Minpd_xmm_xmmm128 => plain!(4, minpd),
        Code::Minss_xmm_xmmm32 => plain!(2, minss),
        Code::Minsd_xmm_xmmm64 => plain!(3, minsd),
        Code::Maxps_xmm_xmmm128 => plain!(4, maxps),
        Code::Maxpd_xmm_xmmm128 => plain!(4, maxpd),
        Code::Maxss_xmm_xmmm32 => plain!(2, maxss),
        Code::Maxsd_xmm_xmmm64 => plain!(3, maxsd),
        _ => return None,
    })
}

/// The handler of a comparison, a conversion or an approximation; of arithmetic, otherwise.
pub(super) fn select(code: Code, op: &Op) -> Option<Handler> {
    use scalar::{convert, truncate};
    Some(match code {
        Code::Cmpps_xmm_xmmm128_imm8 => predicate!(4, CMPPS),
        Code::Cmppd_xmm_xmmm128_imm8 => predicate!(4, CMPPD),
        Code::Cmpss_xmm_xmmm32_imm8 => predicate!(2, CMPSS),
        Code::Cmpsd_xmm_xmmm64_imm8 => predicate!(3, CMPSD),
        Code::Comiss_xmm_xmmm32 => compare!(2, f32, false),
        Code::Comisd_xmm_xmmm64 => compare!(3, f64, false),
        Code::Ucomiss_xmm_xmmm32 => compare!(2, f32, true),
        Code::Ucomisd_xmm_xmmm64 => compare!(3, f64, true),

        Code::Cvtps2pd_xmm_xmmm64 => plain!(3, cvtps2pd),
        Code::Cvtpd2ps_xmm_xmmm128 => plain!(4, cvtpd2ps, Kind::Narrow(2)),
        Code::Cvtss2sd_xmm_xmmm32 => quick!(2, 64, cvtss2sd, Kind::Other, |m, _, b| {
            convert::<f32, f64>(m, b, f64::from)
        }),
        Code::Cvtsd2ss_xmm_xmmm64 => quick!(3, 32, cvtsd2ss, Kind::Narrow(1), |m, _, b| {
            convert::<f64, f32>(m, b, |v| v as f32)
        }),
        Code::Cvtdq2ps_xmm_xmmm128 => plain!(4, cvtdq2ps),
        Code::Cvtdq2pd_xmm_xmmm64 => plain!(3, cvtdq2pd),
        Code::Cvtps2dq_xmm_xmmm128 => plain!(4, cvtps2dq),
        Code::Cvttps2dq_xmm_xmmm128 => plain!(4, cvttps2dq),
        Code::Cvtpd2dq_xmm_xmmm128 => plain!(4, cvtpd2dq),
        Code::Cvttpd2dq_xmm_xmmm128 => plain!(4, cvttpd2dq),

        Code::Cvtsi2ss_xmm_rm32 => from_integer!(2, 32, cvtsi2ss_32, |m, v: u64| {
            mxcsr::is_settled(m).then(|| u64::from((v as i32 as f32).to_bits()))
        }),
        Code::Cvtsi2ss_xmm_rm64 => from_integer!(3, 32, cvtsi2ss_64, |m, v: u64| {
            mxcsr::is_settled(m).then(|| u64::from((v as i64 as f32).to_bits()))
        }),
        // Always exact.
        Code::Cvtsi2sd_xmm_rm32 => from_integer!(2, 64, cvtsi2sd_32, |_, v: u64| {
            Some(f64::from(v as i32).to_bits())
        }),
        Code::Cvtsi2sd_xmm_rm64 => from_integer!(3, 64, cvtsi2sd_64, |m, v: u64| {
            let exact = (v as i64).unsigned_abs() >> 53 == 0;
            (exact || mxcsr::is_settled(m)).then(|| (v as i64 as f64).to_bits())
        }),
        Code::Cvtss2si_r32_xmmm32 => to_integer!(2, 2, cvtss2si_32, no_quick),
        Code::Cvtss2si_r64_xmmm32 => to_integer!(2, 3, cvtss2si_64, no_quick),
        Code::Cvtsd2si_r32_xmmm64 => to_integer!(3, 2, cvtsd2si_32, no_quick),
        Code::Cvtsd2si_r64_xmmm64 => to_integer!(3, 3, cvtsd2si_64, no_quick),
        Code::Cvttss2si_r32_xmmm32 => {
            to_integer!(2, 2, cvttss2si_32, |m, b| { truncate::<f32>(m, b, 31) })
        }
        Code::Cvttss2si_r64_xmmm32 => {
            to_integer!(2, 3, cvttss2si_64, |m, b| { truncate::<f32>(m, b, 63) })
        }
        Code::Cvttsd2si_r32_xmmm64 => {
            to_integer!(3, 2, cvttsd2si_32, |m, b| { truncate::<f64>(m, b, 31) })
        }
        Code::Cvttsd2si_r64_xmmm64 => {
            to_integer!(3, 3, cvttsd2si_64, |m, b| { truncate::<f64>(m, b, 63) })
        }

        Code::Rcpps_xmm_xmmm128 => binary!(op, approximate::rcpps),
        Code::Rsqrtps_xmm_xmmm128 => binary!(op, approximate::rsqrtps),
        Code::Rcpss_xmm_xmmm32 => approximate_scalar!(rcpss),
        Code::Rsqrtss_xmm_xmmm32 => approximate_scalar!(rsqrtss),
        _ => return select_arithmetic(code),
    })
}
