//! `ftvm bench cpu`: the software CPU, and QEMU with the same guests in the same run.
//!
//! ```text
//!   loops    the bench guest, one part of its work at a time:  soft │ QEMU TCG │ QEMU -icount
//!   boot     Debian's kernel to a busybox prompt, then off:    soft │ QEMU TCG │ QEMU -icount
//!   replay   of what the software CPU ran last, as a backup does it
//!   memory   beside the guest's RAM
//! ```
//!
//! Rounds go there and back through the machines, so that a host that gets slower or faster
//! meanwhile does it to all of them. Rates are per second of CPU time, which other load on the host
//! changes least. How many instructions there were is known exactly, from the software CPU's log.

mod figures;
mod machine;
mod running;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, ensure};
use clap::Args;
use ft_logging::entry::Payload;
use ft_logging::store::Log;
use guest_images::linux::{Cache, Image};
use serde::Deserialize;

use self::figures::{Boot, BootFigures, CpuFigures, Loop, Memory, Rate, Replay};
use self::machine::{Guest, Machine};
use self::running::Running;
use super::super::image::ensure_built;
use super::super::output::json_line;
use super::super::stage;
use super::super::text::print;
use super::figures::{Host, Spread};
use super::scene::Progress;
use crate::sys::child::die_with_parent;

/// The image that is booted.
const IMAGE: &str = "busybox";

/// Its shell's prompt.
const PROMPT: &str = "/ # ";

/// What the bench guest says first, and when a round is done.
const BEGUN: &str = "of memory";
const ROUND_DONE: &str = "round 1 checksum";

/// The bench guest's parts: what they are, and their numbers in its `parts` option.
const LOOPS: [(&str, u32); 4] = [
    ("SHA-256: rotates and adds in registers", 8),
    ("sieve: strides through 4 MiB of bytes", 4),
    ("sorting 256 Ki words", 2),
    ("hash table: 4 MiB, random places", 1),
];

/// The bench guest's RAM, in MiB.
const LOOP_MEMORY_MIB: u32 = 64;

/// A round of the bench guest has more instructions than this; between any other two of its
/// outputs there are fewer.
const LONG: u64 = 500_000;

/// How fast the software CPU is, beside QEMU.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm bench cpu                   everything, in some five minutes
  ftvm bench cpu --rounds 1        once each
  ftvm bench cpu --quick --json    short loops on the software CPU alone, to see that it works

The image busybox is built first if it is not there. What this host has not got is left out, and
named. Load beside it makes all seconds longer, those of CPU time least: see the load average.
Exit status 0 if everything was measured that is not named as left out.")]
pub(super) struct CpuBenchArgs {
    /// Short loops on the software CPU, no Linux and no QEMU: the figures mean little.
    #[arg(long)]
    quick: bool,
    /// How often every machine's turn comes [default: 3; quick: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Answer in JSON: one object.
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Answer in Markdown, as docs/software-cpu.md has it.
    #[arg(long)]
    markdown: bool,
}

/// `ftvm bench cpu`.
pub(super) fn cpu(args: &CpuBenchArgs) -> anyhow::Result<ExitCode> {
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 3 });
    let mut figures = CpuFigures::new(Host::look(), args.quick, rounds);
    let (mut machines, mut image) = (vec![Machine::Soft], None);
    if args.quick {
        figures.leave_out("QEMU and Linux", "this is a quick run");
    } else {
        match machine::look_for_qemu() {
            Ok(()) => machines.extend([Machine::Tcg, Machine::Icount]),
            Err(why) => figures.leave_out("QEMU", &why),
        }
        figures.leave_out("Bochs", machine::why_no_bochs());
        match ensure_built(IMAGE).and_then(|()| Ok(Cache::open(None)?.image(IMAGE)?)) {
            Ok(built) => image = Some(built),
            Err(error) => figures.leave_out("Debian's kernel", &format!("{error:#}")),
        }
    }
    let mut bench = CpuBench {
        scratch: Scratch(stage::new_dir("bench-cpu")?),
        progress: Progress::default(),
        quick: args.quick,
        rounds,
        machines,
        runs: 0,
    };
    super::super::block_on(async {
        tokio::select! {
            measured = bench.measure(image.as_ref(), &mut figures) => measured?,
            interrupted = super::super::interrupted() => {
                interrupted?;
                return Ok(ExitCode::from(super::super::INTERRUPTED));
            }
        }
        if args.json {
            json_line(&figures)?;
        } else if args.markdown {
            print(&figures.page().markdown())?;
        } else {
            print(&figures.page().text())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A directory for logs and sockets, which goes with this value.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A run of the software CPU that is over.
#[derive(Debug)]
struct Recording {
    /// What ran, for people.
    what: String,
    log: PathBuf,
    memory: Memory,
}

/// What `ftvm replay --json` says of a log, as far as it is wanted.
#[derive(Debug, Deserialize)]
struct Replayed {
    virtual_time_ns: u64,
    real_time_s: f64,
}

/// The replays of several recordings.
#[derive(Debug, Default)]
struct Replays(Vec<Replayed>);

impl Replays {
    fn figures(&self, what: &str) -> Option<Replay> {
        let spread = |pick: fn(&Replayed) -> f64| Spread::of(self.0.iter().map(pick));
        Some(Replay {
            what: what.to_owned(),
            recorded_s: spread(|run| run.virtual_time_ns as f64 / 1e9)?,
            replayed_s: spread(|run| run.real_time_s)?,
            ratio: spread(|run| run.real_time_s * 1e9 / run.virtual_time_ns as f64)?,
        })
    }
}

/// The boots of one machine, in seconds of the clock and of CPU time.
#[derive(Debug, Default)]
struct Boots {
    prompt: Vec<f64>,
    prompt_cpu: Vec<f64>,
    off: Vec<f64>,
    off_cpu: Vec<f64>,
}

impl Boots {
    fn figures(self, machine: Machine) -> BootFigures {
        let spread = |samples| Spread::of(samples).expect("at least one round");
        BootFigures {
            machine: machine.name(),
            prompt_s: spread(self.prompt),
            prompt_cpu_s: spread(self.prompt_cpu),
            off_s: spread(self.off),
            off_cpu_s: spread(self.off_cpu),
        }
    }
}

/// A run of the benchmark.
#[derive(Debug)]
struct CpuBench {
    scratch: Scratch,
    progress: Progress,
    quick: bool,
    rounds: u32,
    machines: Vec<Machine>,
    /// How many logs were begun.
    runs: u32,
}

impl CpuBench {
    async fn measure(
        &mut self,
        image: Option<&Image>,
        figures: &mut CpuFigures,
    ) -> anyhow::Result<()> {
        let mut recording = None;
        for (name, part) in LOOPS {
            let (measured, recorded) = self.hot_loop(name, part).await?;
            figures.loops.push(measured);
            recording = Some(recorded);
        }
        if let Some(image) = image {
            return self.boot(image, figures).await;
        }
        let recording = recording.context("there are loops")?;
        let replays = Replays(vec![self.replay(&recording).await?]);
        figures.replay = replays.figures(&recording.what);
        figures.memory = Some(recording.memory);
        Ok(())
    }

    /// The machines with their samples, in the order of a round.
    fn turns<'a, T>(&self, round: u32, of: &'a mut [T]) -> Vec<(Machine, &'a mut T)> {
        let mut turns: Vec<_> = self.machines.iter().copied().zip(of).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        turns
    }

    fn new_log(&mut self) -> PathBuf {
        self.runs += 1;
        self.scratch.0.join(format!("log-{}", self.runs))
    }

    /// One part of the bench guest's work, on all machines.
    async fn hot_loop(
        &mut self,
        name: &'static str,
        part: u32,
    ) -> anyhow::Result<(Loop, Recording)> {
        let kernel = self.scratch.0.join("bench");
        std::fs::write(&kernel, guest_images::BENCH.elf).context("writing the bench guest")?;
        let passes = if self.quick { "passes=1 " } else { "" };
        let guest = Guest {
            name: "bench",
            kernel,
            initrd: None,
            // The time is that of the first round. In the second the process can be looked at.
            command_line: format!("{passes}parts={part} rounds=2"),
            memory_mib: LOOP_MEMORY_MIB,
        };
        let mut seconds = vec![Vec::new(); self.machines.len()];
        let mut recording = None;
        for round in 0..self.rounds {
            for (machine, seconds) in self.turns(round, &mut seconds) {
                let log = self.new_log();
                let mut run = Running::start(machine, &guest, &self.scratch.0, &log)?;
                let begun = run.until(BEGUN).await?;
                let done = run.until(ROUND_DONE).await?;
                seconds.push((done.cpu - begun.cpu).as_secs_f64());
                if machine != Machine::Soft {
                    run.kill().await?;
                    continue;
                }
                let memory = run.memory(guest.memory_mib)?;
                run.ended().await?;
                recording = Some(Recording {
                    what: "the bench guest".to_owned(),
                    log,
                    memory,
                });
            }
            self.progress
                .step(&format!("round {} of {}: {name}", round + 1, self.rounds));
        }
        let recording = recording.context("the software CPU always has its turn")?;
        let instructions = first_computation(&recording.log)?;
        let rates = self.machines.iter().zip(seconds).map(|(machine, seconds)| {
            let rates = seconds.iter().map(|s| instructions as f64 / 1e6 / s);
            Rate {
                machine: machine.name(),
                m_per_s: Spread::of(rates).expect("at least one round"),
            }
        });
        let measured = Loop {
            name,
            instructions,
            rates: rates.collect(),
        };
        Ok((measured, recording))
    }

    /// Debian's kernel, on all machines, and what the software CPU did again.
    async fn boot(&mut self, image: &Image, figures: &mut CpuFigures) -> anyhow::Result<()> {
        let manifest = &image.manifest;
        let guest = Guest {
            name: IMAGE,
            kernel: image.kernel(),
            initrd: Some(image.initrd()),
            command_line: manifest.command_line.clone(),
            memory_mib: manifest.memory_mib,
        };
        let what = format!("Debian's {} with {IMAGE}", manifest.kernel_release);
        let mut boots: Vec<Boots> = self.machines.iter().map(|_| Boots::default()).collect();
        let (mut rates, mut instructions) = (Vec::new(), 0);
        let mut replays = Replays::default();
        for round in 0..self.rounds {
            for (machine, boots) in self.turns(round, &mut boots) {
                let log = self.new_log();
                let mut run = Running::start(machine, &guest, &self.scratch.0, &log)?;
                let prompt = run.until(PROMPT).await?;
                let memory = (machine == Machine::Soft)
                    .then(|| run.memory(guest.memory_mib))
                    .transpose()?;
                run.type_in("poweroff\n").await?;
                let off = run.ended().await?;
                boots.prompt.push(prompt.wall.as_secs_f64());
                boots.prompt_cpu.push(prompt.cpu.as_secs_f64());
                boots.off.push(off.wall.as_secs_f64());
                boots.off_cpu.push(off.cpu.as_secs_f64());
                self.progress.step(&format!(
                    "round {} of {}: {}: a prompt after {:.1} s",
                    round + 1,
                    self.rounds,
                    machine.name(),
                    prompt.wall.as_secs_f64()
                ));
                if let Some(memory) = memory {
                    instructions = last_position(&log)?;
                    rates.push(instructions as f64 / 1e6 / off.cpu.as_secs_f64());
                    let what = what.clone();
                    let recording = Recording { what, log, memory };
                    replays.0.push(self.replay(&recording).await?);
                    figures.memory = Some(recording.memory);
                }
            }
        }
        figures.replay = replays.figures(&what);
        figures.boot = Some(Boot {
            what,
            instructions,
            m_per_s: Spread::of(rates).context("the software CPU always has its turn")?,
            machines: self
                .machines
                .iter()
                .zip(boots)
                .map(|(machine, boots)| boots.figures(*machine))
                .collect(),
        });
        Ok(())
    }

    async fn replay(&self, recording: &Recording) -> anyhow::Result<Replayed> {
        let program = std::env::current_exe().context("finding the ftvm program itself")?;
        let mut command = std::process::Command::new(program);
        command.args(["replay", "--json"]).arg(&recording.log);
        die_with_parent(&mut command);
        let replay = tokio::process::Command::from(command)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("starting the replay")?;
        ensure!(
            replay.status.success(),
            "the replay of {} failed: {}{}",
            recording.what,
            String::from_utf8_lossy(&replay.stdout),
            String::from_utf8_lossy(&replay.stderr)
        );
        self.progress.step("replayed");
        serde_json::from_slice(&replay.stdout).context("the replay's answer")
    }
}

/// How many instructions the bench guest's first round has: it says nothing meanwhile.
fn first_computation(log: &Path) -> anyhow::Result<u64> {
    let mut before = None;
    for entry in Log::open(log)?.reader()? {
        let entry = entry?;
        if !matches!(entry.payload, Payload::Output(_)) {
            continue;
        }
        if let Some(before) = before.replace(entry.position.0)
            && entry.position.0 - before > LONG
        {
            return Ok(entry.position.0 - before);
        }
    }
    anyhow::bail!("the bench guest computed nothing")
}

/// How many instructions a recorded machine ran.
fn last_position(log: &Path) -> anyhow::Result<u64> {
    let mut last = 0;
    for entry in Log::open(log)?.reader()? {
        last = entry?.position.0;
    }
    Ok(last)
}
