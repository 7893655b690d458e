//! The 8254 against its data sheet: wave forms as printed there, and a counter that
//! really counts, clock pulse by clock pulse, as a second opinion.

use proptest::prelude::*;

use super::*;
use crate::devices::time::{MAX_TIME, SECOND_NS};

const CONTROL: u16 = 0x43;

fn at_tick(pit: &mut Pit, tick: i64) -> bool {
    pit.advance(VirtualTime(CLOCK.time_of(tick)))
}

/// Writes a control word for both bytes of `channel` and then a count.
fn program(pit: &mut Pit, channel: u8, mode: u8, count: u16) {
    pit.write(CONTROL, channel << 6 | 0x30 | mode << 1);
    load(pit, channel, count);
}

fn load(pit: &mut Pit, channel: u8, count: u16) {
    for byte in count.to_le_bytes() {
        pit.write(0x40 + u16::from(channel), byte);
    }
}

fn read_count(pit: &mut Pit, channel: u8) -> u16 {
    pit.write(CONTROL, channel << 6);
    let port = 0x40 + u16::from(channel);
    u16::from_le_bytes([pit.read(port), pit.read(port)])
}

fn status(pit: &mut Pit, channel: u8) -> u8 {
    pit.write(CONTROL, 0xE0 | 2 << channel);
    pit.read(0x40 + u16::from(channel))
}

fn out2(pit: &Pit) -> bool {
    pit.read_system_b() & SYSTEM_B_OUT2 != 0
}

/// OUT of channel 2 at each of the next `ticks` ticks, as the data sheet draws it.
fn wave(pit: &mut Pit, ticks: i64) -> String {
    let from = pit.tick;
    (from..from + ticks)
        .map(|tick| {
            at_tick(pit, tick);
            if out2(pit) { '-' } else { '_' }
        })
        .collect()
}

/// Figures 15 to 20 of the data sheet, from the tick of the write or trigger on;
/// the count is loaded one tick later.
#[test]
fn wave_forms() {
    for (mode, count, expected) in [
        (0, 4, "_____-------"),
        (2, 3, "---_--_--_--_"),
        (2, 2, "--_-_-_-_"),
        (3, 4, "---__--__--__"),
        (3, 5, "----__---__---__"),
        (3, 3, "---_--_--_"),
        (3, 2, "--_-_-_"),
        (4, 3, "----_------"),
        (6, 3, "---_--_--_"), // modes 6 and 7 are 2 and 3
        (7, 4, "---__--__"),
        (2, 1, "--------"), // illegal: OUT stays high
        (3, 1, "--------"),
    ] {
        let mut pit = Pit::new();
        pit.write_system_b(SYSTEM_B_GATE2);
        at_tick(&mut pit, 1000);
        program(&mut pit, 2, mode, count);
        assert_eq!(
            wave(&mut pit, expected.len() as i64),
            expected,
            "mode {mode} count {count}"
        );
    }
    for (mode, count, expected) in [(1, 3, "-___------"), (5, 3, "----_-----")] {
        let mut pit = Pit::new();
        program(&mut pit, 2, mode, count);
        assert_eq!(
            wave(&mut pit, 10),
            "----------",
            "mode {mode} waits for the gate"
        );
        pit.write_system_b(SYSTEM_B_GATE2);
        assert_eq!(
            wave(&mut pit, expected.len() as i64),
            expected,
            "mode {mode}"
        );
    }
}

#[test]
fn gate_pauses_retriggers_or_restarts() {
    // Mode 0: counting is disabled while the gate is low.
    let mut pit = Pit::new();
    pit.write_system_b(SYSTEM_B_GATE2);
    program(&mut pit, 2, 0, 4);
    at_tick(&mut pit, 3);
    assert_eq!(read_count(&mut pit, 2), 2);
    pit.write_system_b(0);
    at_tick(&mut pit, 50);
    assert_eq!(read_count(&mut pit, 2), 2);
    pit.write_system_b(SYSTEM_B_GATE2);
    assert_eq!(wave(&mut pit, 4), "__--");

    // Mode 1: a new trigger makes the pulse longer, a falling gate does nothing.
    let mut pit = Pit::new();
    program(&mut pit, 2, 1, 4);
    pit.write_system_b(SYSTEM_B_GATE2);
    assert_eq!(wave(&mut pit, 4), "-___");
    pit.write_system_b(0);
    pit.write_system_b(SYSTEM_B_GATE2);
    assert_eq!(wave(&mut pit, 7), "_____--");

    // Modes 2 and 3: a low gate raises OUT at once, its rise starts a new period.
    for (mode, before, after) in [(2, "----_", "----_---_"), (3, "---__", "---__--__")] {
        let mut pit = Pit::new();
        pit.write_system_b(SYSTEM_B_GATE2);
        program(&mut pit, 2, mode, 4);
        assert_eq!(wave(&mut pit, 5), before);
        pit.write_system_b(0);
        assert_eq!(wave(&mut pit, 9), "---------");
        pit.write_system_b(SYSTEM_B_GATE2);
        assert_eq!(wave(&mut pit, 9), after, "mode {mode}");
    }
}

#[test]
fn a_new_count_takes_effect_when_the_mode_says_so() {
    for (mode, expected) in [
        (0, "_______----"),     // at once
        (2, "--_-----_-----_"), // after the current period
        (3, "-___---___--"),    // after the current half
        (4, "-------_---"),     // at once
    ] {
        let mut pit = Pit::new();
        pit.write_system_b(SYSTEM_B_GATE2);
        program(&mut pit, 2, mode, 4);
        at_tick(&mut pit, 2);
        load(&mut pit, 2, 6);
        assert_eq!(
            wave(&mut pit, expected.len() as i64),
            expected,
            "mode {mode}"
        );
    }
    // Mode 3's low half is that of the new count: 4 high, then 3 and 3.
    let mut pit = Pit::new();
    pit.write_system_b(SYSTEM_B_GATE2);
    program(&mut pit, 2, 3, 8);
    at_tick(&mut pit, 2);
    load(&mut pit, 2, 6);
    assert_eq!(wave(&mut pit, 13), "---___---___-");
    // Mode 1: at the next trigger.
    let mut pit = Pit::new();
    program(&mut pit, 2, 1, 2);
    pit.write_system_b(SYSTEM_B_GATE2);
    at_tick(&mut pit, 1);
    load(&mut pit, 2, 4);
    assert_eq!(wave(&mut pit, 4), "__--");
    pit.write_system_b(0);
    pit.write_system_b(SYSTEM_B_GATE2);
    assert_eq!(wave(&mut pit, 7), "-____--");
}

#[test]
fn counts_are_written_and_read_by_bytes() {
    for (access, written, loaded) in [
        (1, vec![0x34], 0x0034),
        (2, vec![0x12], 0x1200),
        (3, vec![0x34, 0x12], 0x1234),
    ] {
        let mut pit = Pit::new();
        pit.write(CONTROL, access << 4 | 0x04);
        for byte in written {
            pit.write(0x40, byte);
        }
        at_tick(&mut pit, 1);
        let [low, high] = (loaded as u16).to_le_bytes();
        let expected = match access {
            1 => [low, low],
            2 => [high, high],
            _ => [low, high],
        };
        for latched in [false, true] {
            if latched {
                pit.write(CONTROL, 0x00);
            }
            assert_eq!(
                [pit.read(0x40), pit.read(0x40)],
                expected,
                "access {access}"
            );
        }
    }
}

#[test]
fn the_low_byte_stops_mode_0() {
    let mut pit = Pit::new();
    pit.write_system_b(SYSTEM_B_GATE2);
    program(&mut pit, 2, 0, 2);
    assert_eq!(wave(&mut pit, 5), "___--");
    pit.write(0x42, 3);
    assert_eq!(wave(&mut pit, 5), "_____");
    pit.write(0x42, 0);
    assert_eq!(wave(&mut pit, 6), "____--");
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000);
    at_tick(&mut pit, 11);
    pit.write(CONTROL, 0x00);
    assert!(!pit.read_needs_clock(0x40));
    at_tick(&mut pit, 21);
    pit.write(CONTROL, 0x00); // ignored
    assert_eq!(u16::from_le_bytes([pit.read(0x40), pit.read(0x40)]), 990);
    assert!(pit.read_needs_clock(0x40));
    assert_eq!(read_count(&mut pit, 0), 980);
    pit.write(CONTROL, 0x00);
    pit.write(CONTROL, 0x34); // programming it anew drops the latch
    assert!(pit.read_needs_clock(0x40));
}

#[test]
fn read_back_latches_status_and_counts_of_many() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 100);
    program(&mut pit, 1, 3, 18);
    at_tick(&mut pit, 11);
    pit.write(CONTROL, 0xC0 | 0x02 | 0x04); // both, of 0 and 1
    at_tick(&mut pit, 14);
    // Status first, then the count.
    assert_eq!(pit.read(0x40), 0b1011_0100);
    assert_eq!([pit.read(0x40), pit.read(0x40)], [90, 0]);
    assert_eq!(pit.read(0x41), 0b0011_0110);
    assert_eq!([pit.read(0x41), pit.read(0x41)], [16, 0]);
    pit.write(CONTROL, 0xC0 | 0x20 | 0x10 | 0x0E); // nothing
    assert!(pit.read_needs_clock(0x40));
}

/// Linux's early boot waits for this: NULL COUNT is clear, and the count moves.
#[test]
fn channel_0_counts_when_the_guest_begins() {
    let mut pit = Pit::new();
    at_tick(&mut pit, 1);
    assert_eq!(status(&mut pit, 0), 0xB6, "OUT high, both bytes, mode 3");
    assert_eq!(read_count(&mut pit, 0), 0);
    at_tick(&mut pit, 101);
    assert_eq!(read_count(&mut pit, 0), 0_u16.wrapping_sub(200));
    assert_eq!(pit.next_timer(), Some(VirtualTime(CLOCK.time_of(65_537))));
}

#[test]
fn null_count_until_the_count_is_loaded() {
    const NULL: u8 = 0x40;
    let mut pit = Pit::new();
    pit.write(CONTROL, 0x34);
    assert_eq!(status(&mut pit, 0) & NULL, NULL);
    load(&mut pit, 0, 10);
    assert_eq!(status(&mut pit, 0) & NULL, NULL);
    at_tick(&mut pit, 1);
    assert_eq!(status(&mut pit, 0) & NULL, 0);
    load(&mut pit, 0, 20);
    assert_eq!(
        status(&mut pit, 0) & NULL,
        NULL,
        "waits for the end of the period"
    );
    at_tick(&mut pit, 10);
    assert_eq!(status(&mut pit, 0) & NULL, NULL);
    at_tick(&mut pit, 11);
    assert_eq!(status(&mut pit, 0) & NULL, 0);
}

#[test]
fn bcd_counts_in_decimal() {
    for (written, ticks, expected) in [
        (0x1234, 35, 0x1200),
        (0x0000, 1, 0x9999),
        (0x0100, 1, 0x0099),
        (0x0002, 4, 0x9998),
    ] {
        let mut pit = Pit::new();
        pit.write(CONTROL, 0x31);
        load(&mut pit, 0, written);
        at_tick(&mut pit, 1 + ticks);
        // 0x1234 - 35 = 1199
        let expected = if written == 0x1234 { 0x1199 } else { expected };
        assert_eq!(read_count(&mut pit, 0), expected, "{written:#06x}");
    }
}

#[test]
fn the_largest_count_is_written_as_0() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 0);
    at_tick(&mut pit, 1);
    assert_eq!(
        pit.next_timer(),
        Some(VirtualTime(CLOCK.time_of(1 + 0x1_0000)))
    );
    at_tick(&mut pit, 2);
    assert_eq!(read_count(&mut pit, 0), 0xFFFF);
}

#[test]
fn periodic_ticks_do_not_drift_and_one_step_is_one_edge() {
    // 1000 Hz as Linux programs it: 1193 ticks.
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1193);
    let mut now = 0;
    for period in 1..=3000i64 {
        let due = pit.next_timer().expect("a periodic timer");
        assert_eq!(due.0, CLOCK.time_of(1 + period * 1193));
        assert!(due.0 > now);
        assert!(!pit.advance(VirtualTime(due.0 - 1)));
        assert!(pit.advance(due));
        now = due.0;
    }
    // A long step: one edge, and the next tick is in phase.
    assert!(pit.advance(VirtualTime(now + 10 * SECOND_NS)));
    let due = pit.next_timer().expect("a periodic timer");
    assert_eq!((CLOCK.ticks_at(due.0) - 1) % 1193, 0);
}

#[test]
fn one_shots_fire_once() {
    for (mode, at) in [(0, 1 + 500), (4, 1 + 501)] {
        let mut pit = Pit::new();
        program(&mut pit, 0, mode, 500);
        assert_eq!(
            pit.next_timer(),
            Some(VirtualTime(CLOCK.time_of(at))),
            "mode {mode}"
        );
        assert!(!at_tick(&mut pit, at - 1));
        assert!(at_tick(&mut pit, at));
        assert!(pit.line());
        assert_eq!(pit.next_timer(), None);
        assert!(!at_tick(&mut pit, at + 1_000_000));
    }
    for mode in [1, 5] {
        let mut pit = Pit::new();
        program(&mut pit, 0, mode, 500);
        assert_eq!(
            pit.next_timer(),
            None,
            "channel 0 has no trigger for mode {mode}"
        );
    }
}

#[test]
fn port_61() {
    let mut pit = Pit::new();
    pit.write_system_b(0xFF);
    assert_eq!(pit.read_system_b(), 0x0F | SYSTEM_B_OUT2);
    assert!(pit.system_b_needs_clock(0x0E) && !pit.system_b_needs_clock(0x01));
    pit.write_system_b(0x00);
    let refresh = |pit: &mut Pit, tick| {
        at_tick(pit, tick);
        pit.read_system_b() & SYSTEM_B_REFRESH != 0
    };
    assert!(!refresh(&mut pit, 17) && refresh(&mut pit, 18));
    assert!(refresh(&mut pit, 35) && !refresh(&mut pit, 36));
}

#[test]
fn the_control_port_reads_ones() {
    assert_eq!(Pit::new().read(CONTROL), 0xFF);
}

#[test]
fn time_ends_without_an_overflow() {
    for mode in 0..6 {
        let mut pit = Pit::new();
        program(&mut pit, 0, mode, 3);
        pit.advance(MAX_TIME);
        read_count(&mut pit, 0);
        pit.next_timer();
    }
}

/// A counter as the data sheet describes it, moved by one clock pulse at a time.
#[derive(Debug, Default)]
struct Naive {
    mode: u8,
    gate: bool,
    written: Option<i64>,
    load: bool,
    reload: i64,
    value: i64,
    counting: bool,
    out: bool,
}

impl Naive {
    fn control(&mut self, mode: u8) {
        *self = Self {
            mode,
            gate: self.gate,
            out: mode != 0,
            ..Self::default()
        };
    }

    fn write(&mut self, count: i64) {
        self.written = Some(count);
        match self.mode {
            0 => {
                self.load = true;
                self.out = false;
            }
            4 => {
                self.load = true;
                self.out = true;
            }
            2 | 3 if !self.counting && self.gate => self.load = true,
            _ => {}
        }
    }

    fn set_gate(&mut self, gate: bool) {
        let rises = gate && !self.gate;
        self.gate = gate;
        let has_count = self.written.is_some() || self.reload != 0;
        match self.mode {
            1 | 5 if rises && has_count => self.load = true,
            2 | 3 if rises && has_count => self.load = true,
            2 | 3 if !gate => {
                self.out = true;
                self.counting = false;
                self.load = false;
            }
            _ => {}
        }
    }

    fn take_count(&mut self) {
        self.reload = self.written.take().unwrap_or(self.reload);
        self.value = if self.mode == 3 {
            self.reload & !1
        } else {
            self.reload
        };
    }

    fn pulse(&mut self) {
        if std::mem::take(&mut self.load) {
            self.take_count();
            self.counting = true;
            match self.mode {
                1 => self.out = false,
                2 | 3 | 5 => self.out = true,
                _ => {}
            }
            return;
        }
        if !self.counting || (!self.gate && self.mode != 1 && self.mode != 5) {
            return;
        }
        match self.mode {
            0 | 1 => {
                self.value -= 1;
                if self.value == 0 {
                    self.out = true;
                }
            }
            2 => {
                self.value -= 1;
                if self.value == 1 {
                    self.out = false;
                } else if self.value == 0 {
                    self.out = true;
                    self.take_count();
                }
            }
            3 => {
                // An odd count has one tick more in the high half, with the value at 0.
                if self.reload % 2 == 1 && self.out {
                    if self.value == 0 {
                        self.out = false;
                        self.take_count();
                        return;
                    }
                    self.value -= 2;
                    return;
                }
                self.value -= 2;
                if self.value == 0 {
                    self.out = !self.out;
                    self.take_count();
                }
            }
            _ => {
                self.value -= 1;
                self.out = self.value != 0;
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Control(u8),
    Write(u8),
    Gate(bool),
    Pass(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..6u8).prop_map(Step::Control),
        3 => (2..12u8).prop_map(Step::Write),
        2 => any::<bool>().prop_map(Step::Gate),
        6 => (1..30i64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// However time is cut into steps, output, count and edges are those of a
    /// counter that counts every pulse.
    #[test]
    fn agrees_with_a_counter_that_counts(
        mode in 0..6u8,
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut counter = Counter::new(true);
        let mut naive = Naive { gate: true, out: true, ..Naive::default() };
        let mut tick = 0;
        for step in [Step::Control(mode)].into_iter().chain(steps) {
            match step {
                Step::Control(mode) => {
                    counter.control(0x10 | mode << 1, tick);
                    naive.control(mode);
                }
                Step::Write(count) => {
                    counter.write(count, tick);
                    naive.write(i64::from(count));
                }
                Step::Gate(gate) => {
                    counter.set_gate(gate, tick);
                    naive.set_gate(gate);
                }
                Step::Pass(ticks) => {
                    let mut rise = None;
                    for at in tick + 1..=tick + ticks {
                        let before = naive.out;
                        naive.pulse();
                        if !before && naive.out {
                            rise = rise.or(Some(at));
                        }
                    }
                    let next = counter.next_rise(tick).filter(|rise| *rise <= tick + ticks);
                    prop_assert_eq!(next, rise);
                    counter.settle(tick, tick + ticks);
                    tick += ticks;
                }
            }
            prop_assert_eq!(counter.out(tick), naive.out, "{:?} at {}: {:?} {:?}", step, tick, counter, naive);
            prop_assert!(counter.check(tick, naive.gate).is_ok());
            if naive.counting && !naive.load {
                let low = counter.clone().read(tick);
                prop_assert_eq!(low, naive.value as u8, "{:?} at {}: {:?} {:?}", step, tick, counter, naive);
            }
        }
    }
}
