//! What a node is told, and what it tells whoever started it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ft_logging::protocol::{Halt, Timing};
use ft_logging::types::Token;
use test_and_set::ClientConfig;
use test_and_set::types::VmName;

use super::disk::DiskImage;
use super::failpoint::Fuse;
use super::recorder::LogConfig;
use super::{ConsoleSink, NetLink, NodeState};
use crate::cpu::Backend;
use crate::machine::BootImages;

/// Which role a node starts in.
#[derive(Clone, Debug)]
pub enum RoleConfig {
    /// Runs the guest.
    Primary {
        /// Without waiting for a backup.
        alone: bool,
    },
    /// Replays the guest of this primary.
    Backup {
        /// Where it listens.
        primary: SocketAddr,
    },
}

/// Everything that a node is told.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The VM's name.
    pub vm: VmName,
    /// This node's name for people.
    pub node: String,
    /// Its role.
    pub role: RoleConfig,
    /// What the guest boots.
    pub images: BootImages,
    /// The CPU that runs it.
    pub cpu: Backend,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// The network device's address.
    pub mac: [u8; 6],
    /// The guest's disk, if it has one.
    pub disk: Option<Arc<DiskImage>>,
    /// The arbiter.
    pub arbiter: ClientConfig,
    /// Where the peer connects to, or probes.
    pub listen: SocketAddr,
    /// The guest's network.
    pub net: NetLink,
    /// The guest's console.
    pub console: ConsoleSink,
    /// The protocol's times.
    pub timing: Timing,
    /// Where to write the log, and how large and old it may become.
    pub log: Option<LogConfig>,
    /// The control socket.
    pub control: PathBuf,
    /// Where the node dies, in tests.
    pub fuse: Fuse,
}

/// What a node tells whoever started it, as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The peer can connect.
    Listening(SocketAddr),
    /// The state has changed.
    State(NodeState, String),
    /// The generation is this node's.
    Live(Token),
    /// Something that a person should know.
    Warning(String),
}

/// How a node's part has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The VM was stopped in order.
    Stopped,
    /// The other node goes on.
    HandedOver,
    /// The primary went away before the guest ever ran.
    NeverStarted,
    /// The operator asked this node to leave.
    Left,
    /// The node halted.
    Halted(Halt),
}
