//! Seconds to calendar dates and back, in the proleptic Gregorian calendar.
//!
//! The day arithmetic counts in eras of 400 years that begin on 1 March, after
//! Howard Hinnant, "chrono-compatible low-level date algorithms".

use serde::{Deserialize, Serialize};

const DAY_S: i64 = 86_400;
const ERA_DAYS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// What the clock registers show, in binary and with 24 hours. A guest may write
/// nonsense into any field; [`DateTime::to_seconds`] carries it over as a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DateTime {
    pub(super) second: u8,
    pub(super) minute: u8,
    pub(super) hour: u8,
    /// 1 is Sunday.
    pub(super) weekday: u8,
    pub(super) day: u8,
    pub(super) month: u8,
    /// Within the century.
    pub(super) year: u8,
    pub(super) century: u8,
}

impl DateTime {
    /// The date of `seconds` since 1970, which must not lie before the year 0.
    pub(super) fn from_seconds(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
        let shifted = days + EPOCH_DAYS;
        let era = shifted.div_euclid(ERA_DAYS);
        let day_of_era = shifted.rem_euclid(ERA_DAYS);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 {
            march_month + 3
        } else {
            march_month - 9
        };
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Self {
            second: (of_day % 60) as u8,
            minute: (of_day / 60 % 60) as u8,
            hour: (of_day / 3600) as u8,
            weekday: ((days + 4).rem_euclid(7) + 1) as u8,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u8,
            month: month as u8,
            year: year.rem_euclid(100) as u8,
            century: year.div_euclid(100).rem_euclid(100) as u8,
        }
    }

    /// Seconds since 1970. Fields out of range carry over: 31 February is 2 or
    /// 3 March, month 0 counts as January and day 0 as the first.
    pub(super) fn to_seconds(self) -> i64 {
        let year = i64::from(self.century) * 100 + i64::from(self.year);
        let month = i64::from(self.month.clamp(1, 12));
        let shifted_year = year - i64::from(month <= 2);
        let era = shifted_year.div_euclid(400);
        let year_of_era = shifted_year.rem_euclid(400);
        let march_month = if month > 2 { month - 3 } else { month + 9 };
        let day_of_year = (153 * march_month + 2) / 5 + i64::from(self.day.max(1)) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * ERA_DAYS + day_of_era - EPOCH_DAYS;
        days * DAY_S
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn date(text: (i64, u8, u8, u8, u8, u8, u8)) -> DateTime {
        let (year, month, day, hour, minute, second, weekday) = text;
        let (century, year) = ((year / 100) as u8, (year % 100) as u8);
        DateTime {
            second,
            minute,
            hour,
            weekday,
            day,
            month,
            year,
            century,
        }
    }

    #[test]
    fn known_dates() {
        for (seconds, expected) in [
            (0, (1970, 1, 1, 0, 0, 0, 5)),
            (951_782_400, (2000, 2, 29, 0, 0, 0, 3)),
            (951_868_799, (2000, 2, 29, 23, 59, 59, 3)),
            (1_709_164_800, (2024, 2, 29, 0, 0, 0, 5)),
            (4_107_542_400, (2100, 3, 1, 0, 0, 0, 2)),
            (1_767_225_599, (2025, 12, 31, 23, 59, 59, 4)),
        ] {
            assert_eq!(DateTime::from_seconds(seconds), date(expected));
            assert_eq!(date(expected).to_seconds(), seconds);
        }
    }

    #[test]
    fn nonsense_carries_over() {
        let overflow = date((2023, 2, 31, 24, 60, 60, 1));
        assert_eq!(
            DateTime::from_seconds(overflow.to_seconds()),
            date((2023, 3, 4, 1, 1, 0, 7))
        );
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in -62_167_219_200..253_402_300_800i64) {
            prop_assert_eq!(DateTime::from_seconds(seconds).to_seconds(), seconds);
        }
    }
}
