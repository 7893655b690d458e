//! The process that runs one machine: it performs what the protocol asks.
//!
//! ```text
//!   sockets, timers ──▶ node ──events──▶ protocol (ft-logging, pure)
//!                        ▲                  │
//!            vCPU thread ┤ ◀────effects─────┘
//!            world, log  ┘
//! ```

mod arbiter;
mod config;
mod console;
mod control;
mod disk;
mod engine;
mod failpoint;
mod halted;
mod peer;
mod recorder;
mod setup;
mod status;
mod vcpu;
mod world;

use ft_logging::message::Hello;
use ft_logging::protocol::{Answer, Probe};
use ft_logging::types::{OutputSeq, Token};

pub use config::{End, NodeConfig, Notice, RoleConfig};
pub use control::{
    AttachedConsole, ControlError, ControlRequest, ControlResponse, MachineCommand, attach, request,
};
pub use disk::{DiskError, DiskImage, Overlay};
pub use engine::Node;
pub use failpoint::{Failpoint, Fuse};
pub use peer::bind;
pub use recorder::{LogConfig, LogSpace};
pub use status::{NodeState, NodeStatus};
pub use world::{ConsoleSink, NetLink};

/// Everything that reaches the node's loop beside the peer's messages, the vCPU's reports and time.
#[derive(Debug)]
enum Event {
    /// Somebody connected and said hello.
    Hello(Box<(peer::Peer, Hello)>),
    /// The primary was dialled.
    Dialled(std::io::Result<tokio::net::TcpStream>),
    /// The peer's port was probed.
    Probed(Probe),
    /// The arbiter has answered.
    Answer(Answer),
    /// Outputs up to this one are written.
    Released(OutputSeq),
    /// The gateway has heard a higher token.
    Fenced(Token),
    /// Something that a person should know.
    Warning(String),
    /// Somebody attached to the console has typed this.
    Typed(Vec<u8>),
    /// An operator asks.
    Control(
        ControlRequest,
        tokio::sync::oneshot::Sender<ControlResponse>,
    ),
}
