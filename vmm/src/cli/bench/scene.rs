//! A stage for one measurement: raised, loaded, asked and struck again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use test_and_set::ClientConfig;
use tokio::time::sleep;

use super::super::stage::client::Load;
use super::super::stage::observe::status;
use super::super::stage::process::{Happening, Process, Said, What, Who};
use super::super::stage::{Audience, Setting, Stage};
use super::figures::{Faults, Settings};
use crate::node::NodeStatus;

/// The first part of a load is not measured: connections open, caches fill.
const WARM_UP: f64 = 0.3;

/// Tells on standard error what is measured, and what goes wrong on the way.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            begun: Instant::now(),
        }
    }
}

impl Progress {
    /// A step begins.
    pub(super) fn step(&self, text: &str) {
        eprintln!("  +{:>5.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }
}

impl Audience for Progress {
    /// Raising a stage is no news here.
    fn note(&mut self, _: &str) {}

    fn happening(&mut self, happening: &Happening) {
        if let What::Said(Said::Warning { text }) = &happening.what {
            self.step(&format!("{}: {text}", happening.who));
        }
    }
}

/// What the scenes of a bench differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cast {
    pub(super) protected: bool,
    pub(super) log: bool,
}

/// A raised stage. Dropping it ends the processes and takes the directory away.
#[derive(Debug)]
pub(super) struct Scene {
    stage: Stage,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stage.forget();
    }
}

fn setting(settings: &Settings, cast: Cast, beside: Option<ClientConfig>) -> Setting {
    Setting {
        name: if beside.is_some() { "beside" } else { "bench" },
        guest: settings.guest.clone(),
        cpu: settings.cpu,
        protected: cast.protected,
        arbiter: beside,
        detect_ms: settings.detect_ms,
        port: 0,
        repeat: true,
        capture: false,
        cable: false,
        log: cast.log,
    }
}

impl Scene {
    /// A pair or a single VM whose guest answers.
    pub(super) async fn open(
        settings: &Settings,
        cast: Cast,
        progress: &mut Progress,
    ) -> anyhow::Result<Self> {
        Self::raise(setting(settings, cast, None), progress).await
    }

    /// Another of the same, with the same arbiter.
    pub(super) async fn open_beside(
        &self,
        settings: &Settings,
        cast: Cast,
        progress: &mut Progress,
    ) -> anyhow::Result<Self> {
        let setting = setting(settings, cast, Some(self.stage.arbiter()));
        Self::raise(setting, progress).await
    }

    async fn raise(setting: Setting, progress: &mut Progress) -> anyhow::Result<Self> {
        let mut scene = Scene {
            stage: Stage::new(setting)?,
        };
        scene.stage.raise(progress).await?;
        scene.stage.greet(progress).await?;
        Ok(scene)
    }

    /// Three arbiter servers, and nothing else.
    pub(super) async fn open_arbiter(
        settings: &Settings,
        progress: &mut Progress,
    ) -> anyhow::Result<Self> {
        let cast = Cast {
            protected: false,
            log: false,
        };
        let mut scene = Scene {
            stage: Stage::new(setting(settings, cast, None))?,
        };
        scene.stage.raise_arbiter(progress).await?;
        Ok(scene)
    }

    /// How to ask the arbiter.
    pub(super) fn arbiter(&self) -> ClientConfig {
        self.stage.arbiter()
    }

    /// Lets clients begin, and returns when they are warm.
    pub(super) async fn load(&self, settings: &Settings) -> anyhow::Result<Load> {
        let load = Load::start(self.stage.guest(), settings.clients)
            .await
            .context("connecting the clients")?;
        sleep(Duration::from_secs_f64(settings.seconds.min(5.0) * WARM_UP)).await;
        load.meter().restart();
        Ok(load)
    }

    /// Ends a load and checks what it was told.
    pub(super) async fn finish(&self, load: Load, faults: &mut Faults) -> anyhow::Result<()> {
        let verdict = load
            .finish(self.stage.guest())
            .await
            .context("reading everything back")?;
        faults.add(&verdict);
        Ok(())
    }

    /// How a node is.
    pub(super) async fn status(&self, who: Who) -> anyhow::Result<NodeStatus> {
        status(&self.stage.control(who))
            .await
            .with_context(|| format!("the {who} does not say how it is"))
    }

    /// The CPU time that the gateway, the primary and the backup have used so far.
    pub(super) fn cpu_times(&self) -> [Duration; 3] {
        [Who::Gateway, Who::Primary, Who::Backup].map(|who| {
            self.stage
                .process(who)
                .map_or(Duration::ZERO, Process::cpu_time)
        })
    }

    /// Where clients reach the guest.
    pub(super) fn guest(&self) -> std::net::SocketAddr {
        self.stage.guest()
    }

    /// Where a node has written its log.
    pub(super) fn log(&self, who: Who) -> PathBuf {
        self.stage.log(who)
    }

    /// SIGKILL to the primary.
    pub(super) fn kill_primary(&self) -> anyhow::Result<()> {
        let primary = self.stage.process(Who::Primary);
        let primary = primary.context("there is a primary")?;
        primary.kill().context("killing the primary")
    }

    /// What happens next. Cancelling loses nothing.
    ///
    /// # Errors
    ///
    /// If a process ends that was not killed here.
    pub(super) async fn next(&mut self, killed: bool) -> anyhow::Result<Happening> {
        let happening = self.stage.next().await;
        if let What::Ended(status) = happening.what
            && !(killed && happening.who == Who::Primary)
        {
            bail!(self.stage.obituary(happening.who, status));
        }
        Ok(happening)
    }

    /// Ends the processes; what they wrote stays until the scene is dropped.
    pub(super) async fn close(&mut self) {
        self.stage.close().await;
    }
}
