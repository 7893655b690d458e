//! What is said on a connection: hellos, a client's requests, and Raft's.

use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::raft::TypeConfig;
use crate::register::{Answer, Command, Record};
use crate::status::{ChangeRefusal, Status};
use crate::types::{Address, ClusterId, ServerId, StoreId, VmName};

/// A server by its id and its store, which both must match: an id with another
/// store is another server (TAS-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatId {
    /// The server's id.
    pub server: ServerId,
    /// Its store.
    pub store: StoreId,
}

/// Who dials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hello {
    /// A client, or a server that asks another who it is.
    Client {
        /// The cluster that it means, if it knows.
        cluster: Option<ClusterId>,
    },
    /// Another server of the cluster.
    Peer {
        /// The cluster that it belongs to.
        cluster: ClusterId,
        /// Who it is.
        from: SeatId,
        /// Whom it means.
        to: SeatId,
    },
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whois {
    /// The server and its store.
    pub seat: SeatId,
    /// The cluster that it belongs to; nothing before it was joined.
    pub cluster: Option<ClusterId>,
}

/// The answer to a hello.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// Go on.
    Accepted(Whois),
    /// Go away; the connection ends here.
    Refused(HelloRefusal),
}

/// Why a server does not talk with someone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum HelloRefusal {
    /// TAS-5: the dialer means another cluster.
    #[error("the server belongs to cluster {0}, which is not the one that was asked for")]
    OtherCluster(ClusterId),
    /// TAS-5: the dialer means another server, or the store that this one had.
    #[error("the server there is {} with store {}, not the one that was asked for: it was wiped \
        or replaced, and can come back under a new server id only", .0.server, .0.store)]
    OtherStore(SeatId),
    /// TAS-5: the dialer's id belongs to another store.
    #[error("server id {} belongs to store {}, which is another: a wiped server can come back \
        under a new server id only", .0.server, .0.store)]
    IdTaken(SeatId),
    /// The server serves as many as it can.
    #[error("the server serves as many connections as it can")]
    Busy,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Change the register.
    Command(Command),
    /// The record of a VM, as it is now.
    Read(VmName),
    /// The records after a name, as they are now: one page of them.
    List(Option<VmName>),
    /// How this server is.
    Status,
    /// Make a server part of the cluster.
    AddServer(ServerId, Address),
    /// Take a server out of the cluster.
    RemoveServer(ServerId),
}

/// What a client is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Response {
    /// The command was carried out.
    Answer(Answer),
    /// The record, if there is one.
    Record(Option<Record>),
    /// One page of records; an empty one is the end.
    Page(Vec<(VmName, Record)>),
    /// How the server is.
    Status(Box<Status>),
    /// The membership is as it was asked for.
    Changed,
    /// The membership cannot be as it was asked for; nothing was changed.
    ChangeRefused(ChangeRefusal),
    /// Another server must be asked; nothing was done.
    NotLeader(Option<Address>),
    /// Nothing was done, and asking later may help.
    Unavailable(String),
    /// Whether it was, or will be, done is not known (TAS-4).
    Undecided(String),
}

/// What one server asks another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PeerRequest {
    Append(AppendEntriesRequest<TypeConfig>),
    Snapshot(InstallSnapshotRequest<TypeConfig>),
    Vote(VoteRequest<ServerId>),
}

/// What one server answers another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum PeerResponse {
    Append(Result<AppendEntriesResponse<ServerId>, RaftError<ServerId>>),
    Snapshot(Result<InstallSnapshotResponse<ServerId>, RaftError<ServerId, InstallSnapshotError>>),
    Vote(Result<VoteResponse<ServerId>, RaftError<ServerId>>),
}
