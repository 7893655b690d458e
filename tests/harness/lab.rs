//! Two network namespaces as two machines: one runs the nodes, with a bridge and a TAP interface for
//! each; the other is a client with nothing but the kernel's own TCP.
//!
//! ```text
//!   hosts: tap-a ──┐                client: eth0 10.0.2.2
//!          tap-b ──┴─ bridge ─ port ──────────┘
//! ```

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sched::{CloneFlags, setns};

/// What the names of all namespaces of these tests begin with; the process id follows.
const PREFIX: &str = "ftvm-test-";

/// Where `ip netns` keeps its namespaces.
const NAMED: &str = "/var/run/netns";

/// Where the guest's server is.
const GUEST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 6379);

/// The namespaces; they go away with it.
pub(crate) struct Lab {
    hosts: String,
    client: String,
}

impl Lab {
    /// Builds it, after removing what an earlier run that was killed has left. None, loudly, where
    /// this user may not.
    pub(crate) fn build() -> Option<Self> {
        let skip = |why: &str| {
            eprintln!("SKIPPED: {why}: TAP interfaces and namespaces cannot be had here");
            None
        };
        if !nix::unistd::geteuid().is_root() {
            return skip("this user is not root");
        }
        remove_stale();
        let id = std::process::id();
        let lab = Lab {
            hosts: format!("{PREFIX}{id}-hosts"),
            client: format!("{PREFIX}{id}-client"),
        };
        let (hosts, client) = (lab.hosts.as_str(), lab.client.as_str());
        for name in [hosts, client] {
            if let Err(why) = ip(&format!("netns add {name}")) {
                return skip(&why);
            }
        }
        for line in [
            format!("-n {hosts} link set lo up"),
            format!("-n {hosts} link add bridge0 type bridge forward_delay 0"),
            format!("-n {hosts} link set bridge0 up"),
            format!("-n {hosts} tuntap add dev tap-a mode tap"),
            format!("-n {hosts} link set tap-a master bridge0 up"),
            format!("-n {hosts} tuntap add dev tap-b mode tap"),
            format!("-n {hosts} link set tap-b master bridge0 up"),
            format!("-n {hosts} link add port0 type veth peer name eth0 netns {client}"),
            format!("-n {hosts} link set port0 master bridge0 up"),
            format!("-n {client} link set lo up"),
            format!("-n {client} addr add 10.0.2.2/24 dev eth0"),
            format!("-n {client} link set eth0 up"),
        ] {
            if let Err(why) = ip(&line) {
                return skip(&why);
            }
        }
        Some(lab)
    }

    /// The namespace of the nodes.
    pub(crate) fn hosts(&self) -> &str {
        &self.hosts
    }

    /// How a client in the other namespace connects to the guest.
    pub(crate) fn dial(&self) -> impl Fn() -> io::Result<TcpStream> + Send + Sync + 'static {
        let namespace = path(&self.client);
        move || {
            let namespace = namespace.clone();
            // A thread of its own, since it stays in the namespace; the socket is made there.
            let connect = move || {
                setns(File::open(&namespace)?, CloneFlags::CLONE_NEWNET)?;
                TcpStream::connect(SocketAddr::V4(GUEST))
            };
            std::thread::spawn(connect)
                .join()
                .expect("no panic in here")
        }
    }

    /// A program in the client's namespace.
    pub(crate) fn client_program(&self, program: &str) -> Command {
        within(&self.client, Path::new(program))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.hosts, &self.client] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

/// A command that runs `program` in a namespace; its process is the program's.
pub(crate) fn within(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

fn path(namespace: &str) -> PathBuf {
    Path::new(NAMED).join(namespace)
}

fn ip(line: &str) -> Result<(), String> {
    let ran = Command::new("ip").args(line.split(' ')).output();
    let ran = ran.map_err(|error| format!("ip: {error}"))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    Err(format!("ip {line}: {}", said.trim()))
}

/// Removes the namespaces of test runs that are no more.
fn remove_stale() {
    let Ok(names) = std::fs::read_dir(NAMED) else {
        return;
    };
    for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let id = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'));
        if let Some((id, _)) = id
            && !Path::new("/proc").join(id).exists()
        {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}
