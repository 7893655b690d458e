//! What the clients waited, pure. Times count from the start of the load.

use std::time::Duration;

use ft_logging::protocol::Histogram;

/// Requests that are sent within this time after the kill count for the longest wait.
const AROUND: Duration = Duration::from_secs(3);

/// Counts answers.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Meter {
    requests: u64,
    writes: u64,
    before: Histogram,
    killed: Option<Duration>,
    blackout: Duration,
    last: Duration,
    silence: Option<(Duration, Duration)>,
}

impl Meter {
    /// A request that was sent at `sent` was answered at `now`.
    pub(in crate::cli) fn answered(&mut self, sent: Duration, now: Duration, write: bool) {
        let wait = now.saturating_sub(sent);
        self.requests += 1;
        self.writes += u64::from(write);
        match self.killed {
            None => self.before.record(wait.as_nanos() as u64),
            Some(killed) if sent <= killed + AROUND => {
                self.blackout = self.blackout.max(wait);
                let silence = now.saturating_sub(self.last);
                if self.silence.is_none_or(|(longest, _)| silence > longest) {
                    self.silence = Some((silence, now));
                }
            }
            Some(_) => {}
        }
        self.last = now;
    }

    /// The waits so far do not count.
    pub(in crate::cli) fn restart(&mut self) {
        self.before = Histogram::default();
    }

    /// Something is killed at `now`.
    pub(in crate::cli) fn killed(&mut self, now: Duration) {
        self.killed = Some(now);
        self.last = now;
    }

    /// Answers so far.
    pub(in crate::cli) fn requests(&self) -> u64 {
        self.requests
    }

    /// Acknowledged writes so far.
    pub(in crate::cli) fn writes(&self) -> u64 {
        self.writes
    }

    /// Answers since the last [`Meter::restart`] and before the kill.
    pub(in crate::cli) fn before(&self) -> &Histogram {
        &self.before
    }

    /// The longest wait of a request that was open at the kill or was sent soon after.
    pub(in crate::cli) fn blackout(&self) -> Option<Duration> {
        self.killed.map(|_| self.blackout)
    }

    /// When the last answer came.
    pub(in crate::cli) fn last(&self) -> Duration {
        self.last
    }

    /// When the longest time after the kill without any answer ended.
    pub(in crate::cli) fn silence_ended(&self) -> Option<Duration> {
        self.silence.map(|(_, end)| end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blackout_is_the_longest_wait_around_the_kill() {
        let ms = Duration::from_millis;
        let mut meter = Meter::default();
        meter.answered(ms(0), ms(50), true);
        assert_eq!(meter.blackout(), None);
        meter.killed(ms(100));
        // Open at the kill, answered late; sent after it; sent long after it.
        meter.answered(ms(99), ms(101), false);
        meter.answered(ms(98), ms(140), true);
        meter.answered(ms(135), ms(160), true);
        meter.answered(ms(100) + AROUND + ms(1), ms(9000), false);
        assert_eq!(meter.blackout(), Some(ms(42)));
        assert_eq!(meter.silence_ended(), Some(ms(140)));
        assert_eq!((meter.requests(), meter.writes()), (5, 3));
        assert_eq!(meter.before().count(), 1);
    }
}
