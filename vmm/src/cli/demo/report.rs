//! What a run has shown: as one JSON object, and as a page for people.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::Kill;
use super::disk::OnDisk;
use super::view::{Paint, grouped, millis};

/// The figures of one run. What is `null` did not happen.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) kill: Kill,
    pub(super) gateway_repeat: bool,
    pub(super) clients: usize,
    pub(super) seconds: f64,
    pub(super) detect_ms: u64,
    pub(super) guest: String,
    pub(super) backend: String,
    /// Answered requests.
    pub(super) requests: u64,
    /// Answered requests that wrote.
    pub(super) acknowledged: u64,
    /// Values and counters that were read back at the end.
    pub(super) checked: usize,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) connections_broken: usize,
    /// SYN or RST segments on the guest's side after the kill.
    pub(super) connections_reopened: u64,
    /// Frames on the guest's side after the kill.
    pub(super) frames_captured: u64,
    pub(super) frames_repeated: u64,
    /// Since the load began.
    pub(super) killed_at_ms: Option<f64>,
    /// From the kill until a node suspected the other.
    pub(super) detected_ms: Option<f64>,
    /// From the kill until a node had won the generation.
    pub(super) live_ms: Option<f64>,
    /// The longest wait of any request around the kill; without a kill, of any at all.
    pub(super) blackout_ms: f64,
    /// Before the kill, as the next four.
    pub(super) median_request_us: f64,
    pub(super) p99_request_us: f64,
    pub(super) requests_per_s: f64,
    pub(super) log_bits_per_s: f64,
    pub(super) lag_ms_p99: f64,
    /// Who won the generation, if anybody claimed it.
    pub(super) winner: Option<String>,
    pub(super) token: String,
    pub(super) claim_ms: Option<f64>,
    /// How many nodes are the VM at the end.
    pub(super) nodes_speaking: usize,
    /// What the survivor's disk has, if the guest has one and was not to stay.
    pub(super) on_disk: Option<OnDisk>,
    #[serde(skip)]
    pub(super) notes: Notes,
}

/// What only people want to know.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    pub(super) struck: Option<String>,
    pub(super) fault: Option<String>,
    pub(super) why_broken: Option<String>,
    pub(super) history: String,
}

impl Figures {
    /// What is not as it was promised; empty after a good run.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let first = self.notes.fault.as_deref().unwrap_or_default();
        if self.lost > 0 {
            faults.push(format!(
                "{} acknowledged writes are lost ({first})",
                self.lost
            ));
        }
        if self.duplicated > 0 {
            let count = self.duplicated;
            faults.push(format!("{count} increments were counted twice ({first})"));
        }
        if self.connections_broken > 0 {
            let why = self.notes.why_broken.as_deref().unwrap_or_default();
            let count = self.connections_broken;
            faults.push(format!("{count} of the connections broke ({why})"));
        }
        if self.connections_reopened > 0 {
            faults.push(format!(
                "the capture has {} segments that open or reset a connection after the kill",
                self.connections_reopened
            ));
        }
        if self.kill != Kill::None && self.frames_captured == 0 {
            faults.push("the capture has no frames after the kill".to_owned());
        }
        if self.nodes_speaking != 1 {
            faults.push(format!(
                "{} nodes are the VM at the end",
                self.nodes_speaking
            ));
        }
        if let Some(disk) = &self.on_disk {
            let first = disk.fault.as_deref().unwrap_or_default();
            if disk.lost > 0 {
                faults.push(format!(
                    "{} acknowledged writes are not on the {}'s disk ({first})",
                    disk.lost, disk.node
                ));
            }
            if disk.duplicated > 0 {
                faults.push(format!(
                    "{} increments are doubled on the {}'s disk ({first})",
                    disk.duplicated, disk.node
                ));
            }
        }
        faults
    }

    /// Whether everything is as it was promised.
    pub(super) fn good(&self) -> bool {
        self.faults().is_empty()
    }
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    #[serde(flatten)]
    figures: &'a Figures,
    /// The second, shorter run, with the gateway's repeat off.
    without_repeat: Option<&'a Figures>,
}

impl<'a> Report<'a> {
    /// Of the main run, and of the one with the repeat off, if there was one.
    pub(super) fn new(figures: &'a Figures, without_repeat: Option<&'a Figures>) -> Self {
        Report {
            figures,
            without_repeat,
        }
    }

    /// Whether all runs went as promised.
    pub(super) fn good(&self) -> bool {
        self.runs().all(Figures::good)
    }

    fn runs(&self) -> impl Iterator<Item = &'a Figures> {
        [self.figures].into_iter().chain(self.without_repeat)
    }

    /// The page for people.
    pub(super) fn page(&self, paint: Paint) -> String {
        let mut page = String::from("\n");
        let figures = self.figures;
        let _ = writeln!(page, "  {}\n", self.headline(paint));
        if !figures.notes.history.is_empty() {
            let _ = writeln!(page, "  {}\n", figures.notes.history);
        }
        for (name, text) in self.story() {
            let _ = writeln!(page, "  {name:<10} {text}");
        }
        for run in self.runs() {
            for fault in run.faults() {
                let _ = writeln!(page, "  {} {fault}", paint.bad("FAILED"));
            }
        }
        page.push('\n');
        page.push_str(&self.table(paint));
        page.push_str(&next(paint));
        page
    }

    fn headline(&self, paint: Paint) -> String {
        let figures = self.figures;
        if !self.good() {
            return paint.bad("This run did not keep the promise.");
        }
        let text = match figures.kill {
            Kill::None => "Nothing was killed, and nothing was lost.".to_owned(),
            kill => format!(
                "{}, and the clients went on: nothing lost, doubled or broken.",
                kill.headline()
            ),
        };
        paint.bold(&paint.good(&text))
    }

    fn story(&self) -> Vec<(&'static str, String)> {
        let figures = self.figures;
        let mut story = Vec::new();
        if let (Some(what), Some(at)) = (&figures.notes.struck, figures.killed_at_ms) {
            let how = if figures.kill == Kill::Partition {
                "cut"
            } else {
                "killed"
            };
            story.push((how, format!("{what}, {:.2} s into the load", at / 1e3)));
        }
        if let (Some(winner), Some(live)) = (&figures.winner, figures.live_ms) {
            let mut text = format!("the {winner}, which was the VM {} later", wait(live));
            if let (Some(noticed), Some(claim)) = (figures.detected_ms, figures.claim_ms) {
                let _ = write!(
                    text,
                    " (noticed after {}, claim answered in {})",
                    wait(noticed),
                    wait(claim)
                );
            }
            story.push(("winner", text));
        } else if figures.kill != Kill::None {
            let text = "nobody had to win anything: the pair stayed protected";
            story.push(("winner", text.to_owned()));
        }
        let around = if figures.kill == Kill::None {
            ""
        } else {
            ", of all requests around that moment"
        };
        let usual = wait(figures.median_request_us / 1e3);
        let blackout = wait(figures.blackout_ms);
        let text = format!("{blackout} at worst{around}; a usual request takes {usual}");
        story.push(("waited", text));
        if let Some(off) = self.without_repeat {
            let text = format!(
                "{} at worst, where the gateway does not repeat what the dead node swallowed",
                wait(off.blackout_ms)
            );
            story.push(("", text));
        }
        story.push((
            "checked",
            format!(
                "{} acknowledged writes: {} lost, {} doubled",
                grouped(figures.acknowledged),
                figures.lost,
                figures.duplicated
            ),
        ));
        let mut connections = format!(
            "{} TCP connections: {} broken",
            figures.clients, figures.connections_broken
        );
        if figures.kill != Kill::None {
            let _ = write!(
                connections,
                ", {} opened or reset since (capture of {} frames)",
                figures.connections_reopened,
                grouped(figures.frames_captured)
            );
        }
        story.push(("", connections));
        if let Some(disk) = &figures.on_disk {
            let text = format!(
                "{} values, read from the {}'s disk by a guest booted anew: {} writes lost, {} doubled",
                grouped(disk.checked as u64),
                disk.node,
                disk.lost,
                disk.duplicated
            );
            story.push(("on disk", text));
        }
        story
    }

    fn table(&self, paint: Paint) -> String {
        type Row = (&'static str, fn(&Figures) -> String);
        let rows: [Row; 9] = [
            ("longest wait", |f| wait(f.blackout_ms)),
            ("usual request, protected", |f| {
                wait(f.median_request_us / 1e3)
            }),
            ("99 of 100 requests", |f| wait(f.p99_request_us / 1e3)),
            ("requests a second", |f| grouped(f.requests_per_s as u64)),
            ("log channel", |f| {
                format!("{:.1} Mbit/s", f.log_bits_per_s / 1e6)
            }),
            ("replay lag, 99 of 100", |f| wait(f.lag_ms_p99)),
            ("frames repeated", |f| grouped(f.frames_repeated)),
            ("token at the end", |f| f.token.clone()),
            ("CPU backend", |f| f.backend.clone()),
        ];
        let mut table = format!("  {:<26}", "");
        for run in self.runs() {
            let name = if run.gateway_repeat {
                "repeat on"
            } else {
                "repeat off"
            };
            let _ = write!(table, "{}", paint.dim(&format!("{name:>14}")));
        }
        table.push('\n');
        for (name, figure) in rows {
            let _ = write!(table, "  {name:<26}");
            for run in self.runs() {
                let _ = write!(table, "{:>14}", figure(run));
            }
            table.push('\n');
        }
        table
    }
}

fn next(paint: Paint) -> String {
    let mut text = String::from("\n  Next\n");
    for (command, what) in [
        (
            "ftvm demo --keep",
            "leaves it all running for redis-cli and your own kill -9",
        ),
        (
            "ftvm demo --kill partition",
            "cuts the network between two living nodes",
        ),
        (
            "ftvm demo --kill host",
            "takes the arbiter's leader down with the primary",
        ),
        (
            "ftvm log stats DIR",
            "what is in the log that --keep writes",
        ),
    ] {
        let _ = writeln!(text, "    {command:<28} {}", paint.dim(what));
    }
    text
}

fn wait(ms: f64) -> String {
    millis(Duration::from_secs_f64(ms / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            kill: Kill::Primary,
            gateway_repeat: true,
            clients: 8,
            seconds: 8.0,
            detect_ms: 500,
            guest: "kv".to_owned(),
            backend: "kvm".to_owned(),
            requests: 100,
            acknowledged: 75,
            checked: 60,
            lost: 0,
            duplicated: 0,
            connections_broken: 0,
            connections_reopened: 0,
            frames_captured: 10,
            frames_repeated: 4,
            killed_at_ms: Some(3200.0),
            detected_ms: Some(1.0),
            live_ms: Some(4.0),
            blackout_ms: 8.0,
            median_request_us: 500.0,
            p99_request_us: 900.0,
            requests_per_s: 1e4,
            log_bits_per_s: 1e7,
            lag_ms_p99: 1.0,
            winner: Some("backup".to_owned()),
            token: "1w".to_owned(),
            claim_ms: Some(2.0),
            nodes_speaking: 1,
            on_disk: Some(OnDisk {
                node: "backup".to_owned(),
                checked: 521,
                lost: 0,
                duplicated: 0,
                fault: None,
            }),
            notes: Notes::default(),
        }
    }

    fn on_disk(figures: &mut Figures) -> &mut OnDisk {
        figures.on_disk.as_mut().expect("the guest has one")
    }

    #[test]
    fn each_broken_promise_is_a_fault() {
        assert!(figures().good());
        type Change = fn(&mut Figures);
        let cases: [(&str, Change); 9] = [
            ("lost", |f| f.lost = 1),
            ("twice", |f| f.duplicated = 1),
            ("broke", |f| f.connections_broken = 1),
            ("reset", |f| f.connections_reopened = 1),
            ("no frames", |f| f.frames_captured = 0),
            ("0 nodes", |f| f.nodes_speaking = 0),
            ("2 nodes", |f| f.nodes_speaking = 2),
            ("not on the backup's disk", |f| on_disk(f).lost = 1),
            ("doubled on the backup's disk", |f| {
                on_disk(f).duplicated = 1
            }),
        ];
        for (word, spoil) in cases {
            let mut spoilt = figures();
            spoil(&mut spoilt);
            let faults = spoilt.faults();
            assert_eq!(faults.len(), 1, "{word}");
            assert!(faults[0].contains(word), "{word}: {faults:?}");
            let good = figures();
            assert!(!Report::new(&good, Some(&spoilt)).good(), "either run");
            let page = Report::new(&good, Some(&spoilt)).page(Paint::new(false));
            assert!(page.contains("FAILED") && page.contains(word), "{page}");
        }
    }

    #[test]
    fn the_json_has_what_was_promised() {
        let (on, mut off) = (figures(), figures());
        off.gateway_repeat = false;
        let json = serde_json::to_value(Report::new(&on, Some(&off))).expect("plain data");
        for name in [
            "acknowledged",
            "lost",
            "duplicated",
            "connections_broken",
            "blackout_ms",
            "median_request_us",
            "log_bits_per_s",
            "lag_ms_p99",
            "winner",
            "backend",
            "frames_repeated",
            "connections_reopened",
            "gateway_repeat",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["without_repeat"]["gateway_repeat"], false);
        assert_eq!(json["kill"], "primary");
    }
}
