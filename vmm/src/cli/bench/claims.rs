//! How long the arbiter takes to grant a claim: three servers, each of which writes it to disk.

use std::time::Instant;

use anyhow::{Context as _, bail};
use ft_logging::protocol::Histogram;
use test_and_set::types::{Generation, Incarnation, Life, Member, Members, VmName};
use test_and_set::{ChangeOutcome, ClaimOutcome, Client};

use super::Bench;
use super::figures::{Claims, Spread};
use super::scene::Scene;

impl Bench {
    /// Claims the first generation of one life after the other.
    pub(super) async fn claims(&mut self) -> anyhow::Result<Claims> {
        let settings = self.settings.clone();
        let mut scene = Scene::open_arbiter(&settings, &mut self.progress).await?;
        let mut client = Client::new(scene.arbiter());
        let vm: VmName = "bench".parse().expect("a name");
        let member = Member {
            incarnation: Incarnation([1; 16]),
            node: "bench".parse().expect("a label"),
            address: "127.0.0.1:1".parse().expect("an address"),
        };
        let (mut all, mut samples) = (Histogram::default(), Vec::new());
        for number in 0..settings.claims {
            let life = Life(u128::from(number + 1).to_be_bytes());
            let members = Members::alone(member.clone());
            done(client.create(vm.clone(), life, members).await)?;
            let asked = Instant::now();
            let claim = client.claim(vm.clone(), life, Generation(1), member.incarnation);
            match claim.await {
                ClaimOutcome::Won => {}
                other => bail!("a claim that nobody contests was answered with {other:?}"),
            }
            let took = asked.elapsed();
            all.record(took.as_nanos() as u64);
            samples.push(took.as_secs_f64() * 1e3);
            done(client.delete(vm.clone(), life).await)?;
        }
        scene.close().await;
        self.progress
            .step(&format!("{} claims are granted", settings.claims));
        Ok(Claims {
            count: settings.claims,
            claim_ms: Spread::of(samples).context("at least one claim")?,
            claim_ms_p99: all.quantile_ns(0.99) as f64 / 1e6,
        })
    }
}

fn done(outcome: ChangeOutcome) -> anyhow::Result<()> {
    match outcome {
        ChangeOutcome::Done | ChangeOutcome::Deleted => Ok(()),
        other => bail!("the arbiter answered {other:?}"),
    }
}
