//! Where two logs part.

use serde::Serialize;

use super::dump::{carried, detail};
use super::{EntryLine, Seconds, Timed, timed};
use crate::entry::{Kind, Payload};
use crate::initial::Difference;
use crate::store::{Log, Reader, Result, Target};

/// How two logs relate. "Here" in a difference is the first log, "there" the second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// What differs in what the machines started from.
    pub headers: Vec<Difference>,
    /// How many entries of each were compared and are equal.
    pub equal_entries: u64,
    /// What comes behind them.
    pub outcome: Outcome,
}

/// What comes behind the entries that two logs have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing: both end there.
    Equal,
    /// One of them ends there, the other goes on.
    Prefix {
        /// The one that ends.
        shorter: Side,
        /// The first entry that only the other has.
        next: EntryLine,
    },
    /// Entries that differ.
    Parted {
        /// In what.
        differences: Vec<Difference>,
        /// The first log's.
        first: EntryLine,
        /// The second log's.
        second: EntryLine,
    },
}

/// One of two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The first one named.
    First,
    /// The second one named.
    Second,
}

/// Compares two logs from the first entry that both hold. Entries of the kinds in `ignored` are
/// left out on both sides, and then numbers are not compared: two nodes of one life may mark a run
/// differently after a failover.
///
/// # Errors
///
/// If one of the logs cannot be read up to where they part.
pub fn diff(first: &Log, second: &Log, ignored: &[Kind]) -> Result<Diff> {
    let from = first.start().index.max(second.start().index);
    let at_start = |log: &Log| -> Result<Reader> {
        let mut reader = log.reader()?;
        reader.seek(Target::Index(from))?;
        Ok(reader)
    };
    let (mut a, mut b) = (at_start(first)?, at_start(second)?);
    let (equal_entries, outcome) = diff_entries(
        timed(a.place().time, &mut a),
        timed(b.place().time, &mut b),
        ignored,
    )?;
    Ok(Diff {
        headers: header_differences(first, second),
        equal_entries,
        outcome,
    })
}

/// Tokens are left out: two nodes of one life write under different ones. So is the seed itself,
/// which is the guest's.
fn header_differences(first: &Log, second: &Log) -> Vec<Difference> {
    let (ours, theirs) = (first.initial(), second.initial());
    let (our_rows, their_rows) = (ours.configuration.rows(), theirs.configuration.rows());
    let mut pairs = vec![("life", ours.life.to_string(), theirs.life.to_string())];
    for ((setting, ours), (_, theirs)) in our_rows.into_iter().zip(their_rows) {
        pairs.push((setting, ours, theirs));
    }
    pairs.push((
        "RTC epoch",
        ours.rtc_epoch_s.to_string(),
        theirs.rtc_epoch_s.to_string(),
    ));
    let seed = |seed: &[u8; 32]| format!("{:08x}…", crc32c::crc32c(seed));
    pairs.push((
        "hash of the random seed",
        seed(&ours.seed),
        seed(&theirs.seed),
    ));
    differing(pairs)
}

/// Compares two streams of entries: how many are equal, and what comes behind them.
///
/// # Errors
///
/// The first error of either.
pub fn diff_entries(
    first: impl IntoIterator<Item = Result<Timed>>,
    second: impl IntoIterator<Item = Result<Timed>>,
    ignored: &[Kind],
) -> Result<(u64, Outcome)> {
    let counts = |timed: &Result<Timed>| !matches!(timed, Ok(timed) if ignored.contains(&timed.entry.payload.kind()));
    let mut first = first.into_iter().filter(counts);
    let mut second = second.into_iter().filter(counts);
    let mut equal = 0;
    let line = |timed: &Timed| EntryLine::new(timed, false);
    loop {
        let outcome = match (first.next().transpose()?, second.next().transpose()?) {
            (None, None) => Outcome::Equal,
            (None, Some(next)) => Outcome::Prefix {
                shorter: Side::First,
                next: line(&next),
            },
            (Some(next), None) => Outcome::Prefix {
                shorter: Side::Second,
                next: line(&next),
            },
            (Some(a), Some(b)) => {
                let differences = entry_differences(&a, &b, ignored.is_empty());
                if differences.is_empty() {
                    equal += 1;
                    continue;
                }
                Outcome::Parted {
                    differences,
                    first: line(&a),
                    second: line(&b),
                }
            }
        };
        return Ok((equal, outcome));
    }
}

fn entry_differences(a: &Timed, b: &Timed, by_index: bool) -> Vec<Difference> {
    let mut pairs = Vec::new();
    if by_index {
        pairs.push((
            "index",
            a.entry.index.to_string(),
            b.entry.index.to_string(),
        ));
    }
    pairs.push((
        "position",
        a.entry.position.to_string(),
        b.entry.position.to_string(),
    ));
    pairs.push((
        "virtual time",
        Seconds(a.time).to_string(),
        Seconds(b.time).to_string(),
    ));
    let (a, b) = (&a.entry.payload, &b.entry.payload);
    if a.kind() != b.kind() {
        pairs.push((
            "kind",
            a.kind().name().to_owned(),
            b.kind().name().to_owned(),
        ));
    } else if a != b && !matches!(a, Payload::Clock { .. }) {
        pairs.push(("content", content(a, b), content(b, a)));
    }
    differing(pairs)
}

/// What `payload` says where it differs from `other`.
fn content(payload: &Payload, other: &Payload) -> String {
    let (Some(ours), Some(theirs)) = (carried(payload), carried(other)) else {
        return detail(payload);
    };
    let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    match ours.get(at) {
        Some(byte) => format!("{} bytes, byte {at} is 0x{byte:02x}", ours.len()),
        None => format!("{} bytes", ours.len()),
    }
}

fn differing(pairs: Vec<(&str, String, String)>) -> Vec<Difference> {
    pairs
        .into_iter()
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(setting, ours, theirs)| Difference {
            setting: setting.to_owned(),
            ours,
            theirs,
        })
        .collect()
}
