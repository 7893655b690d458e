//! `ftvm gateway`: the guest's user-mode network.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::output::json_line;
use crate::net::{Forward, Gateway, GatewayConfig};

/// The guest's user-mode network: a switch with host port forwards.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm gateway --listen 127.0.0.1:7500 --forward 127.0.0.1:6379=10.0.2.15:6379
  redis-cli -p 6379 ping

It outlives both nodes; run it where the clients are. It stops on Ctrl-C.")]
pub(super) struct GatewayArgs {
    /// Where the nodes dial.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7500")]
    listen: SocketAddr,
    /// A host port that leads to the guest, as HOST:PORT=GUEST:PORT. May be given several times.
    #[arg(long, value_name = "FORWARD")]
    forward: Vec<Forward>,
    /// Do not repeat the last frames when the guest's port moves.
    #[arg(long)]
    no_repeat: bool,
    /// For how long frames are kept to be repeated, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 600)]
    repeat_window: u64,
    /// For how long the gateway's own acknowledgements wait for a client's data to go with, in
    /// milliseconds; 0 acknowledges at once. Each that goes by itself is one more frame that the
    /// guest must take and its log must carry.
    #[arg(long, value_name = "MS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=500))]
    ack_delay: u64,
    /// Capture what crosses the guest's port, as pcap.
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Say what happens as JSON lines on standard output.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum GatewayEvent {
    Listening {
        address: SocketAddr,
        forwards: Vec<SocketAddr>,
    },
    End {
        frames_repeated: u64,
        connections_opened: u64,
    },
}

/// `ftvm gateway`.
pub(super) fn gateway(args: GatewayArgs) -> anyhow::Result<ExitCode> {
    super::block_on(async {
        let gateway = Gateway::bind(GatewayConfig {
            forwards: args.forward,
            repeat: !args.no_repeat,
            repeat_window: Duration::from_millis(args.repeat_window),
            ack_delay: Duration::from_millis(args.ack_delay),
            capture: args.capture,
            ..GatewayConfig::new(args.listen)
        })
        .await?;
        let (address, forwards) = (gateway.address(), gateway.forwards().to_vec());
        if args.json {
            json_line(&GatewayEvent::Listening { address, forwards })?;
        } else {
            eprintln!("ftvm: nodes dial {address}");
            forwards
                .iter()
                .for_each(|at| eprintln!("ftvm: forwarding {at} to the guest"));
        }
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stats = gateway
            .run(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await;
        if args.json {
            json_line(&GatewayEvent::End {
                frames_repeated: stats.frames_repeated,
                connections_opened: stats.connections_opened,
            })?;
        }
        Ok(ExitCode::SUCCESS)
    })
}
