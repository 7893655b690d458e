//! `ftvm status`: how this host's nodes are.

use std::process::ExitCode;

use clap::Args;

use super::nodes::NodeChoice;
use super::output::json_line;
use super::text::{Table, Tone, bytes, count, print, span_ms, toned};
use crate::node::{LogSpace, NodeState, NodeStatus};

/// The exit status when no node answers.
const NO_NODE: u8 = 3;

/// How a VM is: of all nodes on this host, or of those that are chosen.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm status                      every node on this host
  ftvm status kv --role backup
  ftvm status --json | jq .state

Exit status: 0 if every node that answers says PROTECTED, 1 if not, 3 if no node answers.
With --json, each node is one line.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    choice: NodeChoice,
    /// Answer in JSON, a line for each node.
    #[arg(long)]
    json: bool,
}

/// `ftvm status`.
pub(super) fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let found = super::block_on(args.choice.find());
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            eprintln!("ftvm: {error:#}");
            return Ok(ExitCode::from(NO_NODE));
        }
    };
    if found.is_empty() {
        eprintln!("ftvm: {}", args.choice.nobody());
        return Ok(ExitCode::from(NO_NODE));
    }
    if args.json {
        found.iter().try_for_each(|node| json_line(&node.status))?;
    } else {
        let views: Vec<String> = found.iter().map(|node| view(&node.status)).collect();
        print(&views.join("\n"))?;
    }
    let protected = |status: &NodeStatus| status.state == NodeState::Protected;
    Ok(if found.iter().all(|node| protected(&node.status)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn big(state: NodeState) -> String {
    let (word, tone) = match state {
        NodeState::Starting => ("STARTING", Tone::Doubtful),
        NodeState::Protected => ("PROTECTED", Tone::Good),
        NodeState::Alone => ("ALONE", Tone::Doubtful),
        NodeState::Holding => ("HOLDING", Tone::Bad),
        NodeState::Stopped => ("STOPPED", Tone::Bad),
    };
    toned(word, tone)
}

fn view(status: &NodeStatus) -> String {
    let mut report = format!(
        "{}  {}, {} of VM {}: {}, for {}\n",
        big(status.state),
        status.node,
        status.role,
        status.vm,
        status.why,
        span_ms(status.since_ms)
    );
    if let Some(next) = &status.next {
        report += &format!("Next: {next}\n");
    }
    report += &figures(status).to_string();
    for warning in &status.warnings {
        report += &format!("  {} {warning}\n", toned("warning:", Tone::Doubtful));
    }
    report
}

fn figures(status: &NodeStatus) -> Table {
    let mut table = Table::default();
    table.pair("  guest", format!("{} on {}", status.guest, status.backend));
    table.pair("  token", generation(&status.token));
    if let Some(life) = &status.life {
        table.pair("  life", life);
    }
    table.pair("  incarnation", &status.incarnation);
    table.pair("  peer", status.peer.as_deref().unwrap_or("none"));
    table.pair("  position", status.position);
    let primary = status.role == "primary";
    if status.peer.is_some() {
        let NodeStatus {
            acknowledged,
            replayed,
            ..
        } = status;
        let entries = status.entries;
        table.pair(
            "  entries",
            format!("{entries}, {acknowledged} acknowledged, {replayed} replayed"),
        );
        if primary {
            let (now, most) = (status.lag_ms, status.lag_ms_p99);
            table.pair(
                "  replay lag",
                format!("{now:.1} ms, lately 99 % below {most:.1} ms"),
            );
        }
        table.pair("  log channel", bytes(status.log_bytes));
        table.pair(
            "  heartbeats",
            format!(
                "worst gap {:.1} ms, 99.99 % below {:.1} ms, suspected {}",
                status.worst_heartbeat_gap_ms,
                status.heartbeat_gap_p9999_ms,
                count(status.suspicions, "time", "times")
            ),
        );
    } else {
        table.pair("  entries", status.entries);
    }
    let held = count(status.held_outputs as u64, "output", "outputs");
    table.pair(
        if primary {
            "  output gate"
        } else {
            "  kept outputs"
        },
        format!("{held}, {}", bytes(status.held_bytes as u64)),
    );
    let arbiter = match (status.arbiter_reached, status.claim_ms) {
        (None, _) => "not asked yet".to_owned(),
        (Some(false), _) => toned("does not answer", Tone::Bad),
        (Some(true), None) => "answers".to_owned(),
        (Some(true), Some(ms)) => format!("answers; the claim took {ms:.1} ms"),
    };
    table.pair("  arbiter", arbiter);
    if let Some(log) = &status.log_on_disk {
        table.pair("  log on disk", log_space(log));
        table.pair("", &log.dir);
    }
    table
}

/// A log on disk: how it is, how much of its bounds is used, and what the disk has left.
fn log_space(log: &LogSpace) -> String {
    let (size, bound) = (bytes(log.bytes), bytes(log.keep_bytes));
    let mut text = format!("{size} of {bound}");
    if let Some(age) = log.keep_s {
        let (now, bound) = (span_ms(log.age_s * 1000), span_ms(age * 1000));
        text += &format!(", {now} of {bound}");
    }
    if let Some(free) = log.free_bytes {
        text += &format!("; {} free", bytes(free));
    }
    if log.recording {
        text
    } else {
        format!("{}: {text}", toned("recording has stopped", Tone::Bad))
    }
}

/// A token in words.
fn generation(token: &str) -> String {
    match token.strip_suffix('w') {
        Some(generation) => format!("generation {generation}, won"),
        None => format!("generation {token}"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn example() -> NodeStatus {
        NodeStatus {
            vm: "kv".to_owned(),
            node: "host-a".to_owned(),
            role: "primary".to_owned(),
            state: NodeState::Alone,
            why: "this node has won the generation".to_owned(),
            since_ms: 1_500,
            next: Some("start another".to_owned()),
            guest: "kv".to_owned(),
            backend: "kvm".to_owned(),
            life: Some("07".repeat(16)),
            incarnation: "08".repeat(16),
            token: "2w".to_owned(),
            peer: Some("host-b".to_owned()),
            position: 123,
            entries: 45,
            acknowledged: 44,
            replayed: 43,
            lag_ms: 0.5,
            lag_ms_median: 0.25,
            lag_ms_p99: 2.0,
            held_outputs: 1,
            held_bytes: 1514,
            log_bytes: 2048,
            heartbeat_gaps: 1000,
            worst_heartbeat_gap_ms: 60.0,
            heartbeat_gap_p9999_ms: 55.0,
            suspicions: 1,
            claim_ms: Some(3.25),
            arbiter_reached: Some(true),
            log_on_disk: Some(LogSpace {
                dir: "/var/log/ftvm".to_owned(),
                recording: true,
                bytes: 4096,
                keep_bytes: 16 << 30,
                age_s: 90,
                keep_s: Some(86_400),
                free_bytes: Some(3 << 30),
            }),
            warnings: vec!["the disk is slow".to_owned()],
        }
    }

    #[test]
    fn the_view_begins_with_the_state_why_since_when_and_what_next() {
        let view = view(&example());
        let mut lines = view.lines();
        assert_eq!(
            lines.next(),
            Some("ALONE  host-a, primary of VM kv: this node has won the generation, for 1.5 s")
        );
        assert_eq!(lines.next(), Some("Next: start another"));
        for expected in [
            "generation 2, won",
            "44 acknowledged, 43 replayed",
            "1 output, 1.5 KiB",
            "suspected 1 time",
            "the claim took 3.2 ms",
            "4.0 KiB of 16.0 GiB, 1 min 30 s of 1 d 0 h; 3.0 GiB free",
            "warning: the disk is slow",
        ] {
            assert!(view.contains(expected), "{expected}:\n{view}");
        }
    }

    #[test]
    fn log_6_a_log_that_is_not_written_any_more_is_told_of() {
        let mut log = example().log_on_disk.expect("a log");
        log.recording = false;
        log.keep_s = None;
        assert_eq!(
            log_space(&log),
            "recording has stopped: 4.0 KiB of 16.0 GiB; 3.0 GiB free"
        );
    }
}
