//! The RTC against Motorola's MC146818A data sheet and what PC software expects.

use proptest::prelude::*;

use super::*;

/// 2024-02-28 23:59:58, a Wednesday.
const EPOCH_S: u64 = 1_709_164_798;
const GIB: u64 = 1 << 30;

fn rtc() -> Rtc {
    Rtc::new(EPOCH_S, 256 << 20)
}

fn read(rtc: &mut Rtc, index: u8) -> u8 {
    rtc.select(index);
    rtc.read()
}

fn write(rtc: &mut Rtc, index: u8, value: u8) {
    rtc.select(index);
    rtc.write(value);
}

fn at(rtc: &mut Rtc, ns: u64) {
    rtc.advance(VirtualTime(ns));
}

/// Century, year, month, day, weekday, hours, minutes, seconds as registers show them.
fn clock(rtc: &mut Rtc) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|index| read(rtc, index))
}

#[test]
fn shows_the_epoch_plus_virtual_time() {
    let mut rtc = rtc();
    for (ns, expected) in [
        (0, [0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x58]),
        (999_999_999, [0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x58]),
        (SECOND_NS, [0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x59]),
        (2 * SECOND_NS, [0x20, 0x24, 0x02, 0x29, 5, 0x00, 0x00, 0x00]),
        (
            86_402 * SECOND_NS,
            [0x20, 0x24, 0x03, 0x01, 6, 0x00, 0x00, 0x00],
        ),
    ] {
        at(&mut rtc, ns);
        assert_eq!(clock(&mut rtc), expected, "at {ns}");
        assert_eq!(read(&mut rtc, REGISTER_A) & 0x80, 0, "never in an update");
    }
}

#[test]
fn data_modes() {
    for (b, hour_12, expected) in [
        (0x02, 0, [0x23, 0x59]),
        (0x06, 0, [23, 59]),
        (0x00, PM, [0x11 | PM, 0x59]),
        (0x04, PM, [11 | PM, 59]),
    ] {
        let mut rtc = rtc();
        write(&mut rtc, REGISTER_B, b);
        assert_eq!(
            [HOURS, MINUTES].map(|index| read(&mut rtc, index)),
            expected,
            "B {b:#x}"
        );
        // Midnight and noon are 12 in 12-hour mode.
        at(&mut rtc, 2 * SECOND_NS);
        let midnight = if hour_12 == 0 { 0 } else { rtc.encode(12) };
        assert_eq!(read(&mut rtc, HOURS), midnight);
        at(&mut rtc, (2 + 12 * 3600) * SECOND_NS);
        assert_eq!(read(&mut rtc, HOURS), rtc.encode(12) | hour_12);
        for value in [0, 1, 11, 12, 13, 23] {
            assert_eq!(rtc.decode_hour(rtc.encode_hour(value)), value);
        }
    }
}

#[test]
fn set_holds_the_registers_and_the_time_goes_on_from_them() {
    let mut rtc = rtc();
    at(&mut rtc, 300_000_000);
    write(&mut rtc, REGISTER_B, 0x82 | B_UPDATE_IE);
    assert_eq!(read(&mut rtc, REGISTER_B), 0x82, "SET clears UIE");
    for (index, value) in [
        (CENTURY, 0x19),
        (YEAR, 0x99),
        (MONTH, 0x12),
        (DAY, 0x31),
        (WEEKDAY, 0x02),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ] {
        write(&mut rtc, index, value);
    }
    at(&mut rtc, 10 * SECOND_NS);
    let set = [0x19, 0x99, 0x12, 0x31, 2, 0x23, 0x59, 0x59];
    assert_eq!(clock(&mut rtc), set, "held");
    rtc.select(SECONDS);
    assert!(!rtc.read_needs_clock());
    assert_eq!(
        read(&mut rtc, REGISTER_C) & UPDATE,
        0,
        "no update while SET"
    );

    at(&mut rtc, 10_400_000_000);
    write(&mut rtc, REGISTER_B, 0x02);
    assert_eq!(clock(&mut rtc), set);
    at(&mut rtc, 11 * SECOND_NS - 1);
    assert_eq!(
        clock(&mut rtc),
        set,
        "SET does not move the phase of the second"
    );
    at(&mut rtc, 11 * SECOND_NS);
    // The weekday that the guest chose goes on counting.
    assert_eq!(
        clock(&mut rtc),
        [0x20, 0x00, 0x01, 0x01, 3, 0x00, 0x00, 0x00]
    );
}

#[test]
fn a_register_can_be_set_in_passing() {
    let mut rtc = rtc();
    write(&mut rtc, SECONDS, 0x10);
    at(&mut rtc, 5 * SECOND_NS);
    assert_eq!(
        clock(&mut rtc),
        [0x20, 0x24, 0x02, 0x28, 4, 0x23, 0x59, 0x15]
    );
}

#[test]
fn nonsense_becomes_a_date() {
    let mut rtc = rtc();
    write(&mut rtc, REGISTER_B, 0x82);
    for index in [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS] {
        write(&mut rtc, index, 0xFF);
    }
    write(&mut rtc, REGISTER_B, 0x02);
    at(&mut rtc, MAX_TIME.0);
    clock(&mut rtc);
    assert!(rtc.check(MAX_TIME).is_ok());
}

#[test]
fn after_a_divider_reset_the_next_second_comes_in_500_ms() {
    let mut rtc = rtc();
    at(&mut rtc, 100_000_000);
    write(&mut rtc, REGISTER_A, 0x76);
    at(&mut rtc, 5_300_000_000);
    assert_eq!(read(&mut rtc, SECONDS), 0x58, "time stands still");
    write(&mut rtc, REGISTER_A, 0x26);
    at(&mut rtc, 5_800_000_000 - 1);
    assert_eq!(read(&mut rtc, SECONDS), 0x58);
    at(&mut rtc, 5_800_000_000);
    assert_eq!(read(&mut rtc, SECONDS), 0x59);
    at(&mut rtc, 6_800_000_000);
    assert_eq!(read(&mut rtc, SECONDS), 0x00);
}

#[test]
fn periodic_rates() {
    for (rate, hz) in [
        (0x1, 256),
        (0x2, 128),
        (0x3, 8192),
        (0x6, 1024),
        (0x9, 128),
        (0xF, 2),
    ] {
        let mut rtc = rtc();
        write(&mut rtc, REGISTER_A, 0x20 | rate);
        write(&mut rtc, REGISTER_B, 0x02 | PERIODIC);
        for period in 1..=3u64 {
            let due = rtc.next_timer().expect("a periodic interrupt");
            assert_eq!(due.0, (period * SECOND_NS).div_ceil(hz), "rate {rate}");
            at(&mut rtc, due.0 - 1);
            assert!(!rtc.line());
            at(&mut rtc, due.0);
            assert!(rtc.line());
            assert_eq!(rtc.next_timer(), None, "raised already");
            assert_eq!(read(&mut rtc, REGISTER_C) & !UPDATE, C_IRQF | PERIODIC);
            assert_eq!(read(&mut rtc, REGISTER_C), 0, "cleared by reading");
            assert!(!rtc.line());
        }
    }
    let mut rtc = rtc();
    write(&mut rtc, REGISTER_A, 0x20);
    write(&mut rtc, REGISTER_B, 0x02 | PERIODIC);
    assert_eq!(rtc.next_timer(), None, "rate 0 is off");
}

#[test]
fn flags_are_raised_without_their_enables_and_interrupt_with_them() {
    let mut rtc = rtc();
    at(&mut rtc, SECOND_NS);
    assert!(!rtc.line());
    write(&mut rtc, REGISTER_B, 0x02 | B_UPDATE_IE);
    assert!(rtc.line(), "the flag was there when the enable came");
    assert_eq!(read(&mut rtc, REGISTER_C), C_IRQF | UPDATE | PERIODIC);
    assert_eq!(rtc.next_timer(), Some(VirtualTime(2 * SECOND_NS)));
}

#[test]
fn alarms() {
    // The clock starts at 23:59:58; the alarm bytes are seconds, minutes, hours.
    for (alarm, b, due_s) in [
        ([0x59, 0x59, 0x23], 0x02, Some(1)),
        ([0x58, 0x59, 0x23], 0x02, Some(86_400)),
        ([0x00, 0x00, 0x00], 0x02, Some(2)),
        ([0xFF, 0xFF, 0xFF], 0x02, Some(1)),
        ([0x00, 0xC0, 0xFF], 0x02, Some(2)),
        ([0x30, 0x00, 0xFF], 0x02, Some(32)),
        ([0x05, 0x10, 0x04], 0x02, Some(2 + 4 * 3600 + 600 + 5)),
        ([5, 10, 16], 0x06, Some(2 + 16 * 3600 + 600 + 5)),
        ([0x00, 0x00, 0x12], 0x00, Some(2)),
        ([0x00, 0x00, 0x12 | PM], 0x00, Some(2 + 12 * 3600)),
        ([0x60, 0x00, 0x00], 0x02, None),
        ([0x00, 0x00, 0x24], 0x02, None),
    ] {
        let mut rtc = rtc();
        write(&mut rtc, REGISTER_B, b | ALARM);
        for (index, byte) in [SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM]
            .into_iter()
            .zip(alarm)
        {
            write(&mut rtc, index, byte);
            assert_eq!(read(&mut rtc, index), byte);
        }
        let due = due_s.map(|s: u64| VirtualTime(s * SECOND_NS));
        assert_eq!(rtc.next_timer(), due, "{alarm:x?}");
        let Some(due) = due else {
            at(&mut rtc, 2 * 86_400 * SECOND_NS);
            assert!(!rtc.line());
            continue;
        };
        at(&mut rtc, due.0 - 1);
        assert!(!rtc.line(), "{alarm:x?}");
        at(&mut rtc, due.0);
        assert!(rtc.line(), "{alarm:x?}");
        assert_eq!(read(&mut rtc, REGISTER_C) & ALARM, ALARM);
    }
}

#[test]
fn registers_and_ram() {
    let mut rtc = rtc();
    assert_eq!(read(&mut rtc, REGISTER_A), 0x26);
    assert_eq!(read(&mut rtc, REGISTER_B), 0x02);
    write(&mut rtc, REGISTER_D, 0x00);
    assert_eq!(read(&mut rtc, REGISTER_D), 0x80);
    write(&mut rtc, REGISTER_A, 0xFF);
    assert_eq!(read(&mut rtc, REGISTER_A), 0x7F);
    for index in (0x0E..0x80).filter(|index| *index != CENTURY) {
        write(&mut rtc, index | 0x80, index ^ 0x55);
    }
    for index in (0x0E..0x80).filter(|index| *index != CENTURY) {
        assert_eq!(read(&mut rtc, index), index ^ 0x55);
    }
}

#[test]
fn what_needs_the_clock() {
    let mut rtc = rtc();
    for (index, read, write) in [
        (SECONDS, true, true),
        (SECONDS_ALARM, false, true),
        (WEEKDAY, true, true),
        (CENTURY, true, true),
        (REGISTER_A, false, true),
        (REGISTER_B, false, true),
        (REGISTER_C, true, false),
        (REGISTER_D, false, false),
        (0x40, false, false),
    ] {
        rtc.select(index);
        assert_eq!(
            (rtc.read_needs_clock(), rtc.write_needs_clock()),
            (read, write),
            "{index:#x}"
        );
    }
}

#[test]
fn memory_sizes_of_a_pc() {
    for (ram, base, extended, above_16m, above_4g) in [
        (64 << 20, 640, 63 << 10, 48 << 4, 0),
        (256 << 20, 640, 0xFFFF, 240 << 4, 0),
        (2 * GIB, 640, 0xFFFF, (2048 - 16) << 4, 0),
        (LOW_RAM_END + GIB, 640, 0xFFFF, (3072 - 16) << 4, 1024 << 4),
        (u64::MAX, 640, 0xFFFF, (3072 - 16) << 4, 0xFF_FFFF),
        (512 << 10, 512, 0, 0, 0),
    ] {
        let mut rtc = Rtc::new(0, ram);
        let mut word =
            |index| u16::from_le_bytes([read(&mut rtc, index), read(&mut rtc, index + 1)]);
        assert_eq!(word(0x15), base);
        assert_eq!(word(0x17), extended);
        assert_eq!(word(0x30), extended);
        assert_eq!(word(0x34), above_16m);
        let high = u32::from(word(0x5B)) | u32::from(read(&mut rtc, 0x5D)) << 16;
        assert_eq!(high, above_4g);
    }
}

#[test]
fn any_epoch_can_be_shown() {
    for epoch in [0, EPOCH_LIMIT_S - 1, EPOCH_LIMIT_S, u64::MAX] {
        let mut rtc = Rtc::new(epoch, 0);
        at(&mut rtc, MAX_TIME.0);
        clock(&mut rtc);
        assert!(rtc.check(MAX_TIME).is_ok());
    }
}

proptest! {
    /// One step of time or many: the same flags and the same time.
    #[test]
    fn steps_do_not_matter(
        a in 0x20..0x30u8,
        alarm in prop::array::uniform3(prop_oneof![Just(0xFFu8), 0..0x25u8]),
        steps in prop::collection::vec(1..5_000_000_000u64, 1..20),
    ) {
        let mut long = rtc();
        write(&mut long, REGISTER_A, a);
        for (index, byte) in [SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM].into_iter().zip(alarm) {
            write(&mut long, index, byte);
        }
        let mut short = long.clone();
        let mut now = 0;
        for step in steps {
            now += step;
            at(&mut short, now);
        }
        at(&mut long, now);
        prop_assert_eq!(short, long);
    }

    /// The next alarm is the first second whose fields match, and there is none only
    /// if no second of a day matches.
    #[test]
    fn next_alarm_is_the_first_match(
        alarm in prop::array::uniform3(prop_oneof![Just(0xFFu8), 0..0x62u8]),
        after in 0..200_000i64,
    ) {
        let mut rtc = rtc();
        rtc.alarm = alarm;
        let matches = |second: i64| {
            let time = DateTime::from_seconds(second);
            [time.second, time.minute, time.hour]
                .into_iter()
                .zip(alarm)
                .all(|(value, byte)| byte >= ALARM_ANY || rtc.decode(byte) == value)
        };
        let first = (after + 1..=after + 86_400).find(|second| matches(*second));
        prop_assert_eq!(rtc.next_alarm(after), first);
    }
}
