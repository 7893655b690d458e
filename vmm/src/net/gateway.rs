//! The gateway process: configuration, sockets, and the one task that drives the
//! pure parts.
//!
//! ```text
//!   nodes ══ NodePort ──┐                         ┌── Splice ══ clients
//!                       ├─ Switch ── HostStack ───┤
//!   nodes ══ NodePort ──┘                         └── Splice ══ clients
//! ```
//!
//! One task, one thread, no locks held: a frame from a node goes through the
//! switch and the stack to the client's socket within one turn, without a hand-over.
//! A turn serves every socket that was woken, lets the pure parts come to rest,
//! writes to each node once, and sleeps until a socket or the next timer.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tokio::net::TcpListener;

use super::capture::CaptureFile;
use super::driver::Driver;
use super::host::{GUEST_ADDRESS, HOST_ADDRESS, PREFIX_LEN};
use super::stats::GatewayStats;

/// For how long frames are kept for repeating, unless said otherwise: the default
/// detection window (500 ms), and some slack for the claim.
pub const REPEAT_WINDOW: Duration = Duration::from_millis(600);

/// How long a guest may take to answer a new connection, unless said otherwise:
/// what a guest needs to boot on a slow host, or its port to move.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// A host port that leads to a guest's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Where the gateway listens for clients.
    pub listen: SocketAddr,
    /// Where in the guests' network it connects to.
    pub guest: SocketAddrV4,
}

/// Why text is no [`Forward`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseForwardError {
    /// It is not two addresses.
    #[error("a forward is HOST:PORT=GUEST:PORT, such as 127.0.0.1:6379=10.0.2.15:6379, not {0:?}")]
    Form(String),
    /// The guest's address is not one that a guest can have here.
    #[error(
        "no guest can be at {0}: guests are in 10.0.2.0/24, {GUEST_ADDRESS} is usual, \
         {HOST_ADDRESS} is the gateway, and the port is not 0"
    )]
    Guest(SocketAddrV4),
}

impl FromStr for Forward {
    type Err = ParseForwardError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('=');
        let parsed = parts.and_then(|(listen, guest)| {
            Some(Forward {
                listen: listen.parse().ok()?,
                guest: guest.parse().ok()?,
            })
        });
        let forward = parsed.ok_or_else(|| ParseForwardError::Form(text.to_owned()))?;
        let network = |address: &Ipv4Addr| u32::from(*address) >> (32 - PREFIX_LEN);
        let address = forward.guest.ip();
        let is_host_part = !matches!(address.octets()[3], 0 | 255) && *address != HOST_ADDRESS;
        if network(address) != network(&HOST_ADDRESS) || !is_host_part || forward.guest.port() == 0
        {
            return Err(ParseForwardError::Guest(forward.guest));
        }
        Ok(forward)
    }
}

/// What a gateway is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Where nodes connect to.
    pub listen: SocketAddr,
    /// The host ports that lead to guests.
    pub forwards: Vec<Forward>,
    /// Whether frames are kept and repeated when a guest's port moves.
    pub repeat: bool,
    /// For how long before a guest's last word they are kept.
    pub repeat_window: Duration,
    /// How long a guest may take to answer a new connection.
    pub connect_timeout: Duration,
    /// How long the gateway's acknowledgements may wait for a client's data to go
    /// with. Zero acknowledges at once; a few milliseconds save the guest nearly
    /// half of its frames, at the price of stalls with guests that use Nagle's
    /// algorithm.
    pub ack_delay: Duration,
    /// Where to write a capture of all that crosses the guests' ports.
    pub capture: Option<PathBuf>,
}

impl GatewayConfig {
    /// The defaults, without forwards.
    pub fn new(listen: SocketAddr) -> Self {
        GatewayConfig {
            listen,
            forwards: Vec::new(),
            repeat: true,
            repeat_window: REPEAT_WINDOW,
            connect_timeout: CONNECT_TIMEOUT,
            ack_delay: Duration::ZERO,
            capture: None,
        }
    }
}

/// Why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// SEC-1: nothing here is encrypted yet.
    #[error(
        "will not listen on {0}: it is not a loopback address, and off loopback every channel \
         must be encrypted, which comes with the multi-host work; use 127.0.0.1"
    )]
    OffLoopback(SocketAddr),
    /// A port cannot be listened on.
    #[error("cannot listen on {address}; is another gateway or server using it?")]
    Listen {
        /// The port.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The capture cannot be created.
    #[error("cannot create the capture {path:?}")]
    Capture {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let failed = |source| GatewayError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// A gateway that listens. Nothing is served until [`run`](Self::run).
pub struct Gateway {
    driver: Driver,
    address: SocketAddr,
    forwards: Vec<SocketAddr>,
}

impl Gateway {
    /// Listens on every port of `config`, so that peers may connect from now on.
    ///
    /// # Errors
    /// If an address is not on loopback (SEC-1), a port is taken, or the capture
    /// cannot be created. Nothing is left behind then.
    pub async fn bind(config: GatewayConfig) -> Result<Gateway, GatewayError> {
        let addresses = config.forwards.iter().map(|forward| forward.listen);
        let mut addresses = std::iter::once(config.listen).chain(addresses);
        if let Some(address) = addresses.find(|address| !address.ip().is_loopback()) {
            return Err(GatewayError::OffLoopback(address));
        }
        let (nodes, address) = listen(config.listen).await?;
        let mut clients = Vec::new();
        let mut forwards = Vec::new();
        for forward in &config.forwards {
            let (listener, address) = listen(forward.listen).await?;
            clients.push((listener, forward.guest));
            forwards.push(address);
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(GatewayError::Random)?;
        let capture = config.capture.as_ref().map(|path| {
            CaptureFile::create(path).map_err(|source| GatewayError::Capture {
                path: path.clone(),
                source,
            })
        });
        let capture = capture.transpose()?;
        Ok(Gateway {
            driver: Driver::new(&config, id, nodes, clients, capture),
            address,
            forwards,
        })
    }

    /// Where nodes connect to, with the real port if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients connect to, in the order of [`GatewayConfig::forwards`].
    pub fn forwards(&self) -> &[SocketAddr] {
        &self.forwards
    }

    /// Serves until `shutdown` completes; then closes everything, and completes
    /// the capture.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> GatewayStats {
        tokio::select! {
            never = self.driver.serve() => match never {},
            () = shutdown => self.driver.finish(),
        }
    }
}
