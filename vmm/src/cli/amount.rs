//! Sizes and times as people write them: `512MiB`, `24h`.

use std::str::FromStr;
use std::time::Duration;

const SIZES: [(&str, u64); 4] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const TIMES: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3600), ("d", 86_400)];

/// How much of a log is kept: a size or an age, each above nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// In bytes.
    Size(u64),
    /// Since it was begun.
    Age(Duration),
}

impl FromStr for Keep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is neither a size such as 512MiB (bytes, KiB, MiB, GiB, TiB) nor an age \
                 such as 24h (s, min, h, d)"
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let scaled = |units: &[(&str, u64)]| {
            let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
            number.checked_mul(*scale)
        };
        let keep = match unit {
            "" => Some(Keep::Size(number)),
            _ => scaled(&SIZES).map(Keep::Size).or_else(|| {
                let age = scaled(&TIMES)?;
                Some(Keep::Age(Duration::from_secs(age)))
            }),
        };
        keep.filter(|_| number > 0).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_told_apart_by_their_unit() {
        let age = |s| Keep::Age(Duration::from_secs(s));
        for (text, keep) in [
            ("1000", Keep::Size(1000)),
            ("20KiB", Keep::Size(20 << 10)),
            ("16GiB", Keep::Size(16 << 30)),
            ("90s", age(90)),
            ("5min", age(300)),
            ("24h", age(86_400)),
            ("7d", age(604_800)),
        ] {
            assert_eq!(text.parse(), Ok(keep), "{text}");
        }
        for text in [
            "",
            "0",
            "0h",
            "h",
            "5m",
            "1.5GiB",
            "-1",
            "1 GiB",
            "99999999TiB",
        ] {
            assert!(text.parse::<Keep>().is_err(), "{text}");
        }
    }
}
