//! Gaps between heartbeats, and false alarms, on a host whose every CPU is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::stage::process::Who;
use super::Bench;
use super::figures::Heartbeats;
use super::scene::{Cast, Scene};

/// How much longer than one variant's turn this takes: gaps are rare things to count.
const TURNS: f64 = 24.0;

/// The same with `--quick`.
const QUICK_TURNS: f64 = 1.0;

/// A thread for every CPU that does nothing but run.
struct Burners {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Burners {
    fn light() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cpus = std::thread::available_parallelism().map_or(1, Into::into);
        let burn = |_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        Burners {
            threads: (0..cpus).map(burn).collect(),
            stop,
        }
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Bench {
    /// Measures one pair.
    pub(super) async fn heartbeats(&mut self) -> anyhow::Result<Heartbeats> {
        let settings = self.settings.clone();
        let turns = if settings.quick { QUICK_TURNS } else { TURNS };
        let cast = Cast {
            protected: true,
            log: false,
        };
        let mut scene = Scene::open(&settings, cast, &mut self.progress).await?;
        let burners = Burners::light();
        let load = scene.load(&settings).await?;
        self.progress
            .step("every CPU burns; the heartbeats are watched");
        let begun = Instant::now();
        sleep(Duration::from_secs_f64(settings.seconds * turns)).await;
        let seconds = begun.elapsed().as_secs_f64();
        let answers = load.meter().before().count();
        let nodes = [
            scene.status(Who::Primary).await?,
            scene.status(Who::Backup).await?,
        ];
        drop(burners);
        scene.finish(load, &mut self.faults).await?;
        scene.close().await;
        let worst =
            |pick: fn(&crate::node::NodeStatus) -> f64| nodes.iter().map(pick).fold(0.0, f64::max);
        Ok(Heartbeats {
            seconds,
            every_ms: settings.detect_ms as f64 / 10.0,
            gaps: nodes.iter().map(|node| node.heartbeat_gaps).sum(),
            gap_ms_p9999: worst(|node| node.heartbeat_gap_p9999_ms),
            gap_ms_worst: worst(|node| node.worst_heartbeat_gap_ms),
            false_alarms: nodes.iter().map(|node| node.suspicions).sum(),
            requests_per_s: answers as f64 / seconds,
        })
    }
}
