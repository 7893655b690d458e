//! Which entries a person wants, as flags say it.

use std::str::FromStr;

use clap::Args;
use ft_logging::entry::Kind;
use ft_logging::inspect::{Filter, Span};
use ft_logging::types::{EntryIndex, Position, VirtualTime};

/// The flags that choose entries; an entry must pass every one.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct SelectArgs {
    /// Only these kinds: clock, net-rx, console-rx, entropy, control, interrupt, output, digest,
    /// progress, released.
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = parse_kind)]
    kind: Vec<Kind>,
    /// Only entries with these numbers: A..B, both included; A.., ..B, or A alone.
    #[arg(long, value_name = "A..B", value_parser = parse_span::<u64>)]
    index: Option<Span<u64>>,
    /// Only entries at these positions.
    #[arg(long, value_name = "A..B", value_parser = parse_span::<u64>)]
    position: Option<Span<u64>>,
    /// Only entries at these virtual times, in seconds: 1.5..2.0.
    #[arg(long, value_name = "A..B", value_parser = parse_span::<Time>)]
    time: Option<Span<Time>>,
}

impl SelectArgs {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            kinds: self.kind.clone(),
            indexes: convert(self.index, EntryIndex),
            positions: convert(self.position, Position),
            times: convert(self.time, |time| time.0),
        }
    }

    /// Whether it says where to begin.
    pub(super) fn has_beginning(&self) -> bool {
        self.index.is_some_and(|span| span.from.is_some())
            || self.position.is_some_and(|span| span.from.is_some())
            || self.time.is_some_and(|span| span.from.is_some())
    }
}

fn convert<A, B>(span: Option<Span<A>>, to: impl Fn(A) -> B) -> Span<B> {
    span.map_or(
        Span {
            from: None,
            to: None,
        },
        |span| Span {
            from: span.from.map(&to),
            to: span.to.map(&to),
        },
    )
}

/// A kind of entry by its name.
pub(super) fn parse_kind(name: &str) -> Result<Kind, String> {
    Kind::ALL
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name);
            format!("there is no such kind: choose from {}", names.join(", "))
        })
}

/// A virtual time, written in seconds.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Time(VirtualTime);

impl FromStr for Time {
    type Err = String;

    /// Exact, unlike a way through floating point.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time in seconds such as 1.5");
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 9 || !digits(whole) || !digits(fraction) {
            return Err(wrong());
        }
        let seconds: u64 = whole.parse().map_err(|_| wrong())?;
        let ns: u64 = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
        seconds
            .checked_mul(1_000_000_000)
            .and_then(|whole_ns| whole_ns.checked_add(ns))
            .map(|ns| Time(VirtualTime(ns)))
            .ok_or_else(wrong)
    }
}

fn parse_span<T: FromStr + PartialOrd + Copy>(text: &str) -> Result<Span<T>, String> {
    let one = |part: &str| {
        part.parse()
            .map_err(|_| format!("{part:?} is no number: write A..B, A.., ..B or A"))
    };
    let end = |part: &str| (!part.is_empty()).then(|| one(part)).transpose();
    let span = match text.split_once("..") {
        Some((from, to)) => Span {
            from: end(from)?,
            to: end(to)?,
        },
        None => Span {
            from: Some(one(text)?),
            to: Some(one(text)?),
        },
    };
    match (span.from, span.to) {
        (Some(from), Some(to)) if from > to => Err(format!("{text} ends before it begins")),
        _ => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_both_ends_included_and_may_be_open() {
        let span = |from, to| Ok(Span { from, to });
        assert_eq!(parse_span("3..5"), span(Some(3u64), Some(5)));
        assert_eq!(parse_span("3.."), span(Some(3u64), None));
        assert_eq!(parse_span("..5"), span(None, Some(5u64)));
        assert_eq!(parse_span("7"), span(Some(7u64), Some(7)));
        for wrong in ["", "x..y", "5..3", "1...2", "-1..2", "1..2..3"] {
            assert!(parse_span::<u64>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_exact_to_the_nanosecond() {
        let times = [
            ("0", 0),
            ("1.5", 1_500_000_000),
            ("12.000345678", 12_000_345_678),
            ("2.", 2_000_000_000),
        ];
        for (text, ns) in times {
            assert_eq!(text.parse(), Ok(Time(VirtualTime(ns))), "{text}");
        }
        for wrong in ["", ".5", "1e3", "-1", "1.0000000001", "99999999999999"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
        let span = parse_span::<Time>("1.5..2.25").expect("two times");
        assert_eq!(span.to, Some(Time(VirtualTime(2_250_000_000))));
    }

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(parse_kind(kind.name()), Ok(kind));
        }
        assert!(parse_kind("clocks").is_err());
    }
}
