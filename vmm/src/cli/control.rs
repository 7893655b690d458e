//! `ftvm control` and `ftvm recover`: what an operator asks of a node.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::nodes::{NodeChoice, the_one};
use crate::node::{ControlRequest, ControlResponse, MachineCommand, NodeState, request};

/// Ask something of a running VM.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm control power-button                the only VM on this host
  ftvm control kv failover                 the backup of VM kv takes over
  ftvm control kv console 'ls -l'          types a line at its console

The command goes to the node that speaks for the VM. While protected, it counts only when the
backup has it too.")]
pub(super) struct ControlArgs {
    #[command(flatten)]
    choice: NodeChoice,
    #[command(subcommand)]
    command: ControlCommand,
}

#[derive(Debug, Subcommand)]
enum ControlCommand {
    /// The vCPU stands still.
    Pause,
    /// The vCPU runs again.
    Resume,
    /// Press the ACPI power button; what it does is up to the guest.
    PowerButton,
    /// Start the guest anew from its boot images.
    Reset,
    /// Switch the machine off. Nothing takes over.
    PowerOff,
    /// End the VM. Nothing takes over.
    Stop,
    /// Let the backup take over.
    Failover,
    /// Type a line at the guest's console.
    Console {
        /// What to type.
        text: String,
        /// Do not press Enter behind it.
        #[arg(long)]
        no_newline: bool,
    },
}

impl ControlCommand {
    fn request(self) -> ControlRequest {
        let machine = |command| ControlRequest::Machine { command };
        match self {
            ControlCommand::Pause => machine(MachineCommand::Pause),
            ControlCommand::Resume => machine(MachineCommand::Resume),
            ControlCommand::PowerButton => machine(MachineCommand::PowerButton),
            ControlCommand::Reset => machine(MachineCommand::Reset),
            ControlCommand::PowerOff => machine(MachineCommand::PowerOff),
            ControlCommand::Stop => ControlRequest::Stop,
            ControlCommand::Failover => ControlRequest::Failover,
            ControlCommand::Console { text, no_newline } => {
                let end = if no_newline { "" } else { "\n" };
                ControlRequest::Console {
                    text: format!("{text}{end}"),
                }
            }
        }
    }
}

/// `ftvm control`.
pub(super) fn control(args: ControlArgs) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        let node = the_one(args.choice.find().await?, &args.choice)?;
        send(&node.path, &args.command.request(), "done").await
    })
}

/// Sends a request and tells the answer.
async fn send(path: &Path, what: &ControlRequest, done: &str) -> anyhow::Result<ExitCode> {
    match request(path, what).await? {
        ControlResponse::Done => {
            eprintln!("ftvm: {done}");
            Ok(ExitCode::SUCCESS)
        }
        ControlResponse::Refused { why } => anyhow::bail!("refused: {why}"),
        ControlResponse::Status(_) => {
            anyhow::bail!("the node at {} answered another question", path.display())
        }
    }
}

/// Go on with a halted node after two failures: a person's decision.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm recover --from kv --accept-loss

Use it only when the node that won, and every later one, is lost for good. What the winner had said
and done since then is lost with it: its clients may remember what this node never knew.
Exit status: 0 if the VM goes on, 1 if the node refuses, 2 without --accept-loss.")]
pub(super) struct RecoverArgs {
    /// The halted node: its control socket, or its VM if it is on this host.
    #[arg(long, value_name = "SOCKET|VM")]
    from: String,
    /// You know what is lost, and that the winner never comes back.
    #[arg(long)]
    accept_loss: bool,
}

/// `ftvm recover`.
pub(super) fn recover(args: RecoverArgs) -> anyhow::Result<ExitCode> {
    let choice = named(&args.from)?;
    super::block_on(async {
        let found = choice.find().await?;
        let halted: Vec<_> = found
            .into_iter()
            .filter(|node| node.status.state == NodeState::Stopped)
            .collect();
        anyhow::ensure!(
            !halted.is_empty(),
            "no halted node answers to {}: `ftvm status` shows the nodes on this host. Only a node \
             that halted, and whose process still runs, has kept its state",
            args.from
        );
        let node = the_one(halted, &choice)?;
        let status = &node.status;
        let what = format!(
            "VM {} goes on from {} ({}) as it was at position {}, entry {}",
            status.vm, status.node, status.token, status.position, status.entries
        );
        if !args.accept_loss {
            eprintln!(
                "ftvm: {what}.\nEverything that the VM did elsewhere since then is lost: clients \
                 may have had answers that this node never gave.\nIf the node that went on still \
                 runs anywhere, leave this alone: it is the VM, and would be cut off.\nTo do it \
                 all the same, add --accept-loss"
            );
            return Ok(ExitCode::from(2));
        }
        send(&node.path, &ControlRequest::Recover, &what)
            .await
            .context("nothing was changed")
    })
}

/// A socket, or the VM whose nodes on this host are meant.
fn named(from: &str) -> anyhow::Result<NodeChoice> {
    if from.contains('/') || from.ends_with(".sock") {
        return Ok(NodeChoice::at(PathBuf::from(from)));
    }
    let vm = from
        .parse()
        .with_context(|| format!("{from} is neither a control socket nor a VM's name"))?;
    Ok(NodeChoice::of(vm))
}
