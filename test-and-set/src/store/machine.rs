//! Raft's state machine: the register, and which store had which server id, in
//! memory and as rows of the database.
//!
//! Only the rows that an entry touches are written when it is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard};

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use redb::{ReadableTable, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::db::{Db, DbError, SERVERS, VMS, blocking, encode, put};
use crate::raft::{
    Entry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership,
    TypeConfig,
};
use crate::register::{Answer, Register};
use crate::types::{ServerId, StoreId, VmName};

const APPLIED: &str = "applied";
const SNAPSHOT: &str = "snapshot";

/// What Raft keeps equal on all servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) register: Register,
    /// Which store had a server id first: no other one ever gets it (TAS-5).
    pub(crate) servers: BTreeMap<ServerId, StoreId>,
}

/// The state and up to where it has come.
#[derive(Debug, Default)]
struct Applied {
    state: State,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// A handle on the state machine.
#[derive(Clone)]
pub(crate) struct Machine {
    db: Db,
    applied: Arc<Mutex<Applied>>,
}

impl Machine {
    /// The state machine as the database has it.
    pub(super) fn load(db: Db) -> Result<Self, DbError> {
        let (last, membership) = db.get(APPLIED)?.unwrap_or_default();
        let txn = db.read()?;
        let mut rows = Vec::new();
        for row in txn.open_table(VMS)?.iter()? {
            let (name, row) = row?;
            let name = VmName::try_from(name.value().to_owned());
            let name = name.map_err(|_| postcard::Error::SerdeDeCustom)?;
            rows.push((name, postcard::from_bytes(row.value())?));
        }
        let mut servers = BTreeMap::new();
        for row in txn.open_table(SERVERS)?.iter()? {
            let (id, store) = row?;
            servers.insert(ServerId(id.value()), StoreId(store.value()));
        }
        let state = State {
            register: Register::from_rows(rows),
            servers,
        };
        let applied = Arc::new(Mutex::new(Applied {
            state,
            last,
            membership,
        }));
        Ok(Self { db, applied })
    }

    /// Looks at the state as this server has it, which may be behind the others'.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.lock().state)
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().expect("nobody panics with this lock")
    }
}

impl Applied {
    /// Applies entries; says what they are answered and what they touched.
    fn apply(
        &mut self,
        entries: impl IntoIterator<Item = Entry>,
    ) -> (Vec<Option<Answer>>, Touched) {
        let mut answers = Vec::new();
        let mut touched = Touched::default();
        for entry in entries {
            self.last = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(command) => {
                    touched.vms.insert(command.vm().clone());
                    Some(self.state.register.apply(command))
                }
                EntryPayload::Membership(membership) => {
                    for (id, seat) in membership.nodes() {
                        self.state.servers.entry(*id).or_insert(seat.store);
                        touched.servers.insert(*id);
                    }
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
            });
        }
        (answers, touched)
    }

    /// The rows that were touched, ready to be written.
    fn rows(&self, touched: &Touched) -> Rows {
        let vm = |name: &VmName| Some((name.clone(), encode(self.state.register.row(name)?)));
        let server = |id: &ServerId| Some((*id, *self.state.servers.get(id)?));
        Rows {
            vms: touched.vms.iter().filter_map(vm).collect(),
            servers: touched.servers.iter().filter_map(server).collect(),
            applied: encode(&(self.last, &self.membership)),
        }
    }
}

/// What applying entries may have changed.
#[derive(Debug, Default)]
struct Touched {
    vms: BTreeSet<VmName>,
    servers: BTreeSet<ServerId>,
}

/// Rows of the database.
struct Rows {
    vms: Vec<(VmName, Vec<u8>)>,
    servers: Vec<(ServerId, StoreId)>,
    applied: Vec<u8>,
}

impl Rows {
    fn write(&self, txn: &WriteTransaction) -> Result<(), DbError> {
        let mut vms = txn.open_table(VMS)?;
        for (name, row) in &self.vms {
            vms.insert(name.as_str(), row.as_slice())?;
        }
        let mut servers = txn.open_table(SERVERS)?;
        for (id, store) in &self.servers {
            servers.insert(id.0, store.0)?;
        }
        txn.open_table(super::META)?
            .insert(APPLIED, self.applied.as_slice())?;
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let applied = self.lock();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<Answer>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (answers, rows) = {
            let mut applied = self.lock();
            let (answers, touched) = applied.apply(entries);
            (answers, applied.rows(&touched))
        };
        let db = self.db.clone();
        let written = blocking(move || db.deferred(|txn| rows.write(txn))).await;
        written.map_err(|error| StorageIOError::write_state_machine(&error))?;
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let failed =
            |error: &DbError| StorageIOError::write_snapshot(Some(meta.signature()), error);
        let image = snapshot.into_inner();
        let state: State = postcard::from_bytes(&image).map_err(|error| failed(&error.into()))?;
        let applied = Applied {
            state,
            last: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        let rows = applied.rows(&Touched {
            vms: applied
                .state
                .register
                .rows()
                .map(|(name, _)| name.clone())
                .collect(),
            servers: applied.state.servers.keys().copied().collect(),
        });
        let row = (meta.clone(), image);
        let db = self.db.clone();
        let install = move |txn: &WriteTransaction| {
            txn.open_table(VMS)?.retain(|_, _| false)?;
            txn.open_table(SERVERS)?.retain(|_, _| false)?;
            rows.write(txn)?;
            put(txn, SNAPSHOT, &row)
        };
        let installed = blocking(move || db.durable(install)).await;
        installed.map_err(|error| failed(&error))?;
        *self.lock() = applied;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let db = self.db.clone();
        let row = blocking(move || db.get::<(SnapshotMeta, Vec<u8>)>(SNAPSHOT)).await;
        let row = row.map_err(|error| StorageIOError::read_snapshot(None, &error))?;
        Ok(row.map(|(meta, image)| Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(image)),
        }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (meta, image) = {
            let applied = self.lock();
            let last = applied
                .last
                .map_or("nothing".to_owned(), |last| last.to_string());
            let meta = SnapshotMeta {
                last_log_id: applied.last,
                last_membership: applied.membership.clone(),
                // The same log gives the same image.
                snapshot_id: format!("up-to-{last}"),
            };
            (meta, encode(&applied.state))
        };
        let row = (meta, image);
        let db = self.db.clone();
        let saved = blocking(move || db.put(SNAPSHOT, &row).map(|()| row)).await;
        let (meta, image) = saved.map_err(|error| StorageIOError::write_snapshot(None, &error))?;
        Ok(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(image)),
        })
    }
}
