//! Which entries are wanted, and where to look for them.

use super::{Timed, timed};
use crate::entry::Kind;
use crate::store::{Reader, Result, Target};
use crate::types::{EntryIndex, Position, VirtualTime};

/// A range with both ends included; an end that is not given is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span<T> {
    /// The first one wanted.
    pub from: Option<T>,
    /// The last one wanted.
    pub to: Option<T>,
}

impl<T> Default for Span<T> {
    fn default() -> Self {
        Span {
            from: None,
            to: None,
        }
    }
}

impl<T: PartialOrd + Copy> Span<T> {
    fn contains(&self, value: T) -> bool {
        self.from.is_none_or(|from| value >= from) && !self.is_before(value)
    }

    /// Whether `value`, and everything after it, is past the range.
    fn is_before(&self, value: T) -> bool {
        self.to.is_some_and(|to| value > to)
    }
}

/// Which entries are wanted: those that pass every part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of these kinds; of any, if empty.
    pub kinds: Vec<Kind>,
    /// With these numbers.
    pub indexes: Span<EntryIndex>,
    /// At these positions.
    pub positions: Span<Position>,
    /// At these virtual times.
    pub times: Span<VirtualTime>,
}

impl Filter {
    /// Whether an entry is wanted.
    #[must_use]
    pub fn admits(&self, timed: &Timed) -> bool {
        let Timed { entry, time } = timed;
        (self.kinds.is_empty() || self.kinds.contains(&entry.payload.kind()))
            && self.indexes.contains(entry.index)
            && self.positions.contains(entry.position)
            && self.times.contains(*time)
    }

    /// Whether no entry from this one on is wanted: all that the ranges are over only grow.
    #[must_use]
    pub fn is_over(&self, timed: &Timed) -> bool {
        let Timed { entry, time } = timed;
        self.indexes.is_before(entry.index)
            || self.positions.is_before(entry.position)
            || self.times.is_before(*time)
    }

    /// The wanted ones of `entries`. Reads no further than it must.
    pub fn apply<'a, I>(&'a self, entries: I) -> impl Iterator<Item = Result<Timed>> + 'a
    where
        I: IntoIterator<Item = Result<Timed>>,
        I::IntoIter: 'a,
    {
        entries
            .into_iter()
            .take_while(|timed| !matches!(timed, Ok(timed) if self.is_over(timed)))
            .filter(|timed| !matches!(timed, Ok(timed) if !self.admits(timed)))
    }

    /// The wanted entries of a log, found by seeking.
    ///
    /// # Errors
    ///
    /// If the log cannot be read up to the first of them.
    pub fn read<'a>(
        &'a self,
        reader: &'a mut Reader,
    ) -> Result<impl Iterator<Item = Result<Timed>> + 'a> {
        let targets = [
            self.indexes.from.map(Target::Index),
            self.positions.from.map(Target::Position),
            self.times.from.map(Target::Time),
        ];
        // One is as good as another: what it leaves is left to `apply`.
        if let Some(target) = targets.into_iter().flatten().next() {
            reader.seek(target)?;
        }
        Ok(self.apply(timed(reader.place().time, reader)))
    }
}
