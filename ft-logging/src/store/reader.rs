//! Reading a log: from the start, from a place in it, and along with its writer.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::vec;

use super::frames::{Frames, Next};
use super::segment::Segment;
use super::{Discontinuity, Place, Result, StoreError, TornTail};
use crate::codec::BatchHeader;
use crate::entry::Entry;
use crate::initial::InitialState;
use crate::types::{EntryIndex, Position, VirtualTime};

/// A log, or one segment of it, whose headers are read and fit each other.
#[derive(Clone, Debug)]
pub struct Log {
    /// Where more segments may appear; none for a segment that was opened by itself.
    dir: Option<PathBuf>,
    segments: Vec<Segment>,
}

impl Log {
    /// Opens the log in a directory, or a single segment file.
    ///
    /// # Errors
    ///
    /// If there is none, or a header is damaged, of another format or life, or out of sequence.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Log {
                dir: Some(path.into()),
                segments: Segment::list(path)?,
            });
        }
        let (segment, _) = Segment::open(path)?;
        Ok(Log {
            dir: None,
            segments: vec![segment],
        })
    }

    /// The segments, in order; never none.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// What the machine started from.
    #[must_use]
    pub fn initial(&self) -> &InitialState {
        &self.segments[0].header.initial
    }

    /// Where the log begins.
    #[must_use]
    pub fn start(&self) -> Place {
        self.segments[0].header.start
    }

    /// The size of all segments in bytes.
    ///
    /// # Errors
    ///
    /// If the system refuses to tell.
    pub fn bytes(&self) -> Result<u64> {
        self.segments.iter().map(Segment::bytes).sum()
    }

    /// A reader of the entries from the first one on.
    ///
    /// # Errors
    ///
    /// If the first segment cannot be opened.
    pub fn reader(&self) -> Result<Reader> {
        self.reader_at_segment(0)
    }

    /// A reader of the entries from the first one of a segment on.
    ///
    /// # Errors
    ///
    /// If the segment cannot be opened.
    ///
    /// # Panics
    ///
    /// If there is no such segment.
    pub fn reader_at_segment(&self, number: usize) -> Result<Reader> {
        let (segment, file) = Segment::open(&self.segments[number].path)?;
        let place = segment.header.start;
        let frames = Frames::new(segment.path.clone(), file, segment.header_bytes)?;
        Ok(Reader {
            dir: self.dir.clone(),
            segments: self.segments.clone(),
            current: number,
            frames,
            batch: Vec::new().into_iter(),
            place,
            torn: None,
            failed: false,
        })
    }
}

/// Where to go in a log: the first entry that is not before this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// By its number.
    Index(EntryIndex),
    /// By its position.
    Position(Position),
    /// By the virtual time at it: that of the last `Clock` at or before it.
    Time(VirtualTime),
}

impl Target {
    /// Whether the first entry that is not before the target surely stands behind `place`.
    fn is_behind(self, place: Place) -> bool {
        match self {
            Target::Index(index) => place.index <= index,
            // Several entries may share one: the first of them may be before `place`.
            Target::Position(position) => place.position < position,
            Target::Time(time) => place.time < time,
        }
    }

    /// Whether `entry`, which stands at `place`, is not before the target.
    fn is_reached_by(self, entry: &Entry, place: Place) -> bool {
        match self {
            Target::Index(index) => entry.index >= index,
            Target::Position(position) => entry.position >= position,
            Target::Time(time) => place.after(entry).time >= time,
        }
    }
}

/// A stream of a log's entries that holds one frame in memory.
///
/// As an iterator it ends with the log, or with the first error. What it reads it never skips: an
/// entry is returned only if everything from the start, or the segment sought, was read and fits.
pub struct Reader {
    dir: Option<PathBuf>,
    segments: Vec<Segment>,
    current: usize,
    frames: Frames,
    batch: vec::IntoIter<Entry>,
    place: Place,
    torn: Option<TornTail>,
    failed: bool,
}

impl Reader {
    /// The place behind the entry returned last. Its time is the time at that entry.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The tail that a writer did not finish, once the reader has come to it.
    #[must_use]
    pub fn torn_tail(&self) -> Option<&TornTail> {
        self.torn.as_ref()
    }

    /// The number, from 0, of the segment that is being read.
    #[must_use]
    pub fn segment(&self) -> usize {
        self.current
    }

    /// Where the next frame stands in its segment.
    pub(super) fn offset(&self) -> u64 {
        self.frames.offset()
    }

    /// Goes to the first entry that is not before `target`, or to the end if there is none. Reads
    /// the frames of one segment up to there.
    ///
    /// # Errors
    ///
    /// If the segment cannot be read or is damaged before that entry.
    pub fn seek(&mut self, target: Target) -> Result<()> {
        let before = self
            .segments
            .partition_point(|segment| target.is_behind(segment.header.start));
        self.enter(before.saturating_sub(1))?;
        self.skim(target)?;
        loop {
            let next = self.batch.as_slice().first();
            match next.map(|entry| target.is_reached_by(entry, self.place)) {
                Some(true) => return Ok(()),
                Some(false) => drop(self.take()?),
                None if self.load()? => {}
                None => return Ok(()),
            }
        }
    }

    /// Goes to the last frame of this segment that the target is surely in or behind.
    fn skim(&mut self, target: Target) -> Result<()> {
        let mut candidate = (self.frames.offset(), self.place);
        let mut next = self.place;
        while let Next::Frame(header) = self.frames.next(next.index, self.is_in_last())? {
            // The time at the end of a frame is known only to who decodes it.
            next.time = header.time;
            self.check_header(next, header)?;
            let start = Place {
                index: header.first,
                position: header.position,
                time: header.time,
            };
            if !target.is_behind(start) {
                break;
            }
            candidate = (self.frames.frame_offset(), start);
            next = Place {
                index: EntryIndex(header.first.0 + u64::from(header.count)),
                ..start
            };
        }
        self.place = candidate.1;
        self.frames.seek(candidate.0)
    }

    /// Returns the next entry, or none if there is none yet: a log that is being written may be
    /// asked again. A frame that is not complete, and a new segment that is not there, are "not
    /// yet".
    ///
    /// # Errors
    ///
    /// If the log cannot be read or is damaged. Asked again, it fails again.
    pub fn poll_next(&mut self) -> Result<Option<Entry>> {
        loop {
            let entry = self.take()?;
            if entry.is_some() || self.torn.is_some() || !self.find_next_segment()? {
                return Ok(entry);
            }
        }
    }

    /// Reads to the end.
    pub(super) fn skip_all(&mut self) -> Result<()> {
        while self.take()?.is_some() {}
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.batch.next() {
                self.place = self.place.after(&entry);
                return Ok(Some(entry));
            }
            if !self.load()? {
                return Ok(None);
            }
        }
    }

    /// Loads the next frame, or says that there is none.
    fn load(&mut self) -> Result<bool> {
        loop {
            self.torn = None;
            match self.frames.next(self.place.index, self.is_in_last())? {
                Next::Frame(header) => {
                    let entries = self
                        .check_header(self.place, header)
                        .and_then(|()| self.frames.entries(self.place.index));
                    match entries {
                        Ok(entries) => self.batch = entries.into_iter(),
                        Err(error) => {
                            self.frames.seek(self.frames.frame_offset())?;
                            return Err(error);
                        }
                    }
                    return Ok(true);
                }
                Next::Torn(tail) => {
                    self.torn = Some(tail);
                    return Ok(false);
                }
                Next::End if self.is_in_last() => return Ok(false),
                Next::End => self.cross()?,
            }
        }
    }

    /// Checks that the frame last read continues at `place` (LOG-1).
    fn check_header(&self, place: Place, header: BatchHeader) -> Result<()> {
        let what = if header.first != place.index {
            Discontinuity::Index {
                expected: place.index,
                found: header.first,
            }
        } else if header.position < place.position {
            Discontinuity::Position {
                before: place.position,
                found: header.position,
            }
        } else if header.time != place.time {
            Discontinuity::Time {
                before: place.time,
                found: header.time,
            }
        } else {
            return Ok(());
        };
        Err(StoreError::Discontinuous {
            at: self.frames.spot(place.index),
            what,
        })
    }

    fn is_in_last(&self) -> bool {
        self.current + 1 == self.segments.len()
    }

    /// Goes on from the end of this segment to the next one, which must begin there.
    fn cross(&mut self) -> Result<()> {
        let end = self.place;
        let next = &self.segments[self.current + 1];
        let start = next.header.start;
        if start != end {
            return Err(StoreError::BrokenChain {
                path: next.path.clone(),
                what: format!(
                    "it begins with entry {} behind position {} at {} ns, the other ends before \
                     entry {} behind position {} at {} ns",
                    start.index, start.position, start.time, end.index, end.position, end.time
                ),
            });
        }
        self.enter(self.current + 1)
    }

    /// Goes to the first entry of a segment.
    fn enter(&mut self, number: usize) -> Result<()> {
        let (segment, file) = Segment::open(&self.segments[number].path)?;
        self.start_reading(number, segment, file)
    }

    fn start_reading(&mut self, number: usize, segment: Segment, file: File) -> Result<()> {
        self.frames = Frames::new(segment.path.clone(), file, segment.header_bytes)?;
        self.batch = Vec::new().into_iter();
        self.place = segment.header.start;
        self.segments[number] = segment;
        self.current = number;
        self.torn = None;
        self.failed = false;
        Ok(())
    }

    /// Looks for the segment that begins where this one, the last one known, ends.
    fn find_next_segment(&mut self) -> Result<bool> {
        let Some(dir) = &self.dir else {
            return Ok(false);
        };
        let current = &self.segments[self.current];
        if self.place.index == current.header.start.index {
            // Nothing is in it yet, so its writer may have begun it anew, under another token.
            self.enter(self.current)?;
            return Ok(false);
        }
        let path = Segment::path_in(dir, self.place.index);
        if !path
            .try_exists()
            .map_err(StoreError::io("look for", &path))?
        {
            return Ok(false);
        }
        let (segment, _) = Segment::open(&path)?;
        current.check_successor(&segment)?;
        self.segments.push(segment);
        self.cross()?;
        Ok(true)
    }
}

impl Iterator for Reader {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let entry = self.take().transpose();
        self.failed = matches!(entry, Some(Err(_)));
        entry
    }
}
