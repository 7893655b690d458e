//! `ftvm demo`: the whole story on one machine, checked. `cli/stage` has the processes.

mod disk;
mod evidence;
mod keep;
mod report;
mod scenario;
mod view;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::report::{Figures, Report};
use self::view::{Paint, View};
use super::cpu::CpuChoice;
use super::output::json_line;
use super::stage::process::Who;
use super::stage::{self, Setting, Stage};
use crate::cpu::Backend;

/// How long the second run's load lasts at most, in seconds.
const SECOND_RUN_S: f64 = 4.0;

/// Kill one half of a protected guest in mid-load, and check that nobody noticed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm demo                       kill the primary, twice: with the gateway's repeat and without
  ftvm demo --kill partition      cut the network between the nodes: exactly one goes on
  ftvm demo --guest redis         Debian's kernel and redis-server, on a disk of each node's own
  ftvm demo --keep                leave the pair running, for redis-cli and a kill of your own
  ftvm demo --json | tail -1      the figures

Exit status 0 only if nothing was lost, doubled or broken, and one node is the VM at the end.")]
pub(super) struct DemoArgs {
    /// What is killed in mid-load [default: primary; with --keep: none].
    #[arg(long, value_name = "WHAT")]
    kill: Option<Kill>,
    /// How long the load lasts, in seconds.
    #[arg(long, value_name = "S", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// TCP connections, each with one request at a time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=60))]
    clients: u16,
    /// Only with the gateway's repeat off.
    #[arg(long)]
    no_repeat: bool,
    /// Only with the gateway's repeat on: no second run without it.
    #[arg(long, conflicts_with = "no_repeat")]
    once: bool,
    /// Leave everything running until Ctrl-C, and say how to connect. Both nodes write their log.
    #[arg(long)]
    keep: bool,
    /// Where clients reach the guest; 0 takes a free port.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// The guest: kv, which is embedded, or redis: Debian's kernel with the real one, an image that
    /// is built first if it is not there.
    #[arg(long, value_name = "GUEST", default_value = "kv")]
    guest: String,
    /// The CPU that runs the guest.
    #[arg(long, value_enum, value_name = "CPU", default_value_t)]
    cpu: CpuChoice,
    /// A peer that is silent for this long is suspected, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    detect: u64,
    /// The last line of standard output is one JSON object.
    #[arg(long)]
    json: bool,
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Kill {
    /// The node that runs the guest.
    Primary,
    /// The node that replays it.
    Backup,
    /// The arbiter's leader.
    ArbiterLeader,
    /// The primary and the arbiter's leader at once.
    Host,
    /// Nothing, but the network between the nodes is cut.
    Partition,
    /// Nothing.
    None,
}

impl Kill {
    /// The node that is killed.
    fn node(self) -> Option<Who> {
        match self {
            Kill::Primary | Kill::Host => Some(Who::Primary),
            Kill::Backup => Some(Who::Backup),
            Kill::ArbiterLeader | Kill::Partition | Kill::None => None,
        }
    }

    fn takes_the_leader(self) -> bool {
        matches!(self, Kill::ArbiterLeader | Kill::Host)
    }

    /// Whether one node must win the generation afterwards.
    fn moves_the_vm(self) -> bool {
        self.node().is_some() || self == Kill::Partition
    }

    /// Whether the nodes talk through a proxy.
    fn needs_cable(self) -> bool {
        self == Kill::Partition
    }

    fn headline(self) -> &'static str {
        match self {
            Kill::Primary => "The primary was killed",
            Kill::Backup => "The backup was killed",
            Kill::ArbiterLeader => "The arbiter's leader was killed",
            Kill::Host => "The primary and the arbiter's leader were killed",
            Kill::Partition => "The network between the nodes was cut",
            Kill::None => "Nothing was killed",
        }
    }
}

/// How one run is made.
#[derive(Clone, Debug)]
struct Plan {
    kill: Kill,
    seconds: f64,
    clients: usize,
    repeat: bool,
    keep: bool,
    port: u16,
    guest: String,
    cpu: Backend,
    detect_ms: u64,
}

impl Plan {
    fn setting(&self) -> Setting {
        Setting {
            name: "demo",
            guest: self.guest.clone(),
            cpu: self.cpu,
            protected: true,
            arbiter: None,
            detect_ms: self.detect_ms,
            port: self.port,
            repeat: self.repeat,
            capture: true,
            cable: self.kill.needs_cable(),
            log: self.keep,
        }
    }
}

/// `ftvm demo`.
pub(super) fn demo(args: DemoArgs) -> anyhow::Result<ExitCode> {
    stage::prepare(&args.guest)?;
    let default = if args.keep { Kill::None } else { Kill::Primary };
    let plan = Plan {
        kill: args.kill.unwrap_or(default),
        seconds: f64::from(args.seconds),
        clients: args.clients.into(),
        repeat: !args.no_repeat,
        keep: args.keep,
        port: args.port,
        cpu: args.cpu.choose(stage::is_embedded(&args.guest)),
        guest: args.guest,
        detect_ms: args.detect,
    };
    // Where the guest's port does not move the gateway has nothing to repeat.
    let twice = plan.repeat && !args.once && !plan.keep && plan.kill.node() == Some(Who::Primary);
    let out = Out {
        json: args.json,
        paint: Paint::new(std::io::stdout().is_terminal()),
    };
    super::block_on(async move {
        let mut view = View::new(args.json);
        if twice {
            view.heading("With the gateway's repeat");
        }
        let Some(first) = perform(&plan, &mut view, out).await? else {
            return Ok(ExitCode::from(super::INTERRUPTED));
        };
        let mut second = None;
        if twice && first.good() {
            view.heading("Once more, without the repeat");
            let plan = Plan {
                repeat: false,
                seconds: plan.seconds.min(SECOND_RUN_S),
                ..plan
            };
            second = perform(&plan, &mut view, out).await?;
            if second.is_none() {
                return Ok(ExitCode::from(super::INTERRUPTED));
            }
        }
        let report = Report::new(&first, second.as_ref());
        if !args.keep {
            out.report(&report)?;
        }
        Ok(if report.good() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

/// Where the result goes.
#[derive(Clone, Copy, Debug)]
struct Out {
    json: bool,
    paint: Paint,
}

impl Out {
    fn report(self, report: &Report<'_>) -> anyhow::Result<()> {
        if self.json {
            return json_line(report);
        }
        let page = report.page(self.paint);
        Ok(std::io::stdout().write_all(page.as_bytes())?)
    }
}

/// Makes one run, of which no process is left afterwards; `None` if it was interrupted.
async fn perform(plan: &Plan, view: &mut View, out: Out) -> anyhow::Result<Option<Figures>> {
    let mut stage = Stage::new(plan.setting())?;
    let played = tokio::select! {
        result = async {
            stage.raise(view).await?;
            scenario::play(plan, &mut stage, view).await
        } => result.map(Some),
        result = super::interrupted() => result.map(|()| None),
    };
    view.clear();
    let mut kept = Ok(());
    if let (Ok(Some(figures)), true) = (&played, plan.keep) {
        out.report(&Report::new(figures, None))?;
        kept = tokio::select! {
            never = keep::keep(&mut stage, view) => never,
            result = super::interrupted() => result,
        };
    }
    stage.close().await;
    let wanted = match &played {
        Ok(Some(figures)) => !figures.good(),
        Ok(None) => false,
        Err(_) => plan.keep,
    };
    if wanted {
        view.line(&format!(
            "  what is left to look at: {}",
            stage.dir().display()
        ));
    } else {
        stage.forget();
    }
    kept.and(played)
}
