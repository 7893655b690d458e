//! How a VM runs while it is measured, and the scenes that makes.

use super::Bench;
use super::reading::Reading;
use super::scene::{Cast, Scene};

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
        Reading::take(&scenes[0]).await.map(Some)
    }
}
