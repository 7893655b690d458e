//! One segment file being written: whole frames through a buffer.
//!
//! When a write fails, whatever the file took of the last frame is cut off again, so that the log
//! ends with a whole frame (LOG-6).

use std::fs::File;
use std::io::{self, Write};

use super::frames::whole_frame;
use crate::codec::{self, FRAME_HEADER_BYTES};
use crate::types::EntryIndex;

/// The bytes that are gathered before they are written without being asked to.
const WRITE_BUFFER_BYTES: usize = 256 << 10;

/// What a segment is written to: a file, or in tests one that fails.
pub(super) trait Medium: Write {
    /// Cuts off everything from `len` on.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Brings everything written to the disk.
    fn sync(&mut self) -> io::Result<()>;
}

impl Medium for File {
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// A write that failed.
#[derive(Debug)]
pub(super) struct WriteFailed {
    /// What the system said.
    pub(super) source: io::Error,
    /// The first entry that did not reach the file.
    pub(super) first_lost: EntryIndex,
}

/// The end of a segment file.
pub(super) struct Appender<M: Medium> {
    medium: M,
    /// The length of the file: whole frames only.
    written: u64,
    /// Frames that are not yet in the file.
    buffer: Vec<u8>,
}

impl<M: Medium> Appender<M> {
    /// Appends to `medium`, which stands at its end, at `written` bytes.
    pub(super) fn new(medium: M, written: u64) -> Self {
        Appender {
            medium,
            written,
            buffer: Vec::with_capacity(WRITE_BUFFER_BYTES),
        }
    }

    /// The length that the file has when the buffer is written.
    pub(super) fn len(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Appends one whole frame.
    pub(super) fn append(&mut self, frame: &[u8]) -> Result<(), WriteFailed> {
        self.buffer.extend_from_slice(frame);
        if self.buffer.len() >= WRITE_BUFFER_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes the buffer to the file.
    pub(super) fn flush(&mut self) -> Result<(), WriteFailed> {
        let mut taken = 0;
        while taken < self.buffer.len() {
            let error = match self.medium.write(&self.buffer[taken..]) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(n) => {
                    taken += n;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            return Err(self.retreat(taken, error));
        }
        self.written += taken as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Brings what was flushed to the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.medium.sync()
    }

    /// Ends the file behind the last whole frame, after it took `taken` bytes of the buffer only.
    fn retreat(&mut self, taken: usize, source: io::Error) -> WriteFailed {
        let mut kept = 0;
        let first_lost = loop {
            let body = whole_frame(&self.buffer[kept..]).expect("the buffer holds whole frames");
            let end = kept + FRAME_HEADER_BYTES + body.len();
            if end > taken {
                let (batch, _) = codec::decode_batch_header(body).expect("as it was encoded");
                break batch.first;
            }
            kept = end;
        };
        self.written += kept as u64;
        self.buffer.clear();
        // If this fails too, a torn tail stays, which every reader knows how to read.
        let _ = self.medium.truncate(self.written);
        WriteFailed { source, first_lost }
    }
}

#[cfg(test)]
mod tests;
