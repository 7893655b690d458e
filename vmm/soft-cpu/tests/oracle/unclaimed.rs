//! Instructions of later CPUs: #UD on one that does not have them.

use super::case::*;
use super::encode::{self, Encoded};
use super::fill::blank;
use super::forms::Mode;
use super::guest::Guest;
use super::random::Random;
use iced_x86::{Code, CpuidFeature, Decoder, DecoderOptions, EncodingKind};

/// Extensions whose opcodes were undefined before them. Not among them are those that took NOPs,
/// ignored prefixes or other instructions' encodings: TZCNT, LZCNT, MPX, CET, PTWRITE, CLWB,
/// WBNOINVD and the like.
const UNDEFINED: &[CpuidFeature] = &[
    CpuidFeature::ADX,
    CpuidFeature::AES,
    CpuidFeature::FSGSBASE,
    CpuidFeature::GFNI,
    CpuidFeature::INVPCID,
    CpuidFeature::MONITOR,
    CpuidFeature::MOVBE,
    CpuidFeature::PCLMULQDQ,
    CpuidFeature::PKU,
    CpuidFeature::POPCNT,
    CpuidFeature::RDRAND,
    CpuidFeature::RDSEED,
    CpuidFeature::RDTSCP,
    CpuidFeature::SHA,
    CpuidFeature::SMAP,
    CpuidFeature::SMX,
    CpuidFeature::SSE3,
    CpuidFeature::SSSE3,
    CpuidFeature::SSE4_1,
    CpuidFeature::SSE4_2,
    CpuidFeature::SVM,
    CpuidFeature::VMX,
    CpuidFeature::XSAVE,
    CpuidFeature::XSAVEC,
    CpuidFeature::XSAVEOPT,
    CpuidFeature::XSAVES,
];

/// Tries all forms of [`UNDEFINED`], and the first bytes of VEX, EVEX, XOP and 3DNow! encodings.
/// Returns how many it tried, and those that did something else than to raise #UD.
pub(crate) fn undefined_opcodes(guest: &mut Guest) -> (usize, Vec<String>) {
    let forms = Code::values().filter(|code| {
        let form = code.op_code();
        form.mode64()
            && form.encoding() == EncodingKind::Legacy
            && code
                .cpuid_features()
                .iter()
                .any(|feature| UNDEFINED.contains(feature))
    });
    let mut encodings: Vec<Vec<u8>> = vec![
        vec![0xC5, 0xF8, 0x57, 0xC0],             // VXORPS, two bytes of VEX
        vec![0xC4, 0xE2, 0x70, 0xF2, 0xC2],       // ANDN, three bytes of VEX
        vec![0x62, 0xF1, 0x74, 0x48, 0x57, 0xC0], // VXORPS, EVEX
        vec![0x8F, 0xE9, 0x78, 0x80, 0xC0],       // VFRCZPS, XOP
        vec![0x0F, 0x0F, 0xC1, 0x9E],             // PFADD, 3DNow!
    ];
    let mut random = Random::new(&[0]);
    for code in forms {
        encodings
            .extend((0..8).filter_map(|_| encode::assemble(&mut random, code, Mode::Long, CODE)));
    }
    let mut wrong = Vec::new();
    for bytes in &encodings {
        let mut decoder = Decoder::with_ip(64, bytes, CODE, DecoderOptions::NONE);
        let encoded = Encoded {
            instruction: decoder.decode(),
            rest: Vec::new(),
            first_in_soft: bytes[0],
            bytes: bytes.clone(),
            at: 0,
            mode: Mode::Long,
        };
        let mut case = blank(&encoded);
        case.state.general = [DATA + 0x100; 16];
        let outcome = guest.run(&case);
        if (outcome.vector, outcome.state.rip) != (6, CODE) {
            let code = encoded.instruction.code();
            wrong.push(format!(
                "{code:?} {bytes:02x?}: vector {}\n",
                outcome.vector
            ));
        }
    }
    (encodings.len(), wrong)
}
