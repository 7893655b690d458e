//! How a server is, and why a membership cannot be changed: what people see.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::{Address, ClusterId, ServerId, StoreId};

/// The most servers of a cluster: 5 and, during changes, a few more. More would
/// only make every claim slower.
pub const MAX_SERVERS: usize = 9;

/// What a server does in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Decides, together with a majority.
    Leader,
    /// Votes, and keeps what the leader decides.
    Follower,
    /// Wants to be leader: there is none, as far as it knows.
    Candidate,
    /// Has no vote: not yet joined, still catching up, or removed.
    Learner,
    /// Stopped, or stopped itself over a failure of its store.
    Stopped,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        })
    }
}

/// A server as the membership has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Its id.
    pub id: ServerId,
    /// Where it is reached.
    pub address: Address,
    /// Whether it votes.
    pub voter: bool,
}

/// How a server is, as far as it knows itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its id.
    pub server: ServerId,
    /// Its store.
    pub store: StoreId,
    /// Its cluster; nothing before it was joined.
    pub cluster: Option<ClusterId>,
    /// What it does.
    pub role: Role,
    /// Who leads, as far as it knows.
    pub leader: Option<ServerId>,
    /// Raft's term.
    pub term: u64,
    /// The index of its last log entry; 0 before the first.
    pub last_log: u64,
    /// Up to which index its register has come.
    pub applied: u64,
    /// Up to which index its newest snapshot reaches; 0 without one.
    pub snapshot: u64,
    /// Up to which index its log was cut off; 0 when it is whole.
    pub purged: u64,
    /// The servers of the cluster, by id.
    pub servers: Vec<ServerInfo>,
    /// Whom it waits for while the cluster is being made.
    pub waiting: Option<String>,
}

/// Why the servers of a cluster cannot be changed as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum ChangeRefusal {
    /// The new server does not answer.
    #[error("server {id} does not answer at {address}: {why}")]
    Unreachable {
        /// The server.
        id: ServerId,
        /// Where it should be.
        address: Address,
        /// What happened.
        why: String,
    },
    /// Another server answers at that address.
    #[error("server {found} answers at {address}, not server {id}")]
    OtherServer {
        /// The server.
        id: ServerId,
        /// Where it should be.
        address: Address,
        /// Who is there.
        found: ServerId,
    },
    /// The new server belongs to another cluster.
    #[error("server {id} belongs to cluster {cluster} already; wipe it to use it here")]
    OtherCluster {
        /// The server.
        id: ServerId,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// TAS-5: the id was used before, with another store.
    #[error(
        "server id {0} was used before, by a store that is not this server's: \
        give the server an id that was never used"
    )]
    IdTaken(ServerId),
    /// There are enough servers.
    #[error("a cluster has at most {MAX_SERVERS} servers")]
    TooMany,
    /// A cluster needs a server.
    #[error("server {0} is the only one: without it there is no cluster")]
    Last(ServerId),
    /// One change at a time.
    #[error("another change of the servers is under way: try again")]
    InProgress,
}
