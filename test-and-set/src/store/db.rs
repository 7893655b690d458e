//! The database: typed access to redb, and the two ways to write to it.
//!
//! A write is either durable, which is on disk when it returns, or deferred,
//! which reaches the disk with the next durable one. Which of them a caller takes
//! is the difference between a promise and a convenience, so it stands in the name.

use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::oneshot;

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
pub(super) const VMS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("vms");
pub(super) const SERVERS: TableDefinition<'_, u64, [u8; 16]> = TableDefinition::new("servers");

/// Memory for redb's cache: the database is a few megabytes at most.
const CACHE_BYTES: usize = 8 << 20;

/// What goes wrong below the store.
#[derive(Debug, Error)]
pub(crate) enum DbError {
    #[error(transparent)]
    Open(#[from] redb::DatabaseError),
    #[error(transparent)]
    Transaction(#[from] Box<redb::TransactionError>),
    #[error(transparent)]
    Table(#[from] redb::TableError),
    #[error(transparent)]
    Storage(#[from] redb::StorageError),
    #[error(transparent)]
    Commit(#[from] redb::CommitError),
    #[error(transparent)]
    Durability(#[from] redb::SetDurabilityError),
    #[error("a row cannot be decoded: {0}")]
    Decode(#[from] postcard::Error),
}

impl From<redb::TransactionError> for DbError {
    fn from(error: redb::TransactionError) -> Self {
        Box::new(error).into()
    }
}

/// A handle on the open database; the last one closes it.
#[derive(Clone)]
pub(crate) struct Db(Arc<Inner>);

struct Inner {
    database: Database,
    /// Dropped after the database, so that its receiver wakes when the file is free.
    closed: std::sync::Mutex<Option<oneshot::Sender<()>>>,
}

impl Db {
    pub(super) fn create(path: &Path) -> Result<Self, DbError> {
        let db = Self::new(builder().create(path)?);
        db.durable(|txn| {
            txn.open_table(META)?;
            txn.open_table(LOG)?;
            txn.open_table(VMS)?;
            txn.open_table(SERVERS)?;
            Ok(())
        })?;
        Ok(db)
    }

    pub(super) fn open(path: &Path) -> Result<Self, DbError> {
        Ok(Self::new(builder().open(path)?))
    }

    fn new(database: Database) -> Self {
        Self(Arc::new(Inner {
            database,
            closed: Default::default(),
        }))
    }

    /// Lets go of this handle and waits until the last one is gone and the file
    /// closed. To be asked once.
    pub(crate) async fn close(self) {
        let (sender, receiver) = oneshot::channel();
        *self.0.closed.lock().expect("nobody panics with this lock") = Some(sender);
        drop(self);
        // An error says that the sender was dropped: what is waited for.
        let _ = receiver.await;
    }

    /// Changes the database. What was changed is on disk when this returns.
    pub(super) fn durable<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.write(Durability::Immediate, change)
    }

    /// Changes the database. What was changed is seen at once, and reaches the disk
    /// with the next durable change, never without the changes before it.
    pub(super) fn deferred<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        self.write(Durability::None, change)
    }

    fn write<T>(
        &self,
        durability: Durability,
        change: impl FnOnce(&WriteTransaction) -> Result<T, DbError>,
    ) -> Result<T, DbError> {
        let mut txn = self.0.database.begin_write()?;
        txn.set_durability(durability)?;
        let result = change(&txn)?;
        txn.commit()?;
        Ok(result)
    }

    pub(super) fn read(&self) -> Result<ReadTransaction, DbError> {
        Ok(self.0.database.begin_read()?)
    }

    /// A durable write of one row of `meta`.
    pub(super) fn put(&self, key: &str, value: &impl Serialize) -> Result<(), DbError> {
        self.durable(|txn| put(txn, key, value))
    }

    /// One row of `meta`.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, DbError> {
        let bytes = self.get_bytes(key)?;
        Ok(bytes
            .map(|bytes| postcard::from_bytes(&bytes))
            .transpose()?)
    }

    /// One row of `meta`, as it is stored.
    pub(super) fn get_bytes(&self, key: &str) -> Result<Option<Vec<u8>>, DbError> {
        let table = self.read()?.open_table(META)?;
        Ok(table.get(key)?.map(|row| row.value().to_vec()))
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    // A damaged file is an error when it is opened, not a surprise later.
    builder
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true);
    builder
}

/// Writes one row of `meta` within a transaction.
pub(super) fn put(
    txn: &WriteTransaction,
    key: &str,
    value: &impl Serialize,
) -> Result<(), DbError> {
    txn.open_table(META)?
        .insert(key, encode(value).as_slice())?;
    Ok(())
}

/// Encodes a value of ours.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("values of ours can be encoded")
}

/// Runs a database operation where it may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    operation: impl FnOnce() -> Result<T, DbError> + Send + 'static,
) -> Result<T, DbError> {
    tokio::task::spawn_blocking(operation)
        .await
        .expect("the store's own invariants hold")
}
