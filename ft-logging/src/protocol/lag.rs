//! How far replay is behind (LOG-5), and how much of the log it has still to do (LOG-4).

use std::collections::VecDeque;

use super::{Histogram, Now};
use crate::types::EntryIndex;

/// The lags of the last one to two of these are kept, in nanoseconds: long enough for a person who
/// asks, short enough to be about now.
const WINDOW_NS: u64 = 5_000_000_000;

/// How much of its time the vCPU stands, in percent (LOG-5).
///
/// From half the largest lag on it stands the more the further behind replay is, so that it comes to
/// run as fast as its replay; at the largest lag it stands. Stopping it there and letting it run at
/// half of it instead would make clients wait for as long as that takes, again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Brake(u8);

impl Brake {
    /// It runs freely.
    pub const OFF: Brake = Brake(0);
    /// It stands.
    pub const FULL: Brake = Brake(100);

    /// The brake of a primary whose replay is `lag_ns` behind, with `max_lag_ns` allowed.
    #[must_use]
    pub fn of_lag(lag_ns: u64, max_lag_ns: u64) -> Self {
        let free = max_lag_ns / 2;
        let share = u128::from(lag_ns.saturating_sub(free)) * 100;
        let percent = share / u128::from((max_lag_ns - free).max(1));
        Brake(percent.min(100) as u8)
    }

    /// The brake as a number that [`Brake::percent`] gave; more than 100 is 100.
    #[must_use]
    pub fn from_percent(percent: u8) -> Self {
        Brake(percent.min(100))
    }

    /// 0 runs freely, 100 stands.
    #[must_use]
    pub fn percent(self) -> u8 {
        self.0
    }
}

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
    /// The window that began at `turned`, and the one before it.
    recent: [Histogram; 2],
    turned: Now,
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
        if self.fresh(now) < 2 {
            let [last, _] = std::mem::take(&mut self.recent);
            if self.fresh(now) > 0 {
                self.recent[1] = last;
            }
            self.turned = now;
        }
        while let Some(sent) = self.unreplayed.pop_front_if(|sent| sent.last <= through) {
            self.bytes -= sent.bytes;
            self.recent[0].record(now.since(sent.at));
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

    /// The lags of late.
    pub(super) fn recent(&self, now: Now) -> Histogram {
        let mut all = Histogram::default();
        for window in &self.recent[..self.fresh(now)] {
            all += window;
        }
        all
    }

    /// How many windows are about now.
    fn fresh(&self, now: Now) -> usize {
        2_u64.saturating_sub(now.since(self.turned) / WINDOW_NS) as usize
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
        assert_eq!(lag.recent(Now(50)).max_ns(), 21);
    }

    #[test]
    fn log_5_the_brake_is_off_up_to_half_the_bound_and_full_at_it() {
        const MAX_NS: u64 = 100_000_000;
        let percent = |lag_ns| Brake::of_lag(lag_ns, MAX_NS).percent();
        let milliseconds = [0, 50, 51, 75, 99, 100, 1_000_000];
        let percents = milliseconds.map(|ms| percent(ms * 1_000_000));
        assert_eq!(percents, [0, 0, 2, 50, 98, 100, 100]);
        assert_eq!(Brake::of_lag(u64::MAX, MAX_NS), Brake::FULL);
        assert_eq!(Brake::of_lag(1, 0), Brake::FULL);
    }

    #[test]
    fn what_happened_long_ago_is_forgotten() {
        let mut lag = Lag::default();
        let mut at = |seconds: u64, lag_ns: u64| {
            let sent = Now(seconds * 1_000_000_000);
            lag.sent(sent, EntryIndex(seconds), 1);
            let now = Now(sent.0 + lag_ns);
            lag.replayed(now, EntryIndex(seconds));
            let recent = lag.recent(now);
            (recent.count(), recent.max_ns())
        };
        assert_eq!(at(1, 900), (1, 900));
        assert_eq!(at(4, 30), (2, 900));
        assert_eq!(at(7, 20), (3, 900), "the window before counts");
        assert_eq!(at(13, 10), (2, 20), "and the one before that does not");
        assert_eq!(at(30, 5), (1, 5), "nor one long before");
        assert_eq!(lag.recent(Now(36_000_000_000)).count(), 1);
        assert_eq!(lag.recent(Now(40_000_000_006)).count(), 0);
    }
}
