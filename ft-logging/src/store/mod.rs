//! The log on disk: a directory of segments that one writer appends to and anyone may read.
//!
//! ```text
//!   DIR/00000000000000000001.ftlog          named by the first entry that it may hold
//!      /00000000000000918273.ftlog
//!      /00000000000000918999.ftlog.tmp      a segment in the making: never read
//!
//!   segment   header │ frame … frame
//!   header    magic "ftvm-log" │ format version u32 LE │ length of the rest u32 LE
//!             │ CRC-32C u32 LE of all the other header bytes
//!             │ segment number │ token │ first index │ position and time before it
//!             │ configuration digest │ initial state
//!   frame     length u32 LE │ CRC-32C u32 LE of the batch │ batch       (see `codec`)
//! ```
//!
//! What always holds:
//!
//! - Every segment carries the whole initial state, so that the first one alone can be replayed,
//!   and the place at which it begins, so that the headers are the index for seeking: a seek picks
//!   the segment by its header and skims the frames of that one.
//! - A segment appears under its name with a complete header or not at all (written aside,
//!   synced, renamed). So only the frames at the end of the last segment can be torn by a crash.
//! - Entry indexes run on across frames and segments without a gap (LOG-1); positions and times
//!   never go back; each frame and each header says where it begins, and that must be where the
//!   one before ended.
//! - Frames that cannot be read are a torn tail only in the last segment and with no whole frame
//!   behind them. Everything else is damage: an error that names the place (LOG-6).
//! - One writer at a time: it holds a lock on the directory, which the kernel releases when its
//!   process dies.

use serde::{Deserialize, Serialize};

use crate::entry::{Entry, Payload};
use crate::types::{EntryIndex, Position, VirtualTime};

mod append;
mod error;
mod frames;
mod reader;
mod segment;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use error::{Discontinuity, FrameFault, Spot, StoreError, TornTail};
pub use reader::{Log, Reader, Target};
pub use segment::{FORMAT_VERSION, MAX_HEADER_BYTES, Segment, SegmentHeader};
pub use writer::{DEFAULT_KEEP_BYTES, DEFAULT_SEGMENT_BYTES, LogStart, Options, Writer};

/// The result of everything that touches a log on disk.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A place between two entries: which one comes next, and where the run stood before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The entry that comes next.
    pub index: EntryIndex,
    /// The position of the entry before; the next one's is not lower.
    pub position: Position,
    /// The virtual time here: that of the last `Clock` before.
    pub time: VirtualTime,
}

impl Place {
    /// Before the first entry of a life.
    pub const START: Place = Place {
        index: EntryIndex(1),
        position: Position(0),
        time: VirtualTime(0),
    };

    /// The place behind `entry`.
    ///
    /// # Panics
    ///
    /// If the entry indexes run out, which takes centuries.
    #[must_use]
    pub fn after(self, entry: &Entry) -> Place {
        Place {
            index: entry.index.next(),
            position: entry.position,
            time: match entry.payload {
                Payload::Clock { now } => now,
                _ => self.time,
            },
        }
    }

    /// Checks that `entry` may stand here (LOG-1).
    ///
    /// # Errors
    ///
    /// If its index is not the next one, or it goes back in position or time.
    pub fn check(self, entry: &Entry) -> std::result::Result<(), Discontinuity> {
        if entry.index != self.index {
            return Err(Discontinuity::Index {
                expected: self.index,
                found: entry.index,
            });
        }
        if entry.position < self.position {
            return Err(Discontinuity::Position {
                before: self.position,
                found: entry.position,
            });
        }
        match entry.payload {
            Payload::Clock { now } if now < self.time => Err(Discontinuity::Time {
                before: self.time,
                found: now,
            }),
            _ => Ok(()),
        }
    }
}
