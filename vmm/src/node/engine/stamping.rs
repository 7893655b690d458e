//! ONE-3: the disk's stamp follows what this node is.

use ft_logging::types::Generation;
use tokio::task::JoinHandle;

use super::super::disk::{DiskRole, Stamp};
use super::super::{End, Event, RoleConfig};
use super::{Node, Role};

/// What the disk says of whose it is, and who is writing that.
#[derive(Debug, Default)]
pub(super) struct Stamping {
    /// What it says, or is about to say.
    said: Option<Stamp>,
    writer: Option<JoinHandle<()>>,
    /// A stamp of this life was waited for.
    is_sure: bool,
}

impl Stamping {
    /// Waits until everything is written.
    async fn settle(&mut self) {
        if let Some(writer) = self.writer.take() {
            let _ = writer.await;
        }
    }
}

impl Node {
    /// The disk says whose it is, soon. The loop does not wait for it: a crash before it is written
    /// leaves a stamp that says less.
    pub(super) fn stamp_disk(&mut self) {
        let (Some(disk), Some(stamp)) = (self.config.disk.clone(), self.stamp()) else {
            return;
        };
        if self.stamping.said.as_ref() == Some(&stamp) {
            return;
        }
        self.stamping.said = Some(stamp.clone());
        let events = self.events.clone();
        let before = self.stamping.writer.take();
        self.stamping.writer = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let stamped = tokio::task::spawn_blocking(move || disk.stamp(stamp)).await;
            if let Ok(Err(error)) = stamped {
                let _ = events.send(Event::Warning(error.to_string())).await;
            }
        }));
    }

    /// The same. The first time it is waited for: what the guest is about to write must not stand
    /// under no stamp, or that of an earlier life.
    pub(super) async fn stamp_before_writing(&mut self) {
        self.stamp_disk();
        if !self.stamping.is_sure {
            self.stamping.settle().await;
            self.stamping.is_sure = true;
        }
    }

    /// The node's part has ended: an image of a VM that was stopped in order has all of it.
    pub(super) async fn stamp_end(&mut self, end: &End) {
        self.stamping.settle().await;
        let (End::Stopped, Role::Primary(_)) = (end, &self.role) else {
            return;
        };
        // What was never stamped, no guest has written to.
        let (Some(disk), Some(_), Some(stamp)) =
            (&self.config.disk, &self.stamping.said, self.stamp())
        else {
            return;
        };
        if let Err(error) = disk.stamp(stamp.stopped()) {
            self.warn(error.to_string());
        }
    }

    fn stamp(&self) -> Option<Stamp> {
        let first = self.token().generation <= Generation(1);
        let started_alone = matches!(self.config.role, RoleConfig::Primary { alone: true });
        let role = match &self.role {
            Role::Primary(_) if first && started_alone => DiskRole::Alone,
            Role::Primary(_) => DiskRole::Primary,
            Role::Backup(_) => DiskRole::Backup,
        };
        Some(Stamp::running(self.life?, self.token(), role))
    }
}
