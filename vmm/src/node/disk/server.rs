//! What the guest gets when the host fails: an I/O error, and the same one on both nodes.
//!
//! A write that failed may have happened on the other node's image. So nothing that depends on it
//! may be read: the sectors are lost until they are written anew. Their reads fail here, the log
//! says so, and the other node's guest is told the same although its image could be read (DET-1).

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use ft_logging::entry::BlockStatus;

use super::Storage;
use crate::determinism::DiskDone;
use crate::devices::{BlockOperation, BlockRequest, SECTOR_BYTES};

/// How many sectors are lost one by one, 32 MiB; after more the whole disk is.
const MAX_LOST: usize = 64 << 10;

/// Carries out requests, and tells a person of what fails.
pub(super) struct Server<S, T> {
    storage: S,
    lost: Lost,
    tell: T,
    /// What was told of: reads, writes, flushes. A disk that is full fails thousands of times.
    told: BTreeSet<&'static str>,
}

impl<S: Storage, T: FnMut(String)> Server<S, T> {
    pub(super) fn new(storage: S, tell: T) -> Self {
        Server {
            storage,
            lost: Lost::default(),
            tell,
            told: BTreeSet::new(),
        }
    }

    pub(super) fn serve(&mut self, BlockRequest { tag, operation }: BlockRequest) -> DiskDone {
        let done = if self.lost.forbids(&operation) {
            Err(io::Error::other("what was there could not be written"))
        } else {
            let done = self.storage.carry_out(&operation);
            self.lost.note(&operation, done.is_ok());
            done
        };
        if let Err(error) = &done {
            let doing = doing(&operation);
            if self.told.insert(doing) {
                (self.tell)(format!(
                    "{doing} the guest's disk: {error}. The guest is told of an I/O error; further \
                     ones of {doing} are not told here"
                ));
            }
        }
        answer(tag, done)
    }
}

/// How a request has ended, for the guest.
pub(super) fn answer(tag: u64, done: io::Result<Vec<u8>>) -> DiskDone {
    let (status, data) = match done {
        Ok(data) => (BlockStatus::Ok, data),
        Err(_) => (BlockStatus::IoError, Vec::new()),
    };
    DiskDone { tag, status, data }
}

fn doing(operation: &BlockOperation) -> &'static str {
    match operation {
        BlockOperation::Read { .. } => "reading",
        BlockOperation::Write { .. } => "writing",
        BlockOperation::Flush => "flushing",
    }
}

/// Sectors whose content nobody knows.
#[derive(Debug, Default)]
struct Lost {
    sectors: BTreeSet<u64>,
    /// A flush has failed: any write before it may be gone, and the system does not say which.
    all: bool,
}

impl Lost {
    fn forbids(&self, operation: &BlockOperation) -> bool {
        match operation {
            BlockOperation::Read { sector, bytes } => {
                let range = range(*sector, *bytes as usize);
                self.all || self.sectors.range(range).next().is_some()
            }
            BlockOperation::Write { .. } | BlockOperation::Flush => self.all,
        }
    }

    fn note(&mut self, operation: &BlockOperation, succeeded: bool) {
        match operation {
            BlockOperation::Read { .. } => {}
            BlockOperation::Flush => self.all |= !succeeded,
            BlockOperation::Write { .. } if succeeded && self.sectors.is_empty() => {}
            BlockOperation::Write { sector, data } => {
                for sector in range(*sector, data.len()) {
                    if succeeded {
                        self.sectors.remove(&sector);
                    } else {
                        self.sectors.insert(sector);
                    }
                }
                if self.sectors.len() > MAX_LOST {
                    self.all = true;
                    self.sectors.clear();
                }
            }
        }
    }
}

fn range(sector: u64, bytes: usize) -> Range<u64> {
    sector..sector + bytes as u64 / SECTOR_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails where it is told to.
    #[derive(Default)]
    struct Fickle {
        fails: bool,
    }

    impl Storage for Fickle {
        fn carry_out(&mut self, operation: &BlockOperation) -> io::Result<Vec<u8>> {
            match operation {
                _ if self.fails => Err(io::ErrorKind::StorageFull.into()),
                BlockOperation::Read { bytes, .. } => Ok(vec![0; *bytes as usize]),
                BlockOperation::Write { .. } | BlockOperation::Flush => Ok(Vec::new()),
            }
        }
    }

    fn read(sector: u64, sectors: u32) -> BlockOperation {
        let bytes = sectors * SECTOR_BYTES as u32;
        BlockOperation::Read { sector, bytes }
    }

    fn write(sector: u64, sectors: u64) -> BlockOperation {
        let data = vec![0; (sectors * SECTOR_BYTES) as usize];
        BlockOperation::Write { sector, data }
    }

    /// Whether each of `operations` succeeds, on a disk that fails where the first field says so;
    /// and how often a person was told.
    fn play(operations: impl IntoIterator<Item = (bool, BlockOperation)>) -> (Vec<bool>, usize) {
        let mut told = 0;
        let mut server = Server::new(Fickle::default(), |_| told += 1);
        let mut play = |(tag, (fails, operation)): (usize, _)| {
            server.storage.fails = fails;
            let tag = tag as u64;
            let done = server.serve(BlockRequest { tag, operation });
            assert_eq!(done.tag, tag);
            done.status == BlockStatus::Ok
        };
        let results = operations.into_iter().enumerate().map(&mut play).collect();
        (results, told)
    }

    #[test]
    fn det_1_what_could_not_be_written_cannot_be_read_until_it_is_written_anew() {
        let (results, told) = play([
            (true, write(8, 4)),
            (false, read(4, 4)),
            (false, read(7, 2)),
            (false, read(11, 2)),
            (false, read(12, 4)),
            (false, write(8, 3)),
            (false, read(8, 3)),
            (false, read(8, 4)),
            (false, write(11, 1)),
            (false, read(8, 4)),
            // A read that fails for itself loses nothing.
            (true, read(0, 1)),
            (false, read(0, 1)),
        ]);
        let expected = [
            false, true, false, false, true, true, true, false, true, true, false, true,
        ];
        assert_eq!(results, expected);
        assert_eq!(told, 2, "once for writing, once for reading");
    }

    #[test]
    fn after_a_flush_that_failed_nothing_is_trusted() {
        let (results, told) = play([
            (false, write(8, 4)),
            (true, BlockOperation::Flush),
            (false, read(30, 1)),
            (false, write(30, 1)),
            (false, BlockOperation::Flush),
        ]);
        assert_eq!(results, [true, false, false, false, false]);
        assert_eq!(told, 3);
    }

    #[test]
    fn a_disk_that_loses_too_much_is_lost() {
        let sectors = 256;
        let failing =
            (0..=MAX_LOST as u64 / sectors).map(|at| (true, write(at * sectors, sectors)));
        let before = failing.clone().take(MAX_LOST / sectors as usize);
        let beyond = || (false, read(1 << 40, 1));
        assert_eq!(play(before.chain([beyond()])).0.pop(), Some(true));
        assert_eq!(play(failing.chain([beyond()])).0.pop(), Some(false));
    }
}
