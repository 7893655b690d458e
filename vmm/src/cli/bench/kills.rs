//! From SIGKILL to the first answer, again and again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::time::sleep;

use super::super::stage::client::Load;
use super::super::stage::process::{Said, What, Who};
use super::Bench;
use super::figures::{Kills, Spread};
use super::scene::{Cast, Scene};
use crate::node::NodeState;

/// How often is looked for the first answer.
const LOOK: Duration = Duration::from_millis(5);

/// How long a takeover may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Kills come at so many phases of the heartbeat's period, one after the other.
const PHASES: u32 = 7;

/// One failover, in milliseconds since the kill.
#[derive(Clone, Copy, Debug)]
struct Failover {
    suspected: f64,
    live: f64,
    first_answer: f64,
    longest_wait: f64,
    claim: f64,
}

impl Bench {
    /// Kills one primary after the other.
    pub(super) async fn kills(&mut self) -> anyhow::Result<Kills> {
        let mut failovers = Vec::new();
        for number in 0..self.settings.kills {
            let failover = self.kill(number).await?;
            self.progress.step(&format!(
                "kill {} of {}: first answer after {:.1} ms",
                number + 1,
                self.settings.kills,
                failover.first_answer
            ));
            failovers.push(failover);
        }
        let spread = |pick: fn(&Failover) -> f64| {
            Spread::of(failovers.iter().map(pick)).expect("at least one kill")
        };
        Ok(Kills {
            count: self.settings.kills,
            suspected_ms: spread(|failover| failover.suspected),
            live_ms: spread(|failover| failover.live),
            first_answer_ms: spread(|failover| failover.first_answer),
            longest_wait_ms: spread(|failover| failover.longest_wait),
            claim_ms: spread(|failover| failover.claim),
        })
    }

    async fn kill(&mut self, number: u32) -> anyhow::Result<Failover> {
        let settings = self.settings.clone();
        let cast = Cast {
            protected: true,
            log: false,
        };
        let mut scene = Scene::open(&settings, cast, &mut self.progress).await?;
        let load = scene.load(&settings).await?;
        let beat = Duration::from_millis(settings.detect_ms) / 10;
        sleep(beat * (number % PHASES) / PHASES).await;
        let at = Instant::now();
        load.meter().killed(at - load.started());
        scene.kill_primary()?;
        let (suspected, live) = follow(&mut scene).await?;
        let answered = first_answer(&load, live).await?;
        let claim = scene.status(Who::Backup).await?.claim_ms;
        let verdict = load.finish(scene.guest()).await;
        let verdict = verdict.context("reading everything back")?;
        self.faults.add(&verdict);
        scene.close().await;
        let since = |then: Instant| ms(then.saturating_duration_since(at));
        let longest = verdict.meter.blackout();
        Ok(Failover {
            suspected: since(suspected),
            live: since(live),
            first_answer: since(answered),
            longest_wait: ms(longest.context("the load was told of the kill")?),
            claim: claim.context("the backup has claimed")?,
        })
    }
}

/// Waits until the backup is the VM: when it first suspected, and when it was.
async fn follow(scene: &mut Scene) -> anyhow::Result<(Instant, Instant)> {
    let mut suspected = None;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let next = tokio::time::timeout_at(deadline.into(), scene.next(true)).await;
        let happening = next.context("the backup does not take over")??;
        match happening.what {
            What::Said(Said::State {
                state: NodeState::Holding,
                ..
            }) if happening.who == Who::Backup => {
                suspected.get_or_insert(happening.at);
            }
            What::Said(Said::Live { .. }) => {
                return Ok((suspected.unwrap_or(happening.at), happening.at));
            }
            _ => {}
        }
    }
}

/// Waits for an answer that came after the node went live; returns when the silence ended.
async fn first_answer(load: &Load, live: Instant) -> anyhow::Result<Instant> {
    loop {
        let silence = load.meter().silence_ended();
        if let Some(end) = silence.map(|end| load.started() + end)
            && end > live
        {
            return Ok(end);
        }
        ensure!(live.elapsed() < PATIENCE, "the new primary does not answer");
        sleep(LOOK).await;
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
