//! The 8254 interval timer, and the part of port `0x61` that belongs to it.
//!
//! Three [`Counter`]s on one oscillator of 1.193182 MHz. Channel 0 drives IRQ 0,
//! channel 1 once refreshed DRAM and does nothing here, channel 2 is gated by
//! bit 0 of port `0x61` and its output is read at bit 5 (the speaker hears
//! nobody). Bit 4 of port `0x61` toggles with each refresh request, every 18
//! ticks of the oscillator.
//!
//! Nothing here runs by itself: a counter is a function of the tick at which it
//! was loaded and the tick now, so one long step of time ends in the same state
//! as many short ones, and periodic modes stay in phase for ever.

use serde::{Deserialize, Serialize};

use super::layout::PORT_PIT;
use super::time::{Oscillator, VirtualTime};
use counter::Counter;

mod counter;

/// The input clock of all three counters: 14.31818 MHz / 12.
const CLOCK: Oscillator = Oscillator::new(1_193_182);
/// Ticks from one refresh request to the next: channel 1 as a PC programs it.
const REFRESH_TICKS: i64 = 18;

const SYSTEM_B_GATE2: u8 = 0x01;
/// Bits of port `0x61` that read back as written: gate, speaker, and the enables
/// of parity and channel checks.
const SYSTEM_B_WRITABLE: u8 = 0x0F;
const SYSTEM_B_REFRESH: u8 = 0x10;
const SYSTEM_B_OUT2: u8 = 0x20;

/// The 8254.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pit {
    counters: [Counter; 3],
    /// The oscillator's tick now.
    tick: i64,
    system_b: u8,
}

impl Pit {
    /// Channel 0 as a PC's firmware leaves it, a square wave of 18.2 Hz: there are programs that
    /// wait for it to count before they have started it. Linux does, for random numbers where the
    /// CPU has no better source.
    pub(crate) fn new() -> Self {
        const SQUARE_WAVE: u8 = 0x36;
        let mut pit = Self {
            counters: [Counter::new(true), Counter::new(true), Counter::new(false)],
            tick: 0,
            system_b: 0,
        };
        pit.write_control(SQUARE_WAVE);
        for _byte_of_65536 in 0..2 {
            pit.write(PORT_PIT, 0);
        }
        pit
    }

    /// Moves to `now`. Returns whether OUT of channel 0 rose at least once on the
    /// way; several periods in one step are one edge, as they would be to a
    /// request latch that nobody emptied.
    pub(crate) fn advance(&mut self, now: VirtualTime) -> bool {
        let tick = CLOCK.ticks_at(now.0);
        let rose = self.counters[0]
            .next_rise(self.tick)
            .is_some_and(|rise| rise <= tick);
        for counter in &mut self.counters {
            counter.settle(self.tick, tick);
        }
        self.tick = tick;
        rose
    }

    /// OUT of channel 0.
    pub(crate) fn line(&self) -> bool {
        self.counters[0].out(self.tick)
    }

    /// When OUT of channel 0 rises next.
    pub(crate) fn next_timer(&self) -> Option<VirtualTime> {
        let rise = self.counters[0].next_rise(self.tick)?;
        Some(VirtualTime(CLOCK.time_of(rise)))
    }

    /// Reads a counter; the control port answers nothing.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        match self.counters.get_mut(usize::from(port - PORT_PIT)) {
            Some(counter) => counter.read(self.tick),
            None => 0xFF,
        }
    }

    /// Does reading this port show the time? Latched values do not.
    pub(crate) fn read_needs_clock(&self, port: u16) -> bool {
        self.counters
            .get(usize::from(port - PORT_PIT))
            .is_some_and(|c| !c.is_latched())
    }

    /// Does writing this port start, stop or latch a counter?
    pub(crate) fn write_needs_clock(&self, port: u16) -> bool {
        self.counters
            .get(usize::from(port - PORT_PIT))
            .is_none_or(Counter::write_takes_effect)
    }

    /// Writes a counter or the control word.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        match self.counters.get_mut(usize::from(port - PORT_PIT)) {
            Some(counter) => counter.write(value, self.tick),
            None => self.write_control(value),
        }
    }

    fn write_control(&mut self, value: u8) {
        let tick = self.tick;
        if value >> 6 < 3 {
            self.counters[usize::from(value >> 6)].control(value, tick);
            return;
        }
        // Read-back command (data sheet, figure 10): latch bits are active low.
        for (channel, counter) in self.counters.iter_mut().enumerate() {
            if value & (0x02 << channel) != 0 {
                if value & 0x20 == 0 {
                    counter.latch_count(tick);
                }
                if value & 0x10 == 0 {
                    counter.latch_status(tick);
                }
            }
        }
    }

    /// Reads port `0x61`.
    pub(crate) fn read_system_b(&self) -> u8 {
        let mut value = self.system_b;
        if (self.tick / REFRESH_TICKS) & 1 != 0 {
            value |= SYSTEM_B_REFRESH;
        }
        if self.counters[2].out(self.tick) {
            value |= SYSTEM_B_OUT2;
        }
        value
    }

    /// Does writing `value` to port `0x61` move the gate of channel 2?
    pub(crate) fn system_b_needs_clock(&self, value: u8) -> bool {
        (value ^ self.system_b) & SYSTEM_B_GATE2 != 0
    }

    /// Writes port `0x61`.
    pub(crate) fn write_system_b(&mut self, value: u8) {
        self.system_b = value & SYSTEM_B_WRITABLE;
        self.counters[2].set_gate(value & SYSTEM_B_GATE2 != 0, self.tick);
    }

    /// Checks a restored value at its time (SEC-2).
    pub(crate) fn check(&self, now: VirtualTime) -> Result<(), &'static str> {
        if self.tick != CLOCK.ticks_at(now.0) {
            return Err("its tick is not that of the machine's time");
        }
        if self.system_b & !SYSTEM_B_WRITABLE != 0 {
            return Err("port 0x61 holds bits that cannot be written");
        }
        let gate2 = self.system_b & SYSTEM_B_GATE2 != 0;
        for (counter, gate) in self.counters.iter().zip([true, true, gate2]) {
            counter.check(self.tick, gate)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
