//! What happened, for people: written only when somebody looks.

use std::collections::VecDeque;

use crate::rng::mix;

/// How many events are shown before a failure.
pub(crate) const SHOWN: usize = 120;

/// How much of a run is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Nothing: for many seeds.
    Off,
    /// The last events, to be shown after a failure.
    Last,
    /// Everything, as it happens.
    Print,
}

/// The events of one run.
pub(crate) struct Trace {
    detail: Detail,
    lines: VecDeque<String>,
    hash: u64,
}

impl Trace {
    pub(crate) fn new(detail: Detail) -> Self {
        Trace {
            detail,
            lines: VecDeque::new(),
            hash: 0,
        }
    }

    pub(crate) fn note(&mut self, now: u64, text: impl FnOnce() -> String) {
        if self.detail == Detail::Off {
            return;
        }
        let (ms, us) = (now / 1_000_000, now / 1_000 % 1_000);
        let line = format!("{ms:5}.{us:03} ms  {}", text());
        self.hash = line
            .bytes()
            .fold(self.hash, |hash, byte| mix(hash ^ u64::from(byte)));
        if self.detail == Detail::Print {
            println!("{line}");
        }
        if self.lines.len() == SHOWN {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Equal for equal runs.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn last(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
