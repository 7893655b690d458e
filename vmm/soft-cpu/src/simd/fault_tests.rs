//! What keeps SSE and MMX instructions from running, and what they leave when it does; and what no
//! processor can say: approximations, and exceptions that are not masked.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, Register};

use super::approximate::{reciprocal, reciprocal_root};
use super::exact::{Kind, exceptions};
use super::mxcsr::{
    DENORMAL, EXCEPTIONS, INEXACT, INVALID, MASKS, OVERFLOW, UNDERFLOW, ZERO_DIVIDE,
};
use super::tests::{encodings, operand, state};
use super::{host, mxcsr, scalar};
use crate::core::{CodeSize, cr0, cr4};
use crate::fault::Fault;
use crate::oracle::{Machine, OPERAND, Random, Software};
use crate::x87::Arith;

fn decoded(bytes: &[u8]) -> Instruction {
    Decoder::new(64, bytes, DecoderOptions::NONE).decode()
}

fn uses_xmm(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|i| instruction.op_register(i).is_xmm())
}

#[test]
fn sixteen_bytes_must_be_aligned_but_for_the_unaligned_moves() {
    let mut held = 0;
    for bytes in encodings() {
        let instruction = decoded(&bytes);
        if instruction.memory_base() == Register::None {
            continue;
        }
        let unaligned = matches!(
            instruction.mnemonic(),
            Mnemonic::Movups | Mnemonic::Movupd | Mnemonic::Movdqu
        );
        let aligned = instruction.memory_size().size() == 16 && !unaligned;
        let mut software = Software::new(&bytes);
        software.operand = OPERAND + 4;
        let mut m = Machine::default();
        let expected = if aligned {
            Err(Fault::PROTECTION)
        } else {
            Ok(())
        };
        assert_eq!(software.run(&mut m, 0x1000), expected, "{bytes:02x?}");
        held += u32::from(aligned);
    }
    assert!(held > 100, "{held} instructions want alignment");
}

#[test]
fn em_ts_and_osfxsr_keep_instructions_from_running() {
    for bytes in encodings() {
        let instruction = decoded(&bytes);
        let fence = matches!(
            instruction.mnemonic(),
            Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence | Mnemonic::Movnti
        ) || instruction.mnemonic() >= Mnemonic::Prefetch
            && instruction.mnemonic() <= Mnemonic::Prefetchwt1;
        let convert = format!("{:?}", instruction.mnemonic()).starts_with("Cvt");
        let store = instruction.mnemonic() == Mnemonic::Stmxcsr;
        let xmm = uses_xmm(&instruction) || convert || store;
        let run = |set0: u64, clear4: u64| {
            let mut software = Software::new(&bytes);
            software.core.cr0 |= set0;
            software.core.cr4 &= !clear4;
            software.run(&mut Machine::default(), 0x1000)
        };
        let expected = |fault| if fence { Ok(()) } else { Err(fault) };
        assert_eq!(run(cr0::TS, 0), expected(Fault::NO_FPU), "TS {bytes:02x?}");
        assert_eq!(
            run(cr0::EM, 0),
            expected(Fault::UNDEFINED),
            "EM {bytes:02x?}"
        );
        let without = if xmm { Err(Fault::UNDEFINED) } else { Ok(()) };
        assert_eq!(run(0, cr4::OSFXSR), without, "OSFXSR {bytes:02x?}");
    }
}

/// An exception that is not masked is #XM, and then registers and memory are as before; otherwise
/// the instruction does what it does with all masked.
#[test]
fn unmasked_exceptions_leave_everything_but_their_flags() {
    let mut raised = 0;
    let mut nop = Software::new(&[0x90]);
    for bytes in encodings() {
        let mut software = Software::new(&bytes);
        let mut r = Random(bytes.iter().fold(9, |seed, &b| seed << 8 | u64::from(b)));
        for _ in 0..200 {
            // Overflow and underflow differ when they are not masked: see below.
            let mut before = Machine {
                mxcsr: 0x1f80,
                ..state(&mut r)
            };
            // An image as FNSAVE writes it.
            nop.run(&mut before, 0x1000).expect("it does nothing");
            let mut masked = before;
            software.run(&mut masked, 0x1000).expect("nothing faults");
            let unmasked = r.next() as u32 & EXCEPTIONS & !(OVERFLOW | UNDERFLOW);
            let mut m = Machine {
                mxcsr: before.mxcsr & !(unmasked << MASKS),
                ..before
            };
            let control = m.mxcsr;
            let found = masked.mxcsr & EXCEPTIONS & unmasked;
            let done = software.run(&mut m, 0x1000);
            if found == 0 {
                assert_eq!(done, Ok(()), "{bytes:02x?}");
                assert_eq!(
                    m.mxcsr & EXCEPTIONS,
                    masked.mxcsr & EXCEPTIONS,
                    "{bytes:02x?}"
                );
                continue;
            }
            raised += 1;
            assert_eq!(done, Err(Fault::SIMD), "{bytes:02x?}");
            let before_all = INVALID | DENORMAL | ZERO_DIVIDE;
            let shown = if found & before_all != 0 {
                before_all
            } else {
                EXCEPTIONS
            };
            assert_eq!(m.mxcsr, control | masked.mxcsr & shown, "{bytes:02x?}");
            assert_eq!(
                (m.xmm, m.rax, m.memory),
                (before.xmm, before.rax, before.memory)
            );
            assert_eq!(
                (m.saved, m.flags),
                (before.saved, before.flags),
                "{bytes:02x?}"
            );
        }
    }
    assert!(raised > 1000, "{raised} exceptions");
}

/// Instruction, operands as singles, MXCSR, and MXCSR as a handler of #XM on AMD's family 19h finds
/// it; 0 where nothing traps.
type Trap = (&'static [u8], [f32; 4], [f32; 4], u32, u32);

#[test]
fn handlers_find_the_exceptions_that_a_processor_shows() {
    const CVTTPS2DQ: &[u8] = &[0xf3, 0x0f, 0x5b];
    const DIVPS: &[u8] = &[0x0f, 0x5e];
    const MULPS: &[u8] = &[0x0f, 0x59];
    const ADDPS: &[u8] = &[0x0f, 0x58];
    const SQRTPS: &[u8] = &[0x0f, 0x51];
    const NAN: f32 = f32::NAN;
    const LEAST: f32 = f32::MIN_POSITIVE;
    const ODD: f32 = 1.175_494_5e-38;
    const TINY: f32 = 1e-40;
    const HUGE: f32 = 3e38;
    let traps: [Trap; 14] = [
        (CVTTPS2DQ, [0.0; 4], [NAN, 1.5, 2.0, 3.0], 0x1f00, 0x1f01),
        (
            DIVPS,
            [0.0, 1.0, 1.0, 1.0],
            [0.0, 3.0, 1.0, 1.0],
            0x1f00,
            0x1f01,
        ),
        (
            DIVPS,
            [1.0, 1.0, TINY, 1.0],
            [0.0, 3.0, 1.0, 1.0],
            0x1d80,
            0x1d86,
        ),
        (
            DIVPS,
            [1.0, 0.0, TINY, 1.0],
            [0.0, 0.0, 1.0, 1.0],
            0x1d80,
            0x1d87,
        ),
        (
            DIVPS,
            [1.0, 0.0, TINY, 1.0],
            [0.0, 0.0, 3.0, 3.0],
            0x0f80,
            0x0fb7,
        ),
        (
            MULPS,
            [HUGE, 1.1, TINY, 1.0],
            [HUGE, 1.1, 1.0, 1.0],
            0x1b80,
            0x1baa,
        ),
        (
            ADDPS,
            [f32::MAX, 1.0, 1.0, 1.0],
            [f32::MAX, 1.0, 1.0, 1.0],
            0x1b80,
            0x1b88,
        ),
        (
            MULPS,
            [LEAST, 1.0, 1.0, 1.0],
            [0.5, 1.0, 1.0, 1.0],
            0x1780,
            0x1790,
        ),
        (
            MULPS,
            [LEAST, 1.0, 1.0, 1.0],
            [0.5, 1.0, 1.0, 1.0],
            0x9780,
            0x9790,
        ),
        (
            MULPS,
            [LEAST, 1.0, 1.0, 1.0],
            [0.5, 1.0, 1.0, 1.0],
            0x9b80,
            0,
        ),
        (
            MULPS,
            [ODD, 1.0, 1.0, 1.0],
            [0.5, 1.0, 1.0, 1.0],
            0x1780,
            0x1790,
        ),
        (
            MULPS,
            [ODD, HUGE, 1.0, 1.0],
            [0.5, HUGE, 1.0, 1.0],
            0x1b80,
            0x1bb8,
        ),
        (SQRTPS, [0.0; 4], [-TINY, TINY, 2.0, 1.0], 0x1f00, 0x1f03),
        (SQRTPS, [0.0; 4], [-TINY, TINY, 2.0, 1.0], 0x1e80, 0x1e83),
    ];
    for (opcode, a, b, mxcsr, found) in traps {
        // XMM0, XMM1.
        let bytes = [opcode, &[0xc1]].concat();
        let packed = |v: [f32; 4]| {
            v.iter()
                .rev()
                .fold(0, |p, v| p << 32 | u128::from(v.to_bits()))
        };
        let mut m = Machine {
            xmm: [packed(a), packed(b)],
            mxcsr,
            ..Machine::default()
        };
        let done = Software::new(&bytes).run(&mut m, 0x1000);
        if found == 0 {
            assert_eq!((done, m.mxcsr), (Ok(()), mxcsr | UNDERFLOW | INEXACT));
            continue;
        }
        assert_eq!(
            (done, m.mxcsr),
            (Err(Fault::SIMD), found),
            "{a:?} {b:?} under {mxcsr:x}"
        );
        assert_eq!(m.xmm[0], packed(a));
    }
}

#[test]
fn without_osxmmexcpt_an_unmasked_exception_is_undefined() {
    // DIVSD XMM0, XMM1: 1 / 0.
    let mut software = Software::new(&[0xf2, 0x0f, 0x5e, 0xc1]);
    let one = u128::from(1f64.to_bits());
    let mut m = Machine {
        xmm: [one, 0],
        mxcsr: 0x1d80,
        ..Machine::default()
    };
    assert_eq!(software.run(&mut m, 0x1000), Err(Fault::SIMD));
    software.core.cr4 &= !cr4::OSXMMEXCPT;
    assert_eq!(software.run(&mut m, 0x1000), Err(Fault::UNDEFINED));
    assert_eq!((m.xmm[0], m.mxcsr), (one, 0x1d80 | ZERO_DIVIDE));
}

#[test]
fn exceptions_decided_here_equal_those_of_the_host_where_all_are_masked() {
    use Arith::{Add, Div, Mul, Sub};
    use Kind::{Double, Narrow, Single};
    let cases: [(host::Operation, Kind); 18] = [
        (host::addps, Single(Add, 4)),
        (host::subps, Single(Sub, 4)),
        (host::mulps, Single(Mul, 4)),
        (host::divps, Single(Div, 4)),
        (host::addss, Single(Add, 1)),
        (host::subss, Single(Sub, 1)),
        (host::mulss, Single(Mul, 1)),
        (host::divss, Single(Div, 1)),
        (host::addpd, Double(Add, 2)),
        (host::subpd, Double(Sub, 2)),
        (host::mulpd, Double(Mul, 2)),
        (host::divpd, Double(Div, 2)),
        (host::addsd, Double(Add, 1)),
        (host::subsd, Double(Sub, 1)),
        (host::mulsd, Double(Mul, 1)),
        (host::divsd, Double(Div, 1)),
        (host::cvtpd2ps, Narrow(2)),
        (host::cvtsd2ss, Narrow(1)),
    ];
    let mut r = Random(5);
    for (run, kind) in cases {
        for _ in 0..5000 {
            let (a, b) = (operand(&mut r), operand(&mut r));
            let control = mxcsr::control(r.next() as u32 & 0xe040);
            let raised = run(a, b, control).1;
            let here = exceptions(kind, a, b, control, raised);
            assert_eq!(here, raised, "{kind:?} {a:x} {b:x} {control:x}");
        }
    }
}

#[test]
fn unmasked_overflow_and_underflow_are_decided_without_bounds_on_the_exponent() {
    const ALL: u32 = EXCEPTIONS << MASKS;
    let exceptions = |op, a: f64, b: f64, unmasked: u32| {
        let (a, b) = (u128::from(a.to_bits()), u128::from(b.to_bits()));
        let mxcsr = ALL & !(unmasked << MASKS);
        let run = if op == Arith::Mul {
            host::mulsd
        } else {
            host::addsd
        };
        let raised = run(a, b, mxcsr::control(mxcsr)).1;
        exceptions(Kind::Double(op, 1), a, b, mxcsr, raised)
    };
    let (most, least) = (f64::MAX, f64::MIN_POSITIVE);
    // An overflow that loses no digit.
    assert_eq!(exceptions(Arith::Add, most, most, 0), OVERFLOW | INEXACT);
    assert_eq!(exceptions(Arith::Add, most, most, OVERFLOW), OVERFLOW);
    assert_eq!(
        exceptions(Arith::Mul, most, 3.0, OVERFLOW),
        OVERFLOW | INEXACT
    );
    // A tiny result without loss is an underflow only where that is not masked.
    assert_eq!(exceptions(Arith::Mul, least, 0.5, 0), 0);
    assert_eq!(exceptions(Arith::Mul, least, 0.5, UNDERFLOW), UNDERFLOW);
    assert_eq!(exceptions(Arith::Mul, least, 0.5, OVERFLOW), 0);
    // Digits that only the denormal result would lose.
    let odd = least * (1.0 + f64::EPSILON);
    assert_eq!(exceptions(Arith::Mul, odd, 0.5, 0), UNDERFLOW | INEXACT);
    assert_eq!(exceptions(Arith::Mul, odd, 0.5, UNDERFLOW), UNDERFLOW);
    assert_eq!(
        exceptions(Arith::Add, f64::INFINITY, f64::NEG_INFINITY, OVERFLOW),
        INVALID
    );
}

/// The quick way is taken only where the host raises nothing but #P: results at both ends of the
/// range among them.
#[test]
fn quick_arithmetic_raises_nothing_but_an_inexact_result() {
    let mut r = Random(17);
    let (mut taken, mut left) = (0, 0);
    for _ in 0..200_000 {
        // Exponents whose sum is near that of the smallest normal number, or of the largest.
        let first = r.below(1000) + 12;
        let sum = r.pick(&[1022u64, 1023, 1024, 1025, 3068, 3069]);
        let Some(second) = sum.checked_sub(first).filter(|e| (1..2047).contains(e)) else {
            continue;
        };
        let ones = u64::MAX >> 12;
        let (x, y) = (r.next() & ones, ones - (r.next() >> r.below(64) & ones));
        let (a, b) = (first << 52 | x, second << 52 | y);
        let product = scalar::arithmetic::<f64, false>(0x1fa0, a, b, |a, b| a * b);
        let (result, raised) = host::mulsd(u128::from(a), u128::from(b), 0x1f80);
        match product {
            Some(product) => {
                taken += 1;
                assert_eq!(
                    (product, raised & !INEXACT),
                    (result as u64, 0),
                    "{a:x} * {b:x}"
                );
            }
            None => left += 1,
        }
    }
    assert!(taken > 1000 && left > 1000, "{taken} quickly, {left} not");
    // The largest number below the smallest normal one rounds up to that, and underflows.
    let (a, b) = (
        (1.0 - f64::EPSILON / 2.0).to_bits(),
        f64::MIN_POSITIVE.to_bits(),
    );
    let (result, raised) = host::mulsd(u128::from(a), u128::from(b), 0x1f80);
    assert_eq!((result as u64, raised), (b, UNDERFLOW | INEXACT));
    assert_eq!(
        scalar::arithmetic::<f64, false>(0x1fa0, a, b, |a, b| a * b),
        None
    );
}

#[test]
fn approximations_are_as_near_as_the_manual_says() {
    const BOUND: f64 = 1.5 / 4096.0;
    let mut r = Random(11);
    for _ in 0..200_000 {
        let v = f32::from_bits(r.next() as u32 & 0x7fff_ffff);
        if !v.is_normal() {
            continue;
        }
        let root = f64::from(f32::from_bits(reciprocal_root(v.to_bits())));
        let error = (root * f64::from(v).sqrt() - 1.0).abs();
        assert!(error < BOUND, "1 / sqrt({v:e}) is off by {error:e}");
        let inverse = f32::from_bits(reciprocal(v.to_bits()));
        if inverse == 0.0 {
            assert!(1.0 / v < f32::MIN_POSITIVE * 1.001, "1 / {v:e} is not zero");
            continue;
        }
        let error = (f64::from(inverse) * f64::from(v) - 1.0).abs();
        assert!(error < BOUND, "1 / {v:e} is off by {error:e}");
        assert_eq!(
            reciprocal(v.to_bits() | 1 << 31),
            inverse.to_bits() | 1 << 31
        );
    }
}

/// Operand, reciprocal, reciprocal root.
const SPECIAL: [[u32; 3]; 9] = [
    [0, 0x7f80_0000, 0x7f80_0000],
    [0x8000_0000, 0xff80_0000, 0xff80_0000],
    [0x0040_0000, 0x7f80_0000, 0x7f80_0000],
    [0x807f_ffff, 0xff80_0000, 0xff80_0000],
    [0x7f80_0000, 0, 0],
    [0xff80_0000, 0x8000_0000, 0xffc0_0000],
    [0x7f80_0001, 0x7fc0_0001, 0x7fc0_0001],
    [0xffc1_2345, 0xffc1_2345, 0xffc1_2345],
    [0x7f00_0000, 0, 0x1fb5_0000],
];

#[test]
fn approximations_of_special_operands() {
    for [v, inverse, root] in SPECIAL {
        assert_eq!(
            format!("{:08x}", reciprocal(v)),
            format!("{inverse:08x}"),
            "1 / {v:08x}"
        );
        let found = reciprocal_root(v);
        assert_eq!(
            format!("{found:08x}"),
            format!("{root:08x}"),
            "1 / sqrt({v:08x})"
        );
    }
    let negative = reciprocal_root((-4f32).to_bits());
    assert_eq!(negative, 0xffc0_0000);
}

/// A guest that computes with them must see the same on every host and in every version.
#[test]
fn approximations_never_change() {
    let sum = |f: fn(u32) -> u32| {
        // FNV-1a over every significand that matters, with even and odd exponents.
        (0..0x1000u32)
            .map(|i| f(0x3f80_0000 + (i << 12)))
            .fold(0xcbf2_9ce4_8422_2325, |h, v| {
                (h ^ u64::from(v)).wrapping_mul(0x100_0000_01b3)
            })
    };
    assert_eq!(
        [sum(reciprocal), sum(reciprocal_root)],
        [1671814892977333029, 1861271875407865637]
    );
}

#[test]
fn masked_moves_store_the_bytes_whose_mask_is_set() {
    // MASKMOVDQU XMM0, XMM1 and MASKMOVQ MM0, MM1, to [RDI].
    for (bytes, len) in [
        (&[0x66, 0x0f, 0xf7, 0xc1][..], 16),
        (&[0x0f, 0xf7, 0xc1], 8),
    ] {
        let mut software = Software::new(bytes);
        let mut r = Random(13);
        for _ in 0..200 {
            let mut m = state(&mut r);
            let (value, mask): ([u8; 16], [u8; 16]) = if len == 16 {
                (m.xmm[0].to_le_bytes(), m.xmm[1].to_le_bytes())
            } else {
                // Registers by number, the image by place in the stack.
                m.saved[4..6].fill(0);
                (
                    m.saved[28..44].try_into().unwrap(),
                    m.saved[38..54].try_into().unwrap(),
                )
            };
            let mut expected = m.memory;
            for i in 0..len {
                if mask[i] & 0x80 != 0 {
                    expected[i + 3] = value[i];
                }
            }
            software.core.regs[7] = OPERAND + 3;
            assert_eq!(software.run(&mut m, 0x1000), Ok(()));
            assert_eq!(m.memory, expected);
        }
    }
}

/// Outside 64-bit mode an image ends behind XMM7.
#[test]
fn compatibility_mode_saves_and_restores_eight_registers() {
    let ones = Machine {
        memory: [0xff; 512],
        ..Machine::default()
    };
    let mut save = Software::new(&[0x0f, 0xae, 0x06]);
    save.core.code_size = CodeSize::Wide;
    let mut m = ones;
    assert_eq!(save.run(&mut m, 0x1000), Ok(()));
    assert_eq!(m.memory[272..288], [0; 16]);
    assert_eq!(m.memory[288..], ones.memory[288..]);

    let mut restore = Software::new(&[0x0f, 0xae, 0x0e]);
    restore.core.code_size = CodeSize::Wide;
    let mut m = ones;
    m.memory[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
    assert_eq!(restore.run(&mut m, 0x1000), Ok(()));
    assert_eq!((restore.core.xmm[7], restore.core.xmm[8]), (u128::MAX, 0));
}

#[test]
fn bits_of_mxcsr_that_do_not_exist_are_refused() {
    for bytes in [&[0x0f, 0xae, 0x16][..], &[0x0f, 0xae, 0x0e]] {
        let at = if bytes[2] == 0x16 { 0 } else { 24 };
        let mut m = Machine::default();
        m.memory[at..at + 4].copy_from_slice(&0x1_1f80u32.to_le_bytes());
        assert_eq!(
            Software::new(bytes).run(&mut m, 0x1000),
            Err(Fault::PROTECTION)
        );
        m.memory[at..at + 4].copy_from_slice(&0x9fc0u32.to_le_bytes());
        assert_eq!(Software::new(bytes).run(&mut m, 0x1000), Ok(()));
        assert_eq!(m.mxcsr, 0x9fc0);
    }
    let mut software = Software::new(&[0x0f, 0xae, 0x06]);
    software.operand += 8;
    let done = software.run(&mut Machine::default(), 0x1000);
    assert_eq!(
        done,
        Err(Fault::PROTECTION),
        "FXSAVE wants 16 bytes' alignment"
    );
}
