//! `ftvm replay`: runs a recorded log again and holds everything that the machine does against it.
//!
//! ```text
//!   Log ── Feed ──▶ LogLink ──▶ Inputs (replaying) ◀── Watch ◀── the machine's loop
//!                                                        └──▶ console file, pcap, where to stop
//! ```

mod rebuild;
mod show;
mod watch;

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use ft_logging::inspect::Seconds;
use ft_logging::store::Log;
use ft_logging::types::{EntryIndex, Position, VirtualTime};
use serde::Serialize;

use self::show::{MemoryRange, State};
use self::watch::{Fed, Feed, Sinks, StopAt, Watch};
use super::output::json_line;
use super::text::{Table, Tone, count, print, toned};
use crate::cpu::{Backend, Cpu};
use crate::determinism::{Inputs, LogLink};
use crate::machine::{Machine, PowerOff, Shutdown, Stop, run};
use crate::node::Overlay;

/// Run a recorded log again, and check every digest, interrupt and output.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm replay /tmp/log
  ftvm replay /tmp/log --until-entry 4711 --memory 0x100000:64
  ftvm replay /tmp/log --outputs frames.pcap --console console.txt --json
  ftvm replay /tmp/log --disk before.img    a guest with a disk: the image as it was at first

What the log does not carry is asked for by its hash: kernel, initial RAM disk and first disk image.
Those of `ftvm image` are found where they were built. A disk is read, never written.

A stop is between two steps of the machine: at the first one that is not before the position, or
by which the entry has taken effect. Registers, memory and console are shown as they are there.

Exit status: 0 if machine and log agree to the end or the stop; 1 if they part, the log is damaged,
or the stop lies behind its end.")]
pub(super) struct ReplayArgs {
    /// A log's directory, or its only segment file.
    log: PathBuf,
    /// Stop at this position.
    #[arg(long, value_name = "POSITION")]
    until: Option<u64>,
    /// Stop when this entry has taken effect.
    #[arg(long, value_name = "INDEX")]
    until_entry: Option<u64>,
    /// Show guest-physical memory where the replay ends: ADDRESS:LENGTH, decimal or 0x. May be
    /// given several times.
    #[arg(long, value_name = "ADDR:LEN")]
    memory: Vec<MemoryRange>,
    /// Write the guest's console output here; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// Write the guest's network output here, as pcap; its times are the guest's own.
    #[arg(long, value_name = "FILE")]
    outputs: Option<PathBuf>,
    /// The kernel, if the log's guest is none of those that ftvm carries or has built.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The initial RAM disk, if the log's guest had one of its own.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The CPU that must have recorded it; positions on one mean nothing on another.
    #[arg(long, value_name = "CPU")]
    cpu: Option<Backend>,
    /// The guest's disk as it was before the first instruction, if it had one of its own.
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// Replay although this host's CPU is another than the recording one's.
    #[arg(long)]
    force: bool,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

/// How a replay has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Ended {
    /// The whole log was replayed.
    EndOfLog,
    /// The whole log was replayed, and the machine is off.
    Off,
    /// Where it was asked to stop.
    Stopped,
    /// Machine and log are not in the same state.
    Diverged,
    /// The log cannot be read on.
    Damaged,
}

#[derive(Debug, Serialize)]
struct Divergence {
    /// The entry at which it showed.
    at: EntryIndex,
    what: String,
}

/// The answer of `--json`.
#[derive(Debug, Serialize)]
struct Summary {
    vm: String,
    guest: String,
    life: String,
    ended: Ended,
    /// How many entries were replayed.
    entries: u64,
    /// The last of them.
    last_entry: EntryIndex,
    position: Position,
    /// How many outputs were compared and are equal.
    outputs: u64,
    net_outputs: u64,
    console_outputs: u64,
    digests_checked: u64,
    interrupts_checked: u64,
    divergence: Option<Divergence>,
    /// What is wrong with the log.
    damage: Option<String>,
    /// The end of the log that its writer did not finish.
    torn_tail: Option<String>,
    virtual_time_ns: VirtualTime,
    real_time_s: f64,
    /// Seconds of the guest's time in a second.
    speed_ratio: f64,
    /// What a triple fault left, if one ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    shutdown: Option<String>,
    /// Registers, memory and console, if the replay was stopped or memory was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<State>,
}

/// `ftvm replay`.
pub(super) fn replay(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let to_stdout = args
        .console
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    anyhow::ensure!(
        !(to_stdout && args.json),
        "--console - and --json would both write to standard output: give the console a file"
    );
    let log = super::log::open(&args.log)?;
    let recorded = rebuild::recorded(
        &log,
        args.kernel.as_deref(),
        args.initrd.as_deref(),
        args.force,
    )?;
    if let Some(wanted) = args.cpu.filter(|wanted| *wanted != recorded.backend) {
        anyhow::bail!(
            "the log was recorded on the CPU backend {}: its positions mean nothing to {wanted}. \
             Leave --cpu away",
            recorded.backend
        );
    }
    let disk = rebuild::disk(&log.initial().configuration, args.disk.as_deref())?;
    match recorded.backend {
        Backend::Kvm => replay_on(recorded.on_kvm()?, disk, &log, &args),
        Backend::KvmFree => unreachable!("such a log is not rebuilt"),
        Backend::Soft => replay_on(recorded.on_soft()?, disk, &log, &args),
    }
}

fn replay_on<C: Cpu>(
    mut machine: Machine<C>,
    disk: Option<Overlay>,
    log: &Log,
    args: &ReplayArgs,
) -> anyhow::Result<ExitCode> {
    for range in &args.memory {
        range.check(machine.ram())?;
    }
    let sinks = Sinks::create(
        args.console.as_deref(),
        args.outputs.as_deref(),
        Duration::from_secs(log.initial().rtc_epoch_s),
    )?;
    let stop_at = StopAt {
        position: args.until.map(Position),
        entry: args.until_entry.map(EntryIndex),
    };
    let summary = replay_log(log, &mut machine, disk, stop_at, sinks, &args.memory)?;
    if args.json {
        json_line(&summary)?;
    } else {
        print(&text(&summary))?;
    }
    Ok(match advice(&summary, stop_at, args) {
        None => ExitCode::SUCCESS,
        Some(advice) => {
            eprintln!("ftvm: {advice}");
            ExitCode::FAILURE
        }
    })
}

fn replay_log<C: Cpu>(
    log: &Log,
    machine: &mut Machine<C>,
    disk: Option<Overlay>,
    stop_at: StopAt,
    sinks: Sinks,
    memory: &[MemoryRange],
) -> anyhow::Result<Summary> {
    let fed = Rc::new(RefCell::new(Fed::default()));
    let feed = Feed::new(log.reader()?, fed.clone());
    let mut link = LogLink::new(feed, |_, _| {});
    if let Some(mut disk) = disk {
        link = link.with_disk(move |request| disk.serve(request));
    }
    let inputs = Inputs::replay(link);
    let mut watch = Watch::new(inputs, stop_at, sinks);
    let started = Instant::now();
    let stop = run(machine, &mut watch);
    let real_time_s = started.elapsed().as_secs_f64();
    let done = watch.finish()?;
    let fed = fed.borrow();

    let (ended, divergence) = match stop {
        Stop::Diverged { at, what } => (Ended::Diverged, Some(Divergence { at, what })),
        Stop::Requested => (Ended::Stopped, None),
        Stop::Disk(why) => anyhow::bail!("the disk image cannot be replayed on: {why}"),
        Stop::Cpu(error) => {
            return Err(error).context(format!(
                "this host cannot run the guest on from position {}, entry {}",
                machine.position(),
                done.entry
            ));
        }
        _ if fed.error.is_some() => (Ended::Damaged, None),
        Stop::Off(_) | Stop::EndOfLog if machine.off().is_some() => (Ended::Off, None),
        Stop::Off(_) | Stop::EndOfLog => (Ended::EndOfLog, None),
    };
    let shutdown = (machine.off() == Some(PowerOff::TripleFault))
        .then(|| Shutdown::of(machine))
        .flatten()
        .map(|shutdown| shutdown.to_string());
    let state = match ended == Ended::Stopped || ended == Ended::Diverged || !memory.is_empty() {
        true => Some(State::read(
            machine,
            done.is_between_steps,
            memory,
            done.console,
        )?),
        false => None,
    };
    let initial = log.initial();
    let virtual_time_ns = machine.board().time();
    Ok(Summary {
        vm: initial.configuration.vm.clone(),
        guest: initial.configuration.guest.clone(),
        life: initial.life.to_string(),
        ended,
        entries: done.entry.next().since(log.start().index),
        last_entry: done.entry,
        position: machine.position(),
        outputs: done.net_outputs + done.console_outputs,
        net_outputs: done.net_outputs,
        console_outputs: done.console_outputs,
        digests_checked: fed.digests_until(done.entry),
        interrupts_checked: done.interrupts,
        divergence,
        damage: fed.error.as_ref().map(ToString::to_string),
        torn_tail: fed.torn.as_ref().map(ToString::to_string),
        virtual_time_ns,
        real_time_s,
        speed_ratio: virtual_time_ns.0 as f64 / 1e9 / real_time_s.max(1e-9),
        shutdown,
        state,
    })
}

fn text(summary: &Summary) -> String {
    let word = match summary.ended {
        Ended::EndOfLog | Ended::Off => toned("AGREED", Tone::Good),
        Ended::Stopped => toned("AGREED SO FAR", Tone::Good),
        Ended::Diverged => toned("DIVERGED", Tone::Bad),
        Ended::Damaged => toned("LOG DAMAGED", Tone::Bad),
    };
    let how = match (&summary.divergence, &summary.damage, summary.ended) {
        (Some(Divergence { at, what }), ..) => format!("at entry {at}: {what}"),
        (None, Some(damage), Ended::Damaged) => damage.clone(),
        (_, _, Ended::Off) => "to the end of the log; the machine is off".to_owned(),
        (_, _, Ended::Stopped) => "stopped where it was asked to".to_owned(),
        _ => "to the end of the log".to_owned(),
    };
    let mut table = Table::default();
    let Summary {
        vm, guest, life, ..
    } = summary;
    table.pair("  VM", format!("{vm}, guest {guest}, life {life}"));
    table.pair(
        "  entries",
        format!("{}, the last is {}", summary.entries, summary.last_entry),
    );
    table.pair("  position", summary.position);
    let digests = count(summary.digests_checked, "digest", "digests");
    let interrupts = count(summary.interrupts_checked, "interrupt", "interrupts");
    table.pair(
        "  checked",
        format!(
            "{digests}, {interrupts}, {} ({} net, {} console)",
            count(summary.outputs, "output", "outputs"),
            summary.net_outputs,
            summary.console_outputs
        ),
    );
    table.pair(
        "  time",
        format!(
            "{} s of the guest's in {:.2} s ({:.2} times as fast)",
            Seconds(summary.virtual_time_ns),
            summary.real_time_s,
            summary.speed_ratio
        ),
    );
    let mut report = format!("{word}  {how}\n{table}");
    if let Some(tail) = &summary.torn_tail {
        report += &format!("The log ends in {tail}\n");
    }
    if let Some(shutdown) = &summary.shutdown {
        report += &format!("\nAt its end {shutdown}\n");
    }
    if let Some(state) = &summary.state {
        report += &format!("\n{state}");
    }
    report
}

/// Why it is no success, and what to do.
fn advice(summary: &Summary, stop_at: StopAt, args: &ReplayArgs) -> Option<String> {
    let log = args.log.display();
    match summary.ended {
        Ended::Diverged => {
            let at = summary.divergence.as_ref()?.at.0;
            let from = at.saturating_sub(20).max(1);
            Some(format!(
                "the machine did not do again what the log says; `ftvm log dump {log} --index \
                 {from}..{at}` shows what leads there"
            ))
        }
        Ended::Damaged => Some(format!(
            "the log could not be replayed to its end; `ftvm log verify {log}` tells all that is \
             wrong"
        )),
        Ended::EndOfLog | Ended::Off if stop_at != StopAt::default() => Some(format!(
            "the log ends at position {}, entry {}, before the stop that was asked for",
            summary.position, summary.last_entry
        )),
        Ended::EndOfLog | Ended::Off | Ended::Stopped => None,
    }
}
