//! x87 and SSE state before an instruction.

use super::case::*;
use super::random::Random;

/// MXCSR: mostly all exceptions masked; any rounding; flags, DAZ and FZ now and then.
fn random_mxcsr(random: &mut Random) -> u32 {
    let masks = if random.one_in(6) {
        random.next() as u32 & 0x1F80
    } else {
        0x1F80
    };
    let flags = if random.one_in(2) {
        random.next() as u32 & 0x3F
    } else {
        0
    };
    let flush = if random.one_in(4) {
        random.next() as u32 & 0x8040
    } else {
        0
    };
    masks | flags | flush | (random.below(4) as u32) << 13
}

/// A word for LDMXCSR: rarely with a reserved bit. Bit 17 is AMD's misaligned SSE mode (APM vol. 1,
/// 4.2.2), which some hosts have.
pub(crate) fn random_mxcsr_word(random: &mut Random) -> u32 {
    let reserved = if random.one_in(8) {
        random.pick(&[16, 18, 24, 31])
    } else {
        32
    };
    random_mxcsr(random) | 1u32.checked_shl(reserved).unwrap_or(0)
}

/// Control, status and (full) tag word. The status word agrees with the masks.
pub(crate) fn random_x87_words(random: &mut Random) -> [u16; 3] {
    let masks = if random.one_in(6) {
        random.next() as u16 & 0x3F
    } else {
        0x3F
    };
    let precision = random.pick(&[0, 2, 3, 3, 3]);
    let control = 0x40 | masks | precision << 8 | (random.below(4) as u16) << 10;
    let mut status = random.next() as u16 & 0x7F00;
    if random.one_in(2) {
        status |= random.next() as u16 & 0x7F;
    }
    if status & !masks & 0x3F != 0 {
        if random.one_in(2) {
            status &= masks | 0x7F40;
        } else {
            status |= 0x8080;
        }
    }
    let tags = if random.one_in(3) {
        random.next() as u16
    } else {
        0
    };
    [control, status, tags]
}

/// x87 and SSE state.
pub(crate) fn random_fx(random: &mut Random) -> Fx {
    let mut fx = Fx([0; 512]);
    let [control, status, tags] = random_x87_words(random);
    fx.0[..2].copy_from_slice(&control.to_le_bytes());
    fx.0[2..4].copy_from_slice(&status.to_le_bytes());
    fx.0[4] = if tags == 0 { 0xFF } else { random.next() as u8 };
    fx.0[24..28].copy_from_slice(&random_mxcsr(random).to_le_bytes());
    for register in fx.0[32..160].chunks_exact_mut(16) {
        register[..10].copy_from_slice(&random.extended());
    }
    for register in fx.0[160..FX_USED].chunks_exact_mut(16) {
        register.copy_from_slice(&random.vector());
    }
    if random.one_in(4) {
        let copy: [u8; 16] = fx.0[160..176].try_into().unwrap();
        fx.0[176 + 16 * random.below(15) as usize..][..16].copy_from_slice(&copy);
    }
    fx
}
