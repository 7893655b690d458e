//! Finding this host's nodes by their control sockets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use test_and_set::types::VmName;

use super::output::control_dir;
use crate::node::{ControlError, ControlRequest, ControlResponse, NodeState, NodeStatus, request};

/// How long a node may take to say how it is. Its loop never waits, so this is generous.
const STATUS_PATIENCE: Duration = Duration::from_secs(3);

/// Which node is meant.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct NodeChoice {
    /// The VM, if this host has nodes of several.
    vm: Option<VmName>,
    /// The node that has this role now.
    #[arg(long)]
    role: Option<RoleName>,
    /// The node that listens on this control socket.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["vm", "role"])]
    control: Option<PathBuf>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleName {
    /// Runs the guest.
    Primary,
    /// Replays it.
    Backup,
}

impl RoleName {
    fn as_str(self) -> &'static str {
        match self {
            RoleName::Primary => "primary",
            RoleName::Backup => "backup",
        }
    }
}

/// A node that answered.
#[derive(Debug)]
pub(super) struct Found {
    /// Its control socket.
    pub(super) path: PathBuf,
    /// How it is.
    pub(super) status: NodeStatus,
}

impl NodeChoice {
    /// The node that listens on `path`.
    pub(super) fn at(path: PathBuf) -> Self {
        NodeChoice {
            control: Some(path),
            ..NodeChoice::default()
        }
    }

    /// The nodes of `vm`.
    pub(super) fn of(vm: VmName) -> Self {
        NodeChoice {
            vm: Some(vm),
            ..NodeChoice::default()
        }
    }

    /// Every node that is meant and answers, in the order of their sockets' names.
    ///
    /// # Errors
    ///
    /// If a socket that was named by its path does not answer, or any that exists is broken. A
    /// socket in the default directory that nobody listens on was left by a dead node.
    pub(super) async fn find(&self) -> anyhow::Result<Vec<Found>> {
        let paths = match &self.control {
            Some(path) => vec![path.clone()],
            None => sockets_in(&control_dir())?,
        };
        let mut found = Vec::new();
        for path in paths {
            match status(&path).await {
                Ok(status) if self.means(&status) => found.push(Found { path, status }),
                Ok(_) => {}
                Err(ControlError::NoNode(_)) if self.control.is_none() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(found)
    }

    fn means(&self, status: &NodeStatus) -> bool {
        self.vm.as_ref().is_none_or(|vm| vm.as_str() == status.vm)
            && self.role.is_none_or(|role| role.as_str() == status.role)
    }

    /// Why nobody was found, and what to do.
    pub(super) fn nobody(&self) -> String {
        let who = match (&self.vm, self.role) {
            (Some(vm), Some(role)) => format!("no {} of VM {vm}", role.as_str()),
            (Some(vm), None) => format!("no node of VM {vm}"),
            (None, Some(role)) => format!("no {}", role.as_str()),
            (None, None) => "no node".to_owned(),
        };
        format!(
            "{who} answers on a control socket in {}: is it running, on this host and as this \
             user? A node that was started with `--control PATH` is asked with the same",
            control_dir().display()
        )
    }
}

fn sockets_in(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("looking for nodes in {}", dir.display()))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "sock")
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

async fn status(path: &Path) -> Result<NodeStatus, ControlError> {
    let answer = tokio::time::timeout(STATUS_PATIENCE, request(path, &ControlRequest::Status));
    match answer.await {
        Ok(Ok(ControlResponse::Status(status))) => Ok(*status),
        Ok(Ok(_)) => Err(ControlError::Answer(path.to_owned())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(ControlError::Io {
            path: path.to_owned(),
            source: std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                "it does not say how it is; it may be stopped (SIGSTOP) or its host overloaded",
            ),
        }),
    }
}

/// The one of `found` that speaks for the VM: commands go there.
///
/// # Errors
///
/// If they are of several VMs, or none of them or several could be meant.
pub(super) fn the_one(found: Vec<Found>, choice: &NodeChoice) -> anyhow::Result<Found> {
    let mut vms: Vec<String> = found.iter().map(|node| node.status.vm.clone()).collect();
    vms.sort();
    vms.dedup();
    anyhow::ensure!(
        vms.len() <= 1,
        "this host has nodes of several VMs: name one of {}",
        vms.join(", ")
    );
    let speaks = |node: &Found| {
        node.status.role == RoleName::Primary.as_str() && node.status.state != NodeState::Stopped
    };
    let (mut speakers, mut others): (Vec<_>, Vec<_>) = found.into_iter().partition(speaks);
    let candidates = if speakers.is_empty() {
        &mut others
    } else {
        &mut speakers
    };
    match candidates.len() {
        0 => anyhow::bail!("{}", choice.nobody()),
        1 => Ok(candidates.remove(0)),
        _ => {
            let paths: Vec<String> = candidates
                .iter()
                .map(|node| format!("--control {}", node.path.display()))
                .collect();
            anyhow::bail!(
                "several nodes could be meant: choose with {}",
                paths.join(" or ")
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::example;
    use super::*;

    fn node(vm: &str, role: &str, state: NodeState) -> Found {
        let status = NodeStatus {
            vm: vm.to_owned(),
            role: role.to_owned(),
            state,
            ..example()
        };
        Found {
            path: format!("/run/{vm}-{role}.sock").into(),
            status,
        }
    }

    #[test]
    fn commands_go_to_the_node_that_speaks_for_the_vm() {
        let choice = NodeChoice::default();
        let role = |nodes| the_one(nodes, &choice).map(|node| node.status.role);
        let pair = || {
            vec![
                node("kv", "backup", NodeState::Protected),
                node("kv", "primary", NodeState::Protected),
            ]
        };
        assert_eq!(role(pair()).expect("the primary"), "primary");
        // After a failover the old primary, halted, may still answer.
        let after = vec![
            node("kv", "primary", NodeState::Stopped),
            node("kv", "primary", NodeState::Alone),
        ];
        let one = the_one(after, &choice).expect("the winner");
        assert_eq!(one.status.state, NodeState::Alone);
        let backup = vec![node("kv", "backup", NodeState::Starting)];
        assert_eq!(role(backup).expect("the only one"), "backup");

        let error = role(vec![]).expect_err("nobody");
        assert!(error.to_string().contains("is it running"), "{error}");
        let mut two = pair();
        two.push(node("web", "primary", NodeState::Alone));
        let error = role(two).expect_err("two VMs");
        assert!(error.to_string().contains("kv, web"), "{error}");
        let halted = || node("kv", "primary", NodeState::Stopped);
        let error = role(vec![halted(), halted()]).expect_err("two");
        assert!(error.to_string().contains("--control"), "{error}");
    }
}
