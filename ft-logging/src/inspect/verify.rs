//! Every check on a log that can be made without running the machine.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use crate::entry::{Entry, Payload};
use crate::store::{Discontinuity, Log, Place, StoreError, TornTail};
use crate::types::{EntryIndex, OutputSeq, Position};

/// The longest step of a `Clock`: the guest's PM timer wraps after 4.7 s, so that a longer one
/// could be mistaken for a shorter.
pub const MAX_CLOCK_STEP_NS: u64 = 1_000_000_000;

/// How many findings are kept; the rest are counted.
pub const MAX_FINDINGS: usize = 1_000;

/// Something that should not be in a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The entry at which it shows, or was expected.
    pub index: EntryIndex,
    /// Its position, or the last one known.
    pub position: Position,
    /// What it is.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding {
            index,
            position,
            problem,
        } = self;
        write!(f, "entry {index}, position {position}: {problem}")
    }
}

/// What can be wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// The log cannot be read here; the check goes on with the next segment.
    #[error("{what}")]
    Unreadable {
        /// The segment.
        segment: PathBuf,
        /// What is wrong with it, and where.
        what: String,
    },
    /// It does not continue the one before (LOG-1).
    #[error("{0}")]
    Discontinuous(Discontinuity),
    /// Virtual time moves too far in one step.
    #[error("virtual time moves by {step_ns} ns in one step, {MAX_CLOCK_STEP_NS} are allowed")]
    ClockStep {
        /// How far.
        step_ns: u64,
    },
    /// An output is left out or repeated (OUT-5).
    #[error("output {found} where output {expected} is expected")]
    OutputSequence {
        /// The next output.
        expected: OutputSeq,
        /// The one found.
        found: OutputSeq,
    },
    /// An output is said to have left before it was made (OUT-1).
    #[error("output {through} is released, but the last one made is {made}")]
    ReleasedAhead {
        /// As released.
        through: OutputSeq,
        /// The last output.
        made: OutputSeq,
    },
    /// Less is released than before.
    #[error("outputs up to {through} are released, but up to {before} they were already")]
    ReleasedBack {
        /// As released now.
        through: OutputSeq,
        /// As released before.
        before: OutputSeq,
    },
    /// Its bytes are more than a machine takes.
    #[error("it is longer than allowed")]
    TooLong,
}

/// The checks on a stream of entries.
#[derive(Clone, Debug)]
pub struct Checker {
    place: Place,
    /// The last output, if it is known.
    made: Option<OutputSeq>,
    released: Option<OutputSeq>,
}

impl Checker {
    /// Checks what comes behind `place`. What was before is known only at the start of a life.
    #[must_use]
    pub fn new(place: Place) -> Self {
        let known = (place == Place::START).then_some(OutputSeq(0));
        Checker {
            place,
            made: known,
            released: known,
        }
    }

    /// Checks the next entry and returns what is wrong with it.
    pub fn check(&mut self, entry: &Entry) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err(what) = self.place.check(entry) {
            problems.push(Problem::Discontinuous(what));
        }
        if !entry.payload.is_within_bounds() {
            problems.push(Problem::TooLong);
        }
        match &entry.payload {
            Payload::Clock { now } => {
                let step_ns = now.since(self.place.time);
                if step_ns > MAX_CLOCK_STEP_NS {
                    problems.push(Problem::ClockStep { step_ns });
                }
            }
            Payload::Output(mark) => {
                let found = mark.seq;
                let expected = self
                    .made
                    .map_or(found, |made| OutputSeq(made.0.saturating_add(1)));
                if found != expected {
                    problems.push(Problem::OutputSequence { expected, found });
                }
                self.made = Some(found);
            }
            Payload::Released { through } => {
                let through = *through;
                if let Some(made) = self.made.filter(|made| through > *made) {
                    problems.push(Problem::ReleasedAhead { through, made });
                }
                if let Some(before) = self.released.filter(|before| through < *before) {
                    problems.push(Problem::ReleasedBack { through, before });
                }
                self.released = Some(through);
            }
            _ => {}
        }
        self.place = self.place.after(entry);
        problems
    }
}

/// What the checks found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// How many entries were checked.
    pub entries: u64,
    /// How many segments were looked at.
    pub segments: usize,
    /// What is wrong, in the order of the log; at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// How many more findings there are.
    pub more_findings: u64,
    /// A tail that the writer did not finish: the mark of a crash, not of damage (LOG-6).
    pub torn_tail: Option<TornTail>,
}

impl Verification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(finding);
        } else {
            self.more_findings += 1;
        }
    }
}

/// Reads a whole log and checks it: checksums, numbering, positions, times, outputs, bounds, and
/// that each segment begins where the one before ends. Behind damage it goes on with the next
/// segment, so that all of it is told. The headers were checked when the log was opened.
#[must_use]
pub fn verify(log: &Log) -> Verification {
    let mut verification = Verification {
        segments: log.segments().len(),
        ..Verification::default()
    };
    let mut segment = 0;
    while segment < log.segments().len() {
        let Err(stop) = check_from(log, segment, &mut verification) else {
            break;
        };
        verification.add(Finding {
            index: stop.place.index,
            position: stop.place.position,
            problem: Problem::Unreadable {
                segment: log.segments()[stop.segment].path.clone(),
                what: stop.error.to_string(),
            },
        });
        segment = stop.segment + 1;
    }
    verification
}

/// Where a log could not be read on.
struct Stop {
    segment: usize,
    place: Place,
    error: StoreError,
}

/// Checks everything from a segment to the end, or to what cannot be read.
fn check_from(log: &Log, segment: usize, into: &mut Verification) -> Result<(), Stop> {
    let mut reader = log.reader_at_segment(segment).map_err(|error| Stop {
        segment,
        place: log.segments()[segment].header.start,
        error,
    })?;
    let mut checker = Checker::new(reader.place());
    while let Some(entry) = reader.next() {
        let entry = entry.map_err(|error| Stop {
            segment: reader.segment(),
            place: reader.place(),
            error,
        })?;
        into.entries += 1;
        for problem in checker.check(&entry) {
            into.add(Finding {
                index: entry.index,
                position: entry.position,
                problem,
            });
        }
    }
    into.torn_tail = reader.torn_tail().cloned();
    Ok(())
}
