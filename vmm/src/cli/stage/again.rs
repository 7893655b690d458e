//! The guest switched off in order, and booted once more from the disk that a node wrote.

use std::time::Duration;

use anyhow::{Context as _, bail};
use guest_images::linux::Recipe;
use tokio::time::timeout;

use super::process::{What, Who};
use super::{Audience, Stage, words};
use crate::node::{self, ControlRequest, ControlResponse, MachineCommand, NodeState};

/// How long the guest may take to switch itself off: its programs end, and its disk is written.
const OFF_PATIENCE: Duration = Duration::from_secs(60);

impl Stage {
    /// Whether the guest has a disk.
    pub(in crate::cli) fn has_disk(&self) -> bool {
        self.setting.recipe().is_some_and(Recipe::has_disk)
    }

    /// Presses the power button of the VM, which is at `vm`, waits until the guest has switched
    /// itself off, and ends what else there is of nodes.
    ///
    /// # Errors
    ///
    /// If the guest takes no notice of the button, or the node ends in another way.
    pub(in crate::cli) async fn switch_off(
        &mut self,
        vm: Who,
        view: &mut impl Audience,
    ) -> anyhow::Result<()> {
        let command = MachineCommand::PowerButton;
        let answer = node::request(&self.control(vm), &ControlRequest::Machine { command })
            .await
            .with_context(|| format!("pressing the power button at the {vm}"))?;
        if let ControlResponse::Refused { why } = answer {
            bail!("the {vm} refuses to press the guest's power button: {why}");
        }
        let ended = async {
            loop {
                let happening = self.next().await;
                view.happening(&happening);
                if let (What::Ended(status), true) = (&happening.what, happening.who == vm) {
                    return *status;
                }
            }
        };
        let Ok(status) = timeout(OFF_PATIENCE, ended).await else {
            bail!(
                "the guest has not switched itself off within {} s after its power button was \
                 pressed",
                OFF_PATIENCE.as_secs()
            );
        };
        if !status.success() {
            bail!(self.obituary(vm, status));
        }
        for who in [Who::Primary, Who::Backup] {
            if let Some(process) = self.processes.remove(&who) {
                process.end().await;
            }
        }
        Ok(())
    }

    /// Boots the guest from the disk that node `of` wrote, alone, and waits until its server
    /// answers. To be called after [`Stage::switch_off`].
    ///
    /// # Errors
    ///
    /// If a process ends or something takes too long, with the process's last words.
    pub(in crate::cli) async fn boot_from_disk(
        &mut self,
        of: Who,
        view: &mut impl Audience,
    ) -> anyhow::Result<()> {
        let mut arguments = self.node_arguments(Who::Reader, of);
        arguments.extend(words(["--listen", "127.0.0.1:0", "--alone"]));
        self.spawn(Who::Reader, arguments)?;
        self.reached(NodeState::Alone, [Who::Reader].to_vec(), view)
            .await?;
        self.greet(view).await
    }
}
