//! `ftvm doctor`: what this host can do, what it cannot hide from a guest, and what to do about it.

mod host_checks;
mod kvm_checks;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::output::json_line;
use super::text::{Tone, print, toned};

/// What this host can do, what it cannot hide from a guest, and what to do about it.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm doctor
  ftvm doctor --json | jq '.checks[] | select(.verdict != \"ok\")'

Exit status: 0 if a guest can be run here, 1 if not. Warnings change nothing about it.")]
pub(super) struct DoctorArgs {
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It limits what can be done.
    Warn,
    /// No guest can be run.
    Fail,
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What it means, or what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Check {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check {
            verdict: Verdict::Warn,
            advice: Some(advice.into()),
            ..Check::ok(check, found)
        }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check {
            verdict: Verdict::Fail,
            ..Check::warn(check, found, advice)
        }
    }
}

/// The answer of `--json`.
#[derive(Debug, Serialize)]
struct Diagnosis {
    runs_guests: bool,
    checks: Vec<Check>,
}

/// `ftvm doctor`.
pub(super) fn doctor(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut checks = kvm_checks::checks();
    checks.extend(host_checks::checks());
    let runs_guests = checks.iter().all(|check| check.verdict != Verdict::Fail);
    let diagnosis = Diagnosis {
        runs_guests,
        checks,
    };
    if args.json {
        json_line(&diagnosis)?;
    } else {
        print(&view(&diagnosis))?;
    }
    Ok(if runs_guests {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn view(diagnosis: &Diagnosis) -> String {
    let width = diagnosis.checks.iter().map(|check| check.check.len()).max();
    let indent = " ".repeat(2 + 4 + 2 + width.unwrap_or(0) + 2);
    let mut report = String::new();
    for check in &diagnosis.checks {
        // Padded before it is coloured: an escape sequence has no width.
        let verdict = match check.verdict {
            Verdict::Ok => toned("ok  ", Tone::Good),
            Verdict::Warn => toned("warn", Tone::Doubtful),
            Verdict::Fail => toned("FAIL", Tone::Bad),
        };
        let (name, found) = (check.check, &check.found);
        let width = width.unwrap_or(0);
        report += &format!("  {verdict}  {name:<width$}  {found}\n");
        if let Some(advice) = &check.advice {
            report += &format!("{indent}{advice}\n");
        }
    }
    let (word, tone) = match diagnosis.runs_guests {
        true => ("This host runs guests.", Tone::Good),
        false => ("This host cannot run a guest.", Tone::Bad),
    };
    report + &toned(word, tone) + "\n"
}
