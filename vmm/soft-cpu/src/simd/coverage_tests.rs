//! No instruction of x87, MMX, SSE, SSE2 and FXSR is missing.

use std::collections::BTreeSet;

use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions};

use crate::fault::Fault;
use crate::oracle::{Machine, Software};

/// Whether CPUID claims what the instruction needs, and the instruction is one of these sets.
fn is_claimed(code: Code) -> bool {
    use CpuidFeature::{CLFSH, CMOV, FPU, FPU287, FPU387, FXSR, MMX, PAUSE, SSE, SSE2};
    let features = code.cpuid_features();
    let any = |of: &[CpuidFeature]| features.iter().any(|f| of.contains(f));
    let all = [
        CLFSH, CMOV, FPU, FPU287, FPU387, FXSR, MMX, PAUSE, SSE, SSE2,
    ];
    features.iter().all(|f| all.contains(f)) && any(&all) && (features != [CMOV])
}

/// Codes that only an assembler knows: an FWAIT and the instruction behind it.
fn has_wait(code: Code) -> bool {
    code.op_code().op_code_string().starts_with("9B ")
}

#[test]
fn every_claimed_instruction_is_there() {
    let mut missing: BTreeSet<String> = Code::values()
        .filter(|&code| is_claimed(code) && !has_wait(code))
        .map(|code| format!("{code:?}"))
        .collect();
    assert!(
        missing.len() > 400,
        "{} instructions are claimed",
        missing.len()
    );
    let prefixes: [&[u8]; 6] = [&[], &[0x66], &[0xf2], &[0xf3], &[0x48], &[0x66, 0x48]];
    for prefix in prefixes
        .into_iter()
        .chain([&[0xf2, 0x48][..], &[0xf3, 0x48]])
    {
        let escapes = (0xd8..=0xdf).map(|op| vec![op]);
        let opcodes = (0..=0xff)
            .map(|op| vec![0x0f, op])
            .chain(escapes)
            .chain([vec![0x90]]);
        for opcode in opcodes {
            for modrm in (6..=0xff).filter(|modrm| modrm & 0xc7 == 6 || *modrm >= 0xc0) {
                let bytes = [prefix, &opcode, &[modrm, 0]].concat();
                let instruction = Decoder::new(64, &bytes, DecoderOptions::NONE).decode();
                let name = format!("{:?}", instruction.code());
                if missing.contains(&name) {
                    let bytes = &bytes[..instruction.len()];
                    let done = Software::new(bytes).run(&mut Machine::default(), 0x1000);
                    assert_ne!(done, Err(Fault::UNDEFINED), "{name} {bytes:02x?}");
                    missing.remove(&name);
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}
