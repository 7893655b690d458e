//! The differential tester, for as long as one likes.
//!
//! `cargo run --release -p soft-cpu --example differential -- --cases 1000000 --seed 7 --jobs 2`
//!
//! Options: `--cases N` (in all), `--seed S`, `--code NAME` (one form, or all whose name begins so),
//! `--mode 64|32`, `--case I` (that one alone), `--jobs J`. Exit status 0 if nothing differed.

#[cfg(target_arch = "x86_64")]
#[path = "../tests/oracle/mod.rs"]
mod oracle;

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("SKIPPED: the differential tester needs an x86-64 host");
}

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    match run::options(std::env::args().skip(1)).and_then(|options| run::all(&options)) {
        Ok(0) => std::process::ExitCode::SUCCESS,
        Ok(_) => std::process::ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("differential: {problem}");
            std::process::ExitCode::from(2)
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod run {
    use super::oracle::forms::{Mode, claimed, exemption};
    use super::oracle::tester::{Subject, Tester};
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    pub(crate) struct Options {
        cases: u64,
        seed: u64,
        code: Option<String>,
        mode: Option<Mode>,
        case: Option<u64>,
        jobs: usize,
    }

    pub(crate) fn options(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            cases: 1_000_000,
            seed: 1,
            code: None,
            mode: None,
            case: None,
            jobs: 1,
        };
        while let Some(word) = words.next() {
            let value = words.next().ok_or(format!("{word} wants a value"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{word}: no number: {value}"))
            };
            match word.as_str() {
                "--cases" => options.cases = number()?,
                "--seed" => options.seed = number()?,
                "--case" => options.case = Some(number()?),
                "--jobs" => options.jobs = number()?.clamp(1, 64) as usize,
                "--code" => options.code = Some(value),
                "--mode" if value == "64" => options.mode = Some(Mode::Long),
                "--mode" if value == "32" => options.mode = Some(Mode::Compatibility),
                _ => return Err(format!("unknown option {word} {value}")),
            }
        }
        Ok(options)
    }

    /// What the options mean, with the seed of each. A name that is a form's whole name means no other.
    fn subjects(options: &Options) -> Vec<(Subject, Mode, u64)> {
        let modes = [Mode::Long, Mode::Compatibility];
        let mut all = Vec::new();
        for mode in modes {
            if options.mode.is_some_and(|wanted| wanted != mode) {
                continue;
            }
            let forms = claimed(mode).filter(|code| exemption(*code, mode).is_none());
            all.extend(forms.map(|code| (Subject::Form(code), mode, options.seed)));
            // Half of the cases, about.
            let sequences = if options.code.is_some() {
                1
            } else {
                all.len() as u64
            };
            all.extend((0..sequences).map(|n| (Subject::Sequence, mode, options.seed + (n << 32))));
        }
        let Some(wanted) = &options.code else {
            return all;
        };
        let named = |exact: bool| {
            let fits = |subject: Subject| {
                let name = subject.to_string();
                if exact {
                    name == *wanted
                } else {
                    name.starts_with(wanted.as_str())
                }
            };
            all.iter()
                .copied()
                .filter(|(subject, _, _)| fits(*subject))
                .collect::<Vec<_>>()
        };
        let exact = named(true);
        if exact.is_empty() {
            named(false)
        } else {
            exact
        }
    }

    /// Runs all cases; the number of those that differ.
    pub(crate) fn all(options: &Options) -> Result<u64, String> {
        /// Cases of one form before the next form's.
        const ROUND: u64 = 256;
        let forms = subjects(options);
        if forms.is_empty() {
            return Err(format!(
                "no form of that name is compared: {:?}",
                options.code
            ));
        }
        let each = options.cases.div_ceil(forms.len() as u64);
        let rounds = each.div_ceil(ROUND);
        let (next, cases, differing) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let job = || {
            let mut tester = Tester::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let round = (number / forms.len()) as u64;
                if round >= rounds {
                    return;
                }
                let (subject, mode, seed) = forms[number % forms.len()];
                let indexes = match options.case {
                    Some(case) => case..case + u64::from(round == 0),
                    None => round * ROUND..each.min((round + 1) * ROUND),
                };
                let tally = tester.run(subject, mode, seed, indexes);
                cases.fetch_add(tally.cases, Ordering::Relaxed);
                differing.fetch_add(tally.differing, Ordering::Relaxed);
                for mismatch in &tally.mismatches {
                    println!("{mismatch}");
                }
                if tally.differing > 0 {
                    let all = tally.cases;
                    println!(
                        "{subject} {mode:?}: {} of {all} cases differ\n",
                        tally.differing
                    );
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..options.jobs {
                scope.spawn(job);
            }
        });
        let differing = differing.into_inner();
        println!(
            "{} cases of {} forms, {differing} differ",
            cases.into_inner(),
            forms.len()
        );
        Ok(differing)
    }
}
