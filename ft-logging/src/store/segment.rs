//! A segment's header, encode beside decode, and the segments of a directory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Place, Result, StoreError};
use crate::codec;
use crate::initial::{Configuration, InitialState};
use crate::types::{EntryIndex, Token};

/// The version of the format that `store` describes. A change of the format, or of the codec's, is
/// the next version.
pub const FORMAT_VERSION: u32 = 2;

/// The longest header, in bytes: six texts of 4,096 bytes and some numbers fit well.
pub const MAX_HEADER_BYTES: usize = 64 << 10;

const MAGIC: [u8; 8] = *b"ftvm-log";

/// The bytes before the header's body: magic, version, length, checksum.
const PREAMBLE_BYTES: usize = 20;

const SUFFIX: &str = ".ftlog";
const UNFINISHED_SUFFIX: &str = ".ftlog.tmp";

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// Its number in the log, from 1.
    pub number: u64,
    /// The writing node's token when the segment was begun.
    pub token: Token,
    /// Where it begins.
    pub start: Place,
    /// [`SegmentHeader::digest`] of the configuration, for a comparison at a glance.
    pub configuration_digest: u64,
    /// What the machine started from.
    pub initial: InitialState,
}

impl SegmentHeader {
    /// A header whose digest fits its configuration.
    pub(super) fn new(number: u64, token: Token, start: Place, initial: InitialState) -> Self {
        SegmentHeader {
            number,
            token,
            start,
            configuration_digest: Self::digest(&initial.configuration),
            initial,
        }
    }

    /// A hash (FNV-1a, 64 bits) of everything in a configuration that two nodes compare. Against
    /// accidents, not against forgers.
    #[must_use]
    pub fn digest(configuration: &Configuration) -> u64 {
        let compared = Configuration {
            guest: String::new(),
            ..configuration.clone()
        };
        let mut bytes = Vec::new();
        codec::encode(&compared, &mut bytes);
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }

    /// The header as it stands in the file.
    ///
    /// # Panics
    ///
    /// If the configuration is out of its bounds: such a log could not be read again.
    pub(super) fn encode(&self) -> Vec<u8> {
        assert!(self.initial.configuration.is_within_bounds());
        let mut bytes = vec![0; PREAMBLE_BYTES];
        codec::encode(self, &mut bytes);
        assert!(bytes.len() <= MAX_HEADER_BYTES, "{} bytes", bytes.len());
        let body_len = (bytes.len() - PREAMBLE_BYTES) as u32;
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&body_len.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[16..PREAMBLE_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from the start of `file` and returns it with its length.
    pub(super) fn read(path: &Path, file: &mut impl Read) -> Result<(Self, u64)> {
        let mut bytes = read_up_to(path, file, PREAMBLE_BYTES)?;
        if bytes.is_empty() {
            return Err(StoreError::EmptyFile { path: path.into() });
        }
        if !MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
            return Err(StoreError::NotALog { path: path.into() });
        }
        let truncated = |len: usize, needed: usize| StoreError::TruncatedHeader {
            path: path.into(),
            len: len as u64,
            needed: needed as u64,
        };
        if bytes.len() < PREAMBLE_BYTES {
            return Err(truncated(bytes.len(), PREAMBLE_BYTES));
        }
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let (found, body_len, stored) = (word(8), word(12) as usize, word(16));
        // Before the checksum: another version may keep it elsewhere.
        if found != FORMAT_VERSION {
            return Err(StoreError::OtherFormat {
                path: path.into(),
                found,
            });
        }
        let damaged = |what: String| StoreError::DamagedHeader {
            path: path.into(),
            what,
        };
        if body_len > MAX_HEADER_BYTES - PREAMBLE_BYTES {
            return Err(damaged(format!(
                "it says that it has {body_len} bytes, {MAX_HEADER_BYTES} are allowed"
            )));
        }
        let len = PREAMBLE_BYTES + body_len;
        bytes.append(&mut read_up_to(path, file, body_len)?);
        if bytes.len() < len {
            return Err(truncated(bytes.len(), len));
        }
        let computed = checksum(&bytes);
        if stored != computed {
            return Err(damaged(format!(
                "checksum mismatch: {stored:08x} stored, {computed:08x} computed"
            )));
        }
        let header: SegmentHeader = codec::decode_all(&bytes[PREAMBLE_BYTES..])
            .map_err(|error| damaged(error.to_string()))?;
        if !header.initial.configuration.is_within_bounds() {
            return Err(damaged("a text is longer than allowed".to_owned()));
        }
        if header.configuration_digest != Self::digest(&header.initial.configuration) {
            return Err(damaged("its configuration has another digest".to_owned()));
        }
        Ok((header, len as u64))
    }
}

/// Of a whole header but the checksum itself.
fn checksum(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..16]), &header[PREAMBLE_BYTES..])
}

fn read_up_to(path: &Path, file: &mut impl Read, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    file.take(len as u64)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io("read", path))?;
    Ok(bytes)
}

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The file.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: SegmentHeader,
    /// How long its header is, in bytes: where its first frame stands.
    pub header_bytes: u64,
}

impl Segment {
    /// The path of the segment that begins at `first`.
    pub(super) fn path_in(dir: &Path, first: EntryIndex) -> PathBuf {
        dir.join(Self::file_name(first))
    }

    /// The path under which that segment is prepared.
    pub(super) fn unfinished_path_in(dir: &Path, first: EntryIndex) -> PathBuf {
        dir.join(format!("{:020}{UNFINISHED_SUFFIX}", first.0))
    }

    pub(super) fn is_unfinished(path: &Path) -> bool {
        name_ends_with(path, UNFINISHED_SUFFIX)
    }

    fn file_name(first: EntryIndex) -> String {
        format!("{:020}{SUFFIX}", first.0)
    }

    /// How long the file is now, in bytes.
    ///
    /// # Errors
    ///
    /// If the system refuses to tell.
    pub fn bytes(&self) -> Result<u64> {
        fs::metadata(&self.path)
            .map(|metadata| metadata.len())
            .map_err(StoreError::io("look at", &self.path))
    }

    /// Opens a segment file and reads its header.
    pub(super) fn open(path: &Path) -> Result<(Self, File)> {
        let mut file = File::open(path).map_err(StoreError::io("open", path))?;
        let (header, header_bytes) = SegmentHeader::read(path, &mut file)?;
        let segment = Segment {
            path: path.to_owned(),
            header,
            header_bytes,
        };
        Ok((segment, file))
    }

    /// Reads the headers of every segment in `dir` and checks that each continues the one before.
    pub(super) fn list(dir: &Path) -> Result<Vec<Segment>> {
        let mut paths = files_of(dir)?;
        paths.retain(|path| name_ends_with(path, SUFFIX));
        paths.sort();
        let mut segments: Vec<Segment> = Vec::with_capacity(paths.len());
        for path in paths {
            let (segment, _) = Segment::open(&path)?;
            segment.check_name()?;
            match segments.last() {
                Some(previous) => previous.check_successor(&segment)?,
                None => segment.check_number(1)?,
            }
            segments.push(segment);
        }
        if segments.is_empty() {
            return Err(StoreError::NoLog { path: dir.into() });
        }
        Ok(segments)
    }

    fn check_name(&self) -> Result<()> {
        let expected = Self::file_name(self.header.start.index);
        if self.path.file_name().is_some_and(|name| *name == *expected) {
            Ok(())
        } else {
            Err(StoreError::Misnamed {
                path: self.path.clone(),
                expected,
            })
        }
    }

    fn check_number(&self, expected: u64) -> Result<()> {
        if self.header.number == expected {
            Ok(())
        } else {
            Err(StoreError::Sequence {
                path: self.path.clone(),
                expected,
                found: self.header.number,
            })
        }
    }

    /// Checks that `next` may follow this segment, as far as the headers tell. Where this one ends
    /// is known only to who reads it.
    pub(super) fn check_successor(&self, next: &Segment) -> Result<()> {
        let (ours, theirs) = (&self.header, &next.header);
        if ours.initial.life != theirs.initial.life {
            return Err(StoreError::OtherLife {
                path: next.path.clone(),
                expected: ours.initial.life,
                found: theirs.initial.life,
            });
        }
        next.check_number(ours.number.saturating_add(1))?;
        let what = if ours.initial != theirs.initial {
            "it has another initial state".to_owned()
        } else if theirs.token < ours.token {
            format!("token {} follows token {}", theirs.token, ours.token)
        } else if theirs.start.index <= ours.start.index
            || theirs.start.position < ours.start.position
            || theirs.start.time < ours.start.time
        {
            "it begins before the other does".to_owned()
        } else {
            return Ok(());
        };
        Err(StoreError::BrokenChain {
            path: next.path.clone(),
            what,
        })
    }
}

fn name_ends_with(path: &Path, suffix: &str) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.ends_with(suffix))
}

/// Everything in a directory, in no order.
pub(super) fn files_of(dir: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(StoreError::io("list", dir))
}
