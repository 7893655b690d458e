//! An image file: opened for one node alone, compared by what is in it, read and written.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ft_logging::initial::DiskIdentity;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::Storage;
use super::stamp::Stamp;
use crate::devices::{BlockOperation, DiskShape, SECTOR_BYTES};

/// The image is hashed in pieces of this many bytes, and pieces of zeros are left out, so that it
/// makes no difference which of them are holes in the file.
const PIECE_BYTES: u64 = 64 << 10;

/// Why an image is of no use.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It is not there.
    #[error(
        "there is no disk image {}: `truncate -s 1G FILE` makes an empty one, and `--guest redis` \
         comes with one", .0.display()
    )]
    Missing(PathBuf),
    /// It is something else than a file.
    #[error("{} is no file: a disk image must be one", .0.display())]
    NotAFile(PathBuf),
    /// Its size is none that a disk can have.
    #[error(
        "the disk image {} has {bytes} bytes: a disk has whole sectors of {SECTOR_BYTES} bytes, \
         and at least one", path.display()
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Another node or program has it.
    #[error(
        "the disk image {} is in use by another node: each node needs an image of its own, and \
         one that a node has stopped with is free again", .0.display()
    )]
    Locked(PathBuf),
    /// It may only be read.
    #[error(
        "the disk image {} cannot be written: {source}. `--disk-read-only` gives it to the guest \
         as it is", path.display()
    )]
    ReadOnly {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its stamp says that there may be a newer one.
    #[error(
        "the disk image {} may be out of date: {why}. Start from the other node's image, or \
         say --accept-disk if you know this one to be right", path.display()
    )]
    Stale {
        /// The image.
        path: PathBuf,
        /// What the stamp says.
        why: String,
    },
    /// The stamp cannot be read.
    #[error("{} is no stamp of a disk image: {why}; remove it if the image is right", path.display())]
    Stamp {
        /// The stamp's file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The system refused.
    #[error("{doing} the disk image {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DiskError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| DiskError::Io {
            doing,
            path,
            source,
        }
    }
}

/// A disk image that this node has to itself.
#[derive(Debug)]
pub struct DiskImage {
    path: PathBuf,
    file: File,
    shape: DiskShape,
    /// What was stamped last.
    pub(super) stamped: Mutex<Option<Stamp>>,
}

impl DiskImage {
    /// Opens and locks the image.
    ///
    /// # Errors
    ///
    /// [`DiskError`], with what to do about it.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DiskError::Missing(path.to_owned()),
            _ => DiskError::io("looking at", path)(error),
        })?;
        if !metadata.is_file() {
            return Err(DiskError::NotAFile(path.to_owned()));
        }
        let bytes = metadata.len();
        if bytes == 0 || !bytes.is_multiple_of(SECTOR_BYTES) {
            let path = path.to_owned();
            return Err(DiskError::Size { path, bytes });
        }
        let file = File::options()
            .read(true)
            .write(!read_only)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                    if !read_only =>
                {
                    let path = path.to_owned();
                    DiskError::ReadOnly { path, source }
                }
                _ => DiskError::io("opening", path)(source),
            })?;
        let locked = if read_only {
            file.try_lock_shared()
        } else {
            file.try_lock()
        };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => DiskError::Locked(path.to_owned()),
            TryLockError::Error(error) => DiskError::io("locking", path)(error),
        })?;
        let shape = DiskShape {
            sectors: bytes / SECTOR_BYTES,
            read_only,
        };
        Ok(DiskImage {
            path: path.to_owned(),
            file,
            shape,
            stamped: Mutex::new(None),
        })
    }

    /// An image on a host whose disk is full.
    #[cfg(test)]
    pub(super) fn full(sectors: u64) -> Self {
        let path = PathBuf::from("/dev/full");
        let file = File::options().read(true).write(true).open(&path);
        DiskImage {
            path,
            file: file.expect("Linux has it"),
            shape: DiskShape {
                sectors,
                read_only: false,
            },
            stamped: Mutex::new(None),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the guest can only read it.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.shape.read_only
    }

    /// What two nodes compare: shape and content. Reads all that is not a hole.
    ///
    /// # Errors
    ///
    /// If the image cannot be read.
    pub fn identity(&self) -> Result<DiskIdentity, DiskError> {
        let content = self.hash().map_err(DiskError::io("reading", &self.path))?;
        Ok(DiskIdentity {
            sectors: self.shape.sectors,
            read_only: self.shape.read_only,
            content,
        })
    }

    /// BLAKE3 over the number and the bytes of every piece that is not all zeros.
    fn hash(&self) -> io::Result<[u8; 32]> {
        let end = self.shape.sectors * SECTOR_BYTES;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE_BYTES as usize];
        let mut at = 0;
        while let Some(data) = self.next_data(at)? {
            at = data - data % PIECE_BYTES;
            if at >= end {
                break;
            }
            let piece = &mut piece[..PIECE_BYTES.min(end - at) as usize];
            self.file.read_exact_at(piece, at)?;
            if piece.iter().any(|byte| *byte != 0) {
                hasher.update(&(at / PIECE_BYTES).to_le_bytes());
                hasher.update(piece);
            }
            at += PIECE_BYTES;
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Where the file has bytes, from `at` on; `None` if only a hole is left.
    fn next_data(&self, at: u64) -> io::Result<Option<u64>> {
        let offset = i64::try_from(at).map_err(io::Error::other)?;
        match lseek(&self.file, offset, Whence::SeekData) {
            Ok(data) => Ok(Some(data as u64)),
            Err(Errno::ENXIO) => Ok(None),
            // A file system that does not know holes.
            Err(Errno::EINVAL) => Ok(Some(at)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn read(&self, sector: u64, bytes: u32) -> io::Result<Vec<u8>> {
        let mut data = vec![0; bytes as usize];
        self.file.read_exact_at(&mut data, sector * SECTOR_BYTES)?;
        Ok(data)
    }
}

impl Storage for &DiskImage {
    fn carry_out(&mut self, operation: &BlockOperation) -> io::Result<Vec<u8>> {
        match operation {
            BlockOperation::Read { sector, bytes } => self.read(*sector, *bytes),
            BlockOperation::Write { sector, data } => {
                self.file.write_all_at(data, sector * SECTOR_BYTES)?;
                Ok(Vec::new())
            }
            BlockOperation::Flush => {
                self.file.sync_data()?;
                Ok(Vec::new())
            }
        }
    }
}
