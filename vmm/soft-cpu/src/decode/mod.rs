//! From bytes to blocks of micro-operations.
//!
//! A block is a straight run of instructions within one page: up to a branch, a system instruction,
//! the end of the page, or [`BLOCK_LIMIT`]. It knows no addresses of its own (see
//! [`crate::op::START`]), so it serves every linear address and address space that maps its
//! physical page.

mod cache;
mod lower;
mod operands;
mod trace;

pub(crate) use cache::{Block, Cache, HINT, NO_BLOCK};
pub(crate) use lower::{DECODER_OPTIONS, Source, translate};
pub(crate) use operands::{Lowering, number, segment_number, size_of};
pub(crate) use trace::Way;

/// The most instructions of a block: bounds how deep handlers nest where a compiler does not turn
/// their last calls into jumps.
pub(crate) const BLOCK_LIMIT: u64 = 64;
