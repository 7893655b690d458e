//! Virtual time of a live machine, from the host's monotonic clock.

use std::time::{Duration, Instant};

use ft_logging::types::VirtualTime;

/// The longest step of one `Clock` entry: the PM timer wraps after 4.7 s, and a guest that sees it
/// jump by more than half of that loses count.
pub(super) const MAX_STEP_NS: u64 = 1_000_000_000;

/// A gap between two looks at the clock that is longer than this was a pause of the host and does
/// not count.
const MAX_GAP: Duration = Duration::from_millis(500);

/// Counts the time during which the machine could run.
#[derive(Debug)]
pub(super) struct VirtualClock {
    /// What the guest was told last.
    told: VirtualTime,
    /// What has passed.
    now: VirtualTime,
    seen: Instant,
}

impl VirtualClock {
    pub(super) fn from(told: VirtualTime) -> Self {
        VirtualClock {
            told,
            now: told,
            seen: Instant::now(),
        }
    }

    /// Looks at the host's clock.
    pub(super) fn look(&mut self) -> VirtualTime {
        let seen = Instant::now();
        self.advance(seen - self.seen);
        self.seen = seen;
        self.now
    }

    fn advance(&mut self, gap: Duration) {
        self.now = self.now.plus_ns(gap.min(MAX_GAP).as_nanos() as u64);
    }

    /// The time for the next `Clock` entry: at most one step on, `None` if no time has passed.
    pub(super) fn step(&mut self) -> Option<VirtualTime> {
        let step = self.untold_ns().min(MAX_STEP_NS);
        (step > 0).then(|| {
            self.told = self.told.plus_ns(step);
            self.told
        })
    }

    /// How much time has passed since what the guest was told last.
    pub(super) fn untold_ns(&self) -> u64 {
        self.now.since(self.told)
    }

    /// Whether more than one step has piled up.
    pub(super) fn is_behind(&self) -> bool {
        self.untold_ns() >= MAX_STEP_NS
    }

    /// How long until virtual time `due`, or until a full step has piled up.
    pub(super) fn until(&self, due: Option<VirtualTime>) -> Duration {
        let step_end = self.told.plus_ns(MAX_STEP_NS);
        Duration::from_nanos(
            due.map_or(step_end, |due| due.min(step_end))
                .since(self.now),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_at_most_a_second_and_nothing_is_lost() {
        let mut clock = VirtualClock::from(VirtualTime(5));
        assert_eq!(clock.step(), None);
        (0..5).for_each(|_| clock.advance(Duration::from_millis(500)));
        assert!(clock.is_behind());
        let steps: Vec<u64> = std::iter::from_fn(|| clock.step())
            .map(|time| time.0)
            .collect();
        assert_eq!(steps, [1_000_000_005, 2_000_000_005, 2_500_000_005]);
    }

    #[test]
    fn a_pause_of_the_host_does_not_count() {
        let mut clock = VirtualClock::from(VirtualTime(0));
        clock.advance(Duration::from_secs(3600));
        assert_eq!(clock.step(), Some(VirtualTime(500_000_000)));
    }

    #[test]
    fn it_waits_for_the_earlier_of_timer_and_step() {
        let clock = VirtualClock::from(VirtualTime(1000));
        assert_eq!(
            clock.until(Some(VirtualTime(4000))),
            Duration::from_nanos(3000)
        );
        assert_eq!(clock.until(Some(VirtualTime(500))), Duration::ZERO);
        assert_eq!(clock.until(None), Duration::from_secs(1));
    }
}
