//! One forwarded connection: a client's TCP stream on the host, and the
//! gateway's TCP connection to the guest.
//!
//! ```text
//!   client ══ TcpStream ══ Splice ══ smoltcp socket ══ guest
//! ```
//!
//! Bytes go straight between the stream and the socket's buffers, and each side
//! is read only while the other has room, so back-pressure is TCP's own on both.
//! An end of stream, a reset and a refused connection are passed on as what they
//! are. A guest that is silent changes nothing: only a connection that never came
//! up, or that the client has finished and the guest has forgotten, is given up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smoltcp::socket::tcp::{self, RecvError, State};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::host::ConnectionHandle;

/// How long a connection that the client has finished is kept when nothing moves
/// on it any more: the guest is gone, or has forgotten to close it.
const HALF_CLOSED_LIMIT: Duration = Duration::from_secs(120);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides finished.
    Closed,
    /// The guest refused or reset it.
    ResetByGuest,
    /// The client reset it.
    ResetByClient,
    /// The guest did not answer in time.
    NoAnswer,
    /// [`HALF_CLOSED_LIMIT`] has passed.
    Abandoned,
}

/// What serving a connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// Nothing could be done.
    Idle,
    /// The stack has something new to send.
    Moved,
    /// It is over; the socket may be released.
    Ended(End),
}

pub(super) struct Splice {
    stream: TcpStream,
    waker: Waker,
    connection: ConnectionHandle,
    /// Until when the guest may answer; `None` once it has.
    connect_by: Option<Duration>,
    /// The stream may be read from, or written to: it has not said `Pending` since
    /// it was last woken.
    readable: bool,
    writable: bool,
    /// The client has sent all that it will.
    client_finished: bool,
    /// The guest has, and the client knows.
    guest_finished: bool,
    moved_at: Duration,
}

impl Splice {
    /// `waker` is woken when the stream can go on; then call [`woken`](Self::woken).
    pub(super) fn new(
        stream: TcpStream,
        waker: Waker,
        connection: ConnectionHandle,
        connect_by: Duration,
    ) -> Self {
        Splice {
            stream,
            waker,
            connection,
            connect_by: Some(connect_by),
            readable: true,
            writable: true,
            client_finished: false,
            guest_finished: false,
            moved_at: Duration::ZERO,
        }
    }

    pub(super) fn connection(&self) -> ConnectionHandle {
        self.connection
    }

    pub(super) fn woken(&mut self) {
        (self.readable, self.writable) = (true, true);
    }

    /// When the connection is given up, unless something moves before.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let abandon = self
            .client_finished
            .then(|| self.moved_at + HALF_CLOSED_LIMIT);
        self.connect_by.or(abandon)
    }

    /// Moves what can be moved. `socket` is that of [`connection`](Self::connection).
    /// After an [`End`] the splice is dropped, which closes or resets the stream.
    pub(super) fn serve(&mut self, now: Duration, socket: &mut tcp::Socket<'_>) -> Served {
        if let Some(by) = self.connect_by {
            match socket.state() {
                State::SynSent if by <= now => return self.abort(socket, End::NoAnswer),
                State::SynSent => return Served::Idle,
                State::Closed => return self.abort(socket, End::ResetByGuest),
                _ => (self.connect_by, self.moved_at) = (None, now),
            }
        }
        let moved = match (self.move_to_guest(socket), self.move_to_client(socket)) {
            (Ok(one), Ok(other)) => one | other,
            _ => return self.abort(socket, End::ResetByClient),
        };
        if moved {
            self.moved_at = now;
        }
        if !socket.can_recv() && socket.state() == State::Closed {
            let finished = self.client_finished && self.guest_finished;
            let end = if finished {
                End::Closed
            } else {
                End::ResetByGuest
            };
            return self.abort(socket, end);
        }
        if self.guest_finished && socket.state() == State::TimeWait {
            return Served::Ended(End::Closed);
        }
        if self.deadline().is_some_and(|at| at <= now) {
            return self.abort(socket, End::Abandoned);
        }
        if moved { Served::Moved } else { Served::Idle }
    }

    /// Client to guest; whether anything moved. An error is the client's reset.
    fn move_to_guest(&mut self, socket: &mut tcp::Socket<'_>) -> io::Result<bool> {
        let mut moved = false;
        let mut cx = Context::from_waker(&self.waker);
        while self.readable && !self.client_finished && socket.can_send() {
            let read = socket.send(|room| {
                let mut buf = ReadBuf::new(room);
                match Pin::new(&mut self.stream).poll_read(&mut cx, &mut buf) {
                    Poll::Ready(Ok(())) => (buf.filled().len(), Ok(Some(buf.filled().len()))),
                    Poll::Ready(Err(error)) => (0, Err(error)),
                    Poll::Pending => (0, Ok(None)),
                }
            });
            match read.map_err(io::Error::other)?? {
                None => self.readable = false,
                Some(0) => {
                    self.client_finished = true;
                    socket.close();
                    moved = true;
                }
                Some(_) => moved = true,
            }
        }
        Ok(moved)
    }

    /// Guest to client; whether anything moved. An error is the client's reset.
    fn move_to_client(&mut self, socket: &mut tcp::Socket<'_>) -> io::Result<bool> {
        let mut moved = false;
        let mut cx = Context::from_waker(&self.waker);
        while self.writable && socket.can_recv() {
            let written =
                socket.recv(
                    |bytes| match Pin::new(&mut self.stream).poll_write(&mut cx, bytes) {
                        Poll::Ready(Ok(len)) => (len, Ok(Some(len))),
                        Poll::Ready(Err(error)) => (0, Err(error)),
                        Poll::Pending => (0, Ok(None)),
                    },
                );
            match written.map_err(io::Error::other)?? {
                None => self.writable = false,
                Some(_) => moved = true,
            }
        }
        let at_end = !self.guest_finished && matches!(socket.peek(1), Err(RecvError::Finished));
        if at_end {
            // Shutting a TCP stream down never waits.
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut cx)?;
            self.guest_finished = true;
            moved = true;
        }
        Ok(moved)
    }

    /// Ends both sides at once, each as far as it has not ended already.
    fn abort(&mut self, socket: &mut tcp::Socket<'_>, end: End) -> Served {
        socket.abort();
        if end != End::Closed {
            // Dropping the stream then resets it; if it cannot, it closes it.
            let _ = self.stream.set_zero_linger();
        }
        Served::Ended(end)
    }
}
