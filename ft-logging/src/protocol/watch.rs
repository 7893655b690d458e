//! Whether the peer is silent, and whether we ourselves were away.
//!
//! An observer that stalls must not take its own stall for the peer's (FAIL-1): silence is counted
//! in punctual ticks only. And a node that was away for longer than the detection time has to
//! expect that it was given up (FAIL-9).

use super::{Now, Timing};

/// Watches one peer.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    timing: Timing,
    last_event: Now,
    last_tick: Now,
    silent_ns: u64,
}

impl Watch {
    pub(super) fn new(now: Now, timing: Timing) -> Self {
        Watch {
            timing,
            last_event: now,
            last_tick: now,
            silent_ns: 0,
        }
    }

    /// Notes that an event is being handled; true if this node was away for longer than the
    /// detection time before it.
    #[must_use]
    pub(super) fn was_away(&mut self, now: Now) -> bool {
        let away = now.since(self.last_event) > self.timing.detect_ns;
        self.last_event = self.last_event.max(now);
        away
    }

    /// Notes that the peer was heard.
    pub(super) fn heard(&mut self) {
        self.silent_ns = 0;
    }

    /// Counts a tick; true once the peer has been silent for the detection time.
    #[must_use]
    pub(super) fn tick(&mut self, now: Now) -> bool {
        let gap = now.since(self.last_tick);
        self.last_tick = now;
        // A late tick counts as one and a bit: what happened in between was not observed.
        self.silent_ns += gap.min(2 * self.timing.tick_ns);
        self.silent_ns >= self.timing.detect_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn fail_1_a_silent_peer_is_suspected_after_the_detection_time() {
        let timing = Timing::new(500, 100);
        let mut watch = Watch::new(Now(0), timing);
        let first = (1..).find(|i| watch.tick(Now(i * timing.tick_ns)));
        assert_eq!(first, Some(10));
    }

    #[test]
    fn fail_1_the_observers_own_stall_is_not_the_peers() {
        let timing = Timing::new(500, 100);
        let mut watch = Watch::new(Now(0), timing);
        assert!(!watch.tick(Now(50 * MS)));
        assert!(
            !watch.tick(Now(10_000 * MS)),
            "ten seconds away count as two ticks"
        );
    }

    #[test]
    fn fail_9_a_pause_of_ones_own_is_noticed_at_the_first_event() {
        let mut watch = Watch::new(Now(0), Timing::new(500, 100));
        assert!(!watch.was_away(Now(500 * MS)));
        assert!(watch.was_away(Now(1001 * MS)));
        assert!(!watch.was_away(Now(1002 * MS)));
    }
}
