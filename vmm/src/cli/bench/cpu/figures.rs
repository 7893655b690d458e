//! The figures of `ftvm bench cpu`, as values, which `--json` prints, and as tables.

use serde::Serialize;

use super::super::figures::{Host, LeftOut, Spread};
use super::super::page::{Page, Section, host_lines, left_out_lines};

/// Everything that was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CpuFigures {
    pub(super) host: Host,
    pub(super) quick: bool,
    pub(super) rounds: u32,
    pub(super) loops: Vec<Loop>,
    /// Kernel-like code. Missing without the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) boot: Option<Boot>,
    pub(super) replay: Option<Replay>,
    pub(super) memory: Option<Memory>,
    pub(super) left_out: Vec<LeftOut>,
}

/// A program that does one thing, on all machines.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Loop {
    pub(super) name: &'static str,
    /// Of which the time was taken.
    pub(super) instructions: u64,
    pub(super) rates: Vec<Rate>,
}

/// A machine's speed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Rate {
    pub(super) machine: &'static str,
    /// Millions of guest instructions in a second of the process's CPU time.
    pub(super) m_per_s: Spread,
}

/// A kernel from its first instruction until the machine is off.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Boot {
    pub(super) what: String,
    /// Of the last boot of the software CPU, to power-off.
    pub(super) instructions: u64,
    /// The software CPU's speed: all instructions by all CPU time of its process.
    pub(super) m_per_s: Spread,
    pub(super) machines: Vec<BootFigures>,
}

/// A machine's boots. Seconds count from the start of its process.
#[derive(Clone, Debug, Serialize)]
pub(super) struct BootFigures {
    pub(super) machine: &'static str,
    pub(super) prompt_s: Spread,
    pub(super) prompt_cpu_s: Spread,
    pub(super) off_s: Spread,
    pub(super) off_cpu_s: Spread,
}

/// The software CPU's last runs, again.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Replay {
    pub(super) what: String,
    /// How long the machine had run.
    pub(super) recorded_s: Spread,
    pub(super) replayed_s: Spread,
    /// A backup keeps up where this is not above 1.
    pub(super) ratio: Spread,
}

/// Memory of the software CPU's process, in MiB.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Memory {
    /// The guest's RAM.
    pub(super) guest_mib: u32,
    /// The most that was resident.
    pub(super) peak_mib: f64,
    /// Of the guest's RAM.
    pub(super) guest_resident_mib: f64,
    /// All that was resident beside it, at most.
    pub(super) beside_mib: f64,
}

impl CpuFigures {
    /// Nothing is measured yet.
    pub(super) fn new(host: Host, quick: bool, rounds: u32) -> Self {
        CpuFigures {
            host,
            quick,
            rounds,
            loops: Vec::new(),
            boot: None,
            replay: None,
            memory: None,
            left_out: Vec::new(),
        }
    }

    /// Something is not measured here.
    pub(super) fn leave_out(&mut self, what: &'static str, why: &str) {
        let why = why.to_owned();
        self.left_out.push(LeftOut { what, why });
    }

    /// For people.
    pub(super) fn page(&self) -> Page {
        let mut lines = host_lines(&self.host, self.quick);
        lines.push(format!("rounds: {}; figures are medians", self.rounds));
        lines.extend(left_out_lines(&self.left_out));
        let boot = self.boot.as_ref().map(boot);
        Page {
            lines,
            sections: [Some(self.loops()), boot, Some(self.summary())]
                .into_iter()
                .flatten()
                .collect(),
            closing: String::new(),
        }
    }

    fn loops(&self) -> Section {
        let machines = self.loops.first().map_or(&[][..], |first| &first.rates);
        let mut head = vec!["", "instructions"];
        head.extend(machines.iter().map(|rate| rate.machine));
        let title = "Hot loops: millions of guest instructions in a second of CPU time";
        let mut section = Section::new(title, head);
        for measured in &self.loops {
            let rates = measured.rates.iter();
            let rates = rates.map(|rate| format!("{:.0}", rate.m_per_s.median));
            let millions = format!("{:.0} M", measured.instructions as f64 / 1e6);
            section.row(
                [measured.name.to_owned(), millions]
                    .into_iter()
                    .chain(rates),
            );
        }
        section
    }

    fn summary(&self) -> Section {
        let mut section = Section::new("Summary", vec!["", "ftvm", "wanted"]);
        let mut row = |name: &str, ours: String, wanted: &str| {
            section.row([name.to_owned(), ours, wanted.to_owned()]);
        };
        let ours = self
            .loops
            .iter()
            .filter_map(|measured| measured.rates.first());
        if let Some(least) = ours.map(|rate| rate.m_per_s.median).min_by(f64::total_cmp) {
            let least = format!("{least:.0} M instructions/s");
            row("the slowest of the hot loops", least, "600 or more");
        }
        if let Some(boot) = &self.boot {
            let rate = format!("{} M instructions/s", whole(&boot.m_per_s));
            row("kernel-like code: the boot", rate, "200 or more");
            let millions = format!("{:.0} M instructions", boot.instructions as f64 / 1e6);
            row(&format!("… {}, to power-off", boot.what), millions, "");
            if let Some(ours) = boot.machines.first() {
                row("to the prompt", seconds(&ours.prompt_s), "below 8 s");
            }
        }
        if let Some(replay) = &self.replay {
            let Spread { least, most, .. } = replay.ratio;
            let ratio = format!("{:.2} ({least:.2}–{most:.2})", replay.ratio.median);
            row("replay / recorded time", ratio, "at most 1");
            let times = format!(
                "{:.1} s / {:.1} s",
                replay.replayed_s.median, replay.recorded_s.median
            );
            row(&format!("… {}", replay.what), times, "");
        }
        if let Some(memory) = &self.memory {
            let beside = format!("{:.0} MiB", memory.beside_mib);
            row("memory beside the guest's", beside, "at most 128 MiB");
            let all = format!(
                "{:.0} MiB, {:.0} MiB of {}",
                memory.peak_mib, memory.guest_resident_mib, memory.guest_mib
            );
            row("… peak, and of it the guest's", all, "");
        }
        section
    }
}

fn boot(boot: &Boot) -> Section {
    let title = "Debian's kernel: seconds to a busybox prompt, and to power-off";
    let head = vec!["", "prompt", "CPU time", "off", "CPU time"];
    let mut section = Section::new(title, head);
    for machine in &boot.machines {
        let figures = [
            &machine.prompt_s,
            &machine.prompt_cpu_s,
            &machine.off_s,
            &machine.off_cpu_s,
        ];
        let name = std::iter::once(machine.machine.to_owned());
        section.row(name.chain(figures.map(seconds)));
    }
    section
}

fn seconds(spread: &Spread) -> String {
    format!("{:.1} s", spread.median)
}

fn whole(spread: &Spread) -> String {
    let Spread {
        median,
        least,
        most,
    } = spread;
    format!("{median:.0} ({least:.0}–{most:.0})")
}
