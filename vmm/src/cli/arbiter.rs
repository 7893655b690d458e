//! `ftvm arbiter`: its servers, and what people ask of it.

mod people;
mod reach;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;
use test_and_set::types::{Address, ServerId};
use test_and_set::{Exposure, Server, ServerConfig, StartMode, Tuning};
use tokio::signal::unix::{SignalKind, signal};

use super::output::json_line;

/// The test-and-set service that decides who goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm arbiter serve --help                          how to start three servers
  ftvm arbiter status --servers a:7301,b:7301,c:7301
  ftvm arbiter show kv --servers a:7301,b:7301,c:7301")]
pub(super) struct ArbiterArgs {
    #[command(subcommand)]
    command: ArbiterCommand,
}

#[derive(Debug, Subcommand)]
enum ArbiterCommand {
    /// Run one server.
    Serve(ServeArgs),
    /// How the servers are, and the loss of which host they would not survive.
    Status(people::StatusArgs),
    /// The VMs that have a record.
    List(people::ListArgs),
    /// A VM's record: life, generation, members, winner.
    Show(people::ShowArgs),
    /// Give a VM up, whatever its state.
    Delete(people::DeleteArgs),
    /// Take a server into the cluster, which was started with --join.
    Add(people::AddArgs),
    /// Take a server out of the cluster, for ever.
    Remove(people::RemoveArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Three servers on one machine, for a try:
  ftvm arbiter serve --id 2 --listen 127.0.0.1:7302 --data a2 --join &
  ftvm arbiter serve --id 3 --listen 127.0.0.1:7303 --data a3 --join &
  ftvm arbiter serve --id 1 --listen 127.0.0.1:7301 --data a1 --init \\
      --peer 2=127.0.0.1:7302 --peer 3=127.0.0.1:7303

Later starts need neither --init nor --join. For protection the servers belong on three hosts.")]
struct ServeArgs {
    /// Which server it is, for ever.
    #[arg(long)]
    id: u64,
    /// Where it listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7301")]
    listen: SocketAddr,
    /// Where its store is.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Make a new cluster of this server and its --peer's, which are started with --join.
    #[arg(long, conflicts_with = "join")]
    init: bool,
    /// Another server of a new cluster, as ID=HOST:PORT. May be given several times.
    #[arg(long, value_name = "PEER", requires = "init", value_parser = parse_peer)]
    peer: Vec<(ServerId, Address)>,
    /// Wait to be taken into a cluster.
    #[arg(long)]
    join: bool,
    /// Say what happens as JSON lines on standard output.
    #[arg(long)]
    json: bool,
}

fn parse_peer(text: &str) -> Result<(ServerId, Address), String> {
    let wrong = || format!("{text:?} is not of the form 2=127.0.0.1:7302");
    let (id, address) = text.split_once('=').ok_or_else(wrong)?;
    let id = id.parse().map_err(|_| wrong())?;
    Ok((ServerId(id), address.parse().map_err(|_| wrong())?))
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum ArbiterEvent {
    Listening { address: SocketAddr },
}

/// `ftvm arbiter`.
pub(super) fn arbiter(args: ArbiterArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ArbiterCommand::Serve(args) => serve(args),
        ArbiterCommand::Status(args) => people::status(args),
        ArbiterCommand::List(args) => people::list(args),
        ArbiterCommand::Show(args) => people::show(args),
        ArbiterCommand::Delete(args) => people::delete(args),
        ArbiterCommand::Add(args) => people::add(args),
        ArbiterCommand::Remove(args) => people::remove(args),
    }
}

fn serve(args: ServeArgs) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        let start = match (args.init, args.join) {
            (true, _) => StartMode::Init {
                others: args.peer.into_iter().collect::<BTreeMap<_, _>>(),
            },
            (_, true) => StartMode::Join,
            _ => StartMode::Resume,
        };
        let server = Server::start(ServerConfig {
            id: ServerId(args.id),
            listen: args.listen,
            advertise: None,
            data_dir: args.data,
            start,
            tuning: Tuning::default(),
            exposure: Exposure::Loopback,
        })
        .await?;
        let address = server.local_addr();
        if args.json {
            json_line(&ArbiterEvent::Listening { address })?;
        } else {
            eprintln!("ftvm: arbiter server {} listens on {address}", args.id);
        }
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            error = server.failed() => return Err(error.into()),
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        server.shutdown().await;
        Ok(ExitCode::SUCCESS)
    })
}
