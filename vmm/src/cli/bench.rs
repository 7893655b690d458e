//! `ftvm bench`: what protection costs and how fast a failover is, measured side by side in one
//! run.
//!
//! ```text
//!   requests          alone │ unprotected ×2 │ recorded ×2 │ protected    in rounds, there and back
//!   redis-benchmark   unprotected ×2 │ protected    loaded by the stock program, in such rounds too
//!   bandwidth         a pair that is idle, then loaded; its log, counted by kind of entry
//!   kills             a pair under load, SIGKILL to its primary, again and again
//!   heartbeats        a pair under load on a host whose every CPU is busy
//!   claims            the arbiter, asked by one client
//! ```
//!
//! `ftvm bench cpu` measures the software CPU instead: see `cpu/mod.rs`.
//!
//! Where two VMs run next to each other both carry the same load, so that each has the share of
//! the host that the primary of a pair has: the ratio is what protection costs a host that is as
//! busy as its backup's. Rounds go there and back through the variants, so that a host that gets
//! slower or faster meanwhile does it to all of them. Every answer of this program's own loads is
//! checked.

mod bandwidth;
mod claims;
mod cpu;
mod figures;
mod heartbeats;
mod kills;
mod page;
mod reading;
mod redis_benchmark;
mod requests;
mod scene;
mod table;
mod variant;

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

use self::figures::{Faults, Figures, Host, LeftOut, Settings};
use self::page::Page;
use self::scene::Progress;
use super::cpu::CpuChoice;
use super::output::json_line;
use super::stage;
use super::text::print;

/// How long one variant is measured in a round, and everything else in proportion, in seconds.
const SECONDS: f64 = 5.0;

/// Connections of the verifying clients to each VM.
const CLIENTS: u16 = 8;

/// Connections of redis-benchmark to each VM: what it takes when it is not told.
const REDIS_BENCHMARK_CLIENTS: u16 = 50;

/// What protection costs, and how fast a failover is.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  ftvm bench                       everything, in some twelve minutes
  ftvm bench --only requests       the ratio of protected to unprotected alone
  ftvm bench --quick --json        every figure once, to see that it works
  ftvm bench --guest redis --clients 50 --only requests
                                   Debian's redis-server on the software CPU
  ftvm bench --guest redis --only redis-benchmark
                                   … under Debian's redis-benchmark, of the package redis-tools
  ftvm bench cpu                   the software CPU itself, and QEMU beside it

A host that is busy with other things gives figures of those: see the load average that is
printed. Exit status 0 only if everything was measured that is not named as left out, and no load
found anything lost or doubled.")]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: Option<Other>,
    /// Every part, but short: the figures mean little.
    #[arg(long)]
    quick: bool,
    /// How long each variant is measured in a round, in seconds [default: 5; quick: 0.5].
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<f64>,
    /// How often every variant's turn comes [default: 5; quick: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How many primaries are killed [default: 20; quick: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    kills: Option<u32>,
    /// TCP connections to each VM, each with one request at a time, or what redis-benchmark's
    /// pipeline has [default: 8; redis-benchmark: 50].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=60))]
    clients: Option<u16>,
    /// A peer that is silent for this long is suspected, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    detect: u64,
    /// The guest: kv, which is embedded, or redis: Debian's kernel with the real one, an image that
    /// is built first if it is not there.
    #[arg(long, value_name = "GUEST", default_value = "kv")]
    guest: String,
    /// The CPU that runs the guest.
    #[arg(long, value_enum, value_name = "CPU", default_value_t)]
    cpu: CpuChoice,
    /// Only this part.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// Answer in JSON: one object.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Answer in Markdown, as docs/benchmarks.md has it.
    #[arg(long)]
    markdown: bool,
}

/// What else can be measured.
#[derive(Debug, Subcommand)]
enum Other {
    /// How fast the software CPU is, beside QEMU.
    Cpu(cpu::CpuBenchArgs),
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("write seconds, from 0.1 to 3600".to_owned()),
    }
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests per second and their latency: unprotected, recorded and protected.
    Requests,
    /// The stock redis-benchmark, unprotected and protected; left out where it is not installed.
    RedisBenchmark,
    /// The log's bits per second, idle and under load, and its bytes by kind of entry.
    Bandwidth,
    /// From SIGKILL to the first answer.
    Kills,
    /// Gaps between heartbeats and false alarms, on a busy host.
    Heartbeats,
    /// How long the arbiter takes to grant a claim.
    Claims,
}

/// What is measured, and how.
#[derive(Clone, Debug)]
struct Plan {
    settings: Settings,
    only: Option<Part>,
}

impl Plan {
    fn new(args: &BenchArgs) -> Self {
        let pick = |full, quick| if args.quick { quick } else { full };
        Plan {
            settings: Settings {
                quick: args.quick,
                seconds: args.seconds.unwrap_or(pick(SECONDS, 0.5)),
                rounds: args.rounds.unwrap_or(pick(5.0, 1.0) as u32),
                kills: args.kills.unwrap_or(pick(20.0, 1.0) as u32),
                claims: pick(500.0, 20.0) as u32,
                clients: args.clients.unwrap_or(CLIENTS).into(),
                redis_benchmark_clients: args.clients.unwrap_or(REDIS_BENCHMARK_CLIENTS).into(),
                detect_ms: args.detect,
                guest: args.guest.clone(),
                cpu: args.cpu.choose(stage::is_embedded(&args.guest)),
            },
            only: args.only,
        }
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

/// A run.
#[derive(Debug)]
struct Bench {
    settings: Settings,
    progress: Progress,
    faults: Faults,
}

/// `ftvm bench`.
pub(super) fn bench(args: BenchArgs) -> anyhow::Result<ExitCode> {
    if let Some(Other::Cpu(args)) = &args.what {
        return cpu::cpu(args);
    }
    stage::prepare(&args.guest)?;
    let plan = Plan::new(&args);
    super::block_on(async {
        let figures = tokio::select! {
            figures = measure(&plan) => figures?,
            interrupted = super::interrupted() => {
                interrupted?;
                return Ok(ExitCode::from(super::INTERRUPTED));
            }
        };
        if args.json {
            json_line(&figures)?;
        } else if args.markdown {
            print(&Page::of(&figures).markdown())?;
        } else {
            print(&Page::of(&figures).text())?;
        }
        Ok(if figures.faults.none() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

async fn measure(plan: &Plan) -> anyhow::Result<Figures> {
    let host = Host::look();
    let mut bench = Bench {
        settings: plan.settings.clone(),
        progress: Progress::default(),
        faults: Faults::default(),
    };
    let mut figures = Figures::new(host, plan.settings.clone());
    if plan.wants(Part::Requests) {
        figures.requests = Some(bench.requests().await?);
    }
    if plan.wants(Part::RedisBenchmark) {
        match redis_benchmark::look() {
            Ok(program) => {
                figures.redis_benchmark = Some(bench.redis_benchmark(program).await?);
            }
            Err(why) => figures.left_out.push(LeftOut {
                what: redis_benchmark::NAME,
                why,
            }),
        }
    }
    if plan.wants(Part::Bandwidth) {
        figures.bandwidth = Some(bench.bandwidth().await?);
    }
    if plan.wants(Part::Kills) {
        figures.kills = Some(bench.kills().await?);
    }
    if plan.wants(Part::Heartbeats) {
        figures.heartbeats = Some(bench.heartbeats().await?);
    }
    if plan.wants(Part::Claims) {
        figures.claims = Some(bench.claims().await?);
    }
    figures.faults = bench.faults;
    Ok(figures)
}
