//! What a person sees while it happens, on standard error: event lines, and on a terminal a few
//! lines below them that are drawn anew.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use test_and_set::Role;

use super::super::stage::Audience;
use super::super::stage::observe::Observed;
use super::super::stage::process::{Happening, Said, What, Who};
use crate::node::NodeState;

/// How many samples the sparkline shows.
const SPARKS: usize = 72;

/// The steps of a sparkline, from nothing to the most.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What the live lines tell.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// How everybody is.
    pub(super) seen: &'a Observed,
    /// The process ids of both nodes.
    pub(super) pids: [(Who, i32); 2],
    /// Answers so far.
    pub(super) requests: u64,
    /// Acknowledged writes so far.
    pub(super) writes: u64,
    /// TCP connections at work.
    pub(super) clients: usize,
}

/// Colours, where they are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    /// Colours if `terminal` and the person has not said otherwise (<https://no-color.org>).
    pub(super) fn new(terminal: bool) -> Self {
        Paint(terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    fn caution(self, text: &str) -> String {
        self.wrap("33", text)
    }
}

/// The view.
#[derive(Debug)]
pub(super) struct View {
    begun: Instant,
    live: bool,
    paint: Paint,
    drawn: usize,
    samples: Vec<(u64, bool)>,
    counted: (Instant, u64),
    rate: f64,
    struck: bool,
}

impl View {
    /// With `plain`, or off a terminal, only event lines.
    pub(super) fn new(plain: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        View {
            begun: now,
            live: terminal && !plain && std::io::stdout().is_terminal(),
            paint: Paint::new(terminal),
            drawn: 0,
            samples: Vec::new(),
            counted: (now, 0),
            rate: 0.0,
            struck: false,
        }
    }

    /// A line of its own.
    pub(super) fn heading(&mut self, text: &str) {
        self.print(&format!("{}\n", self.paint.bold(text)));
    }

    /// A line of its own, plain.
    pub(super) fn line(&mut self, text: &str) {
        self.print(&format!("{text}\n"));
    }

    /// Something was done to the processes: the moment is marked in the sparkline.
    pub(super) fn strike(&mut self, at: Instant, text: &str) {
        self.struck = true;
        self.event(at, &self.paint.bad(text));
    }

    /// Something happened.
    pub(super) fn event(&mut self, at: Instant, text: &str) {
        let since = at.saturating_duration_since(self.begun).as_secs_f64();
        let stamp = self.paint.dim(&format!("+{since:>6.3} s"));
        self.print(&format!("  {stamp}  {text}\n"));
    }

    fn state(&self, state: NodeState) -> String {
        self.toned(state, state_name(state))
    }

    fn toned(&self, state: NodeState, name: &str) -> String {
        match state {
            NodeState::Protected => self.paint.good(name),
            NodeState::Stopped => self.paint.bad(name),
            _ => self.paint.caution(name),
        }
    }

    /// Draws the live lines, and takes a sample of the throughput.
    pub(super) fn draw(&mut self, frame: &Frame<'_>) {
        self.sample(frame.requests);
        if !self.live {
            return;
        }
        let mut lines: Vec<String> = vec![String::new()];
        for (who, pid) in frame.pids {
            lines.push(self.node_line(frame.seen, who, pid));
        }
        lines.push(format!("  arbiter  {}", arbiter_line(frame.seen)));
        lines.push(format!(
            "  load     {} requests/s over {} connections, {} writes acknowledged",
            self.paint.bold(&grouped(self.rate as u64)),
            frame.clients,
            grouped(frame.writes)
        ));
        lines.push(format!("  {}", self.sparkline()));
        self.clear();
        self.drawn = lines.len();
        // Lines that are too long are cut by the terminal, which is told not to wrap.
        let block = lines.join("\n");
        let _ = std::io::stderr().write_all(format!("\x1b[?7l{block}\n\x1b[?7h").as_bytes());
    }

    fn node_line(&self, seen: &Observed, who: Who, pid: i32) -> String {
        let name = who.to_string();
        let Some(node) = seen.nodes.get(&who) else {
            return format!("  {name:<8} {}", self.paint.dim("gone"));
        };
        let state = self.toned(node.state, &format!("{:<9}", state_name(node.state)));
        let mut line = format!("  {name:<8} {state} token {:<4} pid {pid:<8}", node.token);
        if node.role == "primary" && node.state == NodeState::Protected {
            line += &format!(
                " lag {:>5.1} ms  log {:>5.1} Mbit/s",
                node.lag_ms,
                seen.log_bits_per_s / 1e6
            );
        } else {
            line += &self.paint.dim(&format!(" {}", node.why));
        }
        line
    }

    fn sample(&mut self, requests: u64) {
        let now = Instant::now();
        let (then, counted) = self.counted;
        let passed = (now - then).as_secs_f64().max(1e-3);
        // The samples are not quite equally long.
        let rate = requests.saturating_sub(counted) as f64 / passed;
        self.rate = rate;
        self.counted = (now, requests);
        self.samples
            .push((rate as u64, std::mem::take(&mut self.struck)));
    }

    fn sparkline(&self) -> String {
        let shown = &self.samples[self.samples.len().saturating_sub(SPARKS)..];
        let most = shown
            .iter()
            .map(|(rate, _)| *rate)
            .max()
            .unwrap_or(0)
            .max(1);
        let spark = |rate: u64| STEPS[(rate * (STEPS.len() as u64 - 1)).div_ceil(most) as usize];
        shown
            .iter()
            .map(|(rate, struck)| {
                let spark = spark(*rate).to_string();
                if *struck {
                    self.paint.bad(&spark)
                } else {
                    spark
                }
            })
            .collect()
    }

    /// Takes the live lines away.
    pub(super) fn clear(&mut self) {
        if self.drawn > 0 {
            let up = std::mem::take(&mut self.drawn);
            let _ = std::io::stderr().write_all(format!("\x1b[{up}A\x1b[J").as_bytes());
        }
    }

    fn print(&mut self, text: &str) {
        self.clear();
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// A new load: its throughput is counted anew.
    pub(super) fn new_load(&mut self) {
        self.samples.clear();
        self.counted = (Instant::now(), 0);
    }

    /// The throughput so far, as a sparkline of the whole load.
    pub(super) fn history(&self) -> String {
        self.sparkline()
    }
}

impl Audience for View {
    fn note(&mut self, text: &str) {
        self.event(Instant::now(), text);
    }

    fn happening(&mut self, happening: &Happening) {
        let who = happening.who;
        let text = match &happening.what {
            // Getting ready takes many steps; that a node is the VM is told with its token.
            What::Said(Said::State {
                state: NodeState::Starting | NodeState::Alone,
                ..
            }) => return,
            What::Said(Said::State { state, why }) => {
                format!("{who}: {}: {why}", self.state(*state))
            }
            What::Said(Said::Warning { text }) => self.paint.dim(&format!("{who}: {text}")),
            What::Said(Said::End { end: Some(end) }) => format!("{who}: {end}"),
            What::Said(Said::Listening { .. } | Said::Live { .. } | Said::End { .. }) => return,
            What::Ended(_) => self.paint.dim(&format!("{who}: the process is gone")),
        };
        self.event(happening.at, &text);
    }
}

/// As `ftvm status` writes it.
pub(super) fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Starting => "STARTING",
        NodeState::Protected => "PROTECTED",
        NodeState::Alone => "ALONE",
        NodeState::Holding => "HOLDING",
        NodeState::Stopped => "STOPPED",
    }
}

fn arbiter_line(seen: &Observed) -> String {
    let servers: Vec<String> = seen
        .arbiter
        .iter()
        .map(|(id, (role, term))| match role {
            Role::Leader => format!("{id} leads term {term}"),
            other => format!("{id} {other}"),
        })
        .collect();
    if servers.is_empty() {
        "no answer".to_owned()
    } else {
        servers.join(" · ")
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Milliseconds with as many digits as say something.
pub(super) fn millis(wait: Duration) -> String {
    let ms = wait.as_secs_f64() * 1e3;
    match ms {
        ..10.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(millis(Duration::from_micros(4260)), "4.3 ms");
        assert_eq!(millis(Duration::from_micros(215_400)), "215 ms");
    }

    #[test]
    fn a_sparkline_spans_nothing_to_the_most() {
        let mut view = View::new(true);
        view.paint = Paint(false);
        view.samples = vec![(0, false), (1, false), (50, true), (100, false)];
        assert_eq!(view.sparkline(), "▁▂▅█");
    }
}
