//! Virtual time, and exact conversion between it and the ticks of an oscillator.
//!
//! Every clocked device counts the ticks of a free-running oscillator that
//! started at virtual time 0. Tick `k` falls on the first nanosecond at which
//! `k / hz` seconds have passed, so conversions never drift and
//! `ticks_at(time_of(k)) == k` holds for every tick.

pub use ft_logging::types::VirtualTime;

/// The latest time that a machine reaches: 146 years. The bound keeps every
/// tick and every nanosecond of the devices' arithmetic within an `i64`.
pub const MAX_TIME: VirtualTime = VirtualTime(1 << 62);

/// Nanoseconds in a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// A frequency in whole hertz, below [`SECOND_NS`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Oscillator {
    hz: u64,
}

impl Oscillator {
    pub(crate) const fn new(hz: u64) -> Self {
        assert!(hz > 0 && hz < SECOND_NS);
        Self { hz }
    }

    /// How many ticks have fallen in `[1, ns]`; tick 0 is time 0 itself.
    pub(crate) fn ticks_at(self, ns: u64) -> i64 {
        let whole = ns / SECOND_NS * self.hz;
        let part = ns % SECOND_NS * self.hz / SECOND_NS;
        (whole + part) as i64
    }

    /// The nanosecond of tick `tick`, which must not be negative.
    pub(crate) fn time_of(self, tick: i64) -> u64 {
        let tick = tick as u64;
        tick / self.hz * SECOND_NS + (tick % self.hz * SECOND_NS).div_ceil(self.hz)
    }
}

/// The earlier of two times at which something is due, if anything is.
pub(crate) fn earlier(a: Option<VirtualTime>, b: Option<VirtualTime>) -> Option<VirtualTime> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tick_falls_on_the_first_nanosecond_that_completes_it() {
        let pit = Oscillator::new(1_193_182);
        assert_eq!(pit.time_of(0), 0);
        assert_eq!(pit.time_of(1), 839); // 838.095… ns
        assert_eq!(pit.ticks_at(838), 0);
        assert_eq!(pit.ticks_at(839), 1);
        assert_eq!(pit.time_of(1_193_182), SECOND_NS);
    }

    proptest! {
        #[test]
        fn conversions_agree_and_do_not_drift(ns in 0..MAX_TIME.0, hz in 1..10_000_000u64) {
            let clock = Oscillator::new(hz);
            let tick = clock.ticks_at(ns);
            prop_assert_eq!(tick as u128, ns as u128 * hz as u128 / SECOND_NS as u128);
            prop_assert!(clock.time_of(tick) <= ns);
            prop_assert!(clock.time_of(tick + 1) > ns);
            prop_assert_eq!(clock.ticks_at(clock.time_of(tick)), tick);
        }
    }
}
