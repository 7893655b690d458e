//! Cases through both CPUs, and what to say of one that differs.

use super::case::*;
use super::compare::differences;
use super::encode::{self, Encoded};
use super::fill::{Filler, blank};
use super::forms::Mode;
use super::guest::Guest;
use super::native::{BATCH, Native};
use super::random::Random;
use super::undefined::{is_meaningless, undefined};
use iced_x86::{Code, Formatter, IntelFormatter};
use std::fmt::Write;

/// Both CPUs.
pub(crate) struct Tester {
    native: Native,
    guest: Guest,
    filler: Filler,
}

/// What became of the cases of one form.
#[derive(Default)]
pub(crate) struct Tally {
    /// Cases that both CPUs executed.
    pub(crate) cases: u64,
    /// Those that completed on the real CPU.
    pub(crate) completed: u64,
    /// What to print for those that differ, up to [`REPORTED`].
    pub(crate) mismatches: Vec<String>,
    /// Those that differ.
    pub(crate) differing: u64,
}

/// Mismatches of one form that are minimised and kept.
pub(crate) const REPORTED: usize = 3;

/// Attempts to find operands that go together.
const ATTEMPTS: usize = 200;

/// The case that `seed` and `index` mean; `None` if no encoding was found.
fn draw(
    filler: &mut Filler,
    code: Code,
    mode: Mode,
    seed: u64,
    index: u64,
) -> Option<(Encoded, Case)> {
    let mut random = Random::new(&[seed, code as u64, mode.bits().into(), index]);
    for _ in 0..ATTEMPTS {
        if let Some(encoded) = encode::encode(&mut random, code, mode) {
            let case = filler.fill(&mut random, &encoded);
            if !is_meaningless(&encoded.instruction, &case.state) {
                return Some((encoded, case));
            }
        }
    }
    None
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
            filler: Filler::new(),
        }
    }

    /// Runs the cases `indexes` of `code`.
    pub(crate) fn run(
        &mut self,
        code: Code,
        mode: Mode,
        seed: u64,
        indexes: std::ops::Range<u64>,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut index = indexes.start;
        while index < indexes.end {
            let batch: Vec<(u64, Encoded, Case)> = (index..indexes.end)
                .take(BATCH)
                .filter_map(|index| {
                    let (encoded, case) = draw(&mut self.filler, code, mode, seed, index)?;
                    Some((index, encoded, case))
                })
                .collect();
            index += BATCH as u64;
            if batch.is_empty() {
                continue;
            }
            let cases: Vec<Case> = batch.iter().map(|(_, _, case)| case.clone()).collect();
            self.native.start(&cases).expect("the child takes cases");
            let soft: Vec<Outcome> = cases.iter().map(|case| self.guest.run(case)).collect();
            let native = self.native.finish().unwrap_or_else(|error| {
                panic!(
                    "{error}, of {}",
                    batch.iter().map(|(_, e, _)| name(e)).collect::<String>()
                )
            });
            for (((index, encoded, case), soft), native) in batch.iter().zip(soft).zip(native) {
                tally.cases += 1;
                tally.completed += u64::from(native.vector == 3);
                let undefined = undefined(&encoded.instruction, &case.state);
                let lines = differences(&native, &soft, &undefined);
                if lines.is_empty() {
                    continue;
                }
                tally.differing += 1;
                if tally.mismatches.len() < REPORTED {
                    let report = self.report(code, mode, seed, *index, encoded, case);
                    tally.mismatches.push(report);
                }
            }
        }
        tally
    }

    /// The differences of one case.
    fn differences(&mut self, encoded: &Encoded, case: &Case) -> Vec<String> {
        let native = self.native.run(case).expect("the child takes a case");
        let soft = self.guest.run(case);
        differences(
            &native,
            &soft,
            &undefined(&encoded.instruction, &case.state),
        )
    }

    /// All about a mismatch: how to repeat it, and the least state that still shows it.
    fn report(
        &mut self,
        code: Code,
        mode: Mode,
        seed: u64,
        index: u64,
        encoded: &Encoded,
        case: &Case,
    ) -> String {
        let mut text = format!(
            "{}\n  repeat: cargo run --release -p soft-cpu --example differential -- \
             --code {code:?} --mode {} --seed {seed} --case {index}\n",
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

/// The instruction, its bytes and its place.
fn name(encoded: &Encoded) -> String {
    let mut text = String::new();
    IntelFormatter::new().format(&encoded.instruction, &mut text);
    let at = CODE + u64::from(encoded.at);
    format!(
        "{:?}: {text}  {:02x?} at {at:#x}",
        encoded.instruction.code(),
        encoded.bytes
    )
}
