//! Traces: blocks that follow each other where the guest spends its time, as one block.
//!
//! A block that is under way again and again when somebody looks is hot. From there the way that
//! execution takes is recorded once, over direct branches and within one page, and what was on it is
//! translated anew in that order. A conditional branch leaves the trace where it goes another way than
//! it went then. A way that leads back to its beginning is repeated, as often as it fits.
//!
//! A trace is a block like any other, with more than one branch. Which traces there are makes no
//! difference to what the guest computes, nor to what a report says of it.

use super::lower::{Lowered, Source};
use super::{BLOCK_LIMIT, Block};
use crate::core::CodeSize;
use crate::memory::ram::PAGE;

/// A block on the way.
#[derive(Clone, Copy)]
pub(crate) struct Leg {
    /// Where it begins: in bytes from the trace's first.
    at: i64,
    instructions: u64,
    /// The way goes on where the branch at its end leads to.
    branches: bool,
}

/// The way that execution took from a hot block on.
#[derive(Default)]
pub(crate) struct Way {
    legs: Vec<Leg>,
    instructions: u64,
}

impl Way {
    /// Adds a block, which began `at` bytes from the first one's beginning, if there is room.
    pub(crate) fn add(&mut self, at: i64, block: &Block, branches: bool) -> bool {
        let fits = self.instructions + block.instructions() <= BLOCK_LIMIT;
        if fits {
            self.instructions += block.instructions();
            self.legs.push(Leg {
                at,
                instructions: block.instructions(),
                branches,
            });
        }
        fits
    }

    /// The way led back to where it began.
    pub(crate) fn repeat(&mut self) {
        let round = self.legs.clone();
        let room = BLOCK_LIMIT - self.instructions;
        for _ in 0..room / self.instructions {
            self.legs.extend(&round);
        }
    }

    /// The trace, in 64-bit code of a page of which these are the bytes, from an offset on. `None` if
    /// it would be no better than its first block.
    pub(crate) fn translate(self, page: &[u8; PAGE as usize], start: u64) -> Option<(Block, Legs)> {
        if self.legs.len() < 2 {
            return None;
        }
        let mut lowered = Lowered::default();
        let mut bytes = 0;
        let mut numbers = Vec::with_capacity(self.legs.len());
        let mut instructions = 0;
        for (i, leg) in self.legs.iter().enumerate() {
            let source = Source {
                bytes: &page[start.wrapping_add_signed(leg.at) as usize..],
                size: CodeSize::Long,
            };
            let goes_on = i + 1 < self.legs.len();
            bytes = lowered.add(source, leg.at, leg.instructions, goes_on && leg.branches);
            numbers.push((leg.at, instructions));
            instructions += leg.instructions;
        }
        Some((lowered.block(bytes), numbers.into()))
    }
}

/// Where the legs of a trace begin: in bytes from the first, and behind how many instructions.
pub(crate) type Legs = Box<[(i64, u64)]>;
