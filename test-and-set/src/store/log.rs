//! Raft's log and vote. Both are on disk before they count: openraft waits for
//! these writes before it answers a peer or counts its own entry (TAS-2).

use std::fmt::Debug;
use std::ops::RangeBounds;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use redb::{ReadableTable, WriteTransaction};

use super::db::{Db, DbError, LOG, blocking, encode, put};
use crate::raft::{Entry, LogId, StorageError, StorageIOError, TypeConfig, Vote};
use crate::types::ServerId;

const VOTE: &str = "vote";
const PURGED: &str = "purged";

/// Raft's log in the database.
#[derive(Clone)]
pub(crate) struct Log(Db);

impl Log {
    pub(crate) fn new(db: Db) -> Self {
        Self(db)
    }

    /// Runs a durable change where it may wait for the disk.
    async fn durable(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), DbError> + Send + 'static,
    ) -> Result<(), DbError> {
        let db = self.0.clone();
        blocking(move || db.durable(change)).await
    }
}

/// A server that led when its process ended comes back as a follower.
///
/// openraft would let it lead on at once, without an election, and would answer reads from what it
/// had applied when it first led, as far as the disk has that: entries that were committed, and
/// answered, would be missing (TAS-1). With its vote for itself not granted by others any more, it
/// has to be elected, and reads wait for the first entry of the new term.
pub(super) fn step_down(db: &Db, server: ServerId) -> Result<(), DbError> {
    match db.get::<Vote>(VOTE)? {
        Some(vote) if vote.committed && vote.leader_id.voted_for() == Some(server) => {
            let vote = Vote {
                committed: false,
                ..vote
            };
            db.put(VOTE, &vote)
        }
        _ => Ok(()),
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, StorageError>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let read = || -> Result<Vec<Entry>, DbError> {
            let log = self.0.read()?.open_table(LOG)?;
            log.range(range)?
                .map(|row| Ok(postcard::from_bytes(row?.1.value())?))
                .collect()
        };
        Ok(read().map_err(|error| StorageIOError::read_logs(&error))?)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let read = || -> Result<_, DbError> {
            let purged: Option<LogId> = self.0.get(PURGED)?;
            let log = self.0.read()?.open_table(LOG)?;
            let last = match log.last()? {
                Some((_, row)) => Some(postcard::from_bytes::<Entry>(row.value())?.log_id),
                None => purged,
            };
            Ok(LogState {
                last_purged_log_id: purged,
                last_log_id: last,
            })
        };
        Ok(read().map_err(|error| StorageIOError::read_logs(&error))?)
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.durable(move |txn| put(txn, VOTE, &vote)).await;
        Ok(saved.map_err(|error| StorageIOError::write_vote(&error))?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = self.0.get(VOTE);
        Ok(vote.map_err(|error| StorageIOError::read_vote(&error))?)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows: Vec<_> = entries
            .into_iter()
            .map(|entry| (entry.log_id.index, encode(&entry)))
            .collect();
        let append = move |txn: &WriteTransaction| {
            let mut log = txn.open_table(LOG)?;
            for (index, row) in &rows {
                log.insert(index, row.as_slice())?;
            }
            Ok(())
        };
        let appended = self.durable(append).await;
        appended.map_err(|error| StorageIOError::write_logs(&error))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let truncate = move |txn: &WriteTransaction| {
            let mut log = txn.open_table(LOG)?;
            Ok(log.retain_in(since.index.., |_, _| false)?)
        };
        let truncated = self.durable(truncate).await;
        Ok(truncated.map_err(|error| StorageIOError::write_logs(&error))?)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let purge = move |txn: &WriteTransaction| {
            let mut log = txn.open_table(LOG)?;
            log.retain_in(..=upto.index, |_, _| false)?;
            put(txn, PURGED, &upto)
        };
        let purged = self.durable(purge).await;
        Ok(purged.map_err(|error| StorageIOError::write_logs(&error))?)
    }
}
