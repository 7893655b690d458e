//! Cases through both CPUs, and what to say of one that differs.

use super::case::*;
use super::compare::differences;
use super::encode::{self, Encoded};
use super::fill::{Filler, blank};
use super::forms::Mode;
use super::guest::Guest;
use super::native::{BATCH, Native};
use super::random::Random;
use super::sequence::{Pool, last_begun, undefined_before};
use super::undefined::{Undefined, is_meaningless, undefined};
use iced_x86::{Code, FastFormatter};
use std::fmt::{self, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// One instruction form.
    Form(Code),
    /// Several instructions in a row.
    Sequence,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Form(code) => write!(f, "{code:?}"),
            Subject::Sequence => write!(f, "sequence"),
        }
    }
}

/// Both CPUs.
pub(crate) struct Tester {
    native: Native,
    guest: Guest,
    cases: Cases,
}

/// Draws cases.
struct Cases {
    filler: Filler,
    pools: [Pool; 2],
}

/// What became of the cases of one form.
#[derive(Default)]
pub(crate) struct Tally {
    /// Cases that both CPUs executed.
    pub(crate) cases: u64,
    /// Those that are the form asked for: an odd prefix can make another of it.
    pub(crate) proper: u64,
    /// Those of them that completed on the real CPU.
    pub(crate) completed: u64,
    /// What to print for those that differ, up to [`REPORTED`].
    pub(crate) mismatches: Vec<String>,
    /// Those that differ.
    pub(crate) differing: u64,
}

/// Mismatches of one form that are minimised and kept.
pub(crate) const REPORTED: usize = 3;

/// The outcome of a case that has none: the software CPU panicked, or the child is gone.
fn lost(case: &Case) -> Outcome {
    Outcome {
        state: case.state.clone(),
        vector: u32::MAX,
        error: 0,
        cr2: 0,
        data: case.data,
    }
}

/// Attempts to find operands that go together.
const ATTEMPTS: usize = 200;

impl Cases {
    /// The case that `seed` and `index` mean; `None` if no encoding was found.
    fn draw(&self, subject: Subject, mode: Mode, seed: u64, index: u64) -> Option<(Encoded, Case)> {
        let number = match subject {
            Subject::Form(code) => code as u64,
            Subject::Sequence => 1 << 32,
        };
        let mut random = Random::new(&[seed, number, mode.bits().into(), index]);
        for _ in 0..ATTEMPTS {
            let encoded = match subject {
                Subject::Form(code) => encode::encode(&mut random, code, mode),
                Subject::Sequence => Some(self.pools[mode as usize].draw(&mut random, mode)),
            };
            let Some(encoded) = encoded else { continue };
            let case = self.filler.fill(&mut random, &encoded);
            if !is_meaningless(&encoded.instruction, &case.state) {
                return Some((encoded, case));
            }
        }
        None
    }
}

/// Where the outcomes of a case differ.
fn compare(encoded: &Encoded, case: &Case, native: &Outcome, soft: &Outcome) -> Vec<String> {
    let undefined = undefined_at(encoded, case, native.state.rip);
    let begin = last_begun(encoded, native.state.rip);
    differences(native, soft, &undefined, begin)
}

/// What is undefined where `case` ended, at `rip`.
fn undefined_at(encoded: &Encoded, case: &Case, rip: u64) -> Undefined {
    if encoded.rest.is_empty() {
        return undefined(&encoded.instruction, &case.state);
    }
    Undefined {
        flags: undefined_before(encoded, rip),
        flags_after_fault: true,
        misaligned_order: case.state.rflags & flags::AC != 0,
        ..Undefined::default()
    }
}

impl Tester {
    /// # Panics
    ///
    /// If the child cannot be started.
    pub(crate) fn new() -> Tester {
        let native = Native::new().expect("a child process starts");
        Tester {
            native,
            guest: Guest::new(),
            cases: Cases {
                filler: Filler::new(),
                pools: [Mode::Long, Mode::Compatibility].map(Pool::new),
            },
        }
    }

    /// Executes up to [`BATCH`] cases on both CPUs at once.
    fn both(&mut self, cases: &[Case]) -> (Vec<Outcome>, Vec<Outcome>) {
        let started = self.native.start(cases);
        let soft = cases.iter().map(|case| self.soft(case)).collect();
        let native = started
            .and_then(|()| self.native.finish())
            .unwrap_or_else(|error| {
                self.native = Native::new().expect("a child process starts");
                if let [case] = cases {
                    eprintln!("{error}: {:02x?}", &case.code[..case.code_len as usize]);
                    return vec![lost(case)];
                }
                eprintln!("{error}; the batch is repeated, one case at a time");
                cases
                    .iter()
                    .flat_map(|case| self.both(std::slice::from_ref(case)).0)
                    .collect()
            });
        (native, soft)
    }

    /// Executes a case on the software CPU. A panic there is an outcome of its own.
    fn soft(&mut self, case: &Case) -> Outcome {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.guest.run(case)));
        outcome.unwrap_or_else(|_| {
            self.guest = Guest::new();
            lost(case)
        })
    }

    /// Runs the cases `indexes` of `subject`.
    pub(crate) fn run(
        &mut self,
        subject: Subject,
        mode: Mode,
        seed: u64,
        indexes: Range<u64>,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut index = indexes.start;
        while index < indexes.end {
            let batch: Vec<(u64, Encoded, Case)> = (index..indexes.end)
                .take(BATCH)
                .filter_map(|index| {
                    let (encoded, case) = self.cases.draw(subject, mode, seed, index)?;
                    Some((index, encoded, case))
                })
                .collect();
            index += BATCH as u64;
            if batch.is_empty() {
                continue;
            }
            let cases: Vec<Case> = batch.iter().map(|(_, _, case)| case.clone()).collect();
            let (native, soft) = self.both(&cases);
            for (((index, encoded, case), soft), native) in batch.iter().zip(soft).zip(native) {
                tally.cases += 1;
                if subject == Subject::Sequence
                    || subject == Subject::Form(encoded.instruction.code())
                {
                    tally.proper += 1;
                    tally.completed += u64::from(native.vector == 3);
                }
                if compare(encoded, case, &native, &soft).is_empty() {
                    continue;
                }
                tally.differing += 1;
                if tally.mismatches.len() < REPORTED {
                    let report = self.report(subject, mode, seed, *index, encoded, case);
                    tally.mismatches.push(report);
                }
            }
        }
        tally
    }

    /// The differences of one case.
    fn differences(&mut self, encoded: &Encoded, case: &Case) -> Vec<String> {
        let (native, soft) = self.both(std::slice::from_ref(case));
        compare(encoded, case, &native[0], &soft[0])
    }

    /// All about a mismatch: how to repeat it, and the least state that still shows it.
    fn report(
        &mut self,
        subject: Subject,
        mode: Mode,
        seed: u64,
        index: u64,
        encoded: &Encoded,
        case: &Case,
    ) -> String {
        let mut text = format!(
            "{}\n  repeat: cargo run --release -p soft-cpu --example differential -- \
             --code {subject} --mode {} --seed {seed} --case {index}\n",
            name(encoded),
            mode.bits(),
        );
        let least = self.minimise(encoded, case);
        let (plain, state) = (blank(encoded).state, &least.state);
        for (number, value) in state.general.iter().enumerate() {
            if *value != 0 {
                let _ = write!(text, "  r{number}={value:#x}");
            }
        }
        let _ = writeln!(text, "  rflags={:#x}", state.rflags);
        for chunk in (0..FX_USED).step_by(16) {
            let bytes = &state.fx.0[chunk..chunk + 16];
            if bytes != &plain.fx.0[chunk..chunk + 16] {
                let _ = writeln!(text, "  fx[{chunk}..]={bytes:02x?}");
            }
        }
        for chunk in (0..DATA_BYTES).step_by(16) {
            let bytes = &least.data[chunk..chunk + 16];
            if bytes.iter().any(|byte| *byte != 0) {
                let _ = writeln!(text, "  {:#x}: {bytes:02x?}", DATA + chunk as u64);
            }
        }
        for line in self.differences(encoded, &least) {
            let _ = writeln!(text, "  => {line}");
        }
        text
    }

    /// Makes the state before the case plainer as long as the CPUs still differ in the same place.
    fn minimise(&mut self, encoded: &Encoded, case: &Case) -> Case {
        let place = |lines: &[String]| {
            lines
                .first()
                .and_then(|line| line.split(':').next())
                .map(str::to_owned)
        };
        let wanted = place(&self.differences(encoded, case));
        let mut least = case.clone();
        let mut attempt = |least: &mut Case, change: &dyn Fn(&mut Case)| {
            let mut plainer = least.clone();
            change(&mut plainer);
            let same = plainer.state == least.state && plainer.data == least.data;
            if !same && place(&self.differences(encoded, &plainer)) == wanted {
                *least = plainer;
            }
        };
        let plain = blank(encoded);
        attempt(&mut least, &|case| case.state.rflags = 0x202);
        attempt(&mut least, &|case| case.state.fx = plain.state.fx);
        for number in 0..16 {
            attempt(&mut least, &|case| case.state.general[number] = 0);
        }
        for bit in 0..22 {
            attempt(&mut least, &|case| case.state.rflags &= !(1 << bit) | 0x202);
        }
        for at in (0..FX_USED).step_by(16) {
            attempt(&mut least, &|case| {
                case.state.fx.0[at..at + 16].copy_from_slice(&plain.state.fx.0[at..at + 16]);
            });
        }
        let mut size = DATA_BYTES;
        while size >= 16 {
            for at in (0..DATA_BYTES).step_by(size) {
                attempt(&mut least, &|case| case.data[at..at + size].fill(0));
            }
            size /= 2;
        }
        least
    }
}

/// The instructions, their bytes and their place.
fn name(encoded: &Encoded) -> String {
    let mut text = String::new();
    for instruction in std::iter::once(&encoded.instruction).chain(&encoded.rest) {
        FastFormatter::new().format(instruction, &mut text);
        text.push_str("; ");
    }
    let at = CODE + u64::from(encoded.at);
    let code = encoded.instruction.code();
    format!("{code:?}: {text} {:02x?} at {at:#x}", encoded.bytes)
}
