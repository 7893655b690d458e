//! Entries and messages as bytes, encode beside decode.
//!
//! This is the only module that knows bincode; its format is pinned by golden bytes in the tests.
//! A batch stands for itself, so that reading can begin at any batch:
//!
//! ```text
//!   batch    first index │ base position │ base time │ count │ entry … entry
//!   entry    position − previous position │ payload tag │ payload
//!   frame    length u32 LE │ CRC-32C u32 LE of the body │ body
//!   body     token │ 0 │ batch              (entries)
//!            token │ 1 │ signal             (everything else)
//! ```
//!
//! Numbers are bincode varints, positions and times differences from the entry before: an entry
//! costs its payload and at most 16 bytes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::entry::{
    BlockStatus, Control, Digest, Entry, MAX_FRAME_BYTES, OutputDevice, OutputMark, Payload,
};
use crate::message::{BATCH_TARGET_BYTES, Batch, MAX_BATCH_ENTRIES, Message, Signal};
use crate::types::{EntryIndex, OutputSeq, Position, Token, VirtualTime};

/// The largest body of a frame, in bytes: bounds what a peer or a file can make a reader allocate.
pub const MAX_BODY_BYTES: usize = 4 << 20;

/// Bytes before a frame's body.
pub const FRAME_HEADER_BYTES: usize = 8;

const _: () =
    assert!(BATCH_TARGET_BYTES + MAX_FRAME_BYTES + 64 * MAX_BATCH_ENTRIES < MAX_BODY_BYTES);

/// Why bytes are no message, batch or record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame says that it is longer than any frame may be.
    #[error("a frame of {0} bytes is longer than the {MAX_BODY_BYTES} allowed")]
    TooLong(usize),
    /// The bytes were changed on their way.
    #[error("checksum mismatch: {stored:08x} stored, {computed:08x} computed")]
    Checksum {
        /// As read.
        stored: u32,
        /// Of the bytes read.
        computed: u32,
    },
    /// The bytes do not follow the format.
    #[error("malformed: {0}")]
    Malformed(String),
}

fn malformed(what: impl std::fmt::Display) -> DecodeError {
    DecodeError::Malformed(what.to_string())
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_BODY_BYTES>()
}

/// Appends `value` to `out` in the format that logs and nodes share.
pub fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, out, config())
        .expect("every value here is bounded and a Vec takes any bytes");
}

/// Reads one value from the front of `bytes` and returns it with the rest.
///
/// # Errors
///
/// If the bytes do not follow the format, or would need more memory than [`MAX_BODY_BYTES`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<(T, &[u8]), DecodeError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, config()).map_err(malformed)?;
    Ok((value, &bytes[used..]))
}

/// Reads one value that fills `bytes`.
///
/// # Errors
///
/// As [`decode`], and if bytes are left over.
pub fn decode_all<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match decode(bytes)? {
        (value, []) => Ok(value),
        (_, rest) => Err(malformed(format_args!("{} bytes left over", rest.len()))),
    }
}

// ---- batches -------------------------------------------------------------------------------

/// What a batch says of itself before its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchHeader {
    /// The index of its first entry.
    pub first: EntryIndex,
    /// The position of its first entry.
    pub position: Position,
    /// The virtual time that the first `Clock` of the batch counts from.
    pub time: VirtualTime,
    /// How many entries it holds.
    pub count: u32,
}

/// A payload on the wire: as [`Payload`], with the time as a difference. The order of the
/// variants is the format.
#[derive(Serialize, Deserialize)]
enum WirePayload {
    Clock {
        step: u64,
    },
    NetRx(#[serde(with = "serde_bytes")] Vec<u8>),
    ConsoleRx(#[serde(with = "serde_bytes")] Vec<u8>),
    Entropy(#[serde(with = "serde_bytes")] Vec<u8>),
    Control(Control),
    Interrupt(u8),
    Output {
        seq: OutputSeq,
        device: OutputDevice,
        len: u32,
        crc: Fixed32,
    },
    Digest {
        machine: Fixed64,
        ram: Option<Fixed64>,
    },
    Progress,
    Released(OutputSeq),
    BlockDone {
        tag: u64,
        status: BlockStatus,
    },
}

/// A hash: evenly spread, so that a varint would only cost.
#[derive(Serialize, Deserialize)]
struct Fixed32([u8; 4]);
#[derive(Serialize, Deserialize)]
struct Fixed64([u8; 8]);

/// Appends a batch to `out`, for a reader that does not ask what time it was before.
///
/// # Panics
///
/// As [`encode_batch_from`].
pub fn encode_batch(entries: &[Entry], out: &mut Vec<u8>) {
    let base_time = entries.iter().find_map(clock).unwrap_or_default();
    encode_batch_from(base_time, entries, out);
}

/// Appends a batch to `out` that begins at virtual time `base_time`.
///
/// # Panics
///
/// If the entries are not consecutive, go back in position or time, or are more than
/// [`MAX_BATCH_ENTRIES`]: a log that does is not a log (LOG-1).
pub fn encode_batch_from(base_time: VirtualTime, entries: &[Entry], out: &mut Vec<u8>) {
    assert!(
        !entries.is_empty() && entries.len() <= MAX_BATCH_ENTRIES,
        "{}",
        entries.len()
    );
    let header = BatchHeader {
        first: entries[0].index,
        position: entries[0].position,
        time: base_time,
        count: entries.len() as u32,
    };
    encode(&header, out);
    let (mut index, mut position, mut time) = (header.first, header.position, base_time);
    for entry in entries {
        assert_eq!(entry.index, index, "LOG-1: a gap in a batch");
        encode_entry(entry, position, &mut time, out);
        (index, position) = (index.next(), entry.position);
    }
}

/// How many bytes `entry` takes in a batch, after an entry at `position` and at virtual `time`.
///
/// # Panics
///
/// If the entry goes back in position or time.
#[must_use]
pub fn entry_len(entry: &Entry, position: Position, mut time: VirtualTime) -> usize {
    let mut bytes = Vec::with_capacity(entry.payload.held_bytes() + 32);
    encode_entry(entry, position, &mut time, &mut bytes);
    bytes.len()
}

fn encode_entry(entry: &Entry, position: Position, time: &mut VirtualTime, out: &mut Vec<u8>) {
    assert!(entry.position >= position, "positions never go back");
    encode(&entry.position.since(position), out);
    encode_payload(&entry.payload, time, out);
}

fn clock(entry: &Entry) -> Option<VirtualTime> {
    match entry.payload {
        Payload::Clock { now } => Some(now),
        _ => None,
    }
}

fn encode_payload(payload: &Payload, time: &mut VirtualTime, out: &mut Vec<u8>) {
    // Payload bytes are borrowed through a mirror of `WirePayload`: no copy of a frame is made.
    #[derive(Serialize)]
    #[expect(dead_code, reason = "the order of the variants is the format")]
    enum Bytes<'a> {
        Clock,
        NetRx(#[serde(with = "serde_bytes")] &'a [u8]),
        ConsoleRx(#[serde(with = "serde_bytes")] &'a [u8]),
        Entropy(#[serde(with = "serde_bytes")] &'a [u8]),
    }
    let wire = match payload {
        Payload::NetRx { frame } => return encode(&Bytes::NetRx(frame), out),
        Payload::ConsoleRx { bytes } => return encode(&Bytes::ConsoleRx(bytes), out),
        Payload::Entropy { bytes } => return encode(&Bytes::Entropy(bytes), out),
        Payload::Clock { now } => {
            assert!(now >= time, "virtual time never goes back");
            let step = now.since(*time);
            *time = *now;
            WirePayload::Clock { step }
        }
        Payload::Control(control) => WirePayload::Control(*control),
        Payload::Interrupt { vector } => WirePayload::Interrupt(*vector),
        Payload::Output(mark) => WirePayload::Output {
            seq: mark.seq,
            device: mark.device,
            len: mark.len,
            crc: Fixed32(mark.crc.to_le_bytes()),
        },
        Payload::Digest(digest) => WirePayload::Digest {
            machine: Fixed64(digest.machine.to_le_bytes()),
            ram: digest.ram.map(|hash| Fixed64(hash.to_le_bytes())),
        },
        Payload::Progress => WirePayload::Progress,
        Payload::Released { through } => WirePayload::Released(*through),
        Payload::BlockDone { tag, status } => WirePayload::BlockDone {
            tag: *tag,
            status: *status,
        },
    };
    encode(&wire, out);
}

/// Reads the header of a batch and returns it with the bytes of the entries.
///
/// # Errors
///
/// If the bytes do not follow the format or the count is out of its bounds (SEC-2).
pub fn decode_batch_header(bytes: &[u8]) -> Result<(BatchHeader, &[u8]), DecodeError> {
    let (header, rest): (BatchHeader, _) = decode(bytes)?;
    let count = header.count as usize;
    if count == 0 || count > MAX_BATCH_ENTRIES {
        return Err(malformed(format_args!("a batch of {count} entries")));
    }
    Ok((header, rest))
}

/// Reads a batch that fills `bytes`.
///
/// # Errors
///
/// If the bytes do not follow the format or a number in them is out of its bounds (SEC-2).
pub fn decode_batch(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let (header, mut rest) = decode_batch_header(bytes)?;
    let count = header.count as usize;
    // An entry takes two bytes or more, so a short batch cannot claim a large vector.
    let mut entries = Vec::with_capacity(count.min(rest.len() / 2));
    let (mut position, mut time) = (header.position, header.time);
    for offset in 0..count as u64 {
        let step: u64;
        let wire: WirePayload;
        (step, rest) = decode(rest)?;
        (wire, rest) = decode(rest)?;
        let overflow = || malformed("a number past the end of its range");
        position = Position(position.0.checked_add(step).ok_or_else(overflow)?);
        let index = EntryIndex(header.first.0.checked_add(offset).ok_or_else(overflow)?);
        let payload = payload_from_wire(wire, &mut time).ok_or_else(overflow)?;
        if !payload.is_within_bounds() {
            return Err(malformed(format_args!(
                "entry {index} is longer than allowed"
            )));
        }
        entries.push(Entry {
            index,
            position,
            payload,
        });
    }
    match rest {
        [] => Ok(entries),
        _ => Err(malformed(format_args!(
            "{} bytes left over after a batch",
            rest.len()
        ))),
    }
}

fn payload_from_wire(wire: WirePayload, time: &mut VirtualTime) -> Option<Payload> {
    Some(match wire {
        WirePayload::Clock { step } => {
            *time = VirtualTime(time.0.checked_add(step)?);
            Payload::Clock { now: *time }
        }
        WirePayload::NetRx(frame) => Payload::NetRx { frame },
        WirePayload::ConsoleRx(bytes) => Payload::ConsoleRx { bytes },
        WirePayload::Entropy(bytes) => Payload::Entropy { bytes },
        WirePayload::Control(control) => Payload::Control(control),
        WirePayload::Interrupt(vector) => Payload::Interrupt { vector },
        WirePayload::Output {
            seq,
            device,
            len,
            crc,
        } => Payload::Output(OutputMark {
            seq,
            device,
            len,
            crc: u32::from_le_bytes(crc.0),
        }),
        WirePayload::Digest { machine, ram } => Payload::Digest(Digest {
            machine: u64::from_le_bytes(machine.0),
            ram: ram.map(|hash| u64::from_le_bytes(hash.0)),
        }),
        WirePayload::Progress => Payload::Progress,
        WirePayload::Released(through) => Payload::Released { through },
        WirePayload::BlockDone { tag, status } => Payload::BlockDone { tag, status },
    })
}

// ---- messages ------------------------------------------------------------------------------

const TAG_ENTRIES: u8 = 0;
const TAG_SIGNAL: u8 = 1;

/// Appends a message as a frame to `out`.
pub fn encode_message(token: Token, message: &Message, out: &mut Vec<u8>) {
    encode_frame(out, |body| {
        encode(&token, body);
        match message {
            Message::Entries(batch) => {
                body.push(TAG_ENTRIES);
                encode_batch(batch, body);
            }
            Message::Signal(signal) => {
                body.push(TAG_SIGNAL);
                encode(signal, body);
            }
        }
    });
}

/// Reads a message from the body of a frame.
///
/// # Errors
///
/// If the bytes do not follow the format or a bound is passed (SEC-2).
pub fn decode_message(body: &[u8]) -> Result<(Token, Message), DecodeError> {
    let (token, rest): (Token, _) = decode(body)?;
    let (tag, rest) = rest
        .split_first()
        .ok_or_else(|| malformed("a message without a tag"))?;
    let message = match *tag {
        TAG_ENTRIES => Message::Entries(Batch::from(decode_batch(rest)?)),
        TAG_SIGNAL => {
            let signal: Signal = decode_all(rest)?;
            let bounded = match &signal {
                Signal::Hello(hello) => hello.configuration.is_within_bounds(),
                Signal::Welcome(welcome) => welcome.initial.configuration.is_within_bounds(),
                _ => true,
            };
            if !bounded {
                return Err(malformed("a configuration with a text longer than allowed"));
            }
            Message::Signal(signal)
        }
        other => return Err(malformed(format_args!("unknown message tag {other}"))),
    };
    Ok((token, message))
}

/// Appends one frame, whose body `write` appends.
pub fn encode_frame(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
    write(out);
    let body = start + FRAME_HEADER_BYTES;
    let len = out.len() - body;
    assert!(len <= MAX_BODY_BYTES, "a body of {len} bytes");
    let crc = crc32c::crc32c(&out[body..]);
    out[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
    out[start + 4..body].copy_from_slice(&crc.to_le_bytes());
}

/// The length of the body that follows a frame's header.
///
/// # Errors
///
/// [`DecodeError::TooLong`] if it is over the bound: nothing may be allocated for it (SEC-2).
pub fn body_len(header: &[u8; FRAME_HEADER_BYTES]) -> Result<usize, DecodeError> {
    let len = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
    if len > MAX_BODY_BYTES {
        Err(DecodeError::TooLong(len))
    } else {
        Ok(len)
    }
}

/// Checks a frame's body against its header.
///
/// # Errors
///
/// [`DecodeError::Checksum`] if it was changed.
pub fn check_body(header: &[u8; FRAME_HEADER_BYTES], body: &[u8]) -> Result<(), DecodeError> {
    let stored = u32::from_le_bytes(header[4..].try_into().expect("four bytes"));
    let computed = crc32c::crc32c(body);
    if stored == computed {
        Ok(())
    } else {
        Err(DecodeError::Checksum { stored, computed })
    }
}

#[cfg(test)]
mod tests;
