//! The x87 FPU, and the registers that it shares with MMX.
//!
//! ```text
//!   handlers ──► exec ──► arith, convert, compare, remainder, transcendental ──► wide
//!   (core, memory)  (the stack)      (F80 in, F80 out, no state but Env)      (128 bits)
//! ```
//!
//! Everything below `handlers` is pure and equal on every host. The arithmetic is this crate's own:
//! of the soft-float libraries that the registry has, none tells which way a result was rounded
//! (C1), finds denormal operands (#D), wraps exponents for unmasked overflow and underflow, or knows
//! precision control, and these are what x87 is. What the tests hold it against is the
//! processor itself: the whole FNSAVE image after every opcode, on random states, masked and not.
//!
//! Where the SDM leaves a choice, or two vendors differ, the CPU does what AMD's family 19h does:
//! #D of FLD comes with the number loaded; comparisons set their conditions even when an
//! exception is not masked; FCOMI and FCMOV leave C1 alone, FFREE clears it.

mod arith;
mod compare;
mod constants;
mod convert;
mod env;
mod exec;
mod format;
mod handlers;
mod image;
mod remainder;
mod state;
#[cfg(test)]
mod tests;
mod transcendental;
#[cfg(test)]
mod transcendental_tests;
mod wide;

pub(crate) use arith::Arith;
pub(crate) use env::{Env, INEXACT};
pub(crate) use format::{F80, Operand, from_f32, from_f64};
pub(crate) use handlers::select;
pub(crate) use state::Fpu;
