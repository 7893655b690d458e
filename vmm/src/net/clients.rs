//! All forwarded connections of a gateway, over its stack.
//!
//! ```text
//!   frames ══ HostStack ══ Splice ══ client
//!                     ╘═══ Splice ══ client
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddrV4;
use std::task::Waker;
use std::time::Duration;

use tokio::net::TcpStream;

use super::host::{ConnectionHandle, HostStack};
use super::packet::FrameBuf;
use super::splice::{End, Served, Splice};

/// Forwarded connections at a time; further clients wait in the listen queue.
/// Each has two buffers of 64 KiB, and the stack looks at all of them at an event.
pub(super) const MAX_CONNECTIONS: usize = 1024;

/// What became of the connections.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) opened: u64,
    pub(super) reset: u64,
    pub(super) unanswered: u64,
}

pub(super) struct Clients {
    stack: HostStack,
    splices: BTreeMap<u64, Splice>,
    /// Ended connections whose last segment is not out yet.
    ended: Vec<ConnectionHandle>,
    connect_timeout: Duration,
    counts: Counts,
}

impl Clients {
    pub(super) fn new(stack: HostStack, connect_timeout: Duration) -> Clients {
        Clients {
            stack,
            splices: BTreeMap::new(),
            ended: Vec::new(),
            connect_timeout,
            counts: Counts::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.splices.len()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Begins a forwarded connection. `waker` is that of `id`.
    pub(super) fn open(
        &mut self,
        now: Duration,
        id: u64,
        stream: TcpStream,
        waker: Waker,
        guest: SocketAddrV4,
    ) {
        let Some(connection) = self.stack.connect(guest) else {
            tracing::warn!(%guest, "every port of the gateway is taken; a client is turned away");
            return;
        };
        let connect_by = now + self.connect_timeout;
        self.splices
            .insert(id, Splice::new(stream, waker, connection, connect_by));
        self.counts.opened += 1;
    }

    /// The client's socket was woken.
    pub(super) fn woken(&mut self, id: u64) {
        if let Some(splice) = self.splices.get_mut(&id) {
            splice.woken();
        }
    }

    /// A frame for the gateway's stack.
    pub(super) fn handle_frame(&mut self, frame: FrameBuf) {
        self.stack.handle_frame(frame);
    }

    /// The next frame of the gateway's stack.
    pub(super) fn poll_frame(&mut self) -> Option<FrameBuf> {
        self.stack.poll_frame()
    }

    /// When [`poll`](Self::poll) should be called next, if nothing happens before.
    pub(super) fn poll_timeout(&mut self, now: Duration) -> Option<Duration> {
        let deadline = self.splices.values().filter_map(Splice::deadline).min();
        [deadline, self.stack.poll_timeout(now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Moves what can be moved, once; whether anything did, so that there may be
    /// more to do.
    pub(super) fn poll(&mut self, now: Duration) -> bool {
        let mut moved = self.stack.poll(now);
        for connection in self.ended.drain(..) {
            self.stack.release(connection);
        }
        let mut over = Vec::new();
        for (id, splice) in &mut self.splices {
            match splice.serve(now, self.stack.socket(splice.connection())) {
                Served::Idle => {}
                Served::Moved => moved = true,
                Served::Ended(end) => over.push((*id, end)),
            }
        }
        for (id, end) in over {
            moved = true;
            match end {
                End::Closed => {}
                End::ResetByGuest | End::ResetByClient | End::Abandoned => self.counts.reset += 1,
                End::NoAnswer => {
                    tracing::warn!("no guest answered a client's connection");
                    self.counts.unanswered += 1;
                }
            }
            self.ended
                .extend(self.splices.remove(&id).map(|splice| splice.connection()));
        }
        moved
    }
}
