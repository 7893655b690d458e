//! Writing a log: creation, appending, and reopening after a crash.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::append::{Appender, WriteFailed};
use super::reader::Log;
use super::segment::{MAX_HEADER_BYTES, Segment, SegmentHeader, files_of};
use super::{Place, Result, StoreError, TornTail};
use crate::codec::{self, MAX_BODY_BYTES};
use crate::entry::{Entry, MAX_CONSOLE_BYTES, MAX_ENTROPY_BYTES};
use crate::initial::InitialState;
use crate::message::{BATCH_TARGET_BYTES, MAX_BATCH_ENTRIES};
use crate::types::{Life, Token};

/// The default size at which a segment is followed by the next: a seek skims one segment, and this
/// much is skimmed in some hundredths of a second.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 << 20;

/// The default bound of a whole log: hours of a busy guest.
pub const DEFAULT_KEEP_BYTES: u64 = 16 << 30;

// The frame of any one chunk of entries fits, whatever its last entry is.
const _: () = assert!(
    BATCH_TARGET_BYTES + MAX_CONSOLE_BYTES + MAX_ENTROPY_BYTES + 64 * MAX_BATCH_ENTRIES
        < MAX_BODY_BYTES
);

/// How large a log and its segments may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// A segment that would grow past this many bytes is followed by the next one.
    pub segment_bytes: u64,
    /// At this many bytes, all segments together, recording stops (LOG-6).
    pub keep_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            keep_bytes: DEFAULT_KEEP_BYTES,
        }
    }
}

/// What a log begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStart {
    /// What the machine started from.
    pub initial: InitialState,
    /// The writing node's token.
    pub token: Token,
    /// Where the log begins: [`Place::START`], or where a snapshot was taken.
    pub place: Place,
}

/// The one writer of a log. Nothing here waits for the disk but [`Writer::sync`],
/// [`Writer::close`] and the change of segments; it belongs in a thread of its own, so that no
/// acknowledgement waits for it (LOG-6).
pub struct Writer {
    dir: PathBuf,
    /// The directory did not exist before.
    made: bool,
    /// Locked as long as it is open.
    _lock: File,
    options: Options,
    header: SegmentHeader,
    segment: Appender<File>,
    /// The size of all segments before this one.
    sealed_bytes: u64,
    place: Place,
    stopped: bool,
    /// For one frame at a time.
    frame: Vec<u8>,
}

impl Writer {
    /// Creates a log in `dir`, which must be empty or not exist.
    ///
    /// # Errors
    ///
    /// If anything is in the directory, another process writes there, or the system refuses; then
    /// nothing is left behind.
    pub fn create(dir: &Path, start: LogStart, options: Options) -> Result<Self> {
        let made = !dir.exists();
        fs::create_dir_all(dir).map_err(StoreError::io("create", dir))?;
        let created = Self::create_in(dir, start, options).inspect_err(|_| {
            if made {
                // Fails if anything is in it, and then it is not ours to remove.
                let _ = fs::remove_dir(dir);
            }
        });
        created.map(|mut writer| {
            writer.made = made;
            writer
        })
    }

    fn create_in(dir: &Path, start: LogStart, options: Options) -> Result<Self> {
        let lock = lock(dir)?;
        remove_unfinished(dir)?;
        if let Some(path) = files_of(dir)?.pop() {
            let found = match Log::open(dir) {
                Ok(log) => format!("the log of life {}", log.initial().life),
                Err(_) => path.display().to_string(),
            };
            return Err(StoreError::NotEmpty {
                dir: dir.into(),
                found,
            });
        }
        let header = SegmentHeader::new(1, start.token, start.place, start.initial);
        let segment = begin_segment(dir, &header)?;
        Ok(Writer {
            dir: dir.into(),
            made: false,
            _lock: lock,
            options,
            header,
            segment,
            sealed_bytes: 0,
            place: start.place,
            stopped: false,
            frame: Vec::new(),
        })
    }

    /// Opens the log of `life` in `dir` to go on with it under `token`, and cuts off a torn tail,
    /// which it reports (LOG-6).
    ///
    /// # Errors
    ///
    /// If there is no log, it is of another life or of a later token, another process writes it,
    /// or its last segment is damaged. What is damaged is left as it is.
    pub fn reopen(
        dir: &Path,
        life: Life,
        token: Token,
        options: Options,
    ) -> Result<(Self, Option<TornTail>)> {
        let lock = lock(dir)?;
        remove_unfinished(dir)?;
        let log = Log::open(dir)?;
        let last = log.segments().len() - 1;
        let Segment { path, header, .. } = &log.segments()[last];
        if header.initial.life != life {
            return Err(StoreError::OtherLife {
                path: path.clone(),
                expected: life,
                found: header.initial.life,
            });
        }
        if token < header.token {
            return Err(StoreError::BrokenChain {
                path: path.clone(),
                what: format!("token {token} would follow token {}", header.token),
            });
        }
        let mut reader = log.reader_at_segment(last)?;
        reader.skip_all()?;
        let (place, end) = (reader.place(), reader.offset());
        let torn = reader.torn_tail().cloned();

        let io = |action| StoreError::io(action, path);
        let mut file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(io("open"))?;
        if torn.is_some() {
            file.set_len(end).map_err(io("cut the torn tail of"))?;
            file.sync_all().map_err(io("sync"))?;
        }
        file.seek(SeekFrom::Start(end)).map_err(io("append to"))?;
        let mut sealed_bytes = 0;
        for segment in &log.segments()[..last] {
            sealed_bytes += segment.bytes()?;
        }
        let mut writer = Writer {
            dir: dir.into(),
            made: false,
            _lock: lock,
            options,
            header: header.clone(),
            segment: Appender::new(file, end),
            sealed_bytes,
            place,
            stopped: false,
            frame: Vec::new(),
        };
        writer.set_token(token)?;
        Ok((writer, torn))
    }

    /// The directory of the log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The place behind the last entry appended.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The size of the whole log in bytes, buffered ones included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sealed_bytes + self.segment.len()
    }

    /// Appends entries. They are in a buffer until it is full, or [`Writer::flush`] is called.
    ///
    /// # Errors
    ///
    /// [`StoreError::KeepLimit`] at the bound, [`StoreError::Write`] or [`StoreError::Io`] if the
    /// disk fails. Both name the first entry that is not in the log; every later call fails with
    /// [`StoreError::Stopped`], and what was written stays a whole log (LOG-6).
    ///
    /// # Panics
    ///
    /// If the entries do not continue the log (LOG-1) or are longer than allowed: a log that does
    /// not is not a log.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        self.unless_stopped(|writer| {
            let mut rest = entries;
            while !rest.is_empty() {
                let (chunk, behind) = rest.split_at(chunk_len(rest));
                writer.append_chunk(chunk)?;
                rest = behind;
            }
            Ok(())
        })
    }

    fn append_chunk(&mut self, entries: &[Entry]) -> Result<()> {
        let mut behind = self.place;
        for entry in entries {
            if let Err(what) = behind.check(entry) {
                panic!("LOG-1: the log in {}: {what}", self.dir.display());
            }
            assert!(
                entry.payload.is_within_bounds(),
                "entry {} is longer than allowed",
                entry.index
            );
            behind = behind.after(entry);
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        codec::encode_frame(&mut frame, |body| {
            codec::encode_batch_from(self.place.time, entries, body);
        });
        let appended = self.append_frame(&frame);
        self.frame = frame;
        appended?;
        self.place = behind;
        Ok(())
    }

    fn append_frame(&mut self, frame: &[u8]) -> Result<()> {
        let len = frame.len() as u64;
        let full = self.holds_entries() && self.segment.len() + len > self.options.segment_bytes;
        // The header to come is not written yet; it is at most so long.
        let next_header = if full { MAX_HEADER_BYTES as u64 } else { 0 };
        if self.bytes() + len + next_header > self.options.keep_bytes {
            self.write_buffer()?;
            return Err(StoreError::KeepLimit {
                dir: self.dir.clone(),
                keep_bytes: self.options.keep_bytes,
                next: self.place.index,
            });
        }
        if full {
            self.roll(self.header.token)?;
        }
        let appended = self.segment.append(frame);
        appended.map_err(|failed| self.write_failed(failed))
    }

    /// Hands everything appended to the operating system: from here on it survives this process,
    /// and other processes can read it.
    ///
    /// # Errors
    ///
    /// As [`Writer::append`].
    pub fn flush(&mut self) -> Result<()> {
        self.unless_stopped(Writer::write_buffer)
    }

    /// Brings everything appended to the disk: from here on it survives this host.
    ///
    /// # Errors
    ///
    /// As [`Writer::append`].
    pub fn sync(&mut self) -> Result<()> {
        self.unless_stopped(Writer::write_to_disk)
    }

    /// Ends the writing, with everything on the disk. A log that was created here and got no entry is
    /// taken away again: its machine never ran.
    ///
    /// # Errors
    ///
    /// As [`Writer::append`].
    pub fn close(mut self) -> Result<()> {
        if self.is_untouched() {
            let path = self.path();
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            if self.made {
                // Fails if somebody has put something else into it.
                let _ = fs::remove_dir(&self.dir);
            }
            return Ok(());
        }
        self.sync()
    }

    /// Nothing was ever appended, whatever the token is by now.
    fn is_untouched(&self) -> bool {
        self.header.number == 1 && !self.holds_entries()
    }

    /// Says under which token the node goes on: what follows stands in a segment of its own.
    ///
    /// # Errors
    ///
    /// As [`Writer::append`].
    ///
    /// # Panics
    ///
    /// If the token is lower than the one before: a node never goes back (FAIL-6).
    pub fn set_token(&mut self, token: Token) -> Result<()> {
        assert!(token >= self.header.token, "{token}, {}", self.header.token);
        if token == self.header.token {
            return Ok(());
        }
        self.unless_stopped(|writer| writer.roll(token))
    }

    /// Begins the next segment; or this one anew, if nothing is in it.
    fn roll(&mut self, token: Token) -> Result<()> {
        let mut number = self.header.number;
        if self.holds_entries() {
            self.write_to_disk()?;
            self.sealed_bytes += self.segment.len();
            number += 1;
        }
        let initial = self.header.initial.clone();
        self.header = SegmentHeader::new(number, token, self.place, initial);
        self.segment = begin_segment(&self.dir, &self.header)?;
        Ok(())
    }

    fn holds_entries(&self) -> bool {
        self.place.index > self.header.start.index
    }

    fn unless_stopped(&mut self, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.stopped {
            return Err(StoreError::Stopped {
                dir: self.dir.clone(),
            });
        }
        let acted = act(self);
        self.stopped = acted.is_err();
        acted
    }

    fn write_buffer(&mut self) -> Result<()> {
        let flushed = self.segment.flush();
        flushed.map_err(|failed| self.write_failed(failed))
    }

    fn write_to_disk(&mut self) -> Result<()> {
        self.write_buffer()?;
        let synced = self.segment.sync();
        synced.map_err(StoreError::io("sync", &self.path()))
    }

    fn write_failed(&self, failed: WriteFailed) -> StoreError {
        StoreError::Write {
            path: self.path(),
            next: failed.first_lost,
            source: failed.source,
        }
    }

    fn path(&self) -> PathBuf {
        Segment::path_in(&self.dir, self.header.start.index)
    }
}

impl Drop for Writer {
    /// A thread that ends without [`Writer::close`] still leaves what it appended.
    fn drop(&mut self) {
        if !self.stopped {
            let _ = self.segment.flush();
        }
    }
}

/// How many of `entries` go into one frame.
fn chunk_len(entries: &[Entry]) -> usize {
    let mut bytes = 0;
    entries
        .iter()
        .take(MAX_BATCH_ENTRIES)
        .take_while(|entry| {
            let fits = bytes < BATCH_TARGET_BYTES;
            bytes += entry.payload.held_bytes();
            fits
        })
        .count()
}

/// Locks a directory for writing, as long as the file lives.
fn lock(dir: &Path) -> Result<File> {
    let file = File::open(dir).map_err(StoreError::io("open", dir))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { dir: dir.into() }),
        Err(TryLockError::Error(source)) => Err(StoreError::io("lock", dir)(source)),
    }
}

/// Removes segments that were in the making when their writer died.
fn remove_unfinished(dir: &Path) -> Result<()> {
    for path in files_of(dir)? {
        if Segment::is_unfinished(&path) {
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes the segment appear, complete or not at all.
fn begin_segment(dir: &Path, header: &SegmentHeader) -> Result<Appender<File>> {
    let unfinished = Segment::unfinished_path_in(dir, header.start.index);
    let path = Segment::path_in(dir, header.start.index);
    let bytes = header.encode();
    let begin = || -> io::Result<File> {
        let mut file = File::create(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    let file = begin().map_err(|source| {
        let _ = fs::remove_file(&unfinished);
        StoreError::io("create", &path)(source)
    })?;
    Ok(Appender::new(file, bytes.len() as u64))
}
