//! The gateway's end of a connection on its port: a node, someone who asks for
//! statistics, or a stranger.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::fence::AttachmentId;
use super::protocol::{Inbox, Message, ToNode};

/// How long a new connection may take to say who it is, and to take an answer.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that wait for a node. A node that takes nothing for so long (a stopped
/// process) loses frames as on any full link, and TCP repeats them: the bound is
/// above what 256 connections have in flight at 64 KiB each.
const MAX_OUTBOX: usize = 32 << 20;

/// Reads of one connection before others have their turn.
const READS_PER_TURN: usize = 4;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// It has not said yet, and must until then.
    Unknown { until: Duration },
    /// A node.
    Node(AttachmentId),
    /// It has been answered; the connection closes when the answer is written, or then.
    Answered { until: Duration },
}

/// What a read came to.
pub(super) enum Read {
    /// There are new bytes.
    Some,
    /// Nothing for now.
    Pending,
    /// The other end is gone.
    Closed,
}

pub(super) struct NodePort {
    stream: TcpStream,
    waker: Waker,
    writable: bool,
    outbox: Vec<u8>,
    /// How much of `outbox` is written already.
    written: usize,
    pub(super) peer: Peer,
    pub(super) address: SocketAddr,
    pub(super) inbox: Inbox,
}

impl NodePort {
    pub(super) fn new(
        now: Duration,
        stream: TcpStream,
        address: SocketAddr,
        waker: Waker,
    ) -> NodePort {
        NodePort {
            stream,
            waker,
            writable: true,
            outbox: Vec::new(),
            written: 0,
            peer: Peer::Unknown {
                until: now + HELLO_TIMEOUT,
            },
            address,
            inbox: Inbox::default(),
        }
    }

    pub(super) fn woken(&mut self) {
        self.writable = true;
    }

    /// Reads once. `reads` counts those since the connection was woken: after
    /// [`READS_PER_TURN`] it is woken again, and reads on when others had their turn.
    pub(super) fn read(&mut self, reads: usize) -> Read {
        if reads >= READS_PER_TURN {
            self.waker.wake_by_ref();
            return Read::Pending;
        }
        let mut cx = Context::from_waker(&self.waker);
        let mut buf = ReadBuf::new(self.inbox.room());
        match Pin::new(&mut self.stream).poll_read(&mut cx, &mut buf) {
            Poll::Pending => Read::Pending,
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                let len = buf.filled().len();
                self.inbox.filled(len);
                Read::Some
            }
            Poll::Ready(_) => Read::Closed,
        }
    }

    /// Queues a message; `false` if the node is too far behind to get it.
    #[must_use]
    pub(super) fn send(&mut self, message: &ToNode<'_>) -> bool {
        if self.outbox.len() - self.written > MAX_OUTBOX {
            return false;
        }
        message.encode(&mut self.outbox);
        true
    }

    /// Writes what is queued, all of it with one call if the kernel takes it.
    /// `false` if the other end is gone, or has had its answer.
    #[must_use]
    pub(super) fn flush(&mut self) -> bool {
        let mut cx = Context::from_waker(&self.waker);
        while self.writable && self.written < self.outbox.len() {
            let rest = &self.outbox[self.written..];
            match Pin::new(&mut self.stream).poll_write(&mut cx, rest) {
                Poll::Ready(Ok(len)) => self.written += len,
                Poll::Ready(Err(_)) => return false,
                Poll::Pending => self.writable = false,
            }
        }
        if self.written == self.outbox.len() {
            self.outbox.clear();
            self.written = 0;
            return !matches!(self.peer, Peer::Answered { .. });
        }
        // Moving the rest to the front pays once it is the smaller part.
        if self.written > self.outbox.len() / 2 {
            self.outbox.drain(..self.written);
            self.written = 0;
        }
        true
    }
}
