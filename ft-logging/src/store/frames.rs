//! The frames of one segment, read in order; and the judgement of bytes that are none.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;

use super::{FrameFault, Result, Spot, StoreError, TornTail};
use crate::codec::{self, BatchHeader, FRAME_HEADER_BYTES};
use crate::entry::Entry;
use crate::types::EntryIndex;

/// How much is read from a file at once.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// The longest tail that is taken for torn. A writer that dies leaves less than one buffer; a host
/// that dies, what it had not yet brought to the disk. More than this is damage.
const MAX_TORN_BYTES: u64 = 64 << 20;

/// How many bytes the search for a frame behind a bad one may check, so that a file made for it
/// cannot make it take hours (SEC-2). When they are spent the bad frame counts as damage.
const SEARCH_BUDGET_BYTES: usize = 1 << 30;

/// A batch's header is four bytes or more, an entry two.
const MIN_BODY_BYTES: usize = 6;
const MIN_ENTRY_BYTES: usize = 2;

/// What stands where a frame is expected.
pub(super) enum Next {
    /// A whole frame, whose batch begins so.
    Frame(BatchHeader),
    /// The end of the file.
    End,
    /// The end of the log, and then bytes that its writer did not finish.
    Torn(TornTail),
}

/// A reader of one segment's frames.
pub(super) struct Frames {
    path: PathBuf,
    file: BufReader<File>,
    /// Where the next frame stands.
    offset: u64,
    /// Where the frame last read stands, and its body.
    frame_offset: u64,
    body: Vec<u8>,
}

impl Frames {
    /// Reads `file` from `offset` on.
    pub(super) fn new(path: PathBuf, file: File, offset: u64) -> Result<Self> {
        let mut frames = Frames {
            path,
            file: BufReader::with_capacity(READ_BUFFER_BYTES, file),
            offset,
            frame_offset: offset,
            body: Vec::new(),
        };
        frames.seek(offset)?;
        Ok(frames)
    }

    /// Where the next frame stands.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the frame last read stands.
    pub(super) fn frame_offset(&self) -> u64 {
        self.frame_offset
    }

    /// Goes to the frame at `offset`.
    pub(super) fn seek(&mut self, offset: u64) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(offset))
            .map_err(StoreError::io("read", &self.path))?;
        self.offset = offset;
        Ok(())
    }

    /// Reads the next frame, where entry `expected` should be. In the last segment of a log, whose
    /// end `may_be_torn`, and there only, bytes that are no frame may be a torn tail.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is damaged.
    pub(super) fn next(&mut self, expected: EntryIndex, may_be_torn: bool) -> Result<Next> {
        let fault = match self.read_frame() {
            Ok(Some(Ok(()))) => return self.accept(expected),
            Ok(Some(Err(fault))) => fault,
            Ok(None) => return Ok(Next::End),
            Err(source) => return Err(StoreError::io("read", &self.path)(source)),
        };
        self.seek(self.offset)?;
        self.frame_offset = self.offset;
        let damaged = StoreError::Damaged {
            at: self.spot(expected),
            fault: fault.clone(),
        };
        if !may_be_torn {
            return Err(damaged);
        }
        let rest = self.read_rest()?;
        self.seek(self.offset)?;
        // A writer at work may have finished the frame since, and then the next read takes it.
        if whole_frame(&rest).is_some() {
            return self.next(expected, may_be_torn);
        }
        if rest.len() as u64 > MAX_TORN_BYTES || a_frame_follows(&rest, expected) {
            return Err(damaged);
        }
        Ok(Next::Torn(TornTail {
            at: self.spot(expected),
            bytes: rest.len() as u64,
            fault,
        }))
    }

    /// The entries of the frame last read.
    ///
    /// # Errors
    ///
    /// If its batch does not follow the format.
    pub(super) fn entries(&self, expected: EntryIndex) -> Result<Vec<Entry>> {
        codec::decode_batch(&self.body).map_err(|error| self.malformed(expected, error.into()))
    }

    /// The place of the frame last read.
    pub(super) fn spot(&self, expected: EntryIndex) -> Spot {
        Spot {
            path: self.path.clone(),
            offset: self.frame_offset,
            index: expected,
        }
    }

    /// Reads header and body; the inner error is a fault of the bytes.
    fn read_frame(&mut self) -> io::Result<Option<std::result::Result<(), FrameFault>>> {
        let mut header = [0; FRAME_HEADER_BYTES];
        let got = fill(&mut self.file, &mut header)?;
        if got == 0 {
            return Ok(None);
        }
        if got < FRAME_HEADER_BYTES {
            let missing = (FRAME_HEADER_BYTES - got) as u64;
            return Ok(Some(Err(FrameFault::Incomplete { missing })));
        }
        let len = match codec::body_len(&header) {
            Ok(0) => return Ok(Some(Err(FrameFault::Length { len: 0 }))),
            Ok(len) => len,
            Err(error) => return Ok(Some(Err(error.into()))),
        };
        self.body.resize(len, 0);
        let got = fill(&mut self.file, &mut self.body)?;
        if got < len {
            let missing = (len - got) as u64;
            return Ok(Some(Err(FrameFault::Incomplete { missing })));
        }
        Ok(Some(
            codec::check_body(&header, &self.body).map_err(FrameFault::from),
        ))
    }

    /// Takes the frame whose body was read and is as it was written.
    fn accept(&mut self, expected: EntryIndex) -> Result<Next> {
        self.frame_offset = self.offset;
        let (header, _) = codec::decode_batch_header(&self.body)
            .map_err(|error| self.malformed(expected, error.into()))?;
        // So that the index behind any entry that is read exists.
        let end = header.first.0.checked_add(u64::from(header.count));
        if end.is_none() {
            let fault = FrameFault::Malformed("the entry indexes run out".to_owned());
            return Err(self.malformed(expected, fault));
        }
        self.offset += (FRAME_HEADER_BYTES + self.body.len()) as u64;
        Ok(Next::Frame(header))
    }

    /// Everything from the next frame's place to the end of the file, up to a byte more than a
    /// torn tail may have.
    fn read_rest(&mut self) -> Result<Vec<u8>> {
        let mut rest = Vec::new();
        (&mut self.file)
            .take(MAX_TORN_BYTES + 1)
            .read_to_end(&mut rest)
            .map_err(StoreError::io("read", &self.path))?;
        Ok(rest)
    }

    fn malformed(&self, expected: EntryIndex, fault: FrameFault) -> StoreError {
        StoreError::Damaged {
            at: self.spot(expected),
            fault,
        }
    }
}

/// Reads until `buffer` is full or the file ends; returns how much was read.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// The body of the frame that begins with the first of `bytes`, if it is whole.
pub(super) fn whole_frame(bytes: &[u8]) -> Option<&[u8]> {
    let (header, rest) = bytes.split_first_chunk()?;
    let body = rest.get(..codec::body_len(header).ok()?)?;
    (body.len() >= MIN_BODY_BYTES && codec::check_body(header, body).is_ok()).then_some(body)
}

/// Whether a frame of this log stands anywhere behind the start of `rest`, where entry `expected`
/// should be. Then `rest` is damage within the log, not its torn end. In doubt the answer is yes:
/// what was written is never thrown away for a guess.
fn a_frame_follows(rest: &[u8], expected: EntryIndex) -> bool {
    let mut budget = SEARCH_BUDGET_BYTES;
    for at in 1..rest.len() {
        let Some((header, behind)) = rest[at..].split_first_chunk::<FRAME_HEADER_BYTES>() else {
            break;
        };
        let Ok(len) = codec::body_len(header) else {
            continue;
        };
        let Some(body) = behind.get(..len).filter(|_| len >= MIN_BODY_BYTES) else {
            continue;
        };
        let Ok((batch, _)) = codec::decode_batch_header(body) else {
            continue;
        };
        // No more entries fit into the bytes before it.
        let last = expected.0.saturating_add((at / MIN_ENTRY_BYTES) as u64);
        if !(expected.0..=last).contains(&batch.first.0) {
            continue;
        }
        match budget.checked_sub(len) {
            None => return true,
            Some(left) => budget = left,
        }
        if codec::check_body(header, body).is_ok() {
            return true;
        }
    }
    false
}
