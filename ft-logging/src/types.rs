//! The numbers that everything here counts in, each a type of its own.
//!
//! None of them ever decreases, and none is ever reused within a life.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one that follows.
            ///
            /// # Panics
            ///
            /// If the counter is at its end, which takes centuries.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a 64-bit counter ran out"))
            }

            /// How far `self` is past `earlier`; zero if it is not past it.
            #[must_use]
            pub fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// The number of an entry in the log of one life. The first entry has number 1, so that 0
    /// means "none yet" in an acknowledgement (LOG-1).
    EntryIndex
}
counter! {
    /// How far a machine has run: exact, and comparable between hosts. What it counts depends on
    /// the CPU backend: guest accesses and HLTs on `kvm`.
    Position
}
counter! {
    /// The number of an output of one life, over all devices. The first output has number 1
    /// (OUT-5).
    OutputSeq
}
counter! {
    /// The members of a VM at one time; each change of members is the next generation.
    Generation
}
counter! {
    /// Guest time in nanoseconds since the machine was started. It moves only by `Clock` entries.
    VirtualTime
}

impl VirtualTime {
    /// The time `ns` nanoseconds later.
    #[must_use]
    pub fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

random_id! {
    /// A VM from creation to deletion: a reused name is another life.
    Life
}
random_id! {
    /// Drawn by a node together with its machine state and never stored: who claims, asks as an
    /// incarnation, not as a host.
    Incarnation
}

/// The fencing number on everything that a node says: later generations outrank earlier ones, and
/// within a generation the winner outranks the pair it came from (FAIL-6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Token {
    /// The generation that the speaker belongs to.
    pub generation: Generation,
    /// Whether the speaker has won it.
    pub won: bool,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.generation, if self.won { "w" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fail_6_tokens_order_by_generation_then_by_who_won() {
        let token = |generation, won| Token {
            generation: Generation(generation),
            won,
        };
        let ascending = [
            token(1, false),
            token(1, true),
            token(2, false),
            token(2, true),
        ];
        assert!(ascending.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn counters_never_wrap() {
        assert_eq!(Position(3).since(Position(5)), 0);
        assert!(std::panic::catch_unwind(|| EntryIndex(u64::MAX).next()).is_err());
    }
}
