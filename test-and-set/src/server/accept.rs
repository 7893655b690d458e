//! Accepting connections: who is there, and is it meant for us?
//!
//! A stranger gets one hello's worth of attention for [`HELLO_TIMEOUT`]; a peer must
//! be the store that has the seat (TAS-5); everybody is bounded in number (SEC-2).

use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Node;
use crate::types::ClusterId;
use crate::wire::{
    self, Hello, HelloRefusal, MAX_FRAME_BYTES, MAX_HELLO_BYTES, PeerRequest, PeerResponse,
    Request, SeatId, Welcome, Whois, WireError,
};

/// Connections that have not said who they are: more wait in the kernel's queue.
const MAX_STRANGERS: usize = 64;

/// Connections of clients: two nodes of each of a hundred VMs, and people.
const MAX_CLIENTS: usize = 256;

/// Connections of peers: three for each of the other servers, and some that are
/// about to be replaced.
const MAX_PEERS: usize = 64;

/// How long a stranger may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may say nothing before its place is given to others.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);

/// How long to wait after a failure to accept: no file descriptors, as a rule.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// The largest snapshot that a peer may send, in bytes: far beyond a register at
/// its bounds in ordinary use, and a bound on what a peer can make us hold.
const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;

/// Accepts connections until it is dropped, which ends them all.
pub(super) async fn accept(listener: TcpListener, node: Arc<Node>) {
    let [strangers, clients, peers] =
        [MAX_STRANGERS, MAX_CLIENTS, MAX_PEERS].map(|max| Arc::new(Semaphore::new(max)));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let permit = strangers.clone().acquire_owned().await;
        let permit = permit.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, from)) => {
                let (node, clients, peers) = (node.clone(), clients.clone(), peers.clone());
                connections.spawn(async move {
                    match serve(stream, node, permit, &clients, &peers).await {
                        Ok(()) | Err(WireError::Closed) => {}
                        Err(error) => tracing::debug!(%from, "connection ended: {error}"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    node: Arc<Node>,
    stranger: OwnedSemaphorePermit,
    clients: &Arc<Semaphore>,
    peers: &Arc<Semaphore>,
) -> Result<(), WireError> {
    stream.set_nodelay(true)?;
    let hello = timeout(HELLO_TIMEOUT, read_hello(&mut stream)).await;
    let hello = hello.map_err(|_| WireError::Io(std::io::ErrorKind::TimedOut.into()))??;
    let places = match hello {
        Hello::Client { .. } => clients,
        Hello::Peer { .. } => peers,
    };
    let place = places.clone().try_acquire_owned();
    let admitted = match &place {
        Ok(_) => node.admit(&hello).await,
        Err(_) => Err(HelloRefusal::Busy),
    };
    let welcome = match &admitted {
        Ok(()) => Welcome::Accepted(Whois {
            seat: node.who.seat,
            cluster: node.who.cluster(),
        }),
        Err(refusal) => Welcome::Refused(refusal.clone()),
    };
    wire::write_frame(&mut stream, &welcome).await?;
    admitted?;
    drop(stranger);
    match hello {
        Hello::Client { .. } => serve_client(stream, &node).await,
        Hello::Peer { from, .. } => serve_peer(stream, &node, from).await,
    }
}

async fn read_hello(stream: &mut TcpStream) -> Result<Hello, WireError> {
    let understood = wire::read_preamble(stream).await;
    // Whoever speaks another version of this protocol learns ours.
    if !matches!(understood, Err(WireError::NoArbiter | WireError::Closed)) {
        wire::write_preamble(stream).await?;
    }
    understood?;
    wire::read_frame(stream, MAX_HELLO_BYTES).await
}

impl Node {
    /// Whether someone means this server, and may.
    async fn admit(self: &Arc<Self>, hello: &Hello) -> Result<(), HelloRefusal> {
        let check = |cluster: &ClusterId| match self.who.cluster() {
            Some(mine) if mine != *cluster => Err(HelloRefusal::OtherCluster(mine)),
            Some(_) | None => Ok(()),
        };
        match hello {
            Hello::Client { cluster } => cluster.as_ref().map_or(Ok(()), check),
            Hello::Peer { cluster, from, to } => {
                check(cluster)?;
                if *to != self.who.seat {
                    return Err(HelloRefusal::OtherStore(self.who.seat));
                }
                self.check_seat(from)?;
                if self.who.cluster().is_none() {
                    self.pin(*cluster).await.map_err(|error| {
                        tracing::error!("cannot join cluster {cluster}: {error}");
                        HelloRefusal::Busy
                    })?;
                    tracing::info!("joined cluster {cluster}");
                    // Somebody else may have come first.
                    check(cluster)?;
                }
                Ok(())
            }
        }
    }

    /// Whether a peer's id belongs to its store, as far as this server knows: in the
    /// membership, or in all that ever were.
    fn check_seat(&self, from: &SeatId) -> Result<(), HelloRefusal> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let member = metrics
            .membership_config
            .membership()
            .get_node(&from.server);
        let stored = self
            .machine
            .look(|state| state.servers.get(&from.server).copied());
        match member.map(|seat| seat.store).or(stored) {
            Some(store) if store != from.store => Err(HelloRefusal::IdTaken(SeatId {
                server: from.server,
                store,
            })),
            Some(_) | None => Ok(()),
        }
    }
}

async fn serve_client(mut stream: TcpStream, node: &Arc<Node>) -> Result<(), WireError> {
    loop {
        let request = wire::read_frame::<Request>(&mut stream, MAX_FRAME_BYTES);
        let request = timeout(IDLE_TIMEOUT, request).await;
        let request = request.map_err(|_| WireError::Closed)??;
        let response = node.handle(request).await;
        wire::write_frame(&mut stream, &response).await?;
    }
}

async fn serve_peer(
    mut stream: TcpStream,
    node: &Arc<Node>,
    from: SeatId,
) -> Result<(), WireError> {
    loop {
        let request = wire::read_frame(&mut stream, MAX_FRAME_BYTES).await?;
        let speaker = match &request {
            PeerRequest::Append(append) => append.vote,
            PeerRequest::Snapshot(snapshot) => snapshot.vote,
            PeerRequest::Vote(vote) => vote.vote,
        };
        // A server speaks for itself only.
        if speaker.leader_id.voted_for() != Some(from.server) {
            return Err(WireError::Malformed);
        }
        let response = match request {
            PeerRequest::Append(append) => {
                PeerResponse::Append(node.raft.append_entries(append).await)
            }
            PeerRequest::Snapshot(piece) => {
                let end = piece.offset.checked_add(piece.data.len() as u64);
                if end.is_none_or(|end| end > MAX_SNAPSHOT_BYTES) {
                    return Err(WireError::Malformed);
                }
                PeerResponse::Snapshot(node.raft.install_snapshot(piece).await)
            }
            PeerRequest::Vote(vote) => PeerResponse::Vote(node.raft.vote(vote).await),
        };
        wire::write_frame(&mut stream, &response).await?;
    }
}
