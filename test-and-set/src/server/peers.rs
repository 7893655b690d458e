//! Talking to the other servers: openraft's network over TCP.
//!
//! Each of openraft's clients has a connection of its own, dialled when it is first
//! needed and again after a failure. Both sides check that the other is the store
//! that has the seat (TAS-5).

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, RaftNetwork, RaftNetworkFactory};
use tokio::net::TcpStream;

use super::Who;
use crate::raft::{Seat, TypeConfig};
use crate::types::ServerId;
use crate::wire::{
    self, Hello, HelloRefusal, MAX_FRAME_BYTES, PeerRequest, PeerResponse, SeatId, WireError,
};

/// How long a server is left alone that does not answer. Short, so that one that
/// comes back is soon of use again.
const BACKOFF: Duration = Duration::from_millis(100);

/// Makes connections to the other servers.
pub(super) struct Peers {
    who: Arc<Who>,
}

impl Peers {
    pub(super) fn new(who: Arc<Who>) -> Self {
        Self { who }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: ServerId, seat: &Seat) -> Peer {
        Peer {
            who: self.who.clone(),
            target,
            seat: seat.clone(),
            stream: None,
            refused: None,
        }
    }
}

/// A connection to one other server.
pub(super) struct Peer {
    who: Arc<Who>,
    target: ServerId,
    seat: Seat,
    /// Set while no request is under way: a request that is cut off leaves a
    /// stream that is of no use.
    stream: Option<TcpStream>,
    /// Why the other side did not want us last, so that it is said once.
    refused: Option<HelloRefusal>,
}

/// Why a request had no answer.
enum Failure {
    /// There is no connection: it is no use to try again at once.
    Dial(WireError),
    /// The connection failed: it may have been an old one.
    Call(WireError),
}

impl Failure {
    fn into_rpc<E: std::error::Error>(self) -> RPCError<ServerId, Seat, E> {
        match self {
            Self::Dial(error) => Unreachable::new(&error).into(),
            Self::Call(error) => NetworkError::new(&error).into(),
        }
    }
}

impl Peer {
    async fn call(
        &mut self,
        request: PeerRequest,
        option: &RPCOption,
    ) -> Result<PeerResponse, Failure> {
        let timed_out = || WireError::Io(std::io::ErrorKind::TimedOut.into());
        match tokio::time::timeout(option.hard_ttl(), self.exchange(request)).await {
            Ok(answered) => answered,
            Err(_) => Err(Failure::Dial(timed_out())),
        }
    }

    async fn exchange(&mut self, request: PeerRequest) -> Result<PeerResponse, Failure> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let dialled = self.dial().await;
                self.note(&dialled);
                dialled.map_err(Failure::Dial)?
            }
        };
        wire::write_frame(&mut stream, &request)
            .await
            .map_err(Failure::Call)?;
        let response = wire::read_frame(&mut stream, MAX_FRAME_BYTES).await;
        let response = response.map_err(Failure::Call)?;
        self.stream = Some(stream);
        Ok(response)
    }

    async fn dial(&self) -> Result<TcpStream, WireError> {
        let target = SeatId {
            server: self.target,
            store: self.seat.store,
        };
        // Nobody has peers before it has a cluster.
        let cluster = self.who.cluster().ok_or(WireError::Closed)?;
        let hello = Hello::Peer {
            cluster,
            from: self.who.seat,
            to: target,
        };
        let (stream, whois) = wire::dial(self.seat.address.as_str(), &hello).await?;
        if whois.seat != target {
            return Err(HelloRefusal::OtherStore(whois.seat).into());
        }
        Ok(stream)
    }

    fn note(&mut self, dialled: &Result<TcpStream, WireError>) {
        let refused = match dialled {
            Err(WireError::Refused(refusal)) => Some(refusal.clone()),
            Ok(_) | Err(_) => None,
        };
        if let Some(refusal) = &refused
            && self.refused != refused
        {
            tracing::warn!(server = %self.target, "the other server refuses us: {refusal}");
        }
        self.refused = refused;
    }

    fn remote<E: std::error::Error>(&self, error: E) -> RPCError<ServerId, Seat, E> {
        RemoteError::new(self.target, error).into()
    }
}

/// The other side answered something else.
fn confused<E: std::error::Error>() -> RPCError<ServerId, Seat, E> {
    NetworkError::new(&AnyError::error("the answer to another question")).into()
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<ServerId>, RPCError<ServerId, Seat, RaftError<ServerId>>>
    {
        match self.call(PeerRequest::Append(request), &option).await {
            Ok(PeerResponse::Append(answered)) => answered.map_err(|error| self.remote(error)),
            Ok(_) => Err(confused()),
            Err(failure) => Err(failure.into_rpc()),
        }
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<
        InstallSnapshotResponse<ServerId>,
        RPCError<ServerId, Seat, RaftError<ServerId, InstallSnapshotError>>,
    > {
        match self.call(PeerRequest::Snapshot(request), &option).await {
            Ok(PeerResponse::Snapshot(answered)) => answered.map_err(|error| self.remote(error)),
            Ok(_) => Err(confused()),
            Err(failure) => Err(failure.into_rpc()),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<ServerId>,
        option: RPCOption,
    ) -> Result<VoteResponse<ServerId>, RPCError<ServerId, Seat, RaftError<ServerId>>> {
        match self.call(PeerRequest::Vote(request), &option).await {
            Ok(PeerResponse::Vote(answered)) => answered.map_err(|error| self.remote(error)),
            Ok(_) => Err(confused()),
            Err(failure) => Err(failure.into_rpc()),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
