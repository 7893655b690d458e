//! How the past generations of a life ended, for ever (TAS-2).
//!
//! A primary that loses backup after backup wins one generation after the other,
//! so runs of generations with the same end are kept as one: what is stored grows
//! with the number of failovers, not of generations, and nothing is forgotten.
//!
//! ```text
//!   generation   1    2    3    4    5      (6 is the current one)
//!   won by       A    A    A    B    A
//!   kept as      [until 3: A]  [until 4: B]  [until 5: A]
//! ```

use serde::{Deserialize, Serialize};

use super::MAX_TURNS;
use crate::types::{Generation, Incarnation};

/// How a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Closing {
    /// Its winner opened the next one.
    Won(Incarnation),
    /// A person gave the VM to this incarnation.
    Recovered(Incarnation),
}

/// A run of generations that ended alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Run {
    until: Generation,
    closing: Closing,
}

/// All past generations of a life: runs in ascending order, without a gap from
/// generation 1 on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct History(Vec<Run>);

impl History {
    /// Notes how the current generation ended. Answers false, and notes nothing,
    /// when the history is full.
    #[must_use]
    pub(super) fn close(&mut self, generation: Generation, closing: Closing) -> bool {
        let expected = self
            .0
            .last()
            .map_or(Generation::FIRST, |run| run.until.next());
        assert_eq!(generation, expected, "generations end one after the other");
        let turns = self.0.len();
        match self.0.last_mut() {
            Some(run) if run.closing == closing => run.until = generation,
            _ if turns < MAX_TURNS => self.0.push(Run {
                until: generation,
                closing,
            }),
            _ => return false,
        }
        true
    }

    /// How this generation ended; nothing if it has not ended or never was.
    pub(super) fn closing(&self, generation: Generation) -> Option<Closing> {
        if generation < Generation::FIRST {
            return None;
        }
        let run = self.0.partition_point(|run| run.until < generation);
        Some(self.0.get(run)?.closing)
    }

    /// How the generation before the current one ended.
    pub(super) fn last(&self) -> Option<Closing> {
        Some(self.0.last()?.closing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_kept_as_one_and_every_generation_is_found() {
        let [a, b] = [1, 2].map(|n| Closing::Won(Incarnation([n; 16])));
        let ends = [a, a, a, b, a];
        let mut history = History::default();
        for (g, end) in (1..).zip(ends) {
            assert!(history.close(Generation(g), end));
        }
        assert_eq!(history.0.len(), 3);
        for (g, end) in (1..).zip(ends) {
            assert_eq!(history.closing(Generation(g)), Some(end));
        }
        assert_eq!(history.closing(Generation(0)), None);
        assert_eq!(history.closing(Generation(6)), None);
        assert_eq!(history.last(), Some(a));
    }

    #[test]
    fn a_full_history_takes_the_same_end_but_no_other() {
        let end = |n: u64| Closing::Won(Incarnation(u128::from(n % 2).to_be_bytes()));
        let mut history = History::default();
        for g in 1..=MAX_TURNS as u64 {
            assert!(history.close(Generation(g), end(g)));
        }
        let next = MAX_TURNS as u64 + 1;
        assert!(!history.close(Generation(next), end(next)));
        assert!(history.close(Generation(next), end(next - 1)));
    }
}
