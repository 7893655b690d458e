//! One counter of the 8254 (Intel data sheet 231164-005).
//!
//! ```text
//!  control word ──► Empty ──count──► Running ◄──────┐
//!                     │               │  gate low   │ gate high
//!                     │               ▼             │
//!                     └─count──►  Armed (1, 2, 3, 5) or Paused (0, 4)
//! ```
//!
//! A count that is written at tick *w* is loaded by the next clock pulse, at tick
//! *w* + 1 (data sheet, "Operation common to all modes"). From then on value and
//! output are functions of the ticks since; nothing is decremented anywhere.
//!
//! Where the data sheet leaves a choice: until the loading pulse a read already
//! shows the new count (with NULL COUNT set); a count of 1 in modes 2 and 3, which
//! it calls illegal, keeps OUT high; before its first control word a counter is in
//! mode 3 without a count, so that OUT is high and the first programming no edge.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    /// 0: OUT rises on terminal count.
    TerminalCount,
    /// 1: one-shot, started by the gate.
    OneShot,
    /// 2: low for the last tick of each period.
    RateGenerator,
    /// 3: high for one half of each period.
    SquareWave,
    /// 4: low for one tick after the count, started by writing it.
    SoftwareStrobe,
    /// 5: the same, started by the gate.
    HardwareStrobe,
}

impl Mode {
    fn from_control(value: u8) -> Self {
        match (value >> 1) & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    fn is_periodic(self) -> bool {
        matches!(self, Self::RateGenerator | Self::SquareWave)
    }

    fn is_triggered(self) -> bool {
        matches!(self, Self::OneShot | Self::HardwareStrobe)
    }
}

/// Which bytes of the count the guest reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// No count since the control word.
    Empty,
    /// A count, but the gate has yet to rise (modes 1, 2, 3 and 5).
    Armed { count: u32 },
    /// The counting element held `count` at tick `start`.
    Running {
        start: i64,
        count: u32,
        /// OUT until tick `start`, when that still lies ahead.
        before: bool,
        /// A newer count, taken at the end of the period (2, 3) or at the next
        /// trigger (1, 5).
        then: Option<u32>,
    },
    /// The gate is low in mode 0 or 4, `elapsed` ticks after the load; -1 if the
    /// loading pulse is still to come.
    Paused { elapsed: i64, count: u32 },
}

/// The high part of a square wave's period, in ticks; the odd tick belongs to it.
fn high_ticks(count: u32) -> i64 {
    i64::from(count.div_ceil(2))
}

/// One of the three counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    mode: Mode,
    access: Access,
    bcd: bool,
    gate: bool,
    phase: Phase,
    /// Low byte of a count whose high byte is still to come.
    write_low: Option<u8>,
    /// The next read of a two-byte count returns the high byte.
    read_high: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            mode: Mode::SquareWave,
            access: Access::Both,
            bcd: false,
            gate,
            phase: Phase::Empty,
            write_low: None,
            read_high: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// One more than the largest value: counts wrap here, and 0 stands for it.
    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    /// The OUT pin at `tick`, which must not lie before the last [`Self::settle`].
    pub(super) fn out(&self, tick: i64) -> bool {
        match self.phase {
            Phase::Empty | Phase::Armed { .. } => self.mode != Mode::TerminalCount,
            Phase::Paused { elapsed, count } => self.out_after(elapsed, count),
            Phase::Running { start, before, .. } if tick < start => before,
            Phase::Running { start, count, .. } => self.out_after(tick - start, count),
        }
    }

    fn out_after(&self, elapsed: i64, count: u32) -> bool {
        let period = i64::from(count);
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => elapsed >= period,
            Mode::RateGenerator => period == 1 || elapsed % period != period - 1,
            Mode::SquareWave => elapsed % period < high_ticks(count),
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != period,
        }
    }

    /// The first tick after `after` at which OUT rises by the passing of time.
    /// `after` must not lie before the last [`Self::settle`].
    pub(super) fn next_rise(&self, after: i64) -> Option<i64> {
        let Phase::Running {
            start,
            count,
            before,
            ..
        } = self.phase
        else {
            return None;
        };
        if after < start && !before && self.out(start) {
            return Some(start);
        }
        if let Some((boundary, switched)) = self.switch(after) {
            if !self.out(boundary - 1) && switched.out(boundary) {
                return Some(boundary);
            }
            return switched.next_rise(boundary);
        }
        let period = i64::from(count);
        let rise = match self.mode {
            Mode::TerminalCount | Mode::OneShot => start + period,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => start + period + 1,
            Mode::RateGenerator | Mode::SquareWave if period == 1 => return None,
            Mode::RateGenerator | Mode::SquareWave => {
                start + ((after - start).max(0) / period + 1) * period
            }
        };
        (rise > after).then_some(rise)
    }

    /// Where a periodic mode takes the newer count, first after `after`: the tick,
    /// and the counter as it is from that tick on.
    fn switch(&self, after: i64) -> Option<(i64, Self)> {
        let Phase::Running {
            start,
            count,
            then: Some(next),
            ..
        } = self.phase
        else {
            return None;
        };
        let period = i64::from(count);
        let cycle = (after - start).max(0) / period * period + start;
        let (boundary, start) = match self.mode {
            Mode::RateGenerator => (cycle + period, cycle + period),
            // The end of the current half: the low half that follows a high one
            // is that of the new count.
            Mode::SquareWave if cycle + high_ticks(count) > after && period > 1 => {
                let boundary = cycle + high_ticks(count);
                (boundary, boundary - high_ticks(next))
            }
            Mode::SquareWave => (cycle + period, cycle + period),
            _ => return None,
        };
        let phase = Phase::Running {
            start,
            count: next,
            before: true,
            then: None,
        };
        Some((
            boundary,
            Self {
                phase,
                ..self.clone()
            },
        ))
    }

    /// Moves from tick `old` to tick `new`: takes a newer count if a period ended.
    /// Everything else follows from the tick by itself.
    pub(super) fn settle(&mut self, old: i64, new: i64) {
        if let Some((boundary, switched)) = self.switch(old)
            && boundary <= new
        {
            *self = switched;
        }
        if let Phase::Paused { elapsed, .. } = &mut self.phase
            && old < new
        {
            *elapsed = (*elapsed).max(0);
        }
    }

    /// The control word for this counter, or its latch command.
    pub(super) fn control(&mut self, value: u8, tick: i64) {
        let access = match (value >> 4) & 3 {
            0 => return self.latch_count(tick),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        *self = Self {
            mode: Mode::from_control(value),
            access,
            bcd: value & 1 != 0,
            ..Self::new(self.gate)
        };
    }

    /// A latched count stays until it is read; a second latch before is ignored.
    pub(super) fn latch_count(&mut self, tick: i64) {
        if self.latched_count.is_none() {
            self.latched_count = Some(self.count_register(tick));
        }
    }

    /// Latches the status byte (data sheet, figure 11).
    pub(super) fn latch_status(&mut self, tick: i64) {
        if self.latched_status.is_some() {
            return;
        }
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        self.latched_status = Some(
            u8::from(self.out(tick)) << 7
                | u8::from(self.null_count(tick)) << 6
                | access << 4
                | (self.mode as u8) << 1
                | u8::from(self.bcd),
        );
    }

    /// Has a count been written that the counting element has not taken yet?
    fn null_count(&self, tick: i64) -> bool {
        match self.phase {
            Phase::Empty | Phase::Armed { .. } => true,
            Phase::Running { start, then, .. } => tick < start || then.is_some(),
            Phase::Paused { elapsed, .. } => elapsed < 0,
        }
    }

    /// The counting element as the guest reads it.
    fn count_register(&self, tick: i64) -> u16 {
        let value = match self.phase {
            Phase::Empty => 0,
            Phase::Armed { count } => i64::from(count),
            Phase::Paused { elapsed, count } => self.count_after(elapsed.max(0), count),
            Phase::Running { start, count, .. } => self.count_after((tick - start).max(0), count),
        };
        let value = value.rem_euclid(i64::from(self.modulus())) as u16;
        if !self.bcd {
            return value;
        }
        let digit = |weight: u16| value / weight % 10;
        (digit(1000) << 12) | (digit(100) << 8) | (digit(10) << 4) | digit(1)
    }

    fn count_after(&self, elapsed: i64, count: u32) -> i64 {
        let period = i64::from(count);
        match self.mode {
            Mode::RateGenerator => period - elapsed % period,
            // Counts by two, in each half from the top: from the count if that is
            // even, else from one less.
            Mode::SquareWave => {
                let (high, at) = (high_ticks(count), elapsed % period);
                let in_half = if at < high { at } else { at - high };
                (period & !1) - 2 * in_half
            }
            _ => period - elapsed,
        }
    }

    /// Is the next read answered from a latch?
    pub(super) fn is_latched(&self) -> bool {
        self.latched_count.is_some() || self.latched_status.is_some()
    }

    /// Reads the status if latched, else the count, latched or running.
    pub(super) fn read(&mut self, tick: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = self
            .latched_count
            .unwrap_or_else(|| self.count_register(tick));
        let [low, high] = count.to_le_bytes();
        let (value, done) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Both => {
                self.read_high = !self.read_high;
                if self.read_high {
                    (low, false)
                } else {
                    (high, true)
                }
            }
        };
        if done {
            self.latched_count = None;
        }
        value
    }

    /// Does the next byte written complete a count or, in mode 0, stop counting?
    pub(super) fn write_takes_effect(&self) -> bool {
        self.access != Access::Both || self.write_low.is_some() || self.mode == Mode::TerminalCount
    }

    /// Writes a byte of the count.
    pub(super) fn write(&mut self, value: u8, tick: i64) {
        let count = match (self.access, self.write_low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Access::Both, None) => {
                self.write_low = Some(value);
                if self.mode == Mode::TerminalCount {
                    self.phase = Phase::Empty;
                }
                return;
            }
        };
        let count = if self.bcd {
            (0..4).rev().fold(0, |sum, digit| {
                sum * 10 + u32::from(count >> (digit * 4) & 0xF)
            })
        } else {
            u32::from(count)
        };
        self.load(if count == 0 { self.modulus() } else { count }, tick);
    }

    fn load(&mut self, count: u32, tick: i64) {
        let before = self.mode != Mode::TerminalCount;
        let fresh = Phase::Running {
            start: tick + 1,
            count,
            before,
            then: None,
        };
        let by_software = matches!(self.mode, Mode::TerminalCount | Mode::SoftwareStrobe);
        self.phase = match self.phase {
            _ if by_software && self.gate => fresh,
            _ if by_software => Phase::Paused { elapsed: -1, count },
            // The loading pulse is still to come: it takes the newest count.
            Phase::Running { start, before, .. } if tick < start => Phase::Running {
                start,
                count,
                before,
                then: None,
            },
            Phase::Running {
                start,
                count: current,
                before,
                ..
            } => Phase::Running {
                start,
                count: current,
                before,
                then: Some(count),
            },
            _ if self.mode.is_periodic() && self.gate => fresh,
            _ => Phase::Armed { count },
        };
    }

    /// The GATE pin (data sheet, figure 21).
    pub(super) fn set_gate(&mut self, gate: bool, tick: i64) {
        if gate == self.gate {
            return;
        }
        let out = self.out(tick);
        self.gate = gate;
        self.phase = match (self.phase, gate) {
            (Phase::Paused { elapsed, count }, true) => Phase::Running {
                start: tick - elapsed,
                count,
                before: out,
                then: None,
            },
            (Phase::Armed { count }, true) => Phase::Running {
                start: tick + 1,
                count,
                before: out,
                then: None,
            },
            (Phase::Running { count, then, .. }, true) if self.mode.is_triggered() => {
                let count = then.unwrap_or(count);
                Phase::Running {
                    start: tick + 1,
                    count,
                    before: out,
                    then: None,
                }
            }
            (Phase::Running { count, then, .. }, false) if self.mode.is_periodic() => {
                Phase::Armed {
                    count: then.unwrap_or(count),
                }
            }
            (Phase::Running { start, count, .. }, false) if !self.mode.is_triggered() => {
                Phase::Paused {
                    elapsed: tick - start,
                    count,
                }
            }
            (phase, _) => phase,
        };
    }

    /// Checks a restored value (SEC-2): phases that the mode cannot reach, counts
    /// that do not fit and loads from the future.
    pub(super) fn check(&self, tick: i64, gate: bool) -> Result<(), &'static str> {
        // The digits of a BCD count go up to 15, not 9, if the guest says so.
        let fits = |count: u32| (1..=0x1_0000).contains(&count);
        let ok = self.gate == gate
            && match self.phase {
                Phase::Empty => true,
                Phase::Armed { count } => {
                    fits(count)
                        && (self.mode.is_triggered() || self.mode.is_periodic() && !self.gate)
                }
                Phase::Paused { elapsed, count } => {
                    fits(count)
                        && !self.gate
                        && (-1..=tick).contains(&elapsed)
                        && matches!(self.mode, Mode::TerminalCount | Mode::SoftwareStrobe)
                }
                Phase::Running {
                    start, count, then, ..
                } => {
                    fits(count)
                        && then.is_none_or(fits)
                        && (-0x1_0000..=tick + 1).contains(&start)
                        && (self.gate || self.mode.is_triggered())
                        && (then.is_none() || self.mode.is_periodic() || self.mode.is_triggered())
                }
            };
        if ok {
            Ok(())
        } else {
            Err("a counter is in a state that it cannot reach")
        }
    }
}
