//! The store against openraft's own suite, against crashes, and against files that
//! are not what they should be.

use std::fs;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::*;
use crate::raft::{Entry, LogId, StorageError, TypeConfig, Vote};

fn identity(server: u64) -> Identity {
    Identity {
        server: ServerId(server),
        store: StoreId::random(),
        cluster: Some(ClusterId::random()),
        founders: BTreeMap::new(),
    }
}

fn create(dir: &Path) -> Store {
    Store::create(dir, identity(1)).unwrap()
}

fn refusal(result: Result<Store, StoreError>) -> StoreError {
    result.err().expect("it is refused")
}

struct Builder;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let store = create(dir.path());
        let machine = store.machine().unwrap();
        Ok((dir, Log::new(store.db), machine))
    }
}

#[test]
fn openraft_suite() {
    Suite::test_all(Builder).unwrap();
}

/// What a server finds whose process was killed at this moment.
fn crashed(dir: &TempDir) -> (TempDir, Log) {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(dir.path().join(FILE_NAME), copy.path().join(FILE_NAME)).unwrap();
    let store = Store::open(copy.path(), ServerId(1)).unwrap();
    (copy, Log::new(store.db))
}

/// TAS-2: a vote is on disk when `save_vote` returns, before any peer hears of it.
#[tokio::test]
async fn tas_2_a_vote_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(create(dir.path()).db);
    for term in 1..=3 {
        let vote = Vote::new(term, ServerId(2));
        log.save_vote(&vote).await.unwrap();
        let (_copy, mut found) = crashed(&dir);
        assert_eq!(found.read_vote().await.unwrap(), Some(vote));
    }
}

/// TAS-1: openraft lets a leader that comes back lead on, and read what it had applied long ago.
#[tokio::test]
async fn tas_1_a_leader_that_comes_back_must_be_elected_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(create(dir.path()).db);
    let mine = Vote::new_committed(7, ServerId(1));
    log.save_vote(&mine).await.unwrap();
    let (_copy, mut found) = crashed(&dir);
    assert_eq!(
        found.read_vote().await.unwrap(),
        Some(Vote::new(7, ServerId(1)))
    );
    let other = Vote::new_committed(7, ServerId(2));
    log.save_vote(&other).await.unwrap();
    let (_copy, mut found) = crashed(&dir);
    assert_eq!(found.read_vote().await.unwrap(), Some(other));
}

/// TAS-2: an entry is on disk when the log says so, before it is counted.
#[tokio::test]
async fn tas_2_an_entry_survives_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(create(dir.path()).db);
    for index in 0..3 {
        let leader = openraft::CommittedLeaderId::new(1, ServerId(1));
        let log_id = LogId::new(leader, index);
        let entry = Entry {
            log_id,
            payload: openraft::EntryPayload::Blank,
        };
        log.blocking_append([entry]).await.unwrap();
        let (_copy, mut found) = crashed(&dir);
        assert_eq!(
            found.get_log_state().await.unwrap().last_log_id,
            Some(log_id)
        );
    }
}

/// TAS-5: an empty directory wants --init or --join, a full one wants neither.
#[test]
fn tas_5_a_store_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let missing = refusal(Store::open(dir.path(), ServerId(1)));
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    drop(create(dir.path()));
    let exists = refusal(Store::create(dir.path(), identity(1)));
    assert!(matches!(exists, StoreError::Exists { .. }), "{exists}");
    let other = refusal(Store::open(dir.path(), ServerId(2)));
    assert!(matches!(other, StoreError::OtherServer { .. }), "{other}");
    Store::open(dir.path(), ServerId(1)).unwrap();
}

/// A crash while a store is made leaves nothing that counts.
#[test]
fn an_unfinished_store_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(format!("{FILE_NAME}.new")), b"half").unwrap();
    let missing = refusal(Store::open(dir.path(), ServerId(1)));
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    create(dir.path());
}

#[test]
fn a_store_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let _store = create(dir.path());
    let in_use = refusal(Store::open(dir.path(), ServerId(1)));
    assert!(matches!(in_use, StoreError::InUse { .. }), "{in_use}");
}

#[test]
fn a_foreign_file_is_refused() {
    let foreign: [&[u8]; 4] = [b"", b"hello", &[0; 5000], &[0xa5; 100_000]];
    for bytes in foreign {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), bytes).unwrap();
        let damaged = refusal(Store::open(dir.path(), ServerId(1)));
        assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");
    }
}

#[test]
fn another_database_and_another_format_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    drop(redb::Database::create(&path).unwrap());
    let damaged = refusal(Store::open(dir.path(), ServerId(1)));
    assert!(matches!(damaged, StoreError::Damaged { .. }), "{damaged}");

    fs::remove_file(&path).unwrap();
    let store = create(dir.path());
    store.db.put(IDENTITY, &(FORMAT + 1, "what comes")).unwrap();
    drop(store);
    let format = refusal(Store::open(dir.path(), ServerId(1)));
    assert!(
        matches!(format, StoreError::Format { found, .. } if found == FORMAT + 1),
        "{format}"
    );
}

/// A damaged file is an error that names it, or harmless; never a panic.
#[test]
fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    drop(create(dir.path()));
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    for place in (0..whole.len().min(64 << 10)).step_by(509) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x40;
        fs::write(&path, bytes).unwrap();
        match Store::open(dir.path(), ServerId(1)).and_then(|store| store.machine()) {
            Err(StoreError::Damaged { .. }) => refused += 1,
            Err(other) => panic!("byte {place}: {other}"),
            Ok(_) => {}
        }
    }
    assert!(refused > 0);
}
