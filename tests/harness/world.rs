//! An arbiter, a gateway, and room for nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;

use nix::sys::signal::Signal;

use super::DETECT_MS;
use super::cable::Cable;
use super::lab::{Lab, within};
use super::oracle::{Overlap, Wire, check_one_history};
use super::process::Process;

/// Everything but the nodes, and what they are told.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) arbiters: Vec<Process>,
    servers: Vec<SocketAddr>,
    /// Where all processes run, if not here.
    namespace: Option<String>,
    network: Network,
}

/// What the nodes plug the guest into.
#[expect(clippy::large_enum_variant, reason = "a world has one")]
enum Network {
    Gateway {
        process: Process,
        address: SocketAddr,
        forward: SocketAddr,
        /// Each node's cable to it, if they are listened to.
        wires: Option<Mutex<BTreeMap<String, Wire>>>,
    },
    /// node-x has tap-x.
    Taps,
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

impl World {
    /// With `servers` arbiter servers, 1 or 3, and a gateway.
    pub(crate) fn new(servers: usize) -> Self {
        let mut world = World::with_arbiter(servers, None);
        let capture = world.capture();
        let args = strings(&[
            "gateway",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--forward",
            "127.0.0.1:0=10.0.2.15:6379",
            "--capture",
            capture.to_str().expect("UTF-8"),
        ]);
        let mut process = world.spawn("gateway", &args);
        let address = process.address();
        let listening = process.wait_for("listening", |event| event["event"] == "listening");
        let forward = listening["forwards"][0].as_str().expect("one");
        world.network = Network::Gateway {
            process,
            address,
            forward: forward.parse().expect("an address"),
            wires: None,
        };
        world
    }

    /// The same, and everything that a node says to the gateway is noted: [`World::one_history`].
    pub(crate) fn listening(servers: usize) -> Self {
        let mut world = World::new(servers);
        if let Network::Gateway { wires, .. } = &mut world.network {
            *wires = Some(Mutex::default());
        }
        world
    }

    /// With an arbiter, and TAP interfaces instead of a gateway.
    pub(crate) fn over_taps(servers: usize, lab: &Lab) -> Self {
        World::with_arbiter(servers, Some(lab.hosts().to_owned()))
    }

    fn with_arbiter(servers: usize, namespace: Option<String>) -> Self {
        let mut world = World {
            dir: tempfile::tempdir().expect("a temporary directory"),
            arbiters: vec![],
            servers: vec![],
            namespace,
            network: Network::Taps,
        };
        let mut joiners: Vec<Process> = (2..=servers)
            .map(|id| world.serve(id, "127.0.0.1:0", &["--join"]))
            .collect();
        let addresses: Vec<SocketAddr> = joiners.iter_mut().map(Process::address).collect();
        let mut first = strings(&["--init"]);
        for (id, address) in (2..).zip(&addresses) {
            first.extend(["--peer".to_owned(), format!("{id}={address}")]);
        }
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        let mut first = world.serve(1, "127.0.0.1:0", &first);
        world.servers = [first.address()].into_iter().chain(addresses).collect();
        world.arbiters = [first].into_iter().chain(joiners).collect();
        world
    }

    fn serve(&self, id: usize, listen: &str, more: &[&str]) -> Process {
        let (name, id) = (format!("arbiter-{id}"), id.to_string());
        let data = self.dir.path().join(&name);
        let data = data.to_str().expect("UTF-8");
        let mut args = strings(&["arbiter", "serve", "--json", "--listen", listen]);
        args.extend(strings(&["--id", &id, "--data", data]));
        args.extend(strings(more));
        self.spawn(&name, &args)
    }

    fn spawn(&self, name: &str, args: &[String]) -> Process {
        let program = Path::new(env!("CARGO_BIN_EXE_ftvm"));
        let mut command = match &self.namespace {
            Some(namespace) => within(namespace, program),
            None => Command::new(program),
        };
        command.args(args);
        Process::start(self.dir.path(), name, command)
    }

    /// Where clients reach the guest, through the gateway.
    pub(crate) fn forward(&self) -> SocketAddr {
        match &self.network {
            Network::Gateway { forward, .. } => *forward,
            Network::Taps => panic!("there is no gateway"),
        }
    }

    fn capture(&self) -> PathBuf {
        self.dir.path().join("gateway.pcap")
    }

    /// Starts a killed arbiter server again, on its store and its port.
    pub(crate) fn restart_arbiter(&mut self, index: usize) {
        let listen = self.servers[index].to_string();
        self.arbiters[index] = self.serve(index + 1, &listen, &[]);
        self.arbiters[index].address();
    }

    /// The arbiter's servers, as `--arbiter` and `--servers` want them.
    pub(crate) fn servers(&self) -> String {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        servers.join(",")
    }

    fn node_args(&self, command: &str, name: &str) -> Vec<String> {
        let net = match &self.network {
            Network::Gateway {
                address,
                wires: None,
                ..
            } => format!("gateway={address}"),
            Network::Gateway {
                address,
                wires: Some(wires),
                ..
            } => {
                // A node that is started again has the cable of the one before.
                let mut wires = wires.lock().expect("no panic in here");
                let wire = wires.entry(name.to_owned());
                let wire = wire.or_insert_with(|| Wire::to(*address));
                format!("gateway={}", wire.address())
            }
            Network::Taps => name.replacen("node-", "tap=tap-", 1),
        };
        let log = self.log(name);
        strings(&[
            command,
            "--json",
            "--arbiter",
            &self.servers(),
            "--net",
            &net,
            "--control",
            self.control(name).to_str().expect("UTF-8"),
            "--log",
            log.to_str().expect("UTF-8"),
            "--detect",
            DETECT_MS,
            "--node",
            name,
        ])
    }

    /// A node's control socket.
    pub(crate) fn control(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    /// A node's log.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    pub(crate) fn primary(&self, name: &str, more: &[&str]) -> Process {
        self.primary_at(name, SocketAddr::from(([127, 0, 0, 1], 0)), more)
    }

    /// A primary that listens at this address.
    pub(crate) fn primary_at(&self, name: &str, listen: SocketAddr, more: &[&str]) -> Process {
        let mut args = self.node_args("run", name);
        args.extend(strings(&["--listen", &listen.to_string()]));
        args.extend(strings(more));
        self.spawn(name, &args)
    }

    pub(crate) fn backup(&self, name: &str, primary: SocketAddr, more: &[&str]) -> Process {
        let mut args = self.node_args("backup", name);
        args.extend(strings(&["--primary", &primary.to_string()]));
        args.extend(strings(more));
        self.spawn(name, &args)
    }

    /// A protected pair, node-a and node-b.
    pub(crate) fn pair(&self) -> (Process, Process) {
        self.pair_of("node-a", "node-b")
    }

    /// A protected pair of these names.
    pub(crate) fn pair_of(&self, primary: &str, backup: &str) -> (Process, Process) {
        let mut primary = self.primary(primary, &[]);
        let backup = self.backup(backup, primary.address(), &[]);
        protected(primary, backup)
    }

    /// A protected pair, node-a and node-b, whose channel can be cut.
    pub(crate) fn pair_with_cable(&self) -> (Process, Process, Cable) {
        let mut primary = self.primary("node-a", &[]);
        let cable = Cable::to(primary.address());
        let backup = self.backup("node-b", cable.address(), &[]);
        let (primary, backup) = protected(primary, backup);
        (primary, backup, cable)
    }

    /// Runs the program to its end.
    pub(crate) fn ftvm(&self, args: &[&str]) -> (ExitStatus, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_ftvm"))
            .args(args)
            .output()
            .expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status, text)
    }

    /// Every frame that a node has said, which has ended.
    pub(crate) fn said(&self, node: &str) -> Vec<Vec<u8>> {
        match &self.network {
            Network::Gateway {
                wires: Some(wires), ..
            } => wires.lock().expect("no panic in here")[node].said(),
            _ => panic!("a world that does not listen"),
        }
    }

    /// Ends the VM in order; its node's process ends with it.
    pub(crate) fn stop(&self, node: &mut Process) {
        let control = self.control(&node.name);
        let control = control.to_str().expect("UTF-8");
        let (status, text) = self.ftvm(&["control", "--control", control, "stop"]);
        assert!(status.success(), "{text}");
        assert!(node.wait().success(), "{}", node.stderr());
    }

    /// Ends the VM and the gateway, and checks what both nodes said (ONE-1) against the replay of
    /// the survivor's log; `other` has ended or halted.
    pub(crate) fn one_history(&mut self, survivor: &mut Process, other: &str) -> Overlap {
        self.stop(survivor);
        let captured = self.capture();
        let Network::Gateway { process, wires, .. } = &mut self.network else {
            panic!("there is no gateway");
        };
        process.signal(Signal::SIGTERM);
        assert!(process.wait().success());
        let wires = wires.take().expect("a world that listens");
        let wires = wires.into_inner().expect("no panic in here");
        let replayed = self.dir.path().join("replayed.pcap");
        let (log, frames) = (self.log(&survivor.name), replayed.to_str().expect("UTF-8"));
        let log = log.to_str().expect("UTF-8");
        let (status, text) = self.ftvm(&["replay", log, "--json", "--outputs", frames]);
        assert!(status.success(), "{text}");
        check_one_history(&replayed, &wires[&survivor.name], &wires[other], &captured)
    }
}

/// Waits until the pair is protected.
pub(crate) fn protected(mut primary: Process, mut backup: Process) -> (Process, Process) {
    primary.wait_for_state("PROTECTED");
    backup.wait_for_state("PROTECTED");
    (primary, backup)
}
