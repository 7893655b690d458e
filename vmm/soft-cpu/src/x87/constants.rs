//! The constants of FLD1 to FLDZ, which obey rounding control (SDM vol. 1, 8.3.8).

use super::env::Rounding;
use super::format::{BIAS, F80, J};

/// Sign, exponent and the 64 bits below which the constant goes on, and whether these round up.
const TABLE: [(i32, u64, bool); 5] = [
    // log2(10)
    (1, 0xd49a_784b_cd1b_8afe, false),
    // log2(e)
    (0, 0xb8aa_3b29_5c17_f0bb, true),
    // pi
    (1, 0xc90f_daa2_2168_c234, true),
    // log10(2)
    (-2, 0x9a20_9a84_fbcf_f798, true),
    // ln(2)
    (-1, 0xb172_17f7_d1cf_79ab, true),
];

/// The constant that D9 E8+`i` loads.
pub(crate) fn constant(i: u8, rounding: Rounding) -> F80 {
    let (exp, sig, nearest_up) = match i {
        0 => return F80::ONE,
        6 => return F80::ZERO,
        _ => TABLE[usize::from(i) - 1],
    };
    let up = match rounding {
        Rounding::Nearest => nearest_up,
        Rounding::Up => true,
        Rounding::Down | Rounding::Zero => false,
    };
    debug_assert!(sig & J != 0);
    F80 {
        se: (exp + BIAS) as u16,
        sig: sig + u64::from(up),
    }
}
