//! What nodes and the gateway say to each other over TCP.
//!
//! Every message is a length (`u32`, little-endian: kind and body), a kind and a
//! body of fixed layout, all integers little-endian:
//!
//! ```text
//!   node to gateway
//!     01 Hello     "FTGW" version:u16 life:16 incarnation:16 token speaking:u8 name:rest
//!     02 Announce  token speaking:u8
//!     03 Frame     frame:rest
//!     04 Query     "FTGW" version:u16
//!   gateway to node
//!     81 Welcome   gateway:16 mac:6 address:4 prefix:u8 guest:4
//!     82 Refused   token
//!     83 Frame     frame:rest
//!     84 Rejected  reason:u8 version:u16
//!     85 Stats     JSON:rest
//!   token = generation:u64 won:u8
//! ```
//!
//! The first message on a connection is `Hello` (a node; answered by `Welcome` or
//! `Rejected`) or `Query` (anyone; answered by `Stats`). The layout of `Hello` and
//! `Query` up to the version never changes, so that versions can tell each other
//! apart. A length is checked against [`MAX_MESSAGE_LEN`] before anything is kept
//! for it (SEC-2).

use std::net::Ipv4Addr;
use std::ops::Range;

use ft_logging::types::{Generation, Incarnation, Life, Token};

use super::fence::Announcement;
use super::packet::{MAX_FRAME_LEN, MacAddress, array};

/// The version of this layout. A change is a line in the CHANGELOG.
pub const VERSION: u16 = 1;

/// The longest message, kind and body: the longest frame fits.
pub const MAX_MESSAGE_LEN: usize = 1 + MAX_FRAME_LEN;

/// The longest name of a VM, in bytes.
pub const MAX_NAME_LEN: usize = 64;

const MAGIC: [u8; 4] = *b"FTGW";
const LENGTH_LEN: usize = 4;

/// A node introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The VM's name, for people: at most [`MAX_NAME_LEN`] bytes, no control
    /// characters.
    pub name: String,
    /// The VM's life.
    pub life: Life,
    /// The node's incarnation.
    pub incarnation: Incarnation,
    /// Its token, and whether it speaks from the start.
    pub announcement: Announcement,
}

/// The gateway's answer: the network that the guest is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// A random id of this gateway process: a restarted one has forgotten its fences.
    pub gateway: [u8; 16],
    /// The gateway's Ethernet address.
    pub mac: MacAddress,
    /// The gateway's address.
    pub address: Ipv4Addr,
    /// The length of the network's prefix.
    pub prefix_len: u8,
    /// The address that the first forward leads to: what the guest should use.
    pub guest: Ipv4Addr,
}

/// Why the gateway does not take a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The node speaks another version of this protocol.
    #[error(
        "the gateway speaks version {gateway} of the gateway protocol and this program version \
         {VERSION}; start both from the same release"
    )]
    Version {
        /// The gateway's version.
        gateway: u16,
    },
    /// The gateway knows as many VMs as it can keep fences for.
    #[error("the gateway knows too many VMs; restart it when none of them is running")]
    TooManyVms,
    /// The gateway has as many connections as it can serve.
    #[error("the gateway serves as many nodes as it can; use another one for this VM")]
    TooManyNodes,
}

/// A message of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGateway<'a> {
    /// The first message of a node.
    Hello(Hello),
    /// The token changes, or the node goes live (FAIL-7).
    Announce(Announcement),
    /// An output of the guest.
    Frame(&'a [u8]),
    /// The first message of whoever wants the gateway's statistics.
    Query,
}

/// A message of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToNode<'a> {
    /// The node is attached.
    Welcome(Welcome),
    /// The node may not speak: `highest` was spoken with by another (FAIL-6).
    Refused(Token),
    /// A frame for the guest.
    Frame(&'a [u8]),
    /// The node is not attached; the connection closes.
    Rejected(Rejection),
    /// The gateway's statistics as JSON.
    Stats(&'a [u8]),
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The length is zero or above the bound.
    #[error("a message of {len} bytes (1 to {MAX_MESSAGE_LEN} are possible)")]
    Length {
        /// What the peer announced.
        len: u32,
    },
    /// No such kind of message.
    #[error("a message of the unknown kind {0:#04x}")]
    Kind(u8),
    /// The first message does not begin as this protocol's do.
    #[error("the first message is not that of an ftvm node")]
    Magic,
    /// The peer speaks another version.
    #[error("version {theirs} of the gateway protocol (this is {VERSION})")]
    Version {
        /// What the peer speaks.
        theirs: u16,
    },
    /// The body does not have the layout of its kind.
    #[error("a malformed message of the kind {0:#04x}")]
    Body(u8),
}

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const ANNOUNCE: u8 = 0x02;
    pub(super) const FRAME: u8 = 0x03;
    pub(super) const QUERY: u8 = 0x04;
    pub(super) const WELCOME: u8 = 0x81;
    pub(super) const REFUSED: u8 = 0x82;
    pub(super) const FRAME_TO_NODE: u8 = 0x83;
    pub(super) const REJECTED: u8 = 0x84;
    pub(super) const STATS: u8 = 0x85;
}

/// Appends one message: what `body` appends, with length and kind before it.
fn message(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; LENGTH_LEN]);
    out.push(kind);
    body(out);
    let len = out.len() - start - LENGTH_LEN;
    assert!(
        len <= MAX_MESSAGE_LEN,
        "a message of {len} bytes is never sent"
    );
    out[start..start + LENGTH_LEN].copy_from_slice(&(len as u32).to_le_bytes());
}

fn put_token(out: &mut Vec<u8>, token: Token) {
    out.extend(token.generation.0.to_le_bytes());
    out.push(u8::from(token.won));
}

fn put_opening(out: &mut Vec<u8>) {
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
}

/// Takes a body apart from the front.
struct Body<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let taken = array(self.rest, 0).ok_or(DecodeError::Body(self.kind))?;
        self.rest = &self.rest[N..];
        Ok(taken)
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.take()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError::Body(self.kind)),
        }
    }

    fn token(&mut self) -> Result<Token, DecodeError> {
        Ok(Token {
            generation: Generation(u64::from_le_bytes(self.take()?)),
            won: self.flag()?,
        })
    }

    fn announcement(&mut self) -> Result<Announcement, DecodeError> {
        Ok(Announcement {
            token: self.token()?,
            speaking: self.flag()?,
        })
    }

    fn opening(&mut self) -> Result<(), DecodeError> {
        if self.take().map_err(|_| DecodeError::Magic)? != MAGIC {
            return Err(DecodeError::Magic);
        }
        let theirs = u16::from_le_bytes(self.take()?);
        if theirs == VERSION {
            Ok(())
        } else {
            Err(DecodeError::Version { theirs })
        }
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn finish<T>(self, message: T) -> Result<T, DecodeError> {
        if self.rest.is_empty() {
            Ok(message)
        } else {
            Err(DecodeError::Body(self.kind))
        }
    }
}

/// A message that has a kind and a body.
pub trait Message<'a>: Sized {
    /// Appends the message, length first.
    ///
    /// # Panics
    /// If a frame or a name is longer than its bound.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads a message from its kind and body, that is, without its length.
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError>;
}

impl<'a> Message<'a> for ToGateway<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        let put_announcement = |out: &mut Vec<u8>, said: &Announcement| {
            put_token(out, said.token);
            out.push(u8::from(said.speaking));
        };
        match self {
            ToGateway::Hello(hello) => message(out, kind::HELLO, |out| {
                assert!(
                    hello.name.len() <= MAX_NAME_LEN,
                    "a VM's name is bounded by its owner"
                );
                put_opening(out);
                out.extend(hello.life.0);
                out.extend(hello.incarnation.0);
                put_announcement(out, &hello.announcement);
                out.extend(hello.name.as_bytes());
            }),
            ToGateway::Announce(said) => {
                message(out, kind::ANNOUNCE, |out| put_announcement(out, said));
            }
            ToGateway::Frame(frame) => message(out, kind::FRAME, |out| out.extend(*frame)),
            ToGateway::Query => message(out, kind::QUERY, put_opening),
        }
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (&kind, rest) = bytes.split_first().ok_or(DecodeError::Length { len: 0 })?;
        let mut body = Body { kind, rest };
        match kind {
            kind::HELLO => {
                body.opening()?;
                let life = Life(body.take()?);
                let incarnation = Incarnation(body.take()?);
                let announcement = body.announcement()?;
                let name = std::str::from_utf8(body.rest()).ok();
                let name = name
                    .filter(|name| name.len() <= MAX_NAME_LEN && !name.contains(char::is_control));
                let name = name.ok_or(DecodeError::Body(kind))?.to_owned();
                body.finish(ToGateway::Hello(Hello {
                    name,
                    life,
                    incarnation,
                    announcement,
                }))
            }
            kind::ANNOUNCE => {
                let said = body.announcement()?;
                body.finish(ToGateway::Announce(said))
            }
            kind::FRAME => Ok(ToGateway::Frame(body.rest())),
            kind::QUERY => {
                body.opening()?;
                body.finish(ToGateway::Query)
            }
            other => Err(DecodeError::Kind(other)),
        }
    }
}

impl<'a> Message<'a> for ToNode<'a> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            ToNode::Welcome(welcome) => message(out, kind::WELCOME, |out| {
                out.extend(welcome.gateway);
                out.extend(welcome.mac.0);
                out.extend(welcome.address.octets());
                out.push(welcome.prefix_len);
                out.extend(welcome.guest.octets());
            }),
            ToNode::Refused(highest) => message(out, kind::REFUSED, |out| put_token(out, *highest)),
            ToNode::Frame(frame) => message(out, kind::FRAME_TO_NODE, |out| out.extend(*frame)),
            ToNode::Rejected(why) => message(out, kind::REJECTED, |out| {
                let (reason, version) = match why {
                    Rejection::Version { gateway } => (0, *gateway),
                    Rejection::TooManyVms => (1, VERSION),
                    Rejection::TooManyNodes => (2, VERSION),
                };
                out.push(reason);
                out.extend(version.to_le_bytes());
            }),
            ToNode::Stats(json) => message(out, kind::STATS, |out| out.extend(*json)),
        }
    }

    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (&kind, rest) = bytes.split_first().ok_or(DecodeError::Length { len: 0 })?;
        let mut body = Body { kind, rest };
        match kind {
            kind::WELCOME => {
                let welcome = Welcome {
                    gateway: body.take()?,
                    mac: MacAddress(body.take()?),
                    address: Ipv4Addr::from(body.take::<4>()?),
                    prefix_len: u8::from_le_bytes(body.take()?),
                    guest: Ipv4Addr::from(body.take::<4>()?),
                };
                body.finish(ToNode::Welcome(welcome))
            }
            kind::REFUSED => {
                let highest = body.token()?;
                body.finish(ToNode::Refused(highest))
            }
            kind::FRAME_TO_NODE => Ok(ToNode::Frame(body.rest())),
            kind::REJECTED => {
                let [reason] = body.take()?;
                let gateway = u16::from_le_bytes(body.take()?);
                let why = match reason {
                    0 => Rejection::Version { gateway },
                    1 => Rejection::TooManyVms,
                    2 => Rejection::TooManyNodes,
                    _ => return Err(DecodeError::Body(kind)),
                };
                body.finish(ToNode::Rejected(why))
            }
            kind::STATS => Ok(ToNode::Stats(body.rest())),
            other => Err(DecodeError::Kind(other)),
        }
    }
}

/// How much a connection reads at a time: many frames for one system call.
pub const READ_LEN: usize = 64 << 10;

/// The bytes of a connection that are not taken apart yet: at most one message
/// and one read.
#[derive(Debug, Default)]
pub struct Inbox {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Room for the next read, of at least [`READ_LEN`] bytes. Tell
    /// [`filled`](Self::filled) how much of it was used.
    pub fn room(&mut self) -> &mut [u8] {
        self.buf.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.buf.len() < self.end + READ_LEN {
            self.buf.resize(self.end + READ_LEN, 0);
        }
        &mut self.buf[self.end..]
    }

    /// The first `len` bytes of [`room`](Self::room) were read.
    ///
    /// # Panics
    /// If there was not so much room.
    pub fn filled(&mut self, len: usize) {
        self.end += len;
        assert!(
            self.end <= self.buf.len(),
            "more was read than there was room for"
        );
    }

    /// Whether a message has begun and is not complete.
    pub fn is_amid_message(&self) -> bool {
        self.start != self.end
    }

    /// Whether a complete message waits to be taken.
    pub fn has_message(&self) -> Result<bool, DecodeError> {
        Ok(self.first_message()?.is_some())
    }

    /// The next complete message, or `None` until more is read. After an error
    /// the connection is of no more use.
    pub fn next<'a, M: Message<'a>>(&'a mut self) -> Result<Option<M>, DecodeError> {
        let Some(message) = self.first_message()? else {
            return Ok(None);
        };
        self.start = message.end;
        M::decode(&self.buf[message]).map(Some)
    }

    /// Where the kind and body of the first message are.
    fn first_message(&self) -> Result<Option<Range<usize>>, DecodeError> {
        let unread = &self.buf[self.start..self.end];
        let Some(length) = array(unread, 0) else {
            return Ok(None);
        };
        let len = u32::from_le_bytes(length);
        if len == 0 || len as usize > MAX_MESSAGE_LEN {
            return Err(DecodeError::Length { len });
        }
        let start = self.start + LENGTH_LEN;
        let end = start + len as usize;
        Ok((end <= self.end).then_some(start..end))
    }
}

#[cfg(test)]
#[path = "tests/protocol.rs"]
mod tests;
