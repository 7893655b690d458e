//! The time stamp counter: a function of the position, so that a guest's clock reads need no log
//! entries (DET-1).

/// How many ticks an instruction takes. With a counter of 1 GHz that is a CPU of 1000 million
/// instructions per second: about what hot loops reach here, so between two settings the counter
/// seldom runs ahead of the time that it will be set to.
pub const TICKS_PER_INSTRUCTION: u64 = 1;

/// Ticks per second, as CPUID leaf 0x15 says: a tick is a nanosecond.
pub const TSC_HZ: u64 = 1_000_000_000;

/// The time stamp counter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Time {
    base: u64,
    since: u64,
    /// What the guest has added: IA32_TSC_ADJUST.
    pub(crate) adjust: u64,
}

impl Time {
    /// The counter before the guest's adjustment.
    pub(crate) fn ticks(self, position: u64) -> u64 {
        let since = position.wrapping_sub(self.since);
        self.base.wrapping_add(since * TICKS_PER_INSTRUCTION)
    }

    /// What RDTSC says.
    pub(crate) fn counter(self, position: u64) -> u64 {
        self.ticks(position).wrapping_add(self.adjust)
    }

    /// Sets the counter, forwards only: a time that is already past changes nothing.
    pub(crate) fn advance_to(&mut self, ticks: u64, position: u64) {
        self.base = self.ticks(position).max(ticks);
        self.since = position;
    }

    /// Sets the counter.
    pub(crate) fn restore(&mut self, ticks: u64, adjust: u64, position: u64) {
        *self = Time {
            base: ticks,
            since: position,
            adjust,
        };
    }

    /// WRMSR to IA32_TIME_STAMP_COUNTER changes the adjustment (SDM vol. 3, 18.17.3).
    pub(crate) fn write_counter(&mut self, value: u64, position: u64) {
        self.adjust = value.wrapping_sub(self.ticks(position));
    }
}
