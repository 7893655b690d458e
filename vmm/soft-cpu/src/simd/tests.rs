//! SSE, SSE2 and MMX against the processor that the tests run on: every instruction that computes or
//! moves, in register and memory forms, on random and special operands, in every rounding mode, with
//! and without DAZ and FTZ. The whole state is compared, MXCSR and the x87 image with it.

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, Instruction, Mnemonic, Register};

use super::mxcsr::EXCEPTIONS;
use crate::oracle::{Machine, Native, Random, Software, decides_alike};

/// All encodings of interest: every prefix, opcode, group and kind of operand once.
pub(super) fn encodings() -> Vec<Vec<u8>> {
    let mut found: Vec<(Code, bool, Vec<u8>)> = Vec::new();
    let prefixes: [&[u8]; 6] = [&[], &[0x66], &[0xf2], &[0xf3], &[0x48], &[0x66, 0x48]];
    for prefix in prefixes
        .into_iter()
        .chain([&[0xf2, 0x48][..], &[0xf3, 0x48]])
    {
        for opcode in 0..=0xff {
            for modrm in (0..8).flat_map(|reg| [6, 0xc0, 0xc1].map(|rm| rm | reg << 3)) {
                let mut bytes = prefix.to_vec();
                bytes.extend([0x0f, opcode, modrm, 0x5a]);
                let mut decoder = Decoder::new(64, &bytes, DecoderOptions::NONE);
                let instruction = decoder.decode();
                bytes.truncate(instruction.len());
                let memory = modrm < 0xc0;
                if wanted(&instruction)
                    && !found.iter().any(|(c, m, b)| {
                        // Both orders of registers: the operation may take one as both.
                        *c == instruction.code()
                            && *m == memory
                            && (memory || b[b.len() - 1] == modrm)
                    })
                {
                    found.push((instruction.code(), memory, bytes));
                }
            }
        }
    }
    found.into_iter().map(|(.., bytes)| bytes).collect()
}

/// Instructions that the oracle can run and that processors agree on.
fn wanted(instruction: &Instruction) -> bool {
    use CpuidFeature::{MMX, SSE, SSE2};
    let features = instruction.cpuid_features();
    let held = |register: Register| {
        let n = register.number();
        match () {
            () if register.is_gpr() => register.full_register() == Register::RAX,
            () if register.is_xmm() => n < 2,
            () => register == Register::None || register.is_mm(),
        }
    };
    !features.is_empty()
        && features.iter().all(|f| matches!(f, &MMX | &SSE | &SSE2))
        && !matches!(
            instruction.mnemonic(),
            Mnemonic::Maskmovdqu
                | Mnemonic::Maskmovq
                | Mnemonic::Ldmxcsr
                | Mnemonic::Rcpps
                | Mnemonic::Rcpss
                | Mnemonic::Rsqrtps
                | Mnemonic::Rsqrtss
        )
        && (0..instruction.op_count()).all(|i| {
            instruction.op_kind(i) != iced_x86::OpKind::Register || held(instruction.op_register(i))
        })
}

/// A number of `exponent_bits + fraction_bits + 1` bits, special ones often.
fn float(r: &mut Random, exponent_bits: u32, fraction_bits: u32) -> u64 {
    let (most, all) = ((1u64 << exponent_bits) - 1, (1u64 << fraction_bits) - 1);
    let (any, near, noise) = (
        r.next() & most,
        (most >> 1) + r.below(80) - 40,
        r.next() & all,
    );
    let exponent = r.pick(&[
        0,
        0,
        1,
        2,
        most / 2,
        most / 2 + 1,
        most - 1,
        most,
        any,
        near,
        near,
    ]);
    let top = 1 << (fraction_bits - 1);
    let cut = noise & all << r.below(u64::from(fraction_bits));
    let fraction = r.pick(&[0, 0, 1, top, top - 1, all, all - 1, cut, noise, noise]);
    r.next() << (exponent_bits + fraction_bits) | exponent << fraction_bits | fraction
}

/// Sixteen bytes: integers, singles, doubles.
pub(super) fn operand(r: &mut Random) -> u128 {
    let noise = u128::from(r.next()) << 64 | u128::from(r.next());
    match r.below(8) {
        0 => noise,
        1 => noise >> r.below(128),
        2 => (0..16).fold(0, |v, _| {
            v << 8 | u128::from(r.pick(&[0u8, 1, 0x7f, 0x80, 0x81, 0xff]))
        }),
        3 => u128::from(r.next() as i64 as u64 >> r.below(64)) | noise << 64,
        4 | 5 => (0..4).fold(0, |v, _| v << 32 | u128::from(float(r, 8, 23) as u32)),
        _ => (0..2).fold(0, |v, _| v << 64 | u128::from(float(r, 11, 52))),
    }
}

/// A state with all SSE exceptions masked, most often the way programs have it.
pub(super) fn state(r: &mut Random) -> Machine {
    let mut m = Machine {
        xmm: [operand(r), operand(r)],
        flags: 2 | r.next() & 0x8d5,
        rax: r.next() >> r.below(64),
        ..Machine::default()
    };
    m.mxcsr |= match r.below(3) {
        0 => r.next() as u32 & (0xe040 | EXCEPTIONS),
        1 => 0x20,
        _ => r.next() as u32 & EXCEPTIONS,
    };
    for at in (0..32).step_by(16) {
        m.memory[at..at + 16].copy_from_slice(&operand(r).to_le_bytes());
    }
    // TOP, condition bits and tags; MMX registers.
    m.saved[5] = r.next() as u8 & 0x7f;
    m.saved[8..10].copy_from_slice(&(r.next() as u16).to_le_bytes());
    for register in m.saved[28..108].chunks_exact_mut(10) {
        register.copy_from_slice(&operand(r).to_le_bytes()[..10]);
    }
    m
}

/// Pointers and opcode of the last x87 instruction are another test's.
fn comparable(mut m: Machine) -> Machine {
    m.saved[12..28].fill(0);
    m.flags &= 0x8d5;
    m
}

fn check(bytes: &[u8], cases: u32) -> Result<(), String> {
    let (native, mut software) = (Native::new(bytes), Software::new(bytes));
    let mut r = Random(bytes.iter().fold(7, |seed, &b| seed << 8 | u64::from(b)));
    for _ in 0..cases {
        let before = state(&mut r);
        let (mut there, mut here) = (before, before);
        native.run(&mut there);
        let done = software.run(&mut here, native.address());
        if done.is_err() || comparable(here) != comparable(there) {
            let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
            let code = decoder.decode().code();
            return Err(format!(
                "{code:?} {bytes:02x?} {done:?}\n before {before:x?}\n native {there:x?}\n here   {here:x?}"
            ));
        }
    }
    Ok(())
}

#[test]
fn every_instruction_equals_the_processor() {
    let encodings = encodings();
    assert!(encodings.len() > 400, "{} encodings", encodings.len());
    let different: Vec<String> = encodings
        .iter()
        .filter_map(|bytes| check(bytes, 1000).err())
        .collect();
    assert!(
        different.is_empty(),
        "{} differ:\n{}",
        different.len(),
        different.join("\n")
    );
}

/// FXSAVE and FXRSTOR in their four forms: what they know of two XMM registers, and what is defined.
#[test]
fn images_equal_the_processor() {
    if !decides_alike() {
        return;
    }
    let forms: [&[u8]; 4] = [
        &[0x0f, 0xae, 0x06],
        &[0x48, 0x0f, 0xae, 0x06],
        &[0x0f, 0xae, 0x0e],
        &[0x48, 0x0f, 0xae, 0x0e],
    ];
    for bytes in forms {
        let (native, mut software) = (Native::new(bytes), Software::new(bytes));
        let mut r = Random(3);
        for _ in 0..2000 {
            let mut before = state(&mut r);
            for at in (0..512).step_by(8) {
                before.memory[at..at + 8].copy_from_slice(&r.next().to_le_bytes());
            }
            let mxcsr = 0x1f80 | r.next() as u32 & 0xffff;
            before.memory[24..28].copy_from_slice(&mxcsr.to_le_bytes());
            let (mut there, mut here) = (before, before);
            native.run(&mut there);
            software
                .run(&mut here, native.address())
                .expect("it does not fault");
            for m in [&mut here, &mut there] {
                // MXCSR_MASK, other XMM registers; pointers, which a task switch loses.
                m.memory[28..32].fill(0);
                m.memory[192..416].fill(0);
                m.memory[6..24].fill(0);
            }
            assert_eq!(
                comparable(here),
                comparable(there),
                "{bytes:02x?} of {before:x?}"
            );
        }
    }
}
