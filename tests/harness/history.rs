//! The key-value server as a specification, and histories of its clients checked against it.
//!
//! A request that had no answer stays open: it may take effect at any later time, or never.

use std::collections::BTreeMap;
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation, check_operations_timeout};

/// How long the checker may think.
const CHECK_PATIENCE: Duration = Duration::from_secs(60);

/// How many of a key's operations are shown when its history is wrong.
const SHOWN: usize = 40;

/// Keys that hold integers, each a history of its own.
#[derive(Clone, Debug)]
pub(crate) struct Kv;

/// What was asked of a key, and answered; an open request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) key: String,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Its answer says nothing but that it was done.
    Set(i64),
    /// What was read; a read without an answer is not noted at all.
    Get(Option<i64>),
    /// The value after it, if there was an answer.
    Incr(Option<i64>),
}

impl Model for Kv {
    type State = Option<i64>;
    type Op = Asked;
    type Metadata = ();

    fn partition_operations(history: &[Operation<Self>]) -> Vec<Vec<Operation<Self>>> {
        let mut parts: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for operation in history {
            let part = parts.entry(&operation.op.key).or_default();
            part.push(operation.clone());
        }
        parts.into_values().collect()
    }

    fn init() -> Option<i64> {
        None
    }

    fn step(value: &Option<i64>, asked: &Asked) -> (bool, Option<i64>) {
        match asked.what {
            What::Set(new) => (true, Some(new)),
            What::Get(seen) => (seen == *value, *value),
            What::Incr(seen) => {
                let next = value.unwrap_or(0) + 1;
                (seen.is_none_or(|seen| seen == next), Some(next))
            }
        }
    }
}

/// Whether one order explains everything that the clients saw.
///
/// # Errors
///
/// With the end of a key's history that cannot be explained.
pub(crate) fn check(history: &[Operation<Kv>]) -> Result<(), String> {
    for mut part in Kv::partition_operations(history) {
        let verdict = check_operations_timeout(&part, CHECK_PATIENCE);
        if verdict != CheckResult::Ok {
            part.sort_by_key(|operation| operation.call_time);
            let last: Vec<String> = part.iter().rev().take(SHOWN).map(line).collect();
            return Err(format!(
                "{verdict:?}: no order explains the {} operations on {}; the last, newest first:\n{}",
                part.len(),
                part[0].op.key,
                last.join("\n")
            ));
        }
    }
    Ok(())
}

fn line(operation: &Operation<Kv>) -> String {
    let Operation {
        call_time,
        return_time,
        client_id,
        op,
        ..
    } = operation;
    let client = client_id.unwrap_or_default();
    let end = if *return_time == i64::MAX {
        "open".to_owned()
    } else {
        return_time.to_string()
    };
    format!(
        "  client {client:3}  {call_time:6} to {end:6}  {:?}",
        op.what
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of one key: (call, return, what).
    fn ends_well(operations: &[(i64, i64, What)]) -> bool {
        let history: Vec<Operation<Kv>> = operations
            .iter()
            .map(|(call_time, return_time, what)| Operation {
                client_id: None,
                call_time: *call_time,
                return_time: *return_time,
                op: Asked {
                    key: "k".to_owned(),
                    what: *what,
                },
                metadata: None,
            })
            .collect();
        check(&history).is_ok()
    }

    /// The checker sees what it should: a lost write, a doubled one, a read from the past.
    #[test]
    fn the_checker_tells_wrong_histories() {
        use What::{Get, Incr, Set};
        const OPEN: i64 = i64::MAX;
        assert!(ends_well(&[
            (0, 1, Set(7)),
            (2, 3, Incr(Some(8))),
            (4, 5, Get(Some(8)))
        ]));
        assert!(!ends_well(&[(0, 1, Set(7)), (2, 3, Get(None))]), "lost");
        assert!(
            !ends_well(&[(0, 1, Incr(Some(1))), (2, 3, Incr(Some(1)))]),
            "lost"
        );
        assert!(
            !ends_well(&[(0, 1, Incr(Some(1))), (2, 3, Incr(Some(3)))]),
            "doubled"
        );
        assert!(
            !ends_well(&[(0, 1, Set(7)), (2, 3, Set(8)), (4, 5, Get(Some(7)))]),
            "the past"
        );
        assert!(ends_well(&[
            (0, 9, Set(7)),
            (2, 5, Set(8)),
            (6, 7, Get(Some(8)))
        ]));
        assert!(ends_well(&[
            (0, OPEN, Incr(None)),
            (1, 2, Get(None)),
            (3, 4, Get(Some(1)))
        ]));
        assert!(ends_well(&[
            (0, OPEN, Set(7)),
            (1, 2, Get(None)),
            (3, 4, Get(None))
        ]));
        assert!(
            !ends_well(&[(0, OPEN, Set(7)), (1, 2, Get(Some(7))), (3, 4, Get(None))]),
            "done and undone"
        );
    }
}
