//! Entries as lines that people read.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{Timed, frame};
use crate::entry::{BlockStatus, Control, Kind, OutputDevice, Payload};
use crate::types::{EntryIndex, Position, VirtualTime};

/// One entry, told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryLine {
    /// Its number.
    pub index: EntryIndex,
    /// Where it takes effect.
    pub position: Position,
    /// The virtual time at it, in nanoseconds.
    pub time_ns: VirtualTime,
    /// Its kind.
    pub kind: Kind,
    /// What it says, in a line without control characters.
    pub detail: String,
    /// Its bytes in hexadecimal, if they were asked for and it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
}

impl EntryLine {
    /// Tells an entry, with its bytes if `hex` is set.
    #[must_use]
    pub fn new(timed: &Timed, hex: bool) -> Self {
        let Timed { entry, time } = timed;
        EntryLine {
            index: entry.index,
            position: entry.position,
            time_ns: *time,
            kind: entry.payload.kind(),
            detail: detail(&entry.payload),
            hex: carried(&entry.payload).filter(|_| hex).map(to_hex),
        }
    }
}

impl fmt::Display for EntryLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (index, position, time) = (self.index.0, self.position.0, Seconds(self.time_ns));
        let (kind, detail) = (self.kind.name(), &self.detail);
        let line = format!("{index:>9} {position:>11} {time:>16} {kind:<10} {detail}");
        f.write_str(line.trim_end())?;
        // Sixteen bytes a row.
        let hex = self.hex.as_deref().unwrap_or_default().as_bytes();
        for (i, row) in hex.chunks(32).enumerate() {
            write!(f, "\n{:>38}{:04x} ", "", i * 16)?;
            for byte in row.chunks(2) {
                write!(f, " {}", String::from_utf8_lossy(byte))?;
            }
        }
        Ok(())
    }
}

/// Virtual time as people read it: `12.000345678`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub VirtualTime);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.0;
        f.pad(&format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000))
    }
}

/// The bytes that an entry carries from outside.
pub(super) fn carried(payload: &Payload) -> Option<&[u8]> {
    match payload {
        Payload::NetRx { frame: bytes }
        | Payload::ConsoleRx { bytes }
        | Payload::Entropy { bytes } => Some(bytes),
        _ => None,
    }
}

/// What a payload says.
pub(super) fn detail(payload: &Payload) -> String {
    match payload {
        Payload::Clock { now } => format!("{} s", Seconds(*now)),
        Payload::NetRx { frame } => format!("{} bytes, {}", frame.len(), frame::summary(frame)),
        Payload::ConsoleRx { bytes } => {
            format!("{} bytes, \"{}\"", bytes.len(), bytes.escape_ascii())
        }
        Payload::Entropy { bytes } => format!("{} bytes", bytes.len()),
        Payload::Control(control) => match control {
            Control::Pause => "pause",
            Control::Resume => "resume",
            Control::PowerButton => "power button",
            Control::Reset => "reset",
            Control::PowerOff => "power off",
        }
        .to_owned(),
        Payload::Interrupt { vector } => format!("vector 0x{vector:02x}"),
        Payload::Output(mark) => format!(
            "{} output {}, {} bytes, CRC-32C {:08x}",
            device_name(mark.device),
            mark.seq,
            mark.len,
            mark.crc
        ),
        Payload::Digest(digest) => match digest.ram {
            Some(ram) => format!("machine {:016x}, RAM {ram:016x}", digest.machine),
            None => format!("machine {:016x}", digest.machine),
        },
        Payload::Progress => String::new(),
        Payload::Released { through } => format!("outputs up to {through}"),
        Payload::BlockDone { tag, status } => {
            let ended = match status {
                BlockStatus::Ok => "done",
                BlockStatus::IoError => "an I/O error",
            };
            format!("request {tag}, {ended}")
        }
    }
}

pub(super) fn device_name(device: OutputDevice) -> &'static str {
    match device {
        OutputDevice::Net => "net",
        OutputDevice::Console => "console",
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
