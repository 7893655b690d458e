//! MC146818A real-time clock and 128 bytes of CMOS RAM, with the PC's century
//! register at `0x32`.
//!
//! Motorola's data sheet (MC146818A, 1984) with its registers A to D. The clock
//! shows the epoch that the machine was built with plus virtual time, and what the
//! guest added by setting it.
//!
//! ```text
//!             SET, or divider reset
//!   Running ─────────────────────────► Held: registers stay as they are written
//!      ▲                                 │
//!      └─────────────────────────────────┘ goes on from the registers; after a
//!                                          divider reset the next second is due
//!                                          in 500 ms
//! ```
//!
//! Differences from the chip, all in the guest's favour: an update takes no time,
//! so UIP always reads 0; a change of the data mode (BCD or binary, 12 or 24
//! hours) converts what the registers show; the square-wave output and daylight
//! saving do not exist. The NMI mask, bit 7 of the index port, is ignored.

use serde::{Deserialize, Serialize};

use super::layout::{HIGH_RAM_START, LOW_RAM_END};
use super::time::{MAX_TIME, Oscillator, SECOND_NS, VirtualTime, earlier};
use calendar::DateTime;

mod calendar;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REGISTER_A: u8 = 0x0A;
const REGISTER_B: u8 = 0x0B;
const REGISTER_C: u8 = 0x0C;
const REGISTER_D: u8 = 0x0D;
const CENTURY: u8 = 0x32;
const CMOS_BYTES: usize = 128;

/// Register A: rate selection and divider; bit 7, UIP, is read-only and 0.
const A_WRITABLE: u8 = 0x7F;
const A_RATE: u8 = 0x0F;
const A_DIVIDER_RESET: u8 = 0x60;
/// 32.768 kHz and 1024 Hz, as a BIOS leaves it.
const A_DEFAULT: u8 = 0x26;

const B_SET: u8 = 0x80;
const B_UPDATE_IE: u8 = 0x10;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;

/// Flags of register C, where register B has the enables.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const SOURCES: u8 = PERIODIC | ALARM | UPDATE;
const C_IRQF: u8 = 0x80;

/// Register D: RAM and time are valid.
const D_VALID: u8 = 0x80;
/// The two high bits of an alarm byte make it match everything.
const ALARM_ANY: u8 = 0xC0;
/// Hours of the afternoon in 12-hour mode.
const PM: u8 = 0x80;

const CRYSTAL: Oscillator = Oscillator::new(32_768);
/// From the end of a divider reset to the first update.
const AFTER_RESET_NS: i64 = 500_000_000;
/// The epoch is taken modulo 10000 years, so that a date fits the registers.
const EPOCH_LIMIT_S: u64 = 253_402_300_800;

/// The RTC and its CMOS RAM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rtc {
    index: u8,
    a: u8,
    b: u8,
    /// The sources' flags of register C; IRQF follows from them and `b`.
    flags: u8,
    /// Alarm bytes as written: second, minute, hour.
    alarm: [u8; 3],
    now: VirtualTime,
    /// Virtual time at which the divider chain stood at 0 and from which whole
    /// seconds are counted; before 0 if the guest reset the divider early.
    origin_ns: i64,
    /// What the clock showed at `origin_ns`, in seconds since 1970.
    origin_s: i64,
    /// The time registers while updates are inhibited.
    held: Option<DateTime>,
    /// How far the guest set the day of the week off the date.
    weekday_shift: u8,
    #[serde(with = "serde_bytes")]
    ram: Vec<u8>,
}

impl Rtc {
    /// A clock that shows `epoch_s` at virtual time 0, and the PC's memory-size
    /// bytes for `ram_bytes` of RAM.
    pub(crate) fn new(epoch_s: u64, ram_bytes: u64) -> Self {
        Self {
            index: 0,
            a: A_DEFAULT,
            b: B_24_HOURS,
            flags: 0,
            alarm: [0; 3],
            now: VirtualTime(0),
            origin_ns: 0,
            origin_s: (epoch_s % EPOCH_LIMIT_S) as i64,
            held: None,
            weekday_shift: 0,
            ram: memory_sizes(ram_bytes),
        }
    }

    fn divider_is_reset(&self) -> bool {
        self.a & A_DIVIDER_RESET == A_DIVIDER_RESET
    }

    /// Nanoseconds since the divider chain's origin.
    fn chain_ns(&self, at: VirtualTime) -> u64 {
        (at.0 as i64 - self.origin_ns) as u64
    }

    /// Seconds since 1970 that the running clock shows.
    fn seconds(&self, at: VirtualTime) -> i64 {
        self.origin_s + (self.chain_ns(at) / SECOND_NS) as i64
    }

    /// Virtual time at which the chain has run for `chain_ns`.
    fn time_of_chain(&self, chain_ns: u64) -> VirtualTime {
        VirtualTime((chain_ns as i64 + self.origin_ns) as u64)
    }

    /// The periodic rate as a power of two of the crystal's cycles, if any.
    fn period_log2(&self) -> Option<u32> {
        match self.a & A_RATE {
            0 => None,
            1 => Some(7),
            2 => Some(8),
            rate => Some(u32::from(rate) - 1),
        }
    }

    /// Moves to `now`; raises the flags of everything that happened on the way.
    pub(crate) fn advance(&mut self, now: VirtualTime) {
        let old = std::mem::replace(&mut self.now, now);
        if self.divider_is_reset() {
            return;
        }
        if let Some(log2) = self.period_log2() {
            let periods = |at| CRYSTAL.ticks_at(self.chain_ns(at)) >> log2;
            if periods(old) != periods(now) {
                self.flags |= PERIODIC;
            }
        }
        let (before, after) = (self.seconds(old), self.seconds(now));
        if self.held.is_none() && before != after {
            self.flags |= UPDATE;
            if self.next_alarm(before).is_some_and(|alarm| alarm <= after) {
                self.flags |= ALARM;
            }
        }
    }

    /// The interrupt output, a level until register C is read.
    pub(crate) fn line(&self) -> bool {
        self.flags & self.b & SOURCES != 0
    }

    /// When the interrupt output will rise by the passing of time.
    pub(crate) fn next_timer(&self) -> Option<VirtualTime> {
        if self.line() || self.divider_is_reset() {
            return None;
        }
        let mut due = None;
        if self.b & PERIODIC != 0
            && let Some(log2) = self.period_log2()
        {
            let period = (CRYSTAL.ticks_at(self.chain_ns(self.now)) >> log2) + 1;
            due = earlier(
                due,
                Some(self.time_of_chain(CRYSTAL.time_of(period << log2))),
            );
        }
        if self.held.is_none() {
            let second = self.seconds(self.now);
            let mut at_second = |second: i64| {
                let chain_ns = (second - self.origin_s) as u64 * SECOND_NS;
                due = earlier(due, Some(self.time_of_chain(chain_ns)));
            };
            if self.b & UPDATE != 0 {
                at_second(second + 1);
            }
            if self.b & ALARM != 0
                && let Some(alarm) = self.next_alarm(second)
            {
                at_second(alarm);
            }
        }
        due
    }

    /// The first second after `after` at which the alarm bytes match, if they can.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        const DAY_S: i64 = 86_400;
        let any = |byte: u8| byte & ALARM_ANY == ALARM_ANY;
        let [second, minute, hour] = self.alarm;
        let second = (!any(second)).then(|| i64::from(self.decode(second)));
        let minute = (!any(minute)).then(|| i64::from(self.decode(minute)));
        let hour = (!any(hour)).then(|| i64::from(self.decode_hour(hour)));
        let differs = |field: Option<i64>, value: i64| field.is_some_and(|field| field != value);

        // Skips whole hours and minutes that cannot match: at most 24 + 60 + 60
        // steps, twice.
        let mut at = after + 1;
        while at <= after + DAY_S {
            let of_day = at.rem_euclid(DAY_S);
            if differs(hour, of_day / 3600) {
                at += 3600 - of_day % 3600;
            } else if differs(minute, of_day / 60 % 60) {
                at += 60 - of_day % 60;
            } else if differs(second, of_day % 60) {
                at += 1;
            } else {
                return Some(at);
            }
        }
        None
    }

    /// Sets the index, as a write to port `0x70` does.
    pub(crate) fn select(&mut self, index: u8) {
        self.index = index & 0x7F;
    }

    fn index_is_time(&self) -> bool {
        matches!(
            self.index,
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY
        )
    }

    /// Does reading the selected register show the time, or what it has raised?
    pub(crate) fn read_needs_clock(&self) -> bool {
        self.index == REGISTER_C || self.index_is_time() && self.held.is_none()
    }

    /// Does writing the selected register act on the clock?
    pub(crate) fn write_needs_clock(&self) -> bool {
        self.index <= REGISTER_B || self.index == CENTURY
    }

    /// Reads the selected register.
    pub(crate) fn read(&mut self) -> u8 {
        let time = self.date_time();
        match self.index {
            SECONDS => self.encode(time.second),
            MINUTES => self.encode(time.minute),
            HOURS => self.encode_hour(time.hour),
            WEEKDAY => self.encode(time.weekday),
            DAY => self.encode(time.day),
            MONTH => self.encode(time.month),
            YEAR => self.encode(time.year),
            CENTURY => self.encode(time.century),
            SECONDS_ALARM => self.alarm[0],
            MINUTES_ALARM => self.alarm[1],
            HOURS_ALARM => self.alarm[2],
            REGISTER_A => self.a,
            REGISTER_B => self.b,
            REGISTER_C => {
                let irqf = if self.line() { C_IRQF } else { 0 };
                irqf | std::mem::take(&mut self.flags)
            }
            REGISTER_D => D_VALID,
            index => self.ram[usize::from(index)],
        }
    }

    /// Writes the selected register.
    pub(crate) fn write(&mut self, value: u8) {
        match self.index {
            SECONDS_ALARM => self.alarm[0] = value,
            MINUTES_ALARM => self.alarm[1] = value,
            HOURS_ALARM => self.alarm[2] = value,
            REGISTER_A => self.write_a(value & A_WRITABLE),
            REGISTER_B => self.write_b(value),
            REGISTER_C | REGISTER_D => {}
            _ if self.index_is_time() => self.write_time(value),
            index => self.ram[usize::from(index)] = value,
        }
    }

    fn write_a(&mut self, value: u8) {
        let was_reset = self.divider_is_reset();
        self.hold();
        self.a = value;
        if was_reset && !self.divider_is_reset() {
            self.origin_ns = self.now.0 as i64 - AFTER_RESET_NS;
        }
        self.release();
    }

    fn write_b(&mut self, value: u8) {
        self.hold();
        self.b = value;
        // Setting SET takes back the update-ended interrupt (data sheet, register B).
        if value & B_SET != 0 {
            self.b &= !B_UPDATE_IE;
        }
        self.release();
    }

    fn write_time(&mut self, value: u8) {
        self.hold();
        let binary = self.decode(value);
        let hour = self.decode_hour(value);
        let field = self.held.as_mut().expect("the registers are held");
        match self.index {
            SECONDS => field.second = binary,
            MINUTES => field.minute = binary,
            HOURS => field.hour = hour,
            WEEKDAY => field.weekday = binary,
            DAY => field.day = binary,
            MONTH => field.month = binary,
            YEAR => field.year = binary,
            _ => field.century = binary,
        }
        self.release();
    }

    /// What the time registers hold now, in binary.
    fn date_time(&self) -> DateTime {
        if let Some(held) = self.held {
            return held;
        }
        let mut time = DateTime::from_seconds(self.seconds(self.now));
        time.weekday = (time.weekday - 1 + self.weekday_shift) % 7 + 1;
        time
    }

    /// Stops the registers where they are.
    fn hold(&mut self) {
        self.held = Some(self.date_time());
    }

    /// Goes on from the registers, unless SET or the divider reset forbids it.
    fn release(&mut self) {
        if self.b & B_SET != 0 || self.divider_is_reset() {
            return;
        }
        let Some(held) = self.held.take() else {
            return;
        };
        let seconds = held.to_seconds();
        let whole = (self.chain_ns(self.now) / SECOND_NS) as i64;
        self.origin_s = seconds - whole;
        let by_date = DateTime::from_seconds(seconds).weekday;
        self.weekday_shift = (held.weekday % 7 + 7 - by_date) % 7;
    }

    fn encode(&self, value: u8) -> u8 {
        if self.b & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, value: u8) -> u8 {
        if self.b & B_BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xF)
        }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        let half = if hour >= 12 { PM } else { 0 };
        self.encode(twelve) | half
    }

    fn decode_hour(&self, value: u8) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let half = if value & PM != 0 { 12 } else { 0 };
        self.decode(value & !PM) % 12 + half
    }

    /// Checks a restored value at its time (SEC-2).
    pub(crate) fn check(&self, now: VirtualTime) -> Result<(), &'static str> {
        // A guest can set the date to the year 16665 at most; leave room for time.
        const SECONDS_LIMIT: i64 = 1 << 40;
        if self.now != now {
            return Err("its time is not the machine's");
        }
        if self.ram.len() != CMOS_BYTES || self.index > 0x7F {
            return Err("its RAM is not 128 bytes long");
        }
        if self.a & !A_WRITABLE != 0 || self.flags & !SOURCES != 0 || self.weekday_shift > 6 {
            return Err("a register holds bits that it does not have");
        }
        if self.held.is_some() != (self.b & B_SET != 0 || self.divider_is_reset()) {
            return Err("the registers are held without a reason, or not in spite of one");
        }
        if !(-AFTER_RESET_NS..=now.0 as i64).contains(&self.origin_ns)
            || self.origin_s.abs() > SECONDS_LIMIT
        {
            return Err("its origin is out of range");
        }
        Ok(())
    }
}

const _: () = assert!(
    MAX_TIME.0 < i64::MAX as u64 - SECOND_NS,
    "chain_ns would overflow"
);

/// CMOS RAM as a BIOS leaves it: the sizes of memory below 640 KiB, from 1 MiB,
/// from 16 MiB and from 4 GiB on. All have a ceiling.
fn memory_sizes(ram_bytes: u64) -> Vec<u8> {
    let capped = |value: u64| (value.min(0xFFFF) as u16).to_le_bytes();
    let low = ram_bytes.min(LOW_RAM_END);
    let base_kib = capped(low.min(640 << 10) >> 10);
    let extended_kib = capped(low.saturating_sub(1 << 20) >> 10);
    let above_16m = capped(low.saturating_sub(16 << 20) >> 16);
    let above_4g = (ram_bytes - low).min(MAX_ABOVE_4G) >> 16;

    let mut ram = vec![0; CMOS_BYTES];
    ram[0x15..0x17].copy_from_slice(&base_kib);
    ram[0x17..0x19].copy_from_slice(&extended_kib);
    ram[0x30..0x32].copy_from_slice(&extended_kib);
    ram[0x34..0x36].copy_from_slice(&above_16m);
    ram[0x5B..0x5E].copy_from_slice(&above_4g.to_le_bytes()[..3]);
    ram
}

/// What three bytes of 64 KiB units can say.
const MAX_ABOVE_4G: u64 = 0xFF_FFFF << 16;
const _: () = assert!(LOW_RAM_END < HIGH_RAM_START);

#[cfg(test)]
mod tests;
