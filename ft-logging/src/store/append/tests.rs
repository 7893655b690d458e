//! A medium that fails in the middle of a write.

use super::*;
use crate::store::Place;
use crate::store::tests::entries;

/// A disk with room for `room` bytes that takes at most `at_once` in a write.
struct Disk {
    bytes: Vec<u8>,
    room: usize,
    at_once: usize,
    can_truncate: bool,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes
            .len()
            .min(self.at_once)
            .min(self.room - self.bytes.len());
        if taken == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Medium for Disk {
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if !self.can_truncate {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.bytes.truncate(len as usize);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Frames of three entries each.
fn frames() -> Vec<Vec<u8>> {
    let mut place = Place::START;
    entries(30)
        .chunks(3)
        .map(|chunk| {
            let mut frame = Vec::new();
            codec::encode_frame(&mut frame, |body| {
                codec::encode_batch_from(place.time, chunk, body);
            });
            place = chunk.iter().fold(place, |place, entry| place.after(entry));
            frame
        })
        .collect()
}

/// LOG-6: wherever the disk is full, the file ends with the last whole frame, and the error names
/// the first entry that is lost.
#[test]
fn log_6_a_full_disk_leaves_whole_frames() {
    let frames = frames();
    let total = frames.iter().map(Vec::len).sum();
    for at_once in [1, 7, usize::MAX] {
        for room in 0..total {
            let disk = Disk {
                bytes: Vec::new(),
                room,
                at_once,
                can_truncate: true,
            };
            let mut appender = Appender::new(disk, 0);
            for frame in &frames {
                appender.append(frame).expect("into the buffer");
            }
            let failed = appender.flush().expect_err("the disk is full");
            assert_eq!(failed.source.kind(), io::ErrorKind::StorageFull);
            let (whole, bytes) = whole_prefix(&frames, room);
            assert_eq!(appender.medium.bytes, bytes, "room for {room}");
            assert_eq!(failed.first_lost, EntryIndex(3 * whole as u64 + 1));
        }
    }
}

/// How many frames fit, and their bytes.
fn whole_prefix(frames: &[Vec<u8>], room: usize) -> (usize, Vec<u8>) {
    let mut bytes = Vec::new();
    for (i, frame) in frames.iter().enumerate() {
        if bytes.len() + frame.len() > room {
            return (i, bytes);
        }
        bytes.extend_from_slice(frame);
    }
    (frames.len(), bytes)
}

#[test]
fn short_writes_are_gone_on_with() {
    let frames = frames();
    let disk = Disk {
        bytes: Vec::new(),
        room: usize::MAX,
        at_once: 5,
        can_truncate: true,
    };
    let mut appender = Appender::new(disk, 0);
    for frame in &frames {
        appender.append(frame).expect("append");
        appender.flush().expect("flush");
    }
    assert_eq!(appender.medium.bytes, frames.concat());
}

/// LOG-6: if even the cut fails a torn tail stays behind whole frames, which recovery knows.
#[test]
fn log_6_a_disk_that_cannot_be_cut_keeps_a_torn_tail() {
    let frames = frames();
    let room = frames[0].len() + 5;
    let disk = Disk {
        bytes: Vec::new(),
        room,
        at_once: 3,
        can_truncate: false,
    };
    let mut appender = Appender::new(disk, 0);
    appender.append(&frames[0]).expect("into the buffer");
    appender.append(&frames[1]).expect("into the buffer");
    let failed = appender.flush().expect_err("the disk is full");
    assert_eq!(failed.first_lost, EntryIndex(4));
    assert_eq!(appender.medium.bytes, frames.concat()[..room]);
}
