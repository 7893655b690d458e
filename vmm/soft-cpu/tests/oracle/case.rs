//! A case and its outcome, and where in the address space a case lives.
//!
//! ```text
//!   CODE       2 pages  executable, full of int3; the case's bytes lie somewhere in it
//!              unmapped
//!   DATA       2 pages  readable, writable, not executable: operands and stack
//!   READ_ONLY  1 page   readable
//!              unmapped
//! ```

/// Where the code pages begin.
pub(crate) const CODE: u64 = 0x1000_0000;
/// Their length.
pub(crate) const CODE_BYTES: usize = 0x2000;
/// Where the writable pages begin.
pub(crate) const DATA: u64 = 0x2000_0000;
/// Their length.
pub(crate) const DATA_BYTES: usize = 0x2000;
/// Where the read-only page begins: right behind the writable ones.
pub(crate) const READ_ONLY: u64 = DATA + DATA_BYTES as u64;
/// Its length.
pub(crate) const READ_ONLY_BYTES: usize = 0x1000;
/// Bytes of a case's instructions at most.
pub(crate) const CODE_LEN: usize = 96;
/// The breakpoint that ends a case.
pub(crate) const INT3: u8 = 0xCC;
/// The bytes of an FXSAVE image that hold state: header, ST0 to ST7, XMM0 to XMM15.
pub(crate) const FX_USED: usize = 416;

/// What the read-only page holds.
pub(crate) static READ_ONLY_IMAGE: [u8; READ_ONLY_BYTES] = {
    let mut image = [0; READ_ONLY_BYTES];
    let mut at = 0;
    let mut value = 1u32;
    while at < image.len() {
        value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        image[at] = (value >> 24) as u8;
        at += 1;
    }
    image
};

/// Bits of RFLAGS (SDM vol. 1, 3.4.3).
pub(crate) mod flags {
    pub(crate) const FIXED: u64 = 1 << 1;
    pub(crate) const CF: u64 = 1 << 0;
    pub(crate) const PF: u64 = 1 << 2;
    pub(crate) const AF: u64 = 1 << 4;
    pub(crate) const ZF: u64 = 1 << 6;
    pub(crate) const SF: u64 = 1 << 7;
    pub(crate) const TF: u64 = 1 << 8;
    pub(crate) const IF: u64 = 1 << 9;
    pub(crate) const DF: u64 = 1 << 10;
    pub(crate) const OF: u64 = 1 << 11;
    pub(crate) const NT: u64 = 1 << 14;
    pub(crate) const RF: u64 = 1 << 16;
    pub(crate) const AC: u64 = 1 << 18;
    pub(crate) const ID: u64 = 1 << 21;
}

/// An FXSAVE image.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(16))]
pub(crate) struct Fx(pub [u8; 512]);

/// What a user program sees of the CPU.
#[derive(Clone, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct State {
    /// In the order of their encoding.
    pub(crate) general: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub(crate) selectors: [u16; 6],
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    pub(crate) fx: Fx,
}

impl Default for State {
    fn default() -> State {
        State {
            general: [0; 16],
            rip: 0,
            rflags: flags::FIXED,
            selectors: [0; 6],
            fs_base: 0,
            gs_base: 0,
            fx: Fx([0; 512]),
        }
    }
}

/// An instruction or a few, the state before it and the memory that it can reach.
#[derive(Clone)]
#[repr(C)]
pub(crate) struct Case {
    pub(crate) state: State,
    /// Where in the code pages the bytes lie.
    pub(crate) code_at: u32,
    pub(crate) code_len: u32,
    pub(crate) code: [u8; CODE_LEN],
    /// What the software CPU gets as first byte: see [`super::encode::Encoded::first_in_soft`].
    pub(crate) first_in_soft: u8,
    pub(crate) data: [u8; DATA_BYTES],
}

/// How a case ended.
#[derive(Clone)]
#[repr(C)]
pub(crate) struct Outcome {
    pub(crate) state: State,
    /// The exception that ended it: 3 where the instruction completed.
    pub(crate) vector: u32,
    pub(crate) error: u64,
    pub(crate) cr2: u64,
    pub(crate) data: [u8; DATA_BYTES],
}
