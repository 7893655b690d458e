//! The figures of a run, as values; `--json` prints them as they are.

use std::time::Duration;

use crate::cpu::Backend;
use ft_logging::inspect::KindStats;
use serde::Serialize;

use super::super::stage::client::Verdict;

/// Everything that was measured; a part that was not wanted is missing.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    pub(super) host: Host,
    pub(super) settings: Settings,
    #[serde(flatten)]
    pub(super) faults: Faults,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) requests: Option<Requests>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) redis_benchmark: Option<RedisBenchmark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bandwidth: Option<Bandwidth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kills: Option<Kills>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heartbeats: Option<Heartbeats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) claims: Option<Claims>,
    pub(super) left_out: Vec<LeftOut>,
}

/// What was not measured here.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LeftOut {
    pub(super) what: &'static str,
    pub(super) why: String,
}

impl Figures {
    /// Nothing is measured yet.
    pub(super) fn new(host: Host, settings: Settings) -> Self {
        Figures {
            host,
            settings,
            faults: Faults::default(),
            requests: None,
            redis_benchmark: None,
            bandwidth: None,
            kills: None,
            heartbeats: None,
            claims: None,
            left_out: Vec::new(),
        }
    }
}

/// Where it was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Host {
    /// How many CPUs this process may use.
    pub(super) cpus: usize,
    /// What the first of them calls itself.
    pub(super) cpu_model: String,
    /// The kind of KVM, and what it does with a guest's kernel code.
    pub(super) kvm: String,
    /// The load average of the last minute, before the run began.
    pub(super) load_average: f64,
    /// Whether this program was built with optimisation.
    pub(super) release_build: bool,
}

impl Host {
    /// Looks around.
    pub(super) fn look() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let model = read("/proc/cpuinfo").lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == "model name").then(|| value.trim().to_owned())
        });
        let load = read("/proc/loadavg");
        Host {
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            cpu_model: model.unwrap_or_else(|| "unknown".to_owned()),
            kvm: kvm(),
            load_average: load
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or(0.0),
            release_build: !cfg!(debug_assertions),
        }
    }
}

fn kvm() -> String {
    use crate::cpu::kvm::host;
    let speed = host::open()
        .map_err(anyhow::Error::from)
        .and_then(|kvm| host::probe_speed(&kvm));
    match speed {
        Ok(speed) => format!("{}, {:.1} million instructions/s", speed.kind(), speed.mips),
        Err(error) => format!("{error:#}"),
    }
}

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Settings {
    pub(super) quick: bool,
    pub(super) seconds: f64,
    pub(super) rounds: u32,
    pub(super) kills: u32,
    pub(super) claims: u32,
    /// Of this program's own, to each VM.
    pub(super) clients: usize,
    /// Of redis-benchmark.
    pub(super) redis_benchmark_clients: usize,
    pub(super) detect_ms: u64,
    /// The key-value server in the VM.
    pub(super) guest: String,
    pub(super) cpu: Backend,
}

/// What no run should find.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Faults {
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) connections_broken: usize,
    /// The first of them, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) first_fault: Option<String>,
}

impl Faults {
    pub(super) fn none(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.connections_broken == 0
    }

    /// Takes what a load has found into account.
    pub(super) fn add(&mut self, verdict: &Verdict) {
        self.lost += verdict.findings.lost;
        self.duplicated += verdict.findings.duplicated;
        self.connections_broken += verdict.broken;
        let first = verdict.findings.first.as_ref();
        if self.first_fault.is_none() {
            self.first_fault = first.or(verdict.why_broken.as_ref()).cloned();
        }
    }
}

/// Several samples of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    /// `None` without samples.
    pub(super) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Spread {
            median,
            least,
            most,
        })
    }
}

/// Requests and their latency.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Requests {
    pub(super) variants: Vec<VariantFigures>,
    /// Requests per second of the protected VM to those of an unprotected one, by rounds.
    pub(super) protected_ratio: Spread,
    /// The same of a VM that only writes its log to disk.
    pub(super) recorded_ratio: Spread,
    /// The log under this load, in bits per second.
    pub(super) log_bits_per_s: f64,
    /// How far replay was behind.
    pub(super) lag_ms_median: f64,
    /// The worst round's.
    pub(super) lag_ms_p99: f64,
}

/// One variant, over all rounds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct VariantFigures {
    pub(super) variant: &'static str,
    /// Of one VM.
    pub(super) requests_per_s: Spread,
    pub(super) median_us: f64,
    pub(super) p99_us: f64,
    pub(super) cpu_us: CpuTime,
}

/// CPU time for each request, in microseconds: the one figure that a busy host does not change
/// much.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct CpuTime {
    pub(super) gateway: f64,
    /// The node that runs the guest.
    pub(super) primary: f64,
    pub(super) backup: f64,
}

impl CpuTime {
    /// From the CPU time of gateway, primary and backup in which so many requests were answered.
    pub(super) fn per_request(used: [Duration; 3], requests: u64) -> Self {
        let requests = requests.max(1) as f64;
        let [gateway, primary, backup] = used.map(|time| time.as_secs_f64() * 1e6 / requests);
        CpuTime {
            gateway,
            primary,
            backup,
        }
    }
}

/// What redis-benchmark measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RedisBenchmark {
    /// The program's name and version.
    pub(super) program: String,
    /// How long an unprotected VM's test was meant to take.
    pub(super) test_seconds: f64,
    /// The size of the values that are set and got, in bytes.
    pub(super) value_bytes: u32,
    /// How many keys there are, of which each request takes one at random.
    pub(super) keys: u32,
    /// How far replay was behind, over all tests.
    pub(super) lag_ms_median: f64,
    /// The worst test's.
    pub(super) lag_ms_p99: f64,
    pub(super) tests: Vec<RedisTest>,
}

/// One of its tests.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RedisTest {
    /// SET or GET.
    pub(super) test: &'static str,
    /// How many requests a client sends at once.
    pub(super) pipeline: u32,
    /// How many there were in each turn.
    pub(super) requests: u64,
    /// Requests per second of the protected VM to those of an unprotected one, by rounds.
    pub(super) protected_ratio: Spread,
    /// The protected VM's log meanwhile, in bits per second.
    pub(super) log_bits_per_s: f64,
    pub(super) variants: Vec<VariantFigures>,
}

/// The log channel.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Bandwidth {
    /// Everything that the primary sends to its backup, heartbeats too, while no client is there.
    pub(super) idle_bits_per_s: f64,
    /// And under load.
    pub(super) loaded_bits_per_s: f64,
    pub(super) loaded_requests_per_s: f64,
    /// The entries of the idle log.
    pub(super) idle_kinds: Vec<KindStats>,
    /// The entries of the loaded log.
    pub(super) loaded_kinds: Vec<KindStats>,
    /// What an entry of a received frame costs beside the frame, on average, in bytes.
    pub(super) frame_overhead_bytes: f64,
}

/// Failovers.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Kills {
    pub(super) count: u32,
    /// From SIGKILL until the backup suspects.
    pub(super) suspected_ms: Spread,
    /// From SIGKILL until the backup is the VM.
    pub(super) live_ms: Spread,
    /// From SIGKILL until a client gets an answer.
    pub(super) first_answer_ms: Spread,
    /// The longest wait of any request, per kill.
    pub(super) longest_wait_ms: Spread,
    /// From asking the arbiter to its grant.
    pub(super) claim_ms: Spread,
}

/// Heartbeats on a busy host.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Heartbeats {
    pub(super) seconds: f64,
    /// How often one is sent, in milliseconds.
    pub(super) every_ms: f64,
    /// Gaps measured by both nodes together.
    pub(super) gaps: u64,
    /// Of the node that saw the longer ones. With fewer than 10,000 gaps it is the worst.
    pub(super) gap_ms_p9999: f64,
    pub(super) gap_ms_worst: f64,
    /// How often a node suspected the other, which was alive.
    pub(super) false_alarms: u64,
    pub(super) requests_per_s: f64,
}

/// The arbiter.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Claims {
    pub(super) count: u32,
    pub(super) claim_ms: Spread,
    pub(super) claim_ms_p99: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_and_both_ends() {
        assert_eq!(Spread::of([]), None);
        let spread = |samples: &[f64]| {
            let spread = Spread::of(samples.iter().copied()).expect("samples");
            (spread.least, spread.median, spread.most)
        };
        assert_eq!(spread(&[3.0]), (3.0, 3.0, 3.0));
        assert_eq!(spread(&[9.0, 1.0, 2.0]), (1.0, 2.0, 9.0));
        assert_eq!(spread(&[4.0, 1.0, 9.0, 2.0]), (1.0, 3.0, 9.0));
    }
}
