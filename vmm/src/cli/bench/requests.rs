//! Requests per second and latency, of each variant in turn.

use std::time::{Duration, Instant};

use ft_logging::protocol::Histogram;
use tokio::time::sleep;

use super::Bench;
use super::figures::{CpuTime, Requests, Spread, VariantFigures};
use super::reading::Channel;
use super::scene::Scene;
use super::variant::Variant;

/// The variants, in the order of a round.
const VARIANTS: [Variant; 4] = [
    Variant::Alone,
    Variant::Unprotected,
    Variant::Recorded,
    Variant::Protected,
];

/// One variant's turns so far.
#[derive(Clone, Debug, Default)]
struct Turns {
    rates: Vec<f64>,
    waits: Histogram,
    /// CPU time of gateway, primary and backup.
    cpu: [Duration; 3],
}

impl Turns {
    /// CPU time for each request.
    fn cpu_us(&self) -> CpuTime {
        CpuTime::per_request(self.cpu, self.waits.count())
    }
}

impl Bench {
    /// Measures all variants.
    pub(super) async fn requests(&mut self) -> anyhow::Result<Requests> {
        let mut turns = VARIANTS.map(|variant| (variant, Turns::default()));
        let mut channels = Vec::new();
        for round in 0..self.settings.rounds {
            let mut order: Vec<&mut (Variant, Turns)> = turns.iter_mut().collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for (variant, turns) in order {
                channels.extend(self.turn(*variant, round, turns).await?);
            }
        }
        let ratio = |of: usize, to: usize| {
            let rounds = turns[of].1.rates.iter().zip(&turns[to].1.rates);
            Spread::of(rounds.map(|(of, to)| of / to)).expect("at least one round")
        };
        let [_, unprotected, recorded, protected] = [0, 1, 2, 3];
        let of_channels = |pick: fn(&Channel) -> f64| {
            Spread::of(channels.iter().map(pick)).expect("at least one round")
        };
        Ok(Requests {
            protected_ratio: ratio(protected, unprotected),
            recorded_ratio: ratio(recorded, unprotected),
            log_bits_per_s: of_channels(|channel| channel.log_bits_per_s).median,
            lag_ms_median: of_channels(|channel| channel.lag_ms_median).median,
            lag_ms_p99: of_channels(|channel| channel.lag_ms_p99).most,
            variants: turns
                .iter()
                .map(|(variant, turns)| VariantFigures {
                    variant: variant.name(),
                    cpu_us: turns.cpu_us(),
                    requests_per_s: Spread::of(turns.rates.iter().copied())
                        .expect("at least one round"),
                    median_us: turns.waits.quantile_ns(0.5) as f64 / 1e3,
                    p99_us: turns.waits.quantile_ns(0.99) as f64 / 1e3,
                })
                .collect(),
        })
    }

    /// One variant's turn in one round.
    async fn turn(
        &mut self,
        variant: Variant,
        round: u32,
        turns: &mut Turns,
    ) -> anyhow::Result<Option<Channel>> {
        let settings = self.settings.clone();
        let mut scenes = self.raise(variant).await?;
        let mut loads = Vec::new();
        for scene in &scenes {
            loads.push(scene.load(&settings).await?);
        }
        let before = self.reading(variant, &scenes).await?;
        // All at once: the second VM's clients were warm later.
        loads.iter().for_each(|load| load.meter().restart());
        let cpu: Vec<_> = scenes.iter().map(Scene::cpu_times).collect();
        let begun = Instant::now();
        sleep(Duration::from_secs_f64(settings.seconds)).await;
        let waits: Vec<Histogram> = loads.iter().map(|l| l.meter().before().clone()).collect();
        let passed = begun.elapsed().as_secs_f64();
        for (scene, before) in scenes.iter().zip(cpu) {
            let used = scene.cpu_times().into_iter().zip(before);
            for (sum, (now, then)) in turns.cpu.iter_mut().zip(used) {
                *sum += now.saturating_sub(then);
            }
        }
        let after = self.reading(variant, &scenes).await?;
        for (scene, load) in scenes.iter().zip(loads) {
            scene.finish(load, &mut self.faults).await?;
        }
        let answers: u64 = waits.iter().map(Histogram::count).sum();
        let rate = answers as f64 / passed / scenes.len() as f64;
        waits.iter().for_each(|waits| turns.waits += waits);
        turns.rates.push(rate);
        self.progress.step(&format!(
            "round {} of {}: {:<11} {rate:>7.0} requests/s",
            round + 1,
            settings.rounds,
            variant.name()
        ));
        for scene in &mut scenes {
            scene.close().await;
        }
        Ok(before
            .zip(after)
            .map(|(before, after)| before.until(&after)))
    }
}
