//! Time since boot, and waiting for it.
//!
//! ```text
//!                 ACPI PM timer   3.58 MHz, 24 bits: wraps in 4.7 s
//!   time   =    + RTC             whole seconds: how often it wrapped while asleep
//!   wake-up =     8254 channel 0  one shot of at most 54.9 ms, only while there
//!                                 is something to wait for
//! ```
//!
//! Each access to a device is an exit of the virtual machine, and a clock read
//! an entry in its log. So [`Clock::now`] reads at most once a wake-up, and
//! what can live with a time that is up to one shot old uses
//! [`Clock::last_known`]. A shot under way is let be as long as it does not end
//! too late; one that ends early is followed by another.

use crate::{
    nucleus::{self, Before, Events, in32},
    pit, rtc,
};

/// Microseconds since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub u64);

impl Micros {
    const SECOND: u64 = 1_000_000;

    fn from_ticks(ticks: u64, per_second: u64) -> Self {
        let (seconds, rest) = (ticks / per_second, ticks % per_second);
        Micros(seconds * Self::SECOND + rest * Self::SECOND / per_second)
    }
}

/// Where time is read.
enum Source {
    Pm(PmTimer),
    /// Without a PM timer, interrupts at a fixed rate are counted.
    Ticks(u64),
}

struct PmTimer {
    last: u32,
    /// Ticks since boot.
    total: u64,
    /// RTC at boot.
    rtc_at_boot: u64,
}

/// The end of the shot under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shot {
    Ends(Micros),
    /// There is none. The next wait is for as long as it takes.
    None,
}

/// The machine's clock.
pub struct Clock {
    source: Source,
    shot: Shot,
    known: Micros,
    /// `known` was read since the last wake-up.
    fresh: bool,
    /// The PM timer may have wrapped since it was read.
    slept: bool,
    unix_seconds_at_boot: u64,
}

impl PmTimer {
    const PORT: u16 = 0x608;
    const BITS: u32 = 24;
    const MASK: u32 = (1 << Self::BITS) - 1;
    const PER_SECOND: u64 = 3_579_545;

    fn find(rtc_at_boot: u64) -> Option<Self> {
        let last = in32(Self::PORT);
        // The upper bits of a 24-bit timer read as zero; of nothing, as ones.
        (last <= Self::MASK).then_some(PmTimer {
            last,
            total: 0,
            rtc_at_boot,
        })
    }

    fn read(&mut self, may_have_wrapped: bool) -> Micros {
        let now = in32(Self::PORT);
        self.total += u64::from(now.wrapping_sub(self.last) & Self::MASK);
        self.last = now;
        if may_have_wrapped {
            let by_rtc = rtc::unix_seconds().saturating_sub(self.rtc_at_boot) * Self::PER_SECOND;
            // The RTC is right to a second, a wrap is 4.7: round to the nearest.
            let behind = by_rtc.saturating_sub(self.total) + (1 << (Self::BITS - 1));
            self.total += behind >> Self::BITS << Self::BITS;
        }
        Micros::from_ticks(self.total, Self::PER_SECOND)
    }
}

impl Clock {
    /// Where no PM timer is, time moves by this much.
    const TICK_MICROS: u64 = 4_000;

    /// Starts the clock at zero.
    pub fn start() -> Self {
        let unix_seconds_at_boot = rtc::unix_seconds();
        let source = match PmTimer::find(unix_seconds_at_boot) {
            Some(timer) => {
                pit::one_shot_mode();
                Source::Pm(timer)
            }
            None => {
                let ticks = Self::TICK_MICROS * pit::TICKS_PER_SECOND / Micros::SECOND;
                pit::periodic(ticks as u32);
                Source::Ticks(0)
            }
        };
        Clock {
            source,
            shot: Shot::None,
            known: Micros::default(),
            fresh: true,
            slept: false,
            unix_seconds_at_boot,
        }
    }

    /// The time, exactly. Reads a device if this wake-up has not yet.
    pub fn now(&mut self) -> Micros {
        if !self.fresh {
            let time = match &mut self.source {
                Source::Pm(timer) => timer.read(self.slept),
                Source::Ticks(ticks) => Micros(*ticks * Self::TICK_MICROS),
            };
            self.known = self.known.max(time);
            self.fresh = true;
            self.slept = false;
        }
        self.known
    }

    /// A time that is at most one shot old, without reading a device.
    pub fn last_known(&mut self) -> Micros {
        if self.slept { self.now() } else { self.known }
    }

    /// The time that [`now`](Self::now) gives, since the beginning of 1970.
    pub fn unix_micros(&mut self) -> u64 {
        self.unix_seconds_at_boot * Micros::SECOND + self.now().0
    }

    /// A time of [`unix_micros`](Self::unix_micros), counted from boot.
    pub fn from_unix_micros(&self, unix_micros: u64) -> Micros {
        Micros(unix_micros.saturating_sub(self.unix_seconds_at_boot * Micros::SECOND))
    }

    /// Waits for an interrupt, or for a time not long before `deadline`, having
    /// told the devices `before`.
    pub fn wait(&mut self, deadline: Option<Micros>, mut before: Before) -> Events {
        if let (Source::Pm(_), Some(deadline)) = (&self.source, deadline)
            && !matches!(self.shot, Shot::Ends(end) if end <= deadline)
        {
            let left = deadline.0.saturating_sub(self.now().0);
            let ticks = (left * pit::TICKS_PER_SECOND).div_ceil(Micros::SECOND);
            before.pit_ticks = ticks.clamp(1, u64::from(pit::MAX_TICKS)) as u32;
            let end = u64::from(before.pit_ticks) * Micros::SECOND / pit::TICKS_PER_SECOND;
            self.shot = Shot::Ends(Micros(self.known.0 + end));
        }
        let unbounded = self.shot == Shot::None;
        let events = nucleus::wait(before);
        self.fresh = false;
        if events.has(pit::LINE) {
            self.shot = Shot::None;
            if let Source::Ticks(ticks) = &mut self.source {
                *ticks += 1;
            }
            self.now();
        }
        self.slept |= unbounded && matches!(self.source, Source::Pm(_));
        events
    }
}
