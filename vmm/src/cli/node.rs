//! `ftvm run` and `ftvm backup`: the two roles of a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use ft_logging::protocol::Timing;
use ft_logging::store::Options;
use serde::Serialize;
use test_and_set::types::{ClusterId, VmName};
use test_and_set::{ClientConfig, Server, ServerHandle};
use tokio::sync::mpsc;

use super::amount::Keep;
use super::cpu::CpuChoice;
use super::guest::{Guest, GuestArgs};
use super::output::json_line;
use crate::cpu::Backend;
use crate::node::{
    ConsoleSink, End, Fuse, LogConfig, NetLink, Node, NodeConfig, NodeState, Notice, RoleConfig,
};

/// What both roles are told; a pair must be told the same.
#[derive(Clone, Debug, Args)]
struct NodeArgs {
    /// Take what is not said here from a TOML file, whose keys are the flags' names.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The VM's name.
    #[arg(long, default_value = "kv")]
    name: VmName,
    #[command(flatten)]
    guest: GuestArgs,
    /// The CPU that runs the guest.
    #[arg(long, value_enum, value_name = "CPU", default_value_t)]
    cpu: CpuChoice,
    /// The network device's address.
    #[arg(long, value_name = "ADDRESS", default_value = "52:54:00:12:34:56")]
    mac: Mac,
    /// The guest's network: gateway=HOST:PORT, tap=NAME, or none.
    #[arg(long, value_name = "LINK", default_value = "none")]
    net: NetArg,
    /// Where the guest's console goes: a file, `-` for standard output, or none.
    #[arg(long, value_name = "WHERE", default_value = "-")]
    console: String,
    /// The arbiter's servers, host:port, separated by commas. Without it, `run` starts one server
    /// inside itself: quick, but it dies with its host.
    #[arg(long, value_name = "SERVERS", value_delimiter = ',')]
    arbiter: Vec<String>,
    /// The arbiter's cluster id; without it the first that answers is trusted.
    #[arg(long, value_name = "ID")]
    cluster: Option<ClusterId>,
    /// A peer that is silent for this long is suspected, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    detect: u64,
    /// Replay this far behind stops the guest, half as far begins to slow it, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    max_lag: u64,
    /// Write the log to this directory, which must be empty or new.
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// At this size or age of the log recording stops; the VM goes on. Such as 500MiB or 24h;
    /// without a size it stops at 16 GiB.
    #[arg(
        long,
        value_name = "SIZE|AGE",
        requires = "log",
        default_value = "16GiB",
        hide_default_value = true
    )]
    log_keep: Keep,
    /// The control socket, for `ftvm status` and `ftvm control`.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// This node's name for people.
    #[arg(long, value_name = "TEXT")]
    node: Option<String>,
    /// For tests: the node dies at this point.
    #[arg(long, value_name = "NAME[:N]", hide = true)]
    failpoint: Option<Fuse>,
    /// Say what happens as JSON lines on standard output. The console then goes nowhere, unless to
    /// a file.
    #[arg(long)]
    json: bool,
}

/// Run a guest: the primary of a pair, or alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm run --alone                           the kv guest, unprotected, its console here
  ftvm run --net gateway=127.0.0.1:7500      waits for `ftvm backup`, then runs protected
  ftvm run --alone --guest noise --log /tmp/log --append rounds=50
  ftvm run --alone --guest redis --disk redis.img
                                             Debian's kernel and redis; see `ftvm image`
  ftvm run --alone --kernel vmlinuz --initrd initrd.gz --append 'console=ttyS0' --memory 512 \
           --disk disk.img                   a kernel of your own, and what it wants
  ftvm run --config vm.toml --detect 200     flags win over the file, which may say

      name = \"kv\"
      memory = 128
      net = \"gateway=127.0.0.1:7500\"
      arbiter = [\"127.0.0.1:7301\", \"127.0.0.1:7302\", \"127.0.0.1:7303\"]
      log = \"/var/lib/ftvm/kv\"
      log-keep = \"24h\"

Ctrl-C ends the VM; SIGTERM hands it over to the backup.")]
pub(super) struct RunArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Where the backup connects to.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// Do not wait for a backup.
    #[arg(long)]
    alone: bool,
    /// Start from this disk although its stamp says that there may be a newer one: a person's
    /// decision.
    #[arg(long, requires = "disk")]
    accept_disk: bool,
}

/// Replay a running guest, and go on with it when its primary dies.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm backup --primary 127.0.0.1:7400 --net gateway=127.0.0.1:7500 --arbiter 127.0.0.1:7301
  ftvm backup --config vm.toml --primary 127.0.0.1:7400
  ftvm backup --guest redis --disk other.img --primary 127.0.0.1:7400 --arbiter 127.0.0.1:7301

Give the same --guest, --memory, --append and --mac as to `ftvm run`, and a disk of this node's own
that equals the primary's: the handshake compares them.")]
pub(super) struct BackupArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Where the primary listens.
    #[arg(long, value_name = "ADDRESS")]
    primary: SocketAddr,
    /// Where the primary probes this node.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug)]
struct Mac([u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no Ethernet address such as 52:54:00:12:34:56");
        let bytes: Vec<u8> = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16).map_err(|_| wrong()))
            .collect::<Result<_, _>>()?;
        let bytes: [u8; 6] = bytes.try_into().map_err(|_| wrong())?;
        if bytes[0] & 1 != 0 || bytes == [0; 6] {
            return Err(format!(
                "{text} is a group address or none, and cannot be a device's"
            ));
        }
        Ok(Mac(bytes))
    }
}

/// `--net`.
#[derive(Clone, Debug)]
struct NetArg(NetLink);

impl FromStr for NetArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let link = match text.split_once('=') {
            None if text == "none" => NetLink::None,
            Some(("gateway", address)) => NetLink::Gateway(
                address
                    .parse()
                    .map_err(|_| format!("{address:?} is no address like 127.0.0.1:7500"))?,
            ),
            Some(("tap", name)) => NetLink::Tap(name.to_owned()),
            _ => return Err("write gateway=HOST:PORT, tap=NAME or none".to_owned()),
        };
        Ok(NetArg(link))
    }
}

impl NodeArgs {
    fn config(
        &self,
        role: RoleConfig,
        listen: SocketAddr,
        arbiter: Vec<String>,
        guest: &Guest,
    ) -> anyhow::Result<NodeConfig> {
        let console = match self.console.as_str() {
            "-" if self.json => ConsoleSink::None,
            "-" => ConsoleSink::Stdout,
            "none" => ConsoleSink::None,
            path => ConsoleSink::File(path.into()),
        };
        let role_name = if matches!(role, RoleConfig::Primary { .. }) {
            "primary"
        } else {
            "backup"
        };
        let cpu = self.cpu.choose(guest.embedded);
        let unprotected = matches!(role, RoleConfig::Primary { alone: true });
        anyhow::ensure!(
            cpu != Backend::KvmFree || unprotected,
            "KVM cannot hide the time stamp counter from a guest that reads it, so a backup could \
             not do the same again: choose --cpu soft, or run the guest unprotected, with --alone"
        );
        if cpu == Backend::KvmFree {
            eprintln!(
                "ftvm: --cpu kvm: what this kernel reads and where its timers interrupt it is not \
                 recorded: no backup could follow, and a log can be read, not replayed"
            );
        }
        let mut client = ClientConfig::new(arbiter);
        client.cluster = self.cluster;
        // A question is asked again by the protocol, which must not wait for long in between.
        client.total_timeout = std::time::Duration::from_millis(2 * self.detect);
        let mut options = Options::default();
        let mut keep_for = None;
        match self.log_keep {
            Keep::Size(bytes) => options.keep_bytes = bytes,
            Keep::Age(age) => keep_for = Some(age),
        }
        Ok(NodeConfig {
            vm: self.name.clone(),
            node: self
                .node
                .clone()
                .unwrap_or_else(|| format!("{}-{role_name}", host_name())),
            role,
            images: guest.images.clone(),
            cpu,
            memory_mib: guest.memory_mib,
            mac: self.mac.0,
            disk: guest.disk.clone(),
            arbiter: client,
            listen,
            net: self.net.0.clone(),
            console,
            timing: Timing::new(self.detect, self.max_lag),
            log: self.log.clone().map(|dir| LogConfig {
                dir,
                options,
                keep_for,
            }),
            control: self
                .control
                .clone()
                .unwrap_or_else(|| super::output::control_socket(self.name.as_str(), role_name)),
            fuse: self.failpoint.clone().unwrap_or_default(),
        })
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "host".to_owned())
}

/// `ftvm run`.
pub(super) fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let guest = args.node.guest.open()?;
    if let Some(disk) = guest.disk.as_ref().filter(|_| !args.accept_disk) {
        disk.check_stamp()?;
    }
    super::block_on(async {
        let role = RoleConfig::Primary { alone: args.alone };
        let mut config = args
            .node
            .config(role, args.listen, args.node.arbiter.clone(), &guest)?;
        if !args.node.arbiter.is_empty() {
            return drive(config, args.node.json).await;
        }
        let arbiter = EmbeddedArbiter::start().await?;
        let address = arbiter.server.local_addr().to_string();
        eprintln!(
            "ftvm: no --arbiter given: one arbiter server runs inside this process, at \
             {address}.\n      It dies with this host, and then no backup can take over. For \
             protection start three on three hosts: `ftvm arbiter serve --help`"
        );
        config.arbiter.servers = vec![address];
        let driven = drive(config, args.node.json).await;
        arbiter.end().await;
        driven
    })
}

/// `ftvm backup`.
pub(super) fn backup(args: BackupArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        !args.node.arbiter.is_empty(),
        "a backup must know the arbiter: give --arbiter SERVERS, the same as to the primary"
    );
    let guest = args.node.guest.open()?;
    super::block_on(async {
        loop {
            let role = RoleConfig::Backup {
                primary: args.primary,
            };
            let config = args
                .node
                .config(role, args.listen, args.node.arbiter.clone(), &guest)?;
            match drive(config, args.node.json).await? {
                code if code == again() => {}
                code => return Ok(code),
            }
        }
    })
}

/// The status of a backup whose primary went away before the guest ran: look for the next one.
fn again() -> ExitCode {
    ExitCode::from(75)
}

/// An arbiter server that lives, and keeps what it knows, as long as this process.
struct EmbeddedArbiter {
    server: ServerHandle,
    dir: PathBuf,
}

impl EmbeddedArbiter {
    async fn start() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("ftvm-arbiter-{}", std::process::id()));
        // Whose process had this number before is dead, and its VM with it.
        let _ = std::fs::remove_dir_all(&dir);
        let server = Server::embedded(&dir).await?;
        Ok(EmbeddedArbiter { server, dir })
    }

    async fn end(self) {
        self.server.shutdown().await;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What a node says with `--json`.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum NodeEvent {
    Listening { address: SocketAddr },
    State { state: NodeState, why: String },
    Live { token: String },
    Warning { text: String },
    End { end: String },
}

impl From<Notice> for NodeEvent {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::Listening(address) => NodeEvent::Listening { address },
            Notice::State(state, why) => NodeEvent::State { state, why },
            Notice::Live(token) => NodeEvent::Live {
                token: token.to_string(),
            },
            Notice::Warning(text) => NodeEvent::Warning { text },
        }
    }
}

impl NodeEvent {
    fn tell(&self, json: bool) {
        if json {
            let _ = json_line(self);
            return;
        }
        match self {
            NodeEvent::Listening { address } => eprintln!("ftvm: listening on {address}"),
            NodeEvent::State { state, why } => eprintln!("ftvm: {state:?}: {why}"),
            NodeEvent::Live { token } => eprintln!("ftvm: this node is the VM, token {token}"),
            NodeEvent::Warning { text } => eprintln!("ftvm: warning: {text}"),
            NodeEvent::End { end } => eprintln!("ftvm: {end}"),
        }
    }
}

async fn drive(config: NodeConfig, json: bool) -> anyhow::Result<ExitCode> {
    let (notices, mut inbox) = mpsc::unbounded_channel();
    let teller = tokio::spawn(async move {
        while let Some(notice) = inbox.recv().await {
            NodeEvent::from(notice).tell(json);
        }
    });
    let node = Node::start(config, notices).await?;
    let end = node.run().await?;
    teller.await?;
    let (code, text) = match end {
        End::Stopped => (ExitCode::SUCCESS, "the VM was stopped".to_owned()),
        End::HandedOver => (
            ExitCode::SUCCESS,
            "the other node has taken over".to_owned(),
        ),
        End::Left => (ExitCode::SUCCESS, "left".to_owned()),
        End::NeverStarted => (
            again(),
            "the primary went away before the guest ran".to_owned(),
        ),
        End::Halted(halt) => (ExitCode::FAILURE, format!("halted: {halt}")),
    };
    NodeEvent::End { end: text }.tell(json);
    Ok(code)
}
