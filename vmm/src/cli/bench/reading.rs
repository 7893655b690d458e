//! A pair's primary at a moment, and what the pair did from one to the next.

use std::time::Instant;

use super::super::stage::process::Who;
use super::scene::Scene;
use crate::node::NodeStatus;

/// A primary at a moment.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) at: Instant,
    pub(super) status: NodeStatus,
}

impl Reading {
    /// Asks it now.
    pub(super) async fn take(scene: &Scene) -> anyhow::Result<Self> {
        let status = scene.status(Who::Primary).await?;
        let at = Instant::now();
        Ok(Reading { at, status })
    }

    /// What it sent to its backup from then to `later`, in bits per second.
    pub(super) fn bits_per_s(&self, later: &Reading) -> f64 {
        let bytes = later.status.log_bytes - self.status.log_bytes;
        bytes as f64 * 8.0 / (later.at - self.at).as_secs_f64()
    }

    /// What only a pair can tell, at `later`.
    pub(super) fn until(&self, later: &Reading) -> Channel {
        Channel {
            log_bits_per_s: self.bits_per_s(later),
            lag_ms_median: later.status.lag_ms_median,
            lag_ms_p99: later.status.lag_ms_p99,
        }
    }
}

/// What only a pair can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    pub(super) log_bits_per_s: f64,
    /// Of the seconds before `later`, as [`NodeStatus`] has it.
    pub(super) lag_ms_median: f64,
    /// The same.
    pub(super) lag_ms_p99: f64,
}
