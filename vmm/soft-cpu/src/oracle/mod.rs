//! The processor that runs the tests as an oracle for this crate: instruction by instruction, equal
//! states must become equal states. Compiled for tests only.

mod native;
mod random;
mod software;

pub(crate) use native::{Machine, Native};
pub(crate) use random::Random;
pub(crate) use software::{OPERAND, Software};
