//! The differential tester: random cases of every claimed instruction form run on the CPU of this
//! machine and on the software CPU, and every register, flag, byte of memory and fault compared.
//!
//! ```text
//!   forms ──► encode ──► fill ──► Case ──┬──► native (a child process) ──┐
//!   (what)    (bytes)    (state)         └──► guest (soft, in long mode)─┴──► compare ──► tester
//!                                                                           (undefined)
//! ```
//!
//! A test, `tests/real_cpu.rs`, runs a fixed sample; the program `examples/differential.rs` runs as
//! many cases as it is told. Beside it, [`lockstep`] runs whole programs on both.

#![allow(
    dead_code,
    reason = "the test and each of the two programs use a part of it"
)]

pub(crate) mod case;
pub(crate) mod compare;
pub(crate) mod encode;
pub(crate) mod fill;
pub(crate) mod floating;
pub(crate) mod forms;
pub(crate) mod guest;
pub(crate) mod kernel;
pub(crate) mod lockstep;
pub(crate) mod native;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod sequence;
pub(crate) mod tester;
pub(crate) mod unclaimed;
pub(crate) mod undefined;
