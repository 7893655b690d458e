//! How far replay is behind (LOG-5), and how much of the log it has still to do (LOG-4).

use std::collections::VecDeque;

use super::{Histogram, Now};
use crate::types::EntryIndex;

#[derive(Clone, Debug)]
struct Sent {
    last: EntryIndex,
    at: Now,
    bytes: usize,
}

/// Measures the lag by what was sent and what was reported as replayed.
#[derive(Clone, Debug, Default)]
pub(super) struct Lag {
    unreplayed: VecDeque<Sent>,
    bytes: usize,
    histogram: Histogram,
}

impl Lag {
    /// Entries up to `last` came into being.
    pub(super) fn sent(&mut self, now: Now, last: EntryIndex, bytes: usize) {
        self.unreplayed.push_back(Sent {
            last,
            at: now,
            bytes,
        });
        self.bytes += bytes;
    }

    /// The backup has replayed up to `through`.
    pub(super) fn replayed(&mut self, now: Now, through: EntryIndex) {
        while let Some(sent) = self.unreplayed.pop_front_if(|sent| sent.last <= through) {
            self.bytes -= sent.bytes;
            self.histogram.record(now.since(sent.at));
        }
    }

    /// How long the oldest entry that is not yet replayed has been waiting, in nanoseconds.
    pub(super) fn current_ns(&self, now: Now) -> u64 {
        self.unreplayed
            .front()
            .map_or(0, |oldest| now.since(oldest.at))
    }

    /// The size of what is not yet replayed.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The lags so far.
    pub(super) fn histogram(&self) -> &Histogram {
        &self.histogram
    }

    /// Forgets what is outstanding: there is no backup any more.
    pub(super) fn clear(&mut self) {
        self.unreplayed.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_5_the_lag_is_the_age_of_the_oldest_entry_not_replayed() {
        let mut lag = Lag::default();
        lag.sent(Now(10), EntryIndex(1), 100);
        lag.sent(Now(20), EntryIndex(5), 50);
        assert_eq!((lag.current_ns(Now(30)), lag.bytes()), (20, 150));
        lag.replayed(Now(31), EntryIndex(4));
        assert_eq!(
            (lag.current_ns(Now(35)), lag.bytes()),
            (15, 50),
            "entry 5 is still open"
        );
        lag.replayed(Now(40), EntryIndex(5));
        assert_eq!((lag.current_ns(Now(50)), lag.bytes()), (0, 0));
        assert_eq!(lag.histogram().max_ns(), 21);
    }
}
