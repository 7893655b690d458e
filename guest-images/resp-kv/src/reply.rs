//! Replies on their way to a client.
//!
//! Short pieces are gathered into blocks; long values are shared with the data
//! and never copied. So a queue of a hundred megabyte-long replies holds a
//! hundred pointers, and the network takes it at its own pace.
//!
//! The reply to one command is built between [`Reply::begin`] and
//! [`Reply::finish`], within a limit of memory: one that grows beyond is thrown
//! away as a whole and becomes an error, so the client never sees half of it.

use crate::{error::CommandError, number::Decimal, value::Blob};
use alloc::{collections::VecDeque, vec::Vec};
use core::fmt;

/// Values at least this long are shared instead of copied.
const SHARED_BYTES: usize = 1 << 10;
/// Gathered pieces are cut here, so that no block is moved while it grows large.
const BLOCK_BYTES: usize = 16 << 10;
/// About what a chunk costs beside its bytes.
const CHUNK_OVERHEAD: usize = 48;

#[derive(Debug)]
enum Chunk {
    Gathered(Vec<u8>),
    Shared(Blob),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Gathered(bytes) => bytes,
            Chunk::Shared(blob) => blob,
        }
    }
}

/// A queue of replies.
#[derive(Debug, Default)]
pub struct Reply {
    chunks: VecDeque<Chunk>,
    /// How much of the first chunk is gone already.
    sent: usize,
    /// Bytes queued.
    queued: usize,
    current: Option<Current>,
}

/// The reply that is being built.
#[derive(Clone, Copy, Debug)]
struct Current {
    /// Where it begins: chunks before it, and bytes in the last of them.
    chunks: usize,
    last_bytes: usize,
    queued: usize,
    /// Bytes of memory that it may still take.
    room: usize,
    overflowed: bool,
}

impl Reply {
    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.queued == 0
    }

    /// How many bytes wait to be sent.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The next bytes to send; empty only if there are none.
    pub fn front(&self) -> &[u8] {
        self.chunks
            .front()
            .map_or(&[], |chunk| &chunk.bytes()[self.sent..])
    }

    /// Removes the first `bytes` of [`front`](Self::front): they are sent.
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.front().len());
        self.sent += bytes;
        self.queued -= bytes;
        if self.front().is_empty() {
            self.chunks.pop_front();
            self.sent = 0;
        }
    }

    /// Begins the reply to a command, which may take up to `room` bytes of memory.
    pub(crate) fn begin(&mut self, room: usize) {
        self.current = Some(Current {
            chunks: self.chunks.len(),
            last_bytes: self.chunks.back().map_or(0, |chunk| chunk.bytes().len()),
            queued: self.queued,
            room,
            overflowed: false,
        });
    }

    /// Ends the reply to a command. If `outcome` is an error, or there was no room,
    /// the reply is that error and nothing of what was built.
    pub(crate) fn finish(&mut self, outcome: Result<(), CommandError>) -> Result<(), CommandError> {
        let current = self.current.take().expect("begin was called");
        let outcome = match outcome {
            Ok(()) if current.overflowed => Err(CommandError::OutOfMemory),
            outcome => outcome,
        };
        if let Err(error) = &outcome {
            self.chunks.truncate(current.chunks);
            if let Some(Chunk::Gathered(bytes)) = self.chunks.back_mut() {
                bytes.truncate(current.last_bytes);
            }
            self.queued = current.queued;
            self.error(error);
        }
        outcome
    }

    /// `+text`
    pub fn simple(&mut self, text: &str) {
        self.line(b"+", text.as_bytes());
    }

    /// `-text`
    pub fn error(&mut self, error: &dyn fmt::Display) {
        let mut text = alloc::format!("{error}");
        // What a client sent may stand in it, but must not end the line.
        text.retain(|character| character != '\r' && character != '\n');
        self.line(b"-", text.as_bytes());
    }

    /// `:value`
    pub fn integer(&mut self, value: i64) {
        self.line(b":", Decimal::new(value).as_bytes());
    }

    /// A count, as an integer.
    pub fn count(&mut self, count: usize) {
        self.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A byte string of the data.
    pub fn blob(&mut self, blob: &Blob) {
        if blob.len() < SHARED_BYTES {
            return self.bulk(blob);
        }
        self.length(b"$", blob.len());
        if self.charge(CHUNK_OVERHEAD) {
            self.chunks.push_back(Chunk::Shared(blob.clone()));
            self.queued += blob.len();
        }
        self.append(b"\r\n");
    }

    /// A byte string, or none.
    pub fn optional_blob(&mut self, blob: Option<&Blob>) {
        match blob {
            Some(blob) => self.blob(blob),
            None => self.null(),
        }
    }

    /// A byte string that is copied.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.length(b"$", bytes.len());
        self.append(bytes);
        self.append(b"\r\n");
    }

    /// No byte string.
    pub fn null(&mut self) {
        self.append(b"$-1\r\n");
    }

    /// No array.
    pub fn null_array(&mut self) {
        self.append(b"*-1\r\n");
    }

    /// The head of an array of `length` replies.
    pub fn array(&mut self, length: usize) {
        self.length(b"*", length);
    }

    fn length(&mut self, kind: &[u8; 1], length: usize) {
        self.line(
            kind,
            Decimal::new(i64::try_from(length).unwrap_or(i64::MAX)).as_bytes(),
        );
    }

    fn line(&mut self, kind: &[u8; 1], text: &[u8]) {
        self.append(kind);
        self.append(text);
        self.append(b"\r\n");
    }

    fn append(&mut self, bytes: &[u8]) {
        if !self.charge(bytes.len()) {
            return;
        }
        self.queued += bytes.len();
        match self.chunks.back_mut() {
            Some(Chunk::Gathered(block)) if block.len() + bytes.len() <= BLOCK_BYTES => {
                block.extend_from_slice(bytes);
            }
            _ => self.chunks.push_back(Chunk::Gathered(bytes.to_vec())),
        }
    }

    /// Takes memory from the current reply's room. False if it has none left.
    fn charge(&mut self, bytes: usize) -> bool {
        let Some(current) = &mut self.current else {
            return true;
        };
        match current.room.checked_sub(bytes) {
            Some(room) => current.room = room,
            None => current.overflowed = true,
        }
        !current.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    /// Sends everything, `step` bytes at most at a time.
    fn sent(reply: &mut Reply, step: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !reply.is_empty() {
            let front = reply.front();
            assert!(!front.is_empty());
            let bytes = front.len().min(step);
            sent.extend_from_slice(&front[..bytes]);
            reply.advance(bytes);
        }
        sent
    }

    #[test]
    fn every_kind_of_reply() {
        let mut reply = Reply::default();
        reply.simple("OK");
        reply.error(&CommandError::Syntax);
        reply.integer(-42);
        reply.bulk(b"a\r\nb");
        reply.null();
        reply.null_array();
        reply.array(2);
        let expected = b"+OK\r\n-ERR syntax error\r\n:-42\r\n$4\r\na\r\nb\r\n$-1\r\n*-1\r\n*2\r\n";
        assert_eq!(reply.queued(), expected.len());
        assert_eq!(sent(&mut reply, 3), expected);
    }

    #[test]
    fn long_values_are_shared() {
        let mut reply = Reply::default();
        let value = Blob::from(vec![b'v'; 100_000]);
        reply.begin(1_000);
        (0..5).for_each(|_| reply.blob(&value));
        reply.finish(Ok(())).expect("shared values take no room");
        let expected = [b"$100000\r\n".as_slice(), &vec![b'v'; 100_000], b"\r\n"]
            .concat()
            .repeat(5);
        assert_eq!(sent(&mut reply, 1_460), expected);
    }

    #[test]
    fn a_reply_without_room_becomes_an_error_and_leaves_the_others() {
        let mut reply = Reply::default();
        reply.begin(1_000);
        reply.bulk(b"before");
        reply.finish(Ok(())).expect("fits");
        reply.begin(1_000);
        reply.array(1_000);
        (0..1_000).for_each(|_| reply.bulk(b"element"));
        assert_eq!(reply.finish(Ok(())), Err(CommandError::OutOfMemory));
        reply.simple("after");
        let text = sent(&mut reply, 7);
        let expected = alloc::format!(
            "$6\r\nbefore\r\n-{}\r\n+after\r\n",
            CommandError::OutOfMemory
        );
        assert_eq!(text, expected.as_bytes());
    }

    #[test]
    fn an_error_takes_back_what_was_built() {
        let mut reply = Reply::default();
        reply.begin(1_000_000);
        reply.blob(&Blob::from(vec![b'v'; 5_000]));
        reply.bulk(&[b'w'; 20_000]);
        let _ = reply.finish(Err(CommandError::WrongType));
        assert_eq!(reply.queued(), sent(&mut reply, 9).len());
    }

    #[test]
    fn an_error_stays_one_line() {
        let mut reply = Reply::default();
        reply.error(&"ERR what\r\n+OK");
        assert_eq!(sent(&mut reply, 100), b"-ERR what+OK\r\n");
    }
}
