//! The log's bits per second, idle and under load, and what they consist of.

use std::time::Duration;

use anyhow::Context as _;
use ft_logging::entry::{Entry, Kind, Payload};
use ft_logging::inspect::{KindStats, Stats};
use ft_logging::store::{Log, Target};
use ft_logging::types::EntryIndex;
use tokio::time::sleep;

use super::super::stage::process::Who;
use super::Bench;
use super::figures::Bandwidth;
use super::reading::Reading;
use super::scene::{Cast, Scene};

/// The idle guest has come to rest after this time.
const REST: Duration = Duration::from_millis(500);

impl Bench {
    /// Measures one pair, which writes its log.
    pub(super) async fn bandwidth(&mut self) -> anyhow::Result<Bandwidth> {
        let settings = self.settings.clone();
        let seconds = Duration::from_secs_f64(settings.seconds);
        let cast = Cast {
            protected: true,
            log: true,
        };
        let mut scene = Scene::open(&settings, cast, &mut self.progress).await?;
        sleep(REST).await;
        let rested = Reading::take(&scene).await?;
        sleep(seconds).await;
        let idle = Reading::take(&scene).await?;
        self.progress.step("the idle log is measured");
        let load = scene.load(&settings).await?;
        let begun = Reading::take(&scene).await?;
        load.meter().restart();
        sleep(seconds).await;
        let answers = load.meter().before().count();
        let loaded = Reading::take(&scene).await?;
        scene.finish(load, &mut self.faults).await?;
        self.progress.step("the loaded log is measured");
        scene.close().await;
        let log = Log::open(&scene.log(Who::Primary)).context("the primary's log")?;
        let idle_part = part(&log, &rested, &idle)?;
        let loaded_part = part(&log, &begun, &loaded)?;
        Ok(Bandwidth {
            idle_bits_per_s: rested.bits_per_s(&idle),
            loaded_bits_per_s: begun.bits_per_s(&loaded),
            loaded_requests_per_s: answers as f64 / (loaded.at - begun.at).as_secs_f64(),
            frame_overhead_bytes: loaded_part.frame_overhead(),
            idle_kinds: idle_part.kinds,
            loaded_kinds: loaded_part.kinds,
        })
    }
}

/// A part of a log.
struct Part {
    kinds: Vec<KindStats>,
    /// The bytes of the frames that came in.
    frames: u64,
}

impl Part {
    fn frame_overhead(&self) -> f64 {
        let received = self.kinds.iter().find(|kind| kind.kind == Kind::NetRx);
        received.map_or(0.0, |kind| {
            (kind.bytes - self.frames) as f64 / kind.count as f64
        })
    }
}

/// Counts the entries that came into being from one reading to the next.
fn part(log: &Log, from: &Reading, to: &Reading) -> anyhow::Result<Part> {
    let mut reader = log.reader()?;
    reader.seek(Target::Index(EntryIndex(from.status.entries + 1)))?;
    let (start, last) = (reader.place(), EntryIndex(to.status.entries));
    let mut frames = 0;
    let entries = reader
        .take_while(|entry| !matches!(entry, Ok(Entry { index, .. }) if *index > last))
        .inspect(|entry| {
            if let Ok(Entry {
                payload: Payload::NetRx { frame },
                ..
            }) = entry
            {
                frames += frame.len() as u64;
            }
        });
    let kinds = Stats::of(start, entries)?.kinds;
    Ok(Part { kinds, frames })
}
