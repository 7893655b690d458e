//! `ftvm log info`, `stats`, `verify` and `diff`: reports over whole logs.

use std::process::ExitCode;

use anyhow::Context as _;
use ft_logging::entry::Kind;
use ft_logging::inspect::{self, Diff, End, Info, Outcome, Seconds, Side, Stats, Verification};
use ft_logging::store::Log;
use ft_logging::types::VirtualTime;

use super::super::output::json_line;
use super::super::text::{Table, Tone, bit_rate, bytes, count, number, print, text, toned};

/// How many segments are listed; more are counted.
const MAX_SEGMENTS_LISTED: usize = 20;

fn seconds(ns: u64) -> String {
    format!("{} s", Seconds(VirtualTime(ns)))
}

/// `ftvm log info`.
pub(super) fn info(log: &Log, json: bool) -> anyhow::Result<ExitCode> {
    let info = inspect::info(log)?;
    if json {
        json_line(&info)?;
    } else {
        print(&info_text(&info))?;
    }
    // Damage is told in full, and yet is no success.
    Ok(match info.ending {
        End::Damaged(_) => ExitCode::FAILURE,
        End::Whole | End::Torn(_) => ExitCode::SUCCESS,
    })
}

fn info_text(info: &Info) -> String {
    let mut table = Table::default();
    table.pair("VM", format!("{}, guest {}", info.vm, info.guest));
    table.pair("life", info.life);
    let entries = match (info.first, info.last) {
        (Some(first), Some(last)) => format!("{} ({first} to {last})", info.entries),
        _ => "none".to_owned(),
    };
    table.pair("entries", entries);
    table.pair(
        "positions",
        format!("{} to {}", info.start.position, info.end.position),
    );
    table.pair(
        "virtual time",
        format!("{} of the guest's time", seconds(info.span_ns)),
    );
    table.pair(
        "real-time clock",
        format!("{} s since 1970 at virtual time 0", info.rtc_epoch_s),
    );
    table.pair(
        "size",
        format!(
            "{} in {}",
            bytes(info.bytes),
            count(info.segments.len(), "segment", "segments")
        ),
    );
    table.pair("format", format!("version {}", info.format_version));
    let off = if info.powered_off {
        ", the operator switched the machine off"
    } else {
        ""
    };
    let ending = match &info.ending {
        End::Whole => format!("whole{off}"),
        End::Torn(tail) => format!("{tail} (its writer is at it, or was killed)"),
        End::Damaged(what) => format!("{}: {what}", toned("DAMAGED", Tone::Bad)),
    };
    table.pair("ends", ending);

    let mut settings = Table::default();
    for setting in &info.configuration {
        settings.pair(setting.setting, &setting.value);
    }
    settings.pair("digest of these", &info.configuration_digest);

    let mut segments = Table::default();
    segments.row([
        text("  segment"),
        number("first entry"),
        text("token"),
        number("size"),
    ]);
    for segment in info.segments.iter().take(MAX_SEGMENTS_LISTED) {
        let name = segment.path.file_name().unwrap_or(segment.path.as_os_str());
        segments.row([
            text(format!("  {}", name.display())),
            number(segment.first),
            text(segment.token),
            number(bytes(segment.bytes)),
        ]);
    }
    let more = info.segments.len().saturating_sub(MAX_SEGMENTS_LISTED);
    let more = if more > 0 {
        format!("  and {more} more\n")
    } else {
        String::new()
    };
    format!("{table}\nWhat two nodes must agree on:\n{settings}\n{segments}{more}")
}

/// `ftvm log stats`.
pub(super) fn stats(log: &Log, json: bool) -> anyhow::Result<ExitCode> {
    let stats = Stats::of(log.start(), log.reader()?)
        .context("the figures end here; `ftvm log verify` tells all that is wrong")?;
    if json {
        json_line(&stats)?;
    } else {
        print(&stats_text(&stats))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn stats_text(stats: &Stats) -> String {
    let mut totals = Table::default();
    totals.pair("entries", stats.entries);
    totals.pair("size", bytes(stats.bytes));
    totals.pair("virtual time", seconds(stats.span_ns));
    if let (Some(entries), Some(bits)) = (stats.entries_per_s, stats.bits_per_s) {
        totals.pair(
            "rate",
            format!("{entries:.0} entries/s, {}", bit_rate(bits)),
        );
    }
    let digests = &stats.digests;
    totals.pair(
        "digests",
        format!("{}, {} of them with RAM", digests.count, digests.with_ram),
    );

    let mut kinds = Table::default();
    kinds.row([
        text("kind"),
        number("entries"),
        number("bytes"),
        number("bytes/entry"),
        number("share"),
    ]);
    for kind in &stats.kinds {
        kinds.row([
            text(kind.kind.name()),
            number(kind.count),
            number(kind.bytes),
            number(format!("{:.1}", kind.bytes_per_entry)),
            number(format!("{:.1} %", kind.share * 100.0)),
        ]);
    }
    let mut outputs = Table::default();
    for device in &stats.outputs {
        let amount = format!("{} outputs, {}", device.count, bytes(device.bytes));
        outputs.row([text(device.device), number(amount)]);
    }
    let mut interrupts = Table::default();
    for vector in &stats.interrupts {
        interrupts.row([
            text(format!("vector 0x{:02x}", vector.vector)),
            number(vector.count),
        ]);
    }
    let mut gaps = Table::default();
    for gap in stats.gaps.iter().filter(|gap| gap.count > 0) {
        let class = gap.below_ns.map_or_else(
            || "longer".to_owned(),
            |ns| format!("below {}", short_time(ns)),
        );
        gaps.row([text(class), number(gap.count)]);
    }
    let mut report = format!("{totals}\n{kinds}");
    for (heading, table) in [
        ("What left the machine", outputs.to_string()),
        ("Interrupts", interrupts.to_string()),
        ("From one clock entry to the next", gaps.to_string()),
    ] {
        if !table.is_empty() {
            report += &format!("\n{heading}:\n{table}");
        }
    }
    report
}

fn short_time(ns: u64) -> String {
    match ns {
        1_000_000_000.. => format!("{} s", ns / 1_000_000_000),
        1_000_000.. => format!("{} ms", ns / 1_000_000),
        _ => format!("{} µs", ns / 1_000),
    }
}

/// `ftvm log verify`.
pub(super) fn verify(log: &Log, json: bool) -> anyhow::Result<ExitCode> {
    let found = inspect::verify(log);
    if json {
        json_line(&found)?;
    } else {
        print(&verify_text(&found))?;
    }
    Ok(if found.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn verify_text(found: &Verification) -> String {
    let Verification {
        entries,
        segments,
        findings,
        more_findings,
        torn_tail,
    } = found;
    let checked = format!(
        "{} in {}",
        count(*entries, "entry", "entries"),
        count(*segments, "segment", "segments")
    );
    let mut report = match findings.len() {
        0 => format!(
            "{}: {checked}, nothing is wrong\n",
            toned("sound", Tone::Good)
        ),
        count => {
            let count = count as u64 + more_findings;
            format!(
                "{}: {checked}, {count} findings\n",
                toned("NOT SOUND", Tone::Bad)
            )
        }
    };
    for finding in findings {
        report += &format!("  {finding}\n");
    }
    if *more_findings > 0 {
        report += &format!("  and {more_findings} more\n");
    }
    if let Some(tail) = torn_tail {
        report += &format!("It ends in {tail}. That is the mark of a crash, not of damage.\n");
    }
    report
}

/// `ftvm log diff`.
pub(super) fn diff(
    first: &Log,
    second: &Log,
    ignore: &[Kind],
    json: bool,
) -> anyhow::Result<ExitCode> {
    let diff = inspect::diff(first, second, ignore)?;
    if json {
        json_line(&diff)?;
    } else {
        print(&diff_text(&diff))?;
    }
    let parted = matches!(diff.outcome, Outcome::Parted { .. }) || !diff.headers.is_empty();
    Ok(if parted {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn diff_text(diff: &Diff) -> String {
    let equal = diff.equal_entries;
    let mut report = String::new();
    if !diff.headers.is_empty() {
        report += "The machines did not start from the same state:\n";
        for difference in &diff.headers {
            report += &format!("  {difference}\n");
        }
    }
    report += &match &diff.outcome {
        Outcome::Equal => format!("{}: {equal} entries\n", toned("equal", Tone::Good)),
        Outcome::Prefix { shorter, next } => {
            let (shorter, longer) = match shorter {
                Side::First => ("first", "second"),
                Side::Second => ("second", "first"),
            };
            format!(
                "{}: the {shorter} log ends after {equal} equal entries, the {longer} goes on \
                 with\n{next}\n",
                toned("prefix", Tone::Good)
            )
        }
        Outcome::Parted {
            differences,
            first,
            second,
        } => {
            let mut text = format!(
                "{}: after {equal} equal entries\n",
                toned("PARTED", Tone::Bad)
            );
            for difference in differences {
                text += &format!("  {difference}\n");
            }
            text + &format!("first   {first}\nsecond  {second}\n")
        }
    };
    report
}
