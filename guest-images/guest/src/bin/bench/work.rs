//! What bench computes: several kinds of work over a few MiB of memory, each
//! fed by the checksum so far, so that nothing can be left out.

use crate::sha256::Sha256;
use alloc::{vec, vec::Vec};

/// 2 MiB of numbers to sort and to hash.
const NUMBERS: usize = 256 << 10;
/// 4 MiB of slots, half of which get filled.
const TABLE: usize = 512 << 10;
/// Primes below this are counted.
const SIEVE: usize = 4 << 20;
/// How often all of it is done in a round, unless the command line says otherwise.
const PASSES: u64 = 12;

/// The parts of a pass that can be left out, a bit each.
const LOOK_UP: u64 = 1;
const SORT: u64 = 2;
const SIEVING: u64 = 4;
const HASH: u64 = 8;
const ALL: u64 = LOOK_UP | SORT | SIEVING | HASH;

/// The state that goes from round to round.
pub(crate) struct Work {
    parts: u64,
    passes: u64,
    checksum: u64,
    numbers: Vec<u64>,
    table: Vec<u64>,
    sieve: Vec<bool>,
}

impl Work {
    /// `parts` and `passes` as the command line gives them.
    pub(crate) fn new(parts: Option<u64>, passes: Option<u64>) -> Self {
        Work {
            parts: parts.unwrap_or(ALL),
            passes: passes.unwrap_or(PASSES),
            checksum: 0x9E37_79B9_7F4A_7C15,
            numbers: vec![0; NUMBERS],
            table: vec![0; TABLE],
            sieve: vec![false; SIEVE],
        }
    }

    /// One round: the checksum after it.
    pub(crate) fn round(&mut self) -> u64 {
        for _ in 0..self.passes {
            self.fill();
            let found = if self.does(LOOK_UP) {
                self.look_up()
            } else {
                0
            };
            if self.does(SORT) {
                self.numbers.sort_unstable();
            }
            let primes = if self.does(SIEVING) {
                self.count_primes()
            } else {
                0
            };
            // Of what is not hashed, the number in the middle stands for all.
            let hash = if self.does(HASH) {
                self.hash()
            } else {
                self.numbers[NUMBERS / 2]
            };
            self.checksum = hash ^ found.rotate_left(32) ^ primes;
        }
        self.checksum
    }

    fn does(&self, part: u64) -> bool {
        self.parts & part != 0
    }

    /// Numbers from the checksum, by xorshift64.
    fn fill(&mut self) {
        let mut state = self.checksum | 1;
        for number in &mut self.numbers {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *number = state;
        }
    }

    /// Puts all numbers into a table by open addressing; the steps that this took.
    fn look_up(&mut self) -> u64 {
        self.table.fill(0);
        let mut steps = 0;
        for &number in &self.numbers {
            let mut slot = number as usize % TABLE;
            while self.table[slot] != 0 && self.table[slot] != number {
                slot = (slot + 1) % TABLE;
                steps += 1;
            }
            self.table[slot] = number;
        }
        steps
    }

    /// Eratosthenes' sieve.
    fn count_primes(&mut self) -> u64 {
        self.sieve.fill(true);
        let mut primes = 0;
        for number in 2..SIEVE {
            if self.sieve[number] {
                primes += 1;
                for multiple in (number * number..SIEVE).step_by(number) {
                    self.sieve[multiple] = false;
                }
            }
        }
        primes
    }

    /// SHA-256 over the numbers.
    fn hash(&self) -> u64 {
        let mut sha256 = Sha256::new();
        for block in self.numbers.chunks_exact(8) {
            let mut words = [0; 16];
            for (pair, number) in words.chunks_exact_mut(2).zip(block) {
                pair[0] = (number >> 32) as u32;
                pair[1] = *number as u32;
            }
            sha256.block(&words);
        }
        sha256.prefix()
    }
}
