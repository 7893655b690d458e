//! What can keep an instruction from completing.

/// The vectors of the exceptions (SDM vol. 3, table 7-1).
pub(crate) mod vector {
    pub(crate) const DE: u8 = 0;
    pub(crate) const DB: u8 = 1;
    pub(crate) const BP: u8 = 3;
    pub(crate) const OF: u8 = 4;
    pub(crate) const BR: u8 = 5;
    pub(crate) const UD: u8 = 6;
    pub(crate) const NM: u8 = 7;
    pub(crate) const DF: u8 = 8;
    pub(crate) const TS: u8 = 10;
    pub(crate) const NP: u8 = 11;
    pub(crate) const SS: u8 = 12;
    pub(crate) const GP: u8 = 13;
    pub(crate) const PF: u8 = 14;
    pub(crate) const MF: u8 = 16;
    pub(crate) const AC: u8 = 17;
    pub(crate) const XM: u8 = 19;
}

/// Why an instruction did not complete. Nothing of it has happened, except where the architecture
/// says otherwise (a REP string instruction keeps the iterations that it has done).
///
/// Small on purpose: `Result<u64, Fault>` travels in two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An exception without an error code.
    Plain(u8),
    /// An exception with an error code.
    Coded(u8, u16),
    /// A page fault with its error code. The address waits in [`crate::core::Core::fault_address`].
    Page(u8),
    /// The address is not canonical: #SS(0) for an access through the stack, else #GP(0).
    NonCanonical,
    /// The instruction waits for an answer from a device; see [`crate::devices`].
    Device,
}

impl Fault {
    pub(crate) const DIVIDE: Fault = Fault::Plain(vector::DE);
    /// An encoding or a use of it that this CPU does not have.
    pub(crate) const UNDEFINED: Fault = Fault::Plain(vector::UD);
    /// The x87, MMX and SSE registers are not at hand (CR0.TS or CR0.EM).
    pub(crate) const NO_FPU: Fault = Fault::Plain(vector::NM);
    /// An unmasked x87 exception is pending.
    pub(crate) const X87: Fault = Fault::Plain(vector::MF);
    /// An unmasked SSE exception.
    pub(crate) const SIMD: Fault = Fault::Plain(vector::XM);
    /// #GP(0), the most frequent answer to a wrong operand.
    pub(crate) const PROTECTION: Fault = Fault::Coded(vector::GP, 0);
    /// #AC(0).
    pub(crate) const ALIGNMENT: Fault = Fault::Coded(vector::AC, 0);
    /// #SS(0).
    pub(crate) const STACK: Fault = Fault::Coded(vector::SS, 0);

    /// #GP for a selector, without its RPL (SDM vol. 3, 7.13).
    pub(crate) fn protection(selector: u16) -> Fault {
        Fault::Coded(vector::GP, selector & !3)
    }
}
