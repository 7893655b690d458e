//! What the stock redis-benchmark makes of a VM: SET and GET, without a pipeline and with one.
//!
//! ```text
//!   a turn:    SET │ GET │ SET, pipeline 16 │ GET, pipeline 16     each: warm-up, then measured
//! ```
//!
//! redis-benchmark is told how many requests, not how long: as many as a short run in the first
//! turn, which is of the unprotected variant, says that it answers in the time of a test, and the
//! same in all turns.
//!
//! Of two VMs next to each other one is done first. Its neighbour must not have the host to itself
//! for the rest, so that one's load goes on, by another redis-benchmark that does not count, until
//! both are measured.

mod program;

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::Barrier;

use self::program::{Measured, Order, Test};
use super::Bench;
use super::figures::{CpuTime, RedisBenchmark, RedisTest, Spread, VariantFigures};
use super::reading::Channel;
use super::scene::Scene;
use super::variant::Variant;

pub(super) use self::program::{NAME, look};

/// The variants, in the order of a round. The unprotected one says how many requests there are.
const VARIANTS: [Variant; 2] = [Variant::Unprotected, Variant::Protected];

/// The tests of a turn, and how many requests are sent at once. A SET comes before each GET, which
/// finds the keys that it left.
const TESTS: [(Test, u32); 4] = [
    (Test::Set, 1),
    (Test::Get, 1),
    (Test::Set, 16),
    (Test::Get, 16),
];

/// A turn has so many tests that each is shorter than another part's turn, by this factor.
const SHARE: f64 = 0.5;

/// So few keys that after a test of SET each is there.
const KEYS: u32 = 1000;

/// As large as a session's or a counter's record.
const VALUE_BYTES: u32 = 64;

/// Requests of a warm-up, or what fills the pipelines twice, if that is more.
const WARM_UP: u64 = 1000;

/// How long the run is that says how many requests a test has, in tests.
const CALIBRATION: f64 = 0.2;

/// A test that takes so many times as long as it should, and this besides, has come to a stop.
const PATIENCE_FACTOR: f64 = 20.0;
const PATIENCE: Duration = Duration::from_secs(60);

/// One variant's turns so far, of one test.
#[derive(Clone, Debug, Default)]
struct Turns {
    rates: Vec<f64>,
    /// Of each VM in each round.
    measured: Vec<Measured>,
    /// CPU time of gateway, primary and backup.
    cpu: [Duration; 3],
    answers: u64,
}

impl Turns {
    /// Takes a turn's VMs into account, of which each has answered so many requests; returns the
    /// rate of one.
    fn add(&mut self, vms: &[OneVm], requests: u64) -> f64 {
        let sum: f64 = vms.iter().map(|vm| vm.measured.requests_per_s).sum();
        let rate = sum / vms.len() as f64;
        self.rates.push(rate);
        for vm in vms {
            self.measured.push(vm.measured);
            self.answers += requests;
            for (sum, used) in self.cpu.iter_mut().zip(vm.cpu) {
                *sum += used;
            }
        }
        rate
    }

    fn figures(&self, variant: Variant) -> VariantFigures {
        let median_us = |pick: fn(&Measured) -> f64| {
            spread(self.measured.iter().map(|vm| pick(vm) * 1e3)).median
        };
        VariantFigures {
            variant: variant.name(),
            requests_per_s: spread(self.rates.iter().copied()),
            median_us: median_us(|vm| vm.median_ms),
            p99_us: median_us(|vm| vm.p99_ms),
            cpu_us: CpuTime::per_request(self.cpu, self.answers),
        }
    }
}

/// One test so far.
#[derive(Clone, Debug)]
struct Progression {
    test: Test,
    pipeline: u32,
    /// How many there are in a turn, once that is known.
    requests: Option<u64>,
    /// One for each of [`VARIANTS`].
    turns: [Turns; 2],
    /// One for each of the protected variant's turns.
    channels: Vec<Channel>,
}

impl Progression {
    fn new((test, pipeline): (Test, u32)) -> Self {
        Progression {
            test,
            pipeline,
            requests: None,
            turns: Default::default(),
            channels: Vec::new(),
        }
    }

    fn figures(&self) -> RedisTest {
        let [unprotected, protected] = &self.turns;
        let rounds = protected.rates.iter().zip(&unprotected.rates);
        let variants = VARIANTS.iter().zip(&self.turns);
        RedisTest {
            test: self.test.name(),
            pipeline: self.pipeline,
            requests: self.requests.unwrap_or(0),
            protected_ratio: spread(rounds.map(|(of, to)| of / to)),
            log_bits_per_s: spread(self.channels.iter().map(|c| c.log_bits_per_s)).median,
            variants: variants
                .map(|(variant, turns)| turns.figures(*variant))
                .collect(),
        }
    }
}

fn spread(samples: impl IntoIterator<Item = f64>) -> Spread {
    Spread::of(samples).expect("at least one round")
}

/// What one VM had to do for a test.
#[derive(Clone, Copy, Debug)]
struct OneVm {
    measured: Measured,
    /// CPU time of its gateway, primary and backup meanwhile.
    cpu: [Duration; 3],
}

impl Bench {
    /// Measures all tests, by the `program` of that name and version.
    pub(super) async fn redis_benchmark(
        &mut self,
        program: String,
    ) -> anyhow::Result<RedisBenchmark> {
        let mut tests = TESTS.map(Progression::new);
        for round in 0..self.settings.rounds {
            let mut order = [0, 1];
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                self.redis_turn(at, round, &mut tests).await?;
            }
        }
        let lags = || tests.iter().flat_map(|test| &test.channels);
        Ok(RedisBenchmark {
            program,
            test_seconds: self.settings.seconds * SHARE,
            value_bytes: VALUE_BYTES,
            keys: KEYS,
            lag_ms_median: spread(lags().map(|lag| lag.lag_ms_median)).median,
            lag_ms_p99: spread(lags().map(|lag| lag.lag_ms_p99)).most,
            tests: tests.iter().map(Progression::figures).collect(),
        })
    }

    /// One variant's turn in one round: all tests.
    async fn redis_turn(
        &mut self,
        at: usize,
        round: u32,
        tests: &mut [Progression],
    ) -> anyhow::Result<()> {
        let (variant, settings) = (VARIANTS[at], self.settings.clone());
        let mut scenes = self.raise(variant).await?;
        let seconds = settings.seconds * SHARE;
        let mut rates = Vec::new();
        for test in tests {
            let in_flight = settings.redis_benchmark_clients as u64 * u64::from(test.pipeline);
            let mut order = Order {
                test: test.test,
                clients: settings.redis_benchmark_clients,
                pipeline: test.pipeline,
                requests: WARM_UP.max(2 * in_flight),
                keys: KEYS,
                value_bytes: VALUE_BYTES,
                patience: PATIENCE + Duration::from_secs_f64(seconds * PATIENCE_FACTOR),
            };
            let mut vms = all_at_once(&scenes, &order).await?;
            if test.requests.is_none() {
                // A warm-up has the opening of the connections in it, and says too little.
                order.requests = requests_in(seconds * CALIBRATION, &vms).max(in_flight);
                vms = all_at_once(&scenes, &order).await?;
            }
            order.requests = *test
                .requests
                .get_or_insert_with(|| requests_in(seconds, &vms).max(in_flight));
            let before = self.reading(variant, &scenes).await?;
            vms = all_at_once(&scenes, &order).await?;
            let after = self.reading(variant, &scenes).await?;
            let channel = before.zip(after);
            test.channels
                .extend(channel.map(|(before, after)| before.until(&after)));
            let rate = test.turns[at].add(&vms, order.requests);
            rates.push(format!("{rate:.0}"));
        }
        self.progress.step(&format!(
            "round {} of {}: {:<11} redis-benchmark {} requests/s",
            round + 1,
            settings.rounds,
            variant.name(),
            rates.join(", ")
        ));
        for scene in &mut scenes {
            scene.close().await;
        }
        Ok(())
    }
}

/// How many requests the slower of some VMs answers in so many seconds.
fn requests_in(seconds: f64, vms: &[OneVm]) -> u64 {
    let rates = vms.iter().map(|vm| vm.measured.requests_per_s);
    (rates.fold(f64::INFINITY, f64::min) * seconds) as u64
}

/// Has each VM do the same, and load on until all have done it.
async fn all_at_once(scenes: &[Scene], order: &Order) -> anyhow::Result<Vec<OneVm>> {
    let all_done = Barrier::new(scenes.len());
    let vm = |scene| one_vm(scene, order, &all_done);
    match scenes {
        [one, beside] => {
            let (one, beside) = tokio::try_join!(vm(one), vm(beside))?;
            Ok(vec![one, beside])
        }
        [alone] => Ok(vec![vm(alone).await?]),
        _ => unreachable!("a variant has one VM or two"),
    }
}

/// Has one VM do it, and loads on until `all_done`.
async fn one_vm(scene: &Scene, order: &Order, all_done: &Barrier) -> anyhow::Result<OneVm> {
    let before = scene.cpu_times();
    let measured = order.run(scene.guest()).await?;
    let mut cpu = scene.cpu_times();
    for (now, then) in cpu.iter_mut().zip(before) {
        *now = now.saturating_sub(then);
    }
    tokio::select! {
        // First, so that the last to be done begins nothing.
        biased;
        _ = all_done.wait() => Ok(OneVm { measured, cpu }),
        Err(error) = load_on(scene, order) => Err(error),
    }
}

/// The same load again and again, which does not count. To be cancelled.
async fn load_on(scene: &Scene, order: &Order) -> anyhow::Result<Infallible> {
    loop {
        order.run(scene.guest()).await?;
    }
}
