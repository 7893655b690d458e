//! A server of the arbiter: openraft over TCP, with the store of [`crate::store`].
//!
//! ```text
//!   accept ──hello──► a client: requests ──► raft ──► peers ──► the other servers
//!                 └─► a peer: peer requests ──► raft ──► store
//! ```
//!
//! Started in one of three ways (TAS-5): see [`StartMode`].

mod accept;
mod config;
mod membership;
mod peers;
mod requests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use openraft::ServerState;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use config::{ConfigError, Exposure, ServerConfig, StartMode, Tuning};
use peers::Peers;

use crate::raft::Raft;
use crate::status::{Role, ServerInfo, Status};
use crate::store::{Db, Identity, Log, Machine, Store, StoreError};
use crate::types::{Address, BadValue, ClusterId, ServerId, StoreId};
use crate::wire::SeatId;

/// How long a stopping server waits until its file is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a server does not start, or does not go on.
#[derive(Debug, Error)]
pub enum ServerError {
    /// What it was told makes no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address to advertise is out of bounds.
    #[error("cannot be reached under that address: {0}")]
    Advertise(#[from] BadValue),
    /// It cannot listen.
    #[error(
        "cannot listen on {address}: {source}; is this server, or another program, there already?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Its store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The others know it under another address.
    #[error(
        "the other servers know this one as {known}, not as {given}: start it there, or take \
        it out of the cluster and add it again under a new id"
    )]
    Moved {
        /// The address in the membership.
        known: Address,
        /// The one that was given.
        given: Address,
    },
    /// Raft stopped, as a rule because the disk failed.
    #[error("the server stopped itself: {0}")]
    Raft(String),
}

/// Starts servers.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts a server. It serves when this returns; a cluster that is being made
    /// answers requests once a majority of its servers is there.
    ///
    /// # Errors
    /// See [`ServerError`]; nothing is left running or half made.
    pub async fn start(config: ServerConfig) -> Result<ServerHandle, ServerError> {
        config.validate()?;
        let listen = |source| ServerError::Listen {
            address: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;
        let address = match &config.advertise {
            Some(address) => address.clone(),
            None => local_addr.to_string().parse()?,
        };
        let store = open_store(&config)?;
        let db = store.db.clone();
        let node = Node::start(&config, store, address).await?;
        if let Err(error) = node.check_address().await {
            node.stop(db).await;
            return Err(error);
        }
        let tasks = Tasks([
            tokio::spawn(accept::accept(listener, node.clone())),
            tokio::spawn(membership::found(node.clone())),
        ]);
        Ok(ServerHandle {
            node,
            db,
            local_addr,
            tasks,
        })
    }

    /// Starts a cluster of one on this host, or goes on with it: for a quick start.
    /// It is as available as this host (TAS-6). Others may be added to it.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn embedded(data_dir: impl Into<PathBuf>) -> Result<ServerHandle, ServerError> {
        let config = ServerConfig {
            id: ServerId(1),
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            advertise: None,
            data_dir: data_dir.into(),
            start: StartMode::Resume,
            tuning: Tuning::default(),
            exposure: Exposure::Loopback,
        };
        let others = BTreeMap::new();
        match Self::start(config.clone()).await {
            Err(ServerError::Store(StoreError::Missing { .. })) => {
                let start = StartMode::Init { others };
                Self::start(ServerConfig { start, ..config }).await
            }
            started => started,
        }
    }
}

fn open_store(config: &ServerConfig) -> Result<Store, StoreError> {
    let fresh = |cluster, founders| Identity {
        server: config.id,
        store: StoreId::random(),
        cluster,
        founders,
    };
    match &config.start {
        StartMode::Init { others } => {
            let identity = fresh(Some(ClusterId::random()), others.clone());
            Store::create(&config.data_dir, identity)
        }
        StartMode::Join => Store::create(&config.data_dir, fresh(None, BTreeMap::new())),
        StartMode::Resume => Store::open(&config.data_dir, config.id),
    }
}

/// A running server. Dropping it stops the server without waiting for that.
pub struct ServerHandle {
    node: Arc<Node>,
    db: Db,
    local_addr: SocketAddr,
    tasks: Tasks,
}

impl ServerHandle {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Its cluster; nothing while it waits to be joined.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.node.who.cluster()
    }

    /// How it is, as far as it knows itself.
    pub fn status(&self) -> Status {
        self.node.status()
    }

    /// Waits until the server stops by itself, and says why: it does when its store
    /// fails, since it must not vote on what it cannot keep.
    pub async fn failed(&self) -> ServerError {
        let mut metrics = self.node.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                return ServerError::Raft(fatal.to_string());
            }
            if metrics.changed().await.is_err() {
                return ServerError::Raft("its task is gone".into());
            }
        }
    }

    /// Stops the server; returns when its port is free and its file closed.
    pub async fn shutdown(self) {
        let Self {
            node, db, tasks, ..
        } = self;
        tasks.end().await;
        node.stop(db).await;
    }
}

/// What a server does in the background; ended when dropped.
struct Tasks([JoinHandle<()>; 2]);

impl Tasks {
    async fn end(mut self) {
        for task in &mut self.0 {
            task.abort();
            // An error says that it was aborted, as it should be.
            let _ = task.await;
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Who this server is to others.
struct Who {
    seat: SeatId,
    cluster: OnceLock<ClusterId>,
}

impl Who {
    fn cluster(&self) -> Option<ClusterId> {
        self.cluster.get().copied()
    }
}

/// What the parts of a server share.
struct Node {
    who: Arc<Who>,
    address: Address,
    founders: BTreeMap<ServerId, Address>,
    raft: Raft,
    machine: Machine,
    store: Mutex<Store>,
    /// Held while the membership is changed: one change at a time.
    changing: tokio::sync::Mutex<()>,
    /// Whom the making of the cluster waits for.
    waiting: Mutex<Option<String>>,
}

impl Node {
    async fn start(
        config: &ServerConfig,
        store: Store,
        address: Address,
    ) -> Result<Arc<Self>, ServerError> {
        let identity = &store.identity;
        let who = Arc::new(Who {
            seat: SeatId {
                server: identity.server,
                store: identity.store,
            },
            cluster: identity.cluster.map_or_else(OnceLock::new, OnceLock::from),
        });
        let machine = store.machine()?;
        let raft = Raft::new(
            config.id,
            config.raft(),
            Peers::new(who.clone()),
            Log::new(store.db.clone()),
            machine.clone(),
        );
        let raft = raft
            .await
            .map_err(|fatal| ServerError::Raft(fatal.to_string()))?;
        Ok(Arc::new(Self {
            who,
            address,
            founders: store.identity.founders.clone(),
            raft,
            machine,
            store: Mutex::new(store),
            changing: tokio::sync::Mutex::default(),
            waiting: Mutex::default(),
        }))
    }

    /// Stops Raft, lets go of this handle, and waits until the file is closed.
    async fn stop(self: Arc<Self>, db: Db) {
        // It answers when its task has ended; there is nothing else to learn.
        let _ = self.raft.shutdown().await;
        drop(self);
        if tokio::time::timeout(CLOSE_TIMEOUT, db.close())
            .await
            .is_err()
        {
            tracing::warn!("the arbiter's store is still in use while the server stops");
        }
    }

    /// Whether the others reach this server where it is. Alone, it may move freely.
    async fn check_address(&self) -> Result<(), ServerError> {
        let (me, given) = (self.who.seat.server, self.address.clone());
        let known = self.raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective();
            let others = membership.nodes().any(|(id, _)| *id != me);
            let seat = membership.get_node(&me).filter(|_| others);
            seat.map(|seat| seat.address.clone())
        });
        let known = known
            .await
            .map_err(|fatal| ServerError::Raft(fatal.to_string()))?;
        match known {
            Some(known) if known != given => Err(ServerError::Moved { known, given }),
            Some(_) | None => Ok(()),
        }
    }

    /// Pins the cluster, durably, before anything is done in its name (TAS-5).
    async fn pin(self: &Arc<Self>, cluster: ClusterId) -> Result<(), StoreError> {
        let node = self.clone();
        let pin = move || {
            let mut store = node.store.lock().expect("nobody panics with this lock");
            store.pin(cluster)?;
            node.who.cluster.get_or_init(|| cluster);
            Ok(())
        };
        let pinned = tokio::task::spawn_blocking(pin).await;
        pinned.expect("the store's own invariants hold")
    }

    fn set_waiting(&self, waiting: Option<String>) {
        *self.waiting.lock().expect("nobody panics with this lock") = waiting;
    }

    fn status(&self) -> Status {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<_> = membership.voter_ids().collect();
        let servers = membership.nodes().map(|(id, seat)| ServerInfo {
            id: *id,
            address: seat.address.clone(),
            voter: voters.contains(id),
        });
        let index = |id: Option<crate::raft::LogId>| id.map_or(0, |id| id.index);
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let waiting = self.waiting.lock().expect("nobody panics with this lock");
        Status {
            server: self.who.seat.server,
            store: self.who.seat.store,
            cluster: self.who.cluster(),
            role,
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: index(metrics.last_applied),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
            servers: servers.collect(),
            waiting: waiting.clone(),
        }
    }
}
