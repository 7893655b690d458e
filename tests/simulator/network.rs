//! Connections between nodes, as TCP makes them: in order, or not at all.
//!
//! While a path is cut nothing arrives; what was sent meanwhile arrives late when the path is
//! mended, or the connection is reset and it never does. A process that is killed closes its
//! connections; a host that dies says nothing at all.

use std::collections::VecDeque;

use ft_logging::message::Message;
use ft_logging::types::Token;

use crate::env::{Env, Event, ProcessId};
use crate::plan::{A, B, HOSTS, Host};

/// Something on its way.
#[derive(Debug)]
pub(crate) enum Segment {
    /// The dialler learns that it is connected.
    Open,
    Message {
        token: Token,
        message: Message,
        sent_at: u64,
    },
    Close,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Segment>,
    last_arrival: u64,
    /// Arrivals that a cut has put off.
    stalled: usize,
}

/// End 0 has dialled end 1; lane 0 leads from end 0 to end 1.
#[derive(Debug)]
struct Connection {
    hosts: [Host; 2],
    ends: [ProcessId; 2],
    open: [bool; 2],
    lanes: [Lane; 2],
}

/// Which paths are open, and what is on them.
#[derive(Debug, Default)]
pub(crate) struct Network {
    connections: Vec<Connection>,
    /// How many faults cut the path from the first to the second host.
    cut: [[u32; HOSTS]; HOSTS],
    isolated: [u32; HOSTS],
    arbiter_cut: [u32; HOSTS],
}

impl Network {
    pub(crate) fn reaches(&self, from: Host, to: Host) -> bool {
        self.cut[from.0][to.0] == 0 && !self.is_isolated(from) && !self.is_isolated(to)
    }

    pub(crate) fn is_isolated(&self, host: Host) -> bool {
        self.isolated[host.0] > 0
    }

    pub(crate) fn reaches_arbiter(&self, host: Host) -> bool {
        self.arbiter_cut[host.0] == 0 && !self.is_isolated(host)
    }

    pub(crate) fn cut(&mut self, from: Host, to: Host) {
        self.cut[from.0][to.0] += 1;
    }

    pub(crate) fn isolate(&mut self, host: Host) {
        self.isolated[host.0] += 1;
    }

    pub(crate) fn cut_arbiter(&mut self, host: Host) {
        self.arbiter_cut[host.0] += 1;
    }

    pub(crate) fn mend_arbiter(&mut self, host: Host) {
        self.arbiter_cut[host.0] -= 1;
    }

    /// Whether `process` is at end 0 or end 1.
    fn end_of(&self, connection: usize, process: ProcessId) -> usize {
        usize::from(self.connections[connection].ends[1] == process)
    }
}

impl Env {
    pub(crate) fn mend(&mut self, from: Host, to: Host, reset: bool) {
        self.network.cut[from.0][to.0] -= 1;
        self.mended(reset);
    }

    pub(crate) fn rejoin(&mut self, host: Host, reset: bool) {
        self.network.isolated[host.0] -= 1;
        self.mended(reset);
    }

    /// Everything that stalled on a path that is open again goes on, or is lost.
    fn mended(&mut self, reset: bool) {
        for connection in 0..self.network.connections.len() {
            for lane in 0..2 {
                let c = &mut self.network.connections[connection];
                let [from, to] = [c.hosts[lane], c.hosts[1 - lane]];
                let stalled = std::mem::take(&mut c.lanes[lane].stalled);
                if stalled > 0 && reset {
                    self.reset(connection);
                } else if self.network.reaches(from, to) {
                    for _ in 0..stalled {
                        let delay = self.delay();
                        self.schedule(delay, Event::Deliver { connection, lane });
                    }
                } else {
                    self.network.connections[connection].lanes[lane].stalled = stalled;
                }
            }
        }
    }

    /// What is on the way is lost, and both ends learn that the connection is gone.
    fn reset(&mut self, connection: usize) {
        for lane in 0..2 {
            let c = &mut self.network.connections[connection];
            c.lanes[lane].queue.clear();
            c.lanes[lane].stalled = 0;
            self.transmit(connection, lane, Segment::Close);
        }
    }

    pub(crate) fn reset_pair(&mut self) {
        for connection in 0..self.network.connections.len() {
            if self.network.connections[connection].open == [true; 2] {
                self.reset(connection);
            }
        }
    }

    /// Connects a dialler to a listener that has accepted.
    pub(crate) fn connect(&mut self, from: (Host, ProcessId), to: (Host, ProcessId)) -> usize {
        let connection = self.network.connections.len();
        self.network.connections.push(Connection {
            hosts: [from.0, to.0],
            ends: [from.1, to.1],
            open: [true; 2],
            lanes: [Lane::default(), Lane::default()],
        });
        self.transmit(connection, 1, Segment::Open);
        connection
    }

    pub(crate) fn send(
        &mut self,
        connection: usize,
        from: ProcessId,
        token: Token,
        message: Message,
    ) {
        let end = self.network.end_of(connection, from);
        if self.network.connections[connection].open[end] {
            let sent_at = self.now;
            self.transmit(
                connection,
                end,
                Segment::Message {
                    token,
                    message,
                    sent_at,
                },
            );
        }
    }

    pub(crate) fn close(&mut self, connection: usize, from: ProcessId) {
        let end = self.network.end_of(connection, from);
        let open = &mut self.network.connections[connection].open[end];
        if std::mem::take(open) {
            self.transmit(connection, end, Segment::Close);
        }
    }

    /// The kernel closes what a killed process leaves, with or without what it still had to send.
    pub(crate) fn close_all(&mut self, from: ProcessId) {
        for connection in 0..self.network.connections.len() {
            if self.network.connections[connection].ends.contains(&from) {
                if self.rng.percent(30) {
                    let end = self.network.end_of(connection, from);
                    self.network.connections[connection].lanes[end]
                        .queue
                        .clear();
                }
                self.close(connection, from);
            }
        }
    }

    fn transmit(&mut self, connection: usize, lane: usize, segment: Segment) {
        let delay = self.delay();
        let l = &mut self.network.connections[connection].lanes[lane];
        l.queue.push_back(segment);
        l.last_arrival = l.last_arrival.max(self.now + delay);
        let after_ns = l.last_arrival - self.now;
        self.schedule(after_ns, Event::Deliver { connection, lane });
    }

    /// What arrives now, and for which process on which host, if it can.
    pub(crate) fn arrive(
        &mut self,
        connection: usize,
        lane: usize,
    ) -> Option<(Host, ProcessId, Segment)> {
        let c = &self.network.connections[connection];
        let [from, to] = [c.hosts[lane], c.hosts[1 - lane]];
        let reaches = self.network.reaches(from, to);
        let c = &mut self.network.connections[connection];
        if !reaches {
            c.lanes[lane].stalled += 1;
            return None;
        }
        let segment = c.lanes[lane].queue.pop_front()?;
        let receiver = 1 - lane;
        if !c.open[receiver] {
            return None;
        }
        if let Segment::Close = segment {
            c.open[receiver] = false;
        }
        Some((c.hosts[receiver], c.ends[receiver], segment))
    }

    /// The host that a backup on this one dials, and that a suspecting node probes.
    pub(crate) fn peer_of(host: Host) -> Host {
        if host == A { B } else { A }
    }
}
