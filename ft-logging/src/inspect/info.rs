//! What a log is: whose, from where to where, and how it ends.

use std::path::PathBuf;

use serde::Serialize;

use super::as_text;
use crate::entry::{Control, Payload};
use crate::store::{FORMAT_VERSION, Log, Place, Result, TornTail};
use crate::types::{EntryIndex, Life, Token};

/// What a log is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Of the format on disk.
    pub format_version: u32,
    /// The VM's life.
    #[serde(serialize_with = "as_text")]
    pub life: Life,
    /// The VM's name.
    pub vm: String,
    /// The guest's name.
    pub guest: String,
    /// Every setting that two nodes compare.
    pub configuration: Vec<Setting>,
    /// A hash of the configuration in hexadecimal, for a comparison at a glance.
    pub configuration_digest: String,
    /// What the real-time clock said at virtual time 0, in seconds since 1970.
    pub rtc_epoch_s: u64,
    /// The files.
    pub segments: Vec<SegmentInfo>,
    /// Of all files.
    pub bytes: u64,
    /// How many entries can be read.
    pub entries: u64,
    /// The first entry, if there is one.
    pub first: Option<EntryIndex>,
    /// The last entry that can be read.
    pub last: Option<EntryIndex>,
    /// Before the first entry.
    pub start: Place,
    /// Behind the last entry.
    pub end: Place,
    /// How much virtual time passes in the log, in nanoseconds.
    pub span_ns: u64,
    /// How the log ends.
    pub ending: End,
    /// Whether the last input switches the machine off.
    pub powered_off: bool,
}

/// One setting of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its name.
    pub setting: &'static str,
    /// Its value, as people read it.
    pub value: String,
}

/// One segment of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentInfo {
    /// The file.
    pub path: PathBuf,
    /// Its number.
    pub number: u64,
    /// The token that it was begun under.
    pub token: Token,
    /// The first entry that it may hold.
    pub first: EntryIndex,
    /// Its size.
    pub bytes: u64,
}

/// How a log ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// With a whole frame.
    Whole,
    /// With a tail that its writer did not finish, or is at.
    Torn(TornTail),
    /// Before its end, where it cannot be read: what is wrong and where.
    Damaged(String),
}

/// Reads a whole log to say what it is. A damaged log is told as far as it can be read.
///
/// # Errors
///
/// If the system refuses to open a file or tell its size.
pub fn info(log: &Log) -> Result<Info> {
    let segments = log
        .segments()
        .iter()
        .map(|segment| {
            Ok(SegmentInfo {
                path: segment.path.clone(),
                number: segment.header.number,
                token: segment.header.token,
                first: segment.header.start.index,
                bytes: segment.bytes()?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let mut reader = log.reader()?;
    let mut powered_off = false;
    let mut damage = None;
    for entry in &mut reader {
        match entry {
            Ok(entry) if entry.payload.is_input() => {
                powered_off = entry.payload == Payload::Control(Control::PowerOff);
            }
            Ok(_) => {}
            Err(error) => damage = Some(error.to_string()),
        }
    }
    let configuration = &log.initial().configuration;
    let (start, end) = (log.start(), reader.place());
    let entries = end.index.since(start.index);
    Ok(Info {
        format_version: FORMAT_VERSION,
        life: log.initial().life,
        vm: configuration.vm.clone(),
        guest: configuration.guest.clone(),
        configuration: configuration
            .rows()
            .into_iter()
            .map(|(setting, value)| Setting { setting, value })
            .collect(),
        configuration_digest: format!("{:016x}", log.segments()[0].header.configuration_digest),
        rtc_epoch_s: log.initial().rtc_epoch_s,
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        segments,
        entries,
        first: (entries > 0).then_some(start.index),
        last: (entries > 0).then(|| EntryIndex(end.index.0 - 1)),
        start,
        end,
        span_ns: end.time.since(start.time),
        ending: match (damage, reader.torn_tail()) {
            (Some(what), _) => End::Damaged(what),
            (None, Some(tail)) => End::Torn(tail.clone()),
            (None, None) => End::Whole,
        },
        powered_off,
    })
}
