//! What is on the survivor's disk: the guest is switched off by its power button, booted again from
//! that image alone, and asked for every write that was acknowledged before.
//!
//! In order, and not by a kill: what Redis itself promises of its append-only file is that at most
//! the last second is missing after a crash.

use anyhow::Context as _;
use serde::Serialize;

use super::super::stage::client::Promised;
use super::super::stage::process::Who;
use super::super::stage::{Audience as _, Stage};
use super::view::View;

/// What was read from it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct OnDisk {
    /// The node whose disk it is.
    pub(super) node: String,
    /// Values and counters that were read.
    pub(super) checked: usize,
    /// Acknowledged writes that are not on it.
    pub(super) lost: u64,
    /// Increments that are on it twice.
    pub(super) duplicated: u64,
    /// The first fault, for people.
    #[serde(skip)]
    pub(super) fault: Option<String>,
}

/// Reads it; `vm` is the node that is the VM. Afterwards the VM is another.
///
/// # Errors
///
/// If the guest does not switch itself off or does not boot again, or its server's answers are no
/// such.
pub(super) async fn read_back(
    stage: &mut Stage,
    view: &mut View,
    vm: Who,
    promised: &mut Promised,
) -> anyhow::Result<OnDisk> {
    view.note(&format!(
        "power button; then the guest boots alone, from the {vm}'s disk"
    ));
    stage.switch_off(vm, view).await?;
    stage
        .boot_from_disk(vm, view)
        .await
        .with_context(|| format!("booting from the {vm}'s disk"))?;
    view.note("every acknowledged write is read back from the disk");
    let (checked, findings) = promised
        .read_back(stage.guest())
        .await
        .with_context(|| format!("reading back what is on the {vm}'s disk"))?;
    Ok(OnDisk {
        node: vm.to_string(),
        checked,
        lost: findings.lost,
        duplicated: findings.duplicated,
        fault: findings.first,
    })
}
