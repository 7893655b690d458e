//! What can be wrong with a log on disk: what was tried, what is wrong, what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::segment::FORMAT_VERSION;
use crate::codec::DecodeError;
use crate::types::{EntryIndex, Life, Position, VirtualTime};

/// A place in a log's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spot {
    /// The segment.
    pub path: PathBuf,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The entry that was expected there.
    pub index: EntryIndex,
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, offset {}, where entry {} was expected",
            self.path.display(),
            self.offset,
            self.index
        )
    }
}

/// Why the bytes at a place are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameFault {
    /// The file ends within the frame.
    #[error("the file ends {missing} bytes before the frame does")]
    Incomplete {
        /// How many bytes are not there.
        missing: u64,
    },
    /// The frame says that it is longer than any frame may be, or empty.
    #[error("a frame of {len} bytes cannot be")]
    Length {
        /// As it says.
        len: u64,
    },
    /// The bytes are not those that were written.
    #[error("checksum mismatch: {stored:08x} stored, {computed:08x} computed")]
    Checksum {
        /// As read.
        stored: u32,
        /// Of the bytes read.
        computed: u32,
    },
    /// The bytes are as they were written, but are no batch.
    #[error("the batch does not follow the format: {0}")]
    Malformed(String),
}

impl From<DecodeError> for FrameFault {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooLong(len) => FrameFault::Length { len: len as u64 },
            DecodeError::Checksum { stored, computed } => FrameFault::Checksum { stored, computed },
            DecodeError::Malformed(what) => FrameFault::Malformed(what),
        }
    }
}

/// The end of a log that its writer did not finish: no whole frame stands in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TornTail {
    /// Where the log ends and the tail begins.
    pub at: Spot,
    /// How long the tail is, in bytes.
    pub bytes: u64,
    /// What is wrong with its first frame.
    pub fault: FrameFault,
}

impl fmt::Display for TornTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a torn tail of {} bytes at {}: {}",
            self.bytes, self.at, self.fault
        )
    }
}

/// How an entry does not continue the one before it (LOG-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discontinuity {
    /// An index is left out or repeated.
    #[error("entry {expected} is expected, entry {found} follows")]
    Index {
        /// The next index.
        expected: EntryIndex,
        /// The one found.
        found: EntryIndex,
    },
    /// The run would go back.
    #[error("position {found} follows position {before}")]
    Position {
        /// Of the entry before.
        before: Position,
        /// The one found.
        found: Position,
    },
    /// Virtual time would go back, or a frame or header begins at another time than the one
    /// before it ended at.
    #[error("virtual time {found} ns follows {before} ns")]
    Time {
        /// The time in force.
        before: VirtualTime,
        /// The one found.
        found: VirtualTime,
    },
}

/// Why a log cannot be created, written or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing to read.
    #[error("{} holds no log: it has no .ftlog segment; name a log directory or a segment file", path.display())]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
    /// A new log needs a directory of its own.
    #[error("cannot create a log in {}: it holds {found} already; name an empty or a new directory", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// What is in it: a log of some life, or a file.
        found: String,
    },
    /// Another writer is at work.
    #[error("cannot write the log in {}: another process is writing it; give each node a directory of its own", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// A segment without a byte.
    #[error("{} is empty, not even a header: restore it from a copy, or remove it if a copy made it", path.display())]
    EmptyFile {
        /// The segment.
        path: PathBuf,
    },
    /// Something else under a segment's name.
    #[error("{} is no ftvm log: it does not begin with the log's magic; name a log directory or a segment file", path.display())]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// Another release wrote the log.
    #[error("{} has log format version {found}, this program reads version {FORMAT_VERSION}: use the release of ftvm that wrote it", path.display())]
    OtherFormat {
        /// The segment.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A header that ends too early.
    #[error("{} ends within its header, at {len} of {needed} bytes: restore it from a copy", path.display())]
    TruncatedHeader {
        /// The segment.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// The length of its header, as far as known.
        needed: u64,
    },
    /// A header whose bytes are not those that were written, or make no sense.
    #[error("{} has a damaged header: {what}; restore it from a copy", path.display())]
    DamagedHeader {
        /// The segment.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file's name is not that of the segment in it.
    #[error("{} holds the segment {expected}: give it that name back", path.display())]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// The name that its header asks for.
        expected: String,
    },
    /// A segment of another VM lies in the directory, or the whole log is of another.
    #[error("{} belongs to life {found}, not to {expected}: keep each life's log in a directory of its own", path.display())]
    OtherLife {
        /// The segment.
        path: PathBuf,
        /// The life asked for, or of the segment before.
        expected: Life,
        /// The segment's.
        found: Life,
    },
    /// Segments are missing or out of order.
    #[error("{} is segment number {found}, but number {expected} is expected there: segments are missing or doubled; restore them from a copy", path.display())]
    Sequence {
        /// The segment that should not be there yet.
        path: PathBuf,
        /// The number that is missing.
        expected: u64,
        /// Its number.
        found: u64,
    },
    /// A segment's header contradicts that of the segment before it.
    #[error("{} does not continue the segment before it: {what}; restore both from one copy", path.display())]
    BrokenChain {
        /// The segment.
        path: PathBuf,
        /// What contradicts.
        what: String,
    },
    /// Bytes within the log are not those that were written (LOG-6).
    #[error(
        "the log is damaged at {at}: {fault}; entries before it can be read, restore the rest from a copy or from the other node's log"
    )]
    Damaged {
        /// Where.
        at: Spot,
        /// What is wrong.
        fault: FrameFault,
    },
    /// What is written does not continue what was written before (LOG-1).
    #[error("the log breaks at {at}: {what}; restore it from a copy or from the other node's log")]
    Discontinuous {
        /// Where.
        at: Spot,
        /// How.
        what: Discontinuity,
    },
    /// The log has reached its bound (LOG-6).
    #[error("the log in {} has reached its bound of {keep_bytes} bytes before entry {next}: recording stops here, the VM goes on; give more with --log-keep", dir.display())]
    KeepLimit {
        /// The directory.
        dir: PathBuf,
        /// The bound.
        keep_bytes: u64,
        /// The first entry that is not in the log.
        next: EntryIndex,
    },
    /// A write failed; the log is whole up to here.
    #[error("cannot write {}: {source}; recording stops, the log ends before entry {next}", path.display())]
    Write {
        /// The segment.
        path: PathBuf,
        /// The first entry that is not in the log.
        next: EntryIndex,
        /// What the system said.
        source: io::Error,
    },
    /// Recording stopped with an earlier error, which said why.
    #[error("recording into {} has stopped already", dir.display())]
    Stopped {
        /// The directory.
        dir: PathBuf,
    },
}

impl StoreError {
    /// For `map_err` on file operations.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |source| StoreError::Io {
            action,
            path,
            source,
        }
    }
}
