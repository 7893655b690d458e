//! The channel between the two nodes: frames over TCP.
//!
//! The node's loop owns both ends and never waits for the peer to read: what the socket does not
//! take is kept, within the bounds of the protocol's own buffers (LOG-4).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ft_logging::codec::{self, DecodeError, FRAME_HEADER_BYTES};
use ft_logging::message::{Hello, Message, Signal};
use ft_logging::types::Token;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How long somebody who connected may take to say who they are.
const HELLO_PATIENCE: Duration = Duration::from_secs(2);

/// The longest first message, in bytes: a hello with its configuration.
const MAX_HELLO_BYTES: usize = 64 << 10;

/// How much is read at once, in bytes.
const READ_BYTES: usize = 256 << 10;

/// Why the channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerError {
    #[error("the other node closed the channel")]
    Closed,
    #[error("the channel broke: {0}")]
    Broken(#[from] io::Error),
    #[error("what arrived is not the replication protocol: {0}")]
    Protocol(#[from] DecodeError),
}

/// An open channel.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    inbox: Vec<u8>,
    /// How much of the inbox has been decoded.
    taken: usize,
    outbox: Vec<u8>,
    /// How much of the outbox has been written.
    written: usize,
}

impl Peer {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Peer {
            stream,
            inbox: Vec::new(),
            taken: 0,
            outbox: Vec::new(),
            written: 0,
        })
    }

    pub(super) fn address(&self) -> String {
        self.stream
            .peer_addr()
            .map_or_else(|_| "a lost address".to_owned(), |a| a.to_string())
    }

    /// Takes a message to be sent.
    pub(super) fn queue(&mut self, token: Token, message: &Message) {
        codec::encode_message(token, message, &mut self.outbox);
    }

    /// Writes as much as the socket takes without waiting.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while self.written < self.outbox.len() {
            match self.stream.try_write(&self.outbox[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.written = 0;
        Ok(())
    }

    /// Bytes that the socket has not taken yet.
    pub(super) fn backlog(&self) -> usize {
        self.outbox.len() - self.written
    }

    /// A message that has been read already; waits for nothing.
    pub(super) fn ready(&mut self) -> Option<Result<(Token, Message), PeerError>> {
        self.take().transpose()
    }

    /// The next message. Cancelling loses nothing. While it waits it also writes what is left.
    pub(super) async fn next(&mut self) -> Result<(Token, Message), PeerError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            let mut ready = tokio::io::Interest::READABLE;
            if self.backlog() > 0 {
                ready |= tokio::io::Interest::WRITABLE;
            }
            let ready = self.stream.ready(ready).await?;
            if ready.is_writable() {
                self.flush()?;
            }
            if ready.is_readable() {
                self.fill()?;
            }
        }
    }

    fn fill(&mut self) -> Result<(), PeerError> {
        self.inbox.drain(..self.taken);
        self.taken = 0;
        self.inbox.reserve(READ_BYTES);
        match self.stream.try_read_buf(&mut self.inbox) {
            Ok(0) => Err(PeerError::Closed),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A message that has arrived in full.
    fn take(&mut self) -> Result<Option<(Token, Message)>, PeerError> {
        let rest = &self.inbox[self.taken..];
        let Some((header, rest)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let Some(body) = rest.get(..codec::body_len(header)?) else {
            return Ok(None);
        };
        codec::check_body(header, body)?;
        let message = codec::decode_message(body)?;
        self.taken += FRAME_HEADER_BYTES + body.len();
        Ok(Some(message))
    }
}

/// Waits for somebody who connected to say hello; `None` for a probe, which says nothing.
pub(super) async fn greet(mut stream: TcpStream) -> Result<Option<(Peer, Hello)>, PeerError> {
    let hello = tokio::time::timeout(HELLO_PATIENCE, async {
        let mut header = [0; FRAME_HEADER_BYTES];
        if stream.read(&mut header[..1]).await? == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut header[1..]).await?;
        let len = codec::body_len(&header)?;
        if len > MAX_HELLO_BYTES {
            return Err(DecodeError::TooLong(len).into());
        }
        let mut body = vec![0; len];
        stream.read_exact(&mut body).await?;
        codec::check_body(&header, &body)?;
        match codec::decode_message(&body)? {
            (_, Message::Signal(Signal::Hello(hello))) => Ok(Some(*hello)),
            _ => Err(DecodeError::Malformed("the first message is no hello".to_owned()).into()),
        }
    });
    match hello.await {
        Ok(Ok(Some(hello))) => Ok(Some((Peer::new(stream)?, hello))),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no hello in time").into()),
    }
}

/// SEC-1: without keys nobody off this host is heard.
///
/// # Errors
///
/// If the address is not a loopback address, or cannot be listened on; with what to do about it.
pub fn bind(address: SocketAddr) -> anyhow::Result<tokio::net::TcpListener> {
    anyhow::ensure!(
        address.ip().is_loopback(),
        "will not listen on {address}: it is not a loopback address, and replication between hosts \
         needs keys and encryption, which this version does not have; use 127.0.0.1"
    );
    let listener = std::net::TcpListener::bind(address).map_err(|error| {
        anyhow::anyhow!(
            "listening on {address}: {error}; is another node using the port? Choose one with \
             --listen"
        )
    })?;
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}
