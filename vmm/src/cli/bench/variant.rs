//! How a VM runs while it is measured, and the scenes that makes.

use std::time::Instant;

use super::super::stage::process::Who;
use super::Bench;
use super::scene::{Cast, Scene};
use crate::node::NodeStatus;

/// How a VM runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Unprotected, with the host to itself.
    Alone,
    /// Unprotected, and an equal VM with an equal load beside it.
    Unprotected,
    /// The same, and both write their logs to disk.
    Recorded,
    /// With a backup.
    Protected,
}

impl Variant {
    /// Its name in figures.
    pub(super) fn name(self) -> &'static str {
        match self {
            Variant::Alone => "alone",
            Variant::Unprotected => "unprotected",
            Variant::Recorded => "recorded",
            Variant::Protected => "protected",
        }
    }

    fn cast(self) -> Cast {
        Cast {
            protected: self == Variant::Protected,
            log: self == Variant::Recorded,
        }
    }

    fn has_neighbour(self) -> bool {
        matches!(self, Variant::Unprotected | Variant::Recorded)
    }
}

/// What only a pair can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) log_bits_per_s: f64,
    pub(super) lag_ms_median: f64,
    pub(super) lag_ms_p99: f64,
}

/// A pair's primary at a moment.
#[derive(Debug)]
pub(super) struct Reading {
    at: Instant,
    status: NodeStatus,
}

impl Reading {
    /// What happened from then to now.
    pub(super) fn until(&self, later: &Reading) -> Channel {
        let bytes = later.status.log_bytes - self.status.log_bytes;
        Channel {
            log_bits_per_s: bytes as f64 * 8.0 / (later.at - self.at).as_secs_f64(),
            lag_ms_median: later.status.lag_ms_median,
            lag_ms_p99: later.status.lag_ms_p99,
        }
    }
}

impl Bench {
    /// One VM that runs so, and its equal beside it where there is one.
    pub(super) async fn raise(&mut self, variant: Variant) -> anyhow::Result<Vec<Scene>> {
        let cast = variant.cast();
        let mut scenes = vec![Scene::open(&self.settings, cast, &mut self.progress).await?];
        if variant.has_neighbour() {
            let beside = scenes[0].open_beside(&self.settings, cast, &mut self.progress);
            scenes.push(beside.await?);
        }
        Ok(scenes)
    }

    /// How the primary is, if it is one of a pair.
    pub(super) async fn reading(
        &self,
        variant: Variant,
        scenes: &[Scene],
    ) -> anyhow::Result<Option<Reading>> {
        if variant != Variant::Protected {
            return Ok(None);
        }
        let status = scenes[0].status(Who::Primary).await?;
        let at = Instant::now();
        Ok(Some(Reading { at, status }))
    }
}
