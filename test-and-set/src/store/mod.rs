//! What a server keeps on disk: who it is, and Raft's log, vote and state machine,
//! in one redb database `arbiter.redb`.
//!
//! ```text
//!   meta      "identity"   who this server is (TAS-5)
//!             "vote"       durable before it counts
//!             "purged"     up to where the log was cut off
//!             "applied"    up to where the log is in `vms` and `servers`, and the membership
//!             "snapshot"   meta data and image of the newest snapshot
//!   log       index → entry, durable before it counts
//!   vms       VM name → its row of the register
//!   servers   server id → the store that had it first, for ever (TAS-5)
//! ```
//!
//! Applying an entry is written without waiting for the disk: redb makes it durable
//! with the next durable write, in order, and until then the log has the entry. So
//! after a crash the state is one that once was, and the log goes on from there.

mod db;
mod log;
mod machine;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::types::{Address, ClusterId, ServerId, StoreId};
pub(crate) use db::Db;
use db::{DbError, META};
pub(crate) use log::Log;
pub(crate) use machine::{Machine, State};

/// The file in a server's data directory.
const FILE_NAME: &str = "arbiter.redb";

/// The version of what is in the file. A change of it is a line in CHANGELOG.
const FORMAT: u32 = 1;

const IDENTITY: &str = "identity";

/// Why a store cannot be opened or made.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot use the arbiter's store {path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process: is this arbiter running already?",
        path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is no store of an arbiter, or was damaged.
    #[error("{path} is damaged or no arbiter's store ({why}); if the cluster has other servers, \
        remove this one there, empty the directory, and add it again under a new id",
        path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The file was written by another version.
    #[error("{path} has format {found}, this program reads format {FORMAT}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// TAS-5: there is a store where a new one was asked for.
    #[error("{path} holds server {server} of {cluster} already: to go on with it, start without \
        --init and --join; a new cluster or server wants an empty directory", path = path.display(),
        cluster = cluster.map_or("no cluster yet".to_owned(), |id| format!("cluster {id}")))]
    Exists {
        /// The file.
        path: PathBuf,
        /// The server that it belongs to.
        server: ServerId,
        /// The cluster that it belongs to.
        cluster: Option<ClusterId>,
    },
    /// TAS-5: there is no store to go on with.
    #[error("there is no arbiter's store in {path}: start with --init (a new cluster) or --join \
        (a new server of a cluster). A server that lost its store cannot come back under its old \
        id: remove it from the cluster, and add it under a new one", path = path.display())]
    Missing {
        /// The data directory.
        path: PathBuf,
    },
    /// The store belongs to a server with another id.
    #[error("{path} belongs to server {stored}, not to server {given}", path = path.display())]
    OtherServer {
        /// The file.
        path: PathBuf,
        /// Whom it belongs to.
        stored: ServerId,
        /// Who asked.
        given: ServerId,
    },
}

/// Who a server is, for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) server: ServerId,
    pub(crate) store: StoreId,
    /// Pinned when the cluster is made or joined, and never changed.
    pub(crate) cluster: Option<ClusterId>,
    /// The servers that the cluster begins with, at the server that makes it.
    pub(crate) founders: BTreeMap<ServerId, Address>,
}

/// The open store of one server.
pub(crate) struct Store {
    pub(crate) db: Db,
    pub(crate) identity: Identity,
    path: PathBuf,
}

impl Store {
    /// Makes a store where none is. It appears under its name only when it is
    /// whole, so that a crash leaves a store or nothing.
    pub(crate) fn create(dir: &Path, identity: Identity) -> Result<Self, StoreError> {
        let path = dir.join(FILE_NAME);
        let io = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(dir).map_err(io)?;
        if path.try_exists().map_err(io)? {
            let Self { identity, .. } = Self::read(&path)?;
            return Err(StoreError::Exists {
                path,
                server: identity.server,
                cluster: identity.cluster,
            });
        }
        let unfinished = dir.join(format!("{FILE_NAME}.new"));
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            Err(_) | Ok(()) => {}
        }
        let db = Db::create(&unfinished).map_err(|error| explain(&unfinished, error))?;
        db.put(IDENTITY, &(FORMAT, &identity))
            .map_err(|error| explain(&unfinished, error))?;
        fs::rename(&unfinished, &path).map_err(io)?;
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
        Ok(Self { db, identity, path })
    }

    /// Opens the store of a server, which leads no more if it did.
    pub(crate) fn open(dir: &Path, server: ServerId) -> Result<Self, StoreError> {
        let path = dir.join(FILE_NAME);
        match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(StoreError::Missing { path: dir.into() }),
            Err(source) => return Err(StoreError::Io { path, source }),
        }
        let store = Self::read(&path)?;
        if store.identity.server != server {
            return Err(StoreError::OtherServer {
                path,
                stored: store.identity.server,
                given: server,
            });
        }
        log::step_down(&store.db, server).map_err(|error| explain(&path, error))?;
        Ok(store)
    }

    fn read(path: &Path) -> Result<Self, StoreError> {
        let db = Db::open(path).map_err(|error| explain(path, error))?;
        let row = db
            .get_bytes(IDENTITY)
            .map_err(|error| explain(path, error))?;
        let damaged = |why: &str| StoreError::Damaged {
            path: path.into(),
            why: why.into(),
        };
        let row = row.ok_or_else(|| damaged("it has no identity"))?;
        // The format stands first, so that every version can read it.
        let (found, row) = postcard::take_from_bytes::<u32>(&row)
            .map_err(|_| damaged("its identity cannot be read"))?;
        if found != FORMAT {
            return Err(StoreError::Format {
                path: path.into(),
                found,
            });
        }
        let identity =
            postcard::from_bytes(row).map_err(|_| damaged("its identity cannot be read"))?;
        let path = path.to_path_buf();
        Ok(Self { db, identity, path })
    }

    /// The state machine as it is stored.
    pub(crate) fn machine(&self) -> Result<Machine, StoreError> {
        Machine::load(self.db.clone()).map_err(|error| explain(&self.path, error))
    }

    /// Pins the cluster, for ever, before anything is said in its name (TAS-5).
    ///
    /// # Panics
    /// When another one is pinned.
    pub(crate) fn pin(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        if self.identity.cluster != Some(cluster) {
            assert_eq!(self.identity.cluster, None, "a cluster is pinned once");
            self.identity.cluster = Some(cluster);
            self.db
                .put(IDENTITY, &(FORMAT, &self.identity))
                .map_err(|error| explain(&self.path, error))?;
        }
        Ok(())
    }
}

fn explain(path: &Path, error: DbError) -> StoreError {
    let path = path.to_path_buf();
    match error {
        DbError::Open(redb::DatabaseError::DatabaseAlreadyOpen) => StoreError::InUse { path },
        DbError::Open(redb::DatabaseError::Storage(redb::StorageError::Io(source)))
            if source.kind() != io::ErrorKind::InvalidData
                && source.kind() != io::ErrorKind::UnexpectedEof =>
        {
            StoreError::Io { path, source }
        }
        error => StoreError::Damaged {
            path,
            why: error.to_string(),
        },
    }
}
