//! `ftvm doctor`: what this host can do, what it cannot hide from a guest, and what to do about it.

mod host_checks;
mod kvm_checks;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::output::json_line;
use super::text::{Tone, print, toned};
use crate::cpu::Backend;

/// What this host can do, what it cannot hide from a guest, and what to do about it.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm doctor
  ftvm doctor --json | jq '.checks[] | select(.verdict != \"ok\")'

Guests run on every host: `cpu` is what --cpu auto takes for the small ones.")]
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
}

/// The answer of `--json`.
#[derive(Debug, Serialize)]
struct Diagnosis {
    /// What `--cpu auto` takes for an embedded guest.
    cpu: Backend,
    /// Why.
    why: String,
    checks: Vec<Check>,
}

/// `ftvm doctor`.
pub(super) fn doctor(args: DoctorArgs) -> anyhow::Result<ExitCode> {
    let mut checks = kvm_checks::checks();
    checks.extend(host_checks::checks());
    let (cpu, why) = super::cpu::fastest();
    let diagnosis = Diagnosis { cpu, why, checks };
    if args.json {
        json_line(&diagnosis)?;
    } else {
        print(&view(&diagnosis))?;
    }
    Ok(ExitCode::SUCCESS)
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
        };
        let (name, found) = (check.check, &check.found);
        let width = width.unwrap_or(0);
        report += &format!("  {verdict}  {name:<width$}  {found}\n");
        if let Some(advice) = &check.advice {
            report += &format!("{indent}{advice}\n");
        }
    }
    let Diagnosis { cpu, why, .. } = diagnosis;
    let word = toned("This host runs guests.", Tone::Good);
    report + &format!("{word} --cpu auto is {cpu} for the small ones: {why}\n")
}
