//! The types that openraft is parametrised with, named once.

use std::fmt;
use std::io::Cursor;

use serde::{Deserialize, Serialize};

use crate::register::{Answer, Command};
use crate::types::{Address, ServerId, StoreId};

openraft::declare_raft_types!(
    /// The arbiter's Raft: commands in; answers out, where an entry is a command.
    pub(crate) TypeConfig:
        D = Command,
        R = Option<Answer>,
        NodeId = ServerId,
        Node = Seat,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
);

/// A server's place in the cluster, as the membership keeps it: where it is
/// reached, and which store has its vote. A server whose store was wiped finds its
/// seat taken by the store that is gone (TAS-5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seat {
    pub(crate) address: Address,
    pub(crate) store: StoreId,
}

impl Default for Seat {
    /// A seat of nobody, nowhere: openraft asks for one where it has no node at hand.
    fn default() -> Self {
        let address = "nowhere:0".parse().expect("within the bounds");
        Self {
            address,
            store: StoreId([0; 16]),
        }
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (store {})", self.address, self.store)
    }
}

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<ServerId>;
pub(crate) type Vote = openraft::Vote<ServerId>;
pub(crate) type StoredMembership = openraft::StoredMembership<ServerId, Seat>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<ServerId, Seat>;
pub(crate) type StorageError = openraft::StorageError<ServerId>;
pub(crate) type StorageIOError = openraft::StorageIOError<ServerId>;
