//! RESP2 requests out of a stream of bytes, however it is cut.
//!
//! ```text
//!   Start ──'*'──► Count ──n──► Length ──$k──► Bulk ──CRLF──► Length … n times ─► request
//!     │                                    └──► Skip  (a bulk that is refused)
//!     └─ anything else ─► Inline ─► request
//! ```
//!
//! Bounds: a header line has at most [`MAX_LINE_BYTES`]; a bulk at most
//! [`MAX_BULK_BYTES`]; all arguments of a request
//! together at most [`MAX_REQUEST_BYTES`]. Memory is taken as bytes come in, not
//! as lengths promise, and only as much as the caller allows. A bulk that is too
//! long, or for which there is no memory, is read and dropped: the request is
//! answered with an error and the connection goes on with the next one. What is
//! no RESP at all ends the connection, as in Redis.

use crate::{MAX_BULK_BYTES, error::CommandError};
use alloc::vec::Vec;
use core::mem;

/// The most bytes of a header line or an inline request, without its end.
pub const MAX_LINE_BYTES: usize = 64 << 10;
/// The most bytes of a request's arguments, [`ARGUMENT_OVERHEAD`] for each included.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;
/// About what an argument costs beside its bytes.
pub const ARGUMENT_OVERHEAD: usize = 64;
/// More arguments than this are no request, as in Redis.
const MAX_ARGUMENTS: i64 = 1 << 20;
/// A longer bulk than this is no request, as in Redis.
const MAX_SKIPPED_BYTES: i64 = 512 << 20;
/// What is taken at first for a bulk of which only the beginning is here.
const FIRST_CAPACITY: usize = 16 << 10;

/// What a step of the parser came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// All input was taken and no request is complete.
    NeedMore,
    /// A request: its name and arguments, at least one.
    Request(Vec<Vec<u8>>),
    /// A request that was read to its end but is refused.
    Refused(CommandError),
    /// This is no RESP. Nothing more can be read from this stream.
    Broken(ProtocolError),
}

/// Why a stream is no RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// An inline request without an end.
    InlineTooLong,
    /// A count line without an end.
    CountTooLong,
    /// A length line without an end.
    LengthTooLong,
    /// The number of arguments is none, or too large.
    InvalidCount,
    /// The length of an argument is none, or too large.
    InvalidLength,
    /// Something else where `$` should stand.
    ExpectedDollar(u8),
    /// Quotes of an inline request that do not close.
    UnbalancedQuotes,
}

impl core::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("ERR Protocol error: ")?;
        match self {
            Self::InlineTooLong => f.write_str("too big inline request"),
            Self::CountTooLong => f.write_str("too big mbulk count string"),
            Self::LengthTooLong => f.write_str("too big bulk count string"),
            Self::InvalidCount => f.write_str("invalid multibulk length"),
            Self::InvalidLength => f.write_str("invalid bulk length"),
            Self::ExpectedDollar(byte) => {
                write!(
                    f,
                    "expected '$', got '{}'",
                    char::from(*byte).escape_default()
                )
            }
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
        }
    }
}

/// What became of a line.
enum Line {
    Unfinished,
    Done(Option<Event>),
}

#[derive(Debug)]
enum State {
    /// Before the first byte of a request.
    Start,
    /// In a line that began with `*`.
    Count,
    /// In a line of an inline request.
    Inline,
    /// Before or in the length line of an argument.
    Length,
    /// In an argument of `length` bytes.
    Bulk { length: usize },
    /// In an argument that is dropped, with its end of line.
    Skip { left: usize },
    /// Before the end of line of an argument.
    BulkEnd { left: usize },
    /// After an error.
    Broken(ProtocolError),
}

/// One client's parser.
#[derive(Debug)]
pub struct RequestParser {
    state: State,
    /// The beginning of a line whose end has not come in yet.
    line: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    /// Arguments that are still to come, the current one included.
    missing: usize,
    /// What the arguments cost so far.
    cost: usize,
    refused: Option<CommandError>,
}

impl Default for RequestParser {
    fn default() -> Self {
        RequestParser {
            state: State::Start,
            line: Vec::new(),
            arguments: Vec::new(),
            missing: 0,
            cost: 0,
            refused: None,
        }
    }
}

impl RequestParser {
    /// Takes bytes from `input` up to the end of a request, and removes them from it.
    ///
    /// `allowance` is how many bytes of memory may be taken in this step.
    pub fn step(&mut self, input: &mut &[u8], allowance: usize) -> Event {
        let limit = self.cost.saturating_add(allowance);
        loop {
            let event = match self.state {
                State::Start => {
                    let Some(&first) = input.first() else {
                        return Event::NeedMore;
                    };
                    self.state = if first == b'*' {
                        State::Count
                    } else {
                        State::Inline
                    };
                    None
                }
                State::Count => {
                    match self.line(input, ProtocolError::CountTooLong, |parser, line| {
                        parser.begin(line)
                    }) {
                        Line::Unfinished => return Event::NeedMore,
                        Line::Done(event) => event,
                    }
                }
                State::Inline => {
                    match self.line(input, ProtocolError::InlineTooLong, |parser, line| {
                        parser.inline(line)
                    }) {
                        Line::Unfinished => return Event::NeedMore,
                        Line::Done(event) => event,
                    }
                }
                State::Length => {
                    match self.line(input, ProtocolError::LengthTooLong, |parser, line| {
                        parser.begin_bulk(line, limit)
                    }) {
                        Line::Unfinished => return Event::NeedMore,
                        Line::Done(event) => event,
                    }
                }
                State::Bulk { length } => {
                    if !self.take_bulk(input, length, limit) {
                        return Event::NeedMore;
                    }
                    None
                }
                State::Skip { left } => {
                    let skipped = left.min(input.len());
                    *input = &input[skipped..];
                    if skipped < left {
                        self.state = State::Skip {
                            left: left - skipped,
                        };
                        return Event::NeedMore;
                    }
                    self.end_bulk()
                }
                State::BulkEnd { left } => {
                    // As Redis does, the two bytes are not looked at.
                    let skipped = left.min(input.len());
                    *input = &input[skipped..];
                    if skipped < left {
                        self.state = State::BulkEnd {
                            left: left - skipped,
                        };
                        return Event::NeedMore;
                    }
                    self.end_bulk()
                }
                State::Broken(error) => {
                    *input = &[];
                    return Event::Broken(error);
                }
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    /// Bytes of memory that an unfinished request holds.
    pub fn held(&self) -> usize {
        self.cost + self.line.capacity()
    }

    /// Gives a line, without CR and LF, to `then` if its end is here.
    fn line(
        &mut self,
        input: &mut &[u8],
        too_long: ProtocolError,
        then: impl FnOnce(&mut Self, &[u8]) -> Option<Event>,
    ) -> Line {
        let end = input.iter().position(|&byte| byte == b'\n');
        let (taken, rest) = match end {
            Some(end) => (&input[..end], &input[end + 1..]),
            None => (*input, &[][..]),
        };
        *input = rest;
        if self.line.len() + taken.len() > MAX_LINE_BYTES {
            return Line::Done(Some(self.break_off(too_long)));
        }
        if end.is_none() {
            self.line.extend_from_slice(taken);
            return Line::Unfinished;
        }
        // Nearly always the line is in one piece, and need not be copied.
        let mut beginning = mem::take(&mut self.line);
        let line = if beginning.is_empty() {
            taken
        } else {
            beginning.extend_from_slice(taken);
            &beginning
        };
        Line::Done(then(self, line.strip_suffix(b"\r").unwrap_or(line)))
    }

    /// After the line `*n`.
    fn begin(&mut self, line: &[u8]) -> Option<Event> {
        match crate::number::parse_i64(&line[1..]) {
            Some(count) if count > MAX_ARGUMENTS => {
                Some(self.break_off(ProtocolError::InvalidCount))
            }
            // An empty request is none.
            Some(count) if count <= 0 => {
                self.state = State::Start;
                None
            }
            Some(count) => {
                self.missing = count as usize;
                self.state = State::Length;
                None
            }
            None => Some(self.break_off(ProtocolError::InvalidCount)),
        }
    }

    /// After the line `$n`.
    fn begin_bulk(&mut self, line: &[u8], limit: usize) -> Option<Event> {
        let (first, rest) = line.split_first().unwrap_or((&b'\r', &[]));
        if *first != b'$' {
            return Some(self.break_off(ProtocolError::ExpectedDollar(*first)));
        }
        let length = match crate::number::parse_i64(rest) {
            Some(length @ 0..=MAX_SKIPPED_BYTES) => length as usize,
            _ => return Some(self.break_off(ProtocolError::InvalidLength)),
        };
        if length > MAX_BULK_BYTES {
            self.refuse(CommandError::TooLong);
        } else if self.cost + length + ARGUMENT_OVERHEAD > MAX_REQUEST_BYTES {
            self.refuse(CommandError::RequestTooLarge);
        } else if self.cost + ARGUMENT_OVERHEAD > limit {
            self.refuse(CommandError::OutOfMemory);
        }
        if self.refused.is_some() {
            self.state = State::Skip { left: length + 2 };
            return None;
        }
        self.cost += ARGUMENT_OVERHEAD;
        self.arguments.push(Vec::new());
        self.state = State::Bulk { length };
        None
    }

    /// Takes what is here of an argument. True if that ends the input's part in it.
    fn take_bulk(&mut self, input: &mut &[u8], length: usize, limit: usize) -> bool {
        let bulk = self.arguments.last_mut().expect("begin_bulk added it");
        let wanted = length - bulk.len();
        let taken = wanted.min(input.len());
        if bulk.capacity() < bulk.len() + taken {
            // In one piece if it is all here; else by doubling, never beyond the length.
            let capacity = if taken == wanted {
                length
            } else {
                (bulk.len() + taken)
                    .max(2 * bulk.capacity())
                    .max(FIRST_CAPACITY)
                    .min(length)
            };
            let more = capacity - bulk.capacity();
            let reserved =
                self.cost + more <= limit && bulk.try_reserve_exact(capacity - bulk.len()).is_ok();
            if !reserved {
                self.refuse(CommandError::OutOfMemory);
                self.state = State::Skip { left: wanted + 2 };
                return true;
            }
            self.cost += more;
        }
        let bulk = self.arguments.last_mut().expect("as above");
        bulk.extend_from_slice(&input[..taken]);
        *input = &input[taken..];
        if taken == wanted {
            self.state = State::BulkEnd { left: 2 };
        }
        taken == wanted
    }

    /// After an argument's end of line.
    fn end_bulk(&mut self) -> Option<Event> {
        self.missing -= 1;
        self.state = State::Length;
        if self.missing > 0 {
            return None;
        }
        self.state = State::Start;
        self.cost = 0;
        let arguments = mem::take(&mut self.arguments);
        Some(match self.refused.take() {
            Some(error) => Event::Refused(error),
            None => Event::Request(arguments),
        })
    }

    /// The rest of this request is read but not kept.
    fn refuse(&mut self, error: CommandError) {
        self.arguments = Vec::new();
        self.cost = 0;
        self.refused.get_or_insert(error);
    }

    fn inline(&mut self, line: &[u8]) -> Option<Event> {
        self.state = State::Start;
        match split_inline(line) {
            Ok(arguments) if arguments.is_empty() => None,
            Ok(arguments) => Some(Event::Request(arguments)),
            Err(error) => Some(self.break_off(error)),
        }
    }

    fn break_off(&mut self, error: ProtocolError) -> Event {
        *self = RequestParser {
            state: State::Broken(error),
            ..Self::default()
        };
        Event::Broken(error)
    }
}

/// Words of a line, as a person types them: `"…"` with `\n \r \t \b \a \xHH`,
/// `'…'` with `\'`.
fn split_inline(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let mut word = Vec::new();
        rest = loop {
            match *rest {
                [] => break rest,
                [byte, ..] if byte.is_ascii_whitespace() => break rest,
                [quote @ (b'"' | b'\''), ref quoted @ ..] => {
                    let after = unquote(quote, quoted, &mut word)?;
                    // A closing quote ends the word: something else behind it is a mistake.
                    match after.first() {
                        Some(byte) if !byte.is_ascii_whitespace() => {
                            return Err(ProtocolError::UnbalancedQuotes);
                        }
                        _ => break after,
                    }
                }
                [byte, ref more @ ..] => {
                    word.push(byte);
                    rest = more;
                }
            }
        };
        words.push(word);
        rest = rest.trim_ascii_start();
    }
    Ok(words)
}

/// Appends what stands between quotes to `word`, and gives what follows them.
fn unquote<'a>(
    quote: u8,
    mut rest: &'a [u8],
    word: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    let hex = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
    loop {
        let (byte, more) = match *rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [closing, ref more @ ..] if closing == quote => return Ok(more),
            [b'\\', b'\'', ref more @ ..] if quote == b'\'' => (b'\'', more),
            [b'\\', b'x', high, low, ref more @ ..]
                if quote == b'"' && hex(high).is_some() && hex(low).is_some() =>
            {
                (hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0), more)
            }
            [b'\\', escaped, ref more @ ..] if quote == b'"' => {
                let byte = match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => other,
                };
                (byte, more)
            }
            [byte, ref more @ ..] => (byte, more),
        };
        word.push(byte);
        rest = more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::String, vec};

    const PLENTY: usize = usize::MAX / 2;

    fn request(words: &[&str]) -> Event {
        Event::Request(words.iter().map(|word| word.as_bytes().to_vec()).collect())
    }

    /// All events of a stream, cut into pieces of `piece` bytes.
    fn events(stream: &[u8], piece: usize, allowance: usize) -> Vec<Event> {
        let mut parser = RequestParser::default();
        let mut events = Vec::new();
        for mut input in stream.chunks(piece) {
            loop {
                match parser.step(&mut input, allowance) {
                    Event::NeedMore => break,
                    broken @ Event::Broken(_) => {
                        events.push(broken);
                        return events;
                    }
                    event => events.push(event),
                }
            }
        }
        events
    }

    #[test]
    fn requests_however_the_stream_is_cut() {
        let stream = b"*1\r\n$4\r\nPING\r\n\r\nSET a \"b c\"\r\n*0\r\n*-1\r\n\
            *3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\necho 'it\\'s' \"\\x41\\n\"\n*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n";
        let expected = vec![
            request(&["PING"]),
            request(&["SET", "a", "b c"]),
            request(&["SET", "k", ""]),
            request(&["echo", "it's", "A\n"]),
            request(&["GET", "\r\n"]),
        ];
        for piece in 1..=stream.len() {
            assert_eq!(events(stream, piece, PLENTY), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_resp_is_told_as_redis_tells_it() {
        let long_line = vec![b'x'; MAX_LINE_BYTES + 1];
        let long_count = [b"*".as_slice(), &long_line].concat();
        let long_length = [b"*1\r\n$".as_slice(), &long_line].concat();
        for (stream, text) in [
            (&b"*x\r\n"[..], "invalid multibulk length"),
            (b"*1048577\r\n", "invalid multibulk length"),
            (b"*99999999999999999999\r\n", "invalid multibulk length"),
            (b"*1\r\n:1\r\n", "expected '$', got ':'"),
            (b"*1\r\n$x\r\n", "invalid bulk length"),
            (b"*1\r\n$-1\r\n", "invalid bulk length"),
            (b"*1\r\n$536870913\r\n", "invalid bulk length"),
            (b"get \"a\r\n", "unbalanced quotes in request"),
            (b"get \"a\"b\r\n", "unbalanced quotes in request"),
            (&long_line, "too big inline request"),
            (&long_count, "too big mbulk count string"),
            (&long_length, "too big bulk count string"),
        ] {
            for piece in [1, 7, stream.len()] {
                let events = events(stream, piece, PLENTY);
                let [Event::Broken(error)] = events.as_slice() else {
                    panic!("{:?}: {events:?}", String::from_utf8_lossy(stream))
                };
                assert_eq!(
                    alloc::format!("{error}"),
                    alloc::format!("ERR Protocol error: {text}")
                );
            }
        }
    }

    #[test]
    fn a_bulk_that_is_too_long_is_refused_and_the_next_request_is_read() {
        let mut stream = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n".to_vec();
        stream.extend(alloc::format!("${}\r\n", MAX_BULK_BYTES + 1).bytes());
        stream.extend(vec![b'v'; MAX_BULK_BYTES + 1]);
        stream.extend(b"\r\nPING\r\n");
        for piece in [1_000, stream.len()] {
            assert_eq!(
                events(&stream, piece, PLENTY),
                [Event::Refused(CommandError::TooLong), request(&["PING"])]
            );
        }
    }

    #[test]
    fn the_longest_bulk_is_taken() {
        let mut stream = alloc::format!("*1\r\n${MAX_BULK_BYTES}\r\n").into_bytes();
        stream.extend(vec![b'v'; MAX_BULK_BYTES]);
        stream.extend(b"\r\n");
        let events = events(&stream, 1_460, PLENTY);
        let [Event::Request(arguments)] = events.as_slice() else {
            panic!("{events:?}")
        };
        assert_eq!(arguments[0].len(), MAX_BULK_BYTES);
        assert_eq!(arguments[0].capacity(), MAX_BULK_BYTES);
    }

    #[test]
    fn without_memory_a_request_is_refused_and_holds_none() {
        let mut stream = b"*2\r\n$4\r\nECHO\r\n$100000\r\n".to_vec();
        stream.extend(vec![b'v'; 100_000]);
        stream.extend(b"\r\nPING\r\n");
        assert_eq!(
            events(&stream, 1_000, 10_000),
            [
                Event::Refused(CommandError::OutOfMemory),
                request(&["PING"])
            ]
        );
    }

    #[test]
    fn a_promised_length_takes_no_memory() {
        let mut parser = RequestParser::default();
        let mut input = &b"*1000000\r\n$1048576\r\nx"[..];
        assert_eq!(parser.step(&mut input, PLENTY), Event::NeedMore);
        assert!(parser.held() <= FIRST_CAPACITY + ARGUMENT_OVERHEAD);
    }

    #[test]
    fn a_request_of_too_much_is_refused() {
        let many = MAX_REQUEST_BYTES / ARGUMENT_OVERHEAD + 1;
        let mut stream = alloc::format!("*{many}\r\n").into_bytes();
        for _ in 0..many {
            stream.extend(b"$0\r\n\r\n");
        }
        stream.extend(b"PING\r\n");
        assert_eq!(
            events(&stream, 10_000, PLENTY),
            [
                Event::Refused(CommandError::RequestTooLarge),
                request(&["PING"])
            ]
        );
    }
}
