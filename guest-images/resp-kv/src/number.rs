//! Integers as Redis reads and writes them.

/// Reads a whole byte string as a decimal `i64`, as strictly as Redis: no
/// blanks, no `+`, no leading zeros, no `-0`.
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let negative = digits.len() < text.len();
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {}
        _ => return None,
    }
    digits
        .iter()
        .try_fold(0_i64, |value, digit| {
            // Downwards, since i64::MIN has no positive counterpart.
            value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))
        })
        .and_then(|value| {
            if negative {
                Some(value)
            } else {
                value.checked_neg()
            }
        })
}

/// Decimal digits of an `i64`, without a heap.
pub(crate) struct Decimal {
    bytes: [u8; Self::MOST],
    start: usize,
}

impl Decimal {
    /// "-9223372036854775808"
    const MOST: usize = 20;

    pub(crate) fn new(value: i64) -> Self {
        let mut decimal = Decimal {
            bytes: [0; Self::MOST],
            start: Self::MOST,
        };
        let mut rest = value.unsigned_abs();
        loop {
            decimal.push(b'0' + (rest % 10) as u8);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            decimal.push(b'-');
        }
        decimal
    }

    fn push(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[self.start] = byte;
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn reads_what_redis_reads() {
        for (text, value) in [
            ("0", Some(0)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            ("01", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), value, "{text:?}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for value in [0, 1, -1, 10, 1234567890, i64::MAX, i64::MIN] {
            assert_eq!(Decimal::new(value).as_bytes(), value.to_string().as_bytes());
            assert_eq!(parse_i64(Decimal::new(value).as_bytes()), Some(value));
        }
    }
}
