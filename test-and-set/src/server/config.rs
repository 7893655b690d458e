//! What a server is told when it starts, and which of it makes sense.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;
use thiserror::Error;

use crate::types::{Address, ServerId};

/// The most log entries in one message: bounds a frame, see
/// [`MAX_FRAME_BYTES`](crate::wire::MAX_FRAME_BYTES).
const MAX_ENTRIES_PER_MESSAGE: u64 = 256;

/// The size of a snapshot's pieces in bytes, well below a frame.
const SNAPSHOT_PIECE_BYTES: u64 = 256 << 10;

/// How long one piece of a snapshot may take: installing the last one writes the
/// whole state to disk.
const SNAPSHOT_PIECE_TIMEOUT_MS: u64 = 5_000;

/// How a server starts (TAS-5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartMode {
    /// Makes a new cluster, with a new random id, of this server and the others
    /// named here. The others are started with [`StartMode::Join`], earlier or
    /// later; the cluster is made when all of them answer. Wants an empty
    /// directory. One server of a cluster is started so, once.
    Init {
        /// The other servers that the cluster begins with; none for a cluster of
        /// one.
        others: BTreeMap<ServerId, Address>,
    },
    /// Waits to be taken into a cluster, by the server that makes it or by
    /// [`Client::add_server`](crate::Client::add_server). Wants an empty directory.
    Join,
    /// Goes on with the store in the directory.
    Resume,
}

/// Whom a server listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exposure {
    /// This host only.
    #[default]
    Loopback,
    /// Everybody on a network that nobody else is on, such as a network namespace
    /// of a test. Whoever reaches the port can change every record.
    IsolatedNetwork,
}

/// Times and bounds that fit a fast local network; longer ones suit slow disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// How often a leader says that it lives. At least 10 ms.
    pub heartbeat: Duration,
    /// A follower that heard nothing of its leader stands for election after
    /// `election_max` (for so long nobody else is voted for) plus a random time
    /// from `election_min` to `election_max`. At least three heartbeats.
    pub election_min: Duration,
    /// See `election_min`; more than it is.
    pub election_max: Duration,
    /// A snapshot is made, and the log before it cut off, every so many entries.
    /// At least 1.
    pub snapshot_every: u64,
    /// How many of the newest entries are kept nevertheless, so that a server that
    /// was away for a moment needs no snapshot.
    pub keep_entries: u64,
}

impl Default for Tuning {
    /// A lost leader is noticed after 450 to 600 ms.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
            snapshot_every: 2_000,
            keep_entries: 500,
        }
    }
}

/// A [`ServerConfig`] that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// SEC-1: there are no keys yet, so nobody off this host may be heard.
    #[error(
        "cannot listen on {0}: without keys the arbiter listens on this host's loopback \
        addresses only (SEC-1); encryption and keys come later"
    )]
    OffLoopback(SocketAddr),
    /// The times do not fit each other.
    #[error("the arbiter's times do not fit: {0}")]
    Tuning(&'static str),
}

/// All that a server is told.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Which server of its cluster it is, for ever.
    pub id: ServerId,
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the others reach it, where that is not `listen`.
    pub advertise: Option<Address>,
    /// Where its store is; made if it is missing.
    pub data_dir: PathBuf,
    /// How it starts.
    pub start: StartMode,
    /// Times and bounds.
    pub tuning: Tuning,
    /// Whom it listens to.
    pub exposure: Exposure,
}

impl ServerConfig {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let tuning = &self.tuning;
        let rules = [
            (
                tuning.heartbeat >= Duration::from_millis(10),
                "a heartbeat takes at least 10 ms",
            ),
            (
                tuning.election_min >= tuning.heartbeat * 3,
                "the shortest election time is at least three heartbeats",
            ),
            (
                tuning.election_max > tuning.election_min,
                "the longest election time is more than the shortest",
            ),
            (
                tuning.election_max <= Duration::from_secs(60),
                "the longest election time is at most a minute",
            ),
            (
                tuning.snapshot_every >= 1,
                "a snapshot is made every 1 or more entries",
            ),
        ];
        if let Some((_, rule)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(ConfigError::Tuning(rule));
        }
        if self.exposure == Exposure::Loopback && !self.listen.ip().is_loopback() {
            return Err(ConfigError::OffLoopback(self.listen));
        }
        Ok(())
    }

    /// What openraft is told. To be asked after [`Self::validate`].
    pub(super) fn raft(&self) -> Arc<openraft::Config> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).expect("at most a minute");
        let tuning = &self.tuning;
        let config = openraft::Config {
            cluster_name: "ftvm-arbiter".into(),
            heartbeat_interval: ms(tuning.heartbeat),
            election_timeout_min: ms(tuning.election_min),
            election_timeout_max: ms(tuning.election_max),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(tuning.snapshot_every),
            max_in_snapshot_log_to_keep: tuning.keep_entries,
            // Whoever is further behind than that gets a snapshot; one must be there.
            replication_lag_threshold: tuning.snapshot_every + tuning.keep_entries + 1,
            max_payload_entries: MAX_ENTRIES_PER_MESSAGE,
            snapshot_max_chunk_size: SNAPSHOT_PIECE_BYTES,
            install_snapshot_timeout: SNAPSHOT_PIECE_TIMEOUT_MS,
            ..openraft::Config::default()
        };
        Arc::new(config.validate().expect("the tuning was checked"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ServerConfig {
        ServerConfig {
            id: ServerId(1),
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            data_dir: "/nowhere".into(),
            start: StartMode::Join,
            tuning: Tuning::default(),
            exposure: Exposure::Loopback,
        }
    }

    #[test]
    fn the_defaults_are_valid() {
        config().validate().unwrap();
        config().raft();
    }

    /// SEC-1: without keys a server refuses to listen off loopback.
    #[test]
    fn sec_1_off_loopback_is_refused() {
        for off in ["0.0.0.0:7000", "192.0.2.1:7000", "[::]:7000"] {
            let mut config = config();
            config.listen = off.parse().unwrap();
            let refused = config.validate().unwrap_err();
            assert_eq!(refused, ConfigError::OffLoopback(config.listen));
            assert!(refused.to_string().contains("SEC-1"), "{refused}");
            config.exposure = Exposure::IsolatedNetwork;
            config.validate().unwrap();
        }
        for on in ["127.1.2.3:0", "[::1]:7000"] {
            let mut config = config();
            config.listen = on.parse().unwrap();
            config.validate().unwrap();
        }
    }

    #[test]
    fn times_must_fit_each_other() {
        let wrong: [fn(&mut Tuning); 5] = [
            |tuning| tuning.heartbeat = Duration::from_millis(1),
            |tuning| tuning.election_min = tuning.heartbeat,
            |tuning| tuning.election_max = tuning.election_min,
            |tuning| tuning.election_max = Duration::from_secs(3600),
            |tuning| tuning.snapshot_every = 0,
        ];
        for change in wrong {
            let mut config = config();
            change(&mut config.tuning);
            assert!(matches!(config.validate(), Err(ConfigError::Tuning(_))));
        }
    }
}
