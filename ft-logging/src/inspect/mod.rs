//! Reports over a log, as values that print themselves and serialize.
//!
//! ```text
//!   Log ── reader ──▶ entries ── timed ──▶ with virtual time ── Filter ──▶ Stats, EntryLine, …
//! ```
//!
//! Everything here but [`info`], [`verify`] and [`diff`], which look at a log's headers too, works
//! on any stream of entries: to follow a log that is being written, hand it what
//! [`Reader::poll_next`](crate::store::Reader::poll_next) returns.

use serde::Serialize;

use crate::entry::{Entry, Payload};
use crate::store::Result;
use crate::types::VirtualTime;

mod diff;
mod dump;
mod filter;
mod frame;
mod info;
mod stats;
mod verify;

#[cfg(test)]
mod tests;

pub use diff::{Diff, Outcome, Side, diff, diff_entries};
pub use dump::{EntryLine, Seconds};
pub use filter::{Filter, Span};
pub use frame::summary;
pub use info::{End, Info, SegmentInfo, Setting, info};
pub use stats::{DeviceStats, DigestStats, GapStats, KindStats, Stats, VectorStats};
pub use verify::{
    Checker, Finding, MAX_CLOCK_STEP_NS, MAX_FINDINGS, Problem, Verification, verify,
};

/// An entry and the virtual time at it: that of the last `Clock` at or before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// The entry.
    pub entry: Entry,
    /// The time.
    pub time: VirtualTime,
}

/// Says of each of `entries` what time it was, given the time before the first.
pub fn timed<I>(start: VirtualTime, entries: I) -> impl Iterator<Item = Result<Timed>>
where
    I: IntoIterator<Item = Result<Entry>>,
{
    let mut time = start;
    entries.into_iter().map(move |entry| {
        let entry = entry?;
        if let Payload::Clock { now } = entry.payload {
            time = now;
        }
        Ok(Timed { entry, time })
    })
}

/// For fields that read better as text than as the bytes they are.
fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    value.to_string().serialize(serializer)
}
