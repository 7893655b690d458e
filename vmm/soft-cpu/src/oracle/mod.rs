//! The processor that runs the tests as an oracle for this crate: instruction by instruction, equal
//! states must become equal states. Compiled for tests only.

mod native;
mod random;
mod software;

pub(crate) use native::{Machine, Native};
pub(crate) use random::Random;
pub(crate) use software::{OPERAND, Software};

/// Whether the processor decides as this CPU does where the SDM leaves x87 and FXSAVE a choice: AMD's
/// do (see [`crate::x87`]). If not, says that a test is skipped.
pub(crate) fn decides_alike() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    // The second words of "AuthenticAMD" and "HygonGenuine".
    let alike = [*b"enti", *b"nGen"]
        .map(u32::from_le_bytes)
        .contains(&vendor.edx);
    if !alike {
        eprintln!("SKIPPED: the comparison wants a processor of AMD's");
    }
    alike
}
