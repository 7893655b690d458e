//! The CMOS real-time clock: whole seconds, in UTC.

use crate::nucleus::{in8, out8};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;

/// Reads one byte of the clock's memory.
pub fn register(index: u8) -> u8 {
    out8(INDEX, index);
    in8(DATA)
}

/// Seconds since the beginning of 1970, as the clock has it.
pub fn unix_seconds() -> u64 {
    const SECONDS: u8 = 0x00;
    const MINUTES: u8 = 0x02;
    const HOURS: u8 = 0x04;
    const DAY: u8 = 0x07;
    const MONTH: u8 = 0x08;
    const YEAR: u8 = 0x09;
    const CENTURY: u8 = 0x32;
    const STATUS_B: u8 = 0x0B;
    const BINARY: u8 = 0x04;

    let binary = register(STATUS_B) & BINARY != 0;
    let decode = |raw: u8| {
        u64::from(if binary {
            raw
        } else {
            (raw >> 4) * 10 + (raw & 0x0F)
        })
    };
    // Twice the same: no second passed in between.
    let read = || [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY].map(register);
    let mut raw = read();
    loop {
        let again = read();
        if again == raw {
            break;
        }
        raw = again;
    }
    let [seconds, minutes, hours, day, month, year, century] = raw.map(decode);
    let century = if (19..=29).contains(&century) {
        century
    } else {
        20
    };
    let days = days_since_1970(century * 100 + year, month, day);
    ((days * 24 + hours) * 60 + minutes) * 60 + seconds
}

/// Days from 1 January 1970 to a date of the Gregorian calendar from then on.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March have the leap day at their end.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    const DAYS_TO_1970: u64 = 719_468;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - DAYS_TO_1970
}
