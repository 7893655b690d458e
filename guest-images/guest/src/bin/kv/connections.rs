//! TCP connections: bytes to requests, replies to bytes.
//!
//! ```text
//!   listening ──SYN──► open ──── peer or server closes ────► closing ──► listening
//!                       │  ▲
//!                       ▼  │ requests while few replies wait to be sent
//!                      served
//! ```
//!
//! The pool of sockets is fixed, so that memory is; all that are not in use
//! listen, and a burst of connects finds each its own.

use crate::{host::Machine, network::{Network, PORT}};
use alloc::{format, vec::Vec};
use ftvm_guest::clock::Micros;
use resp_kv::{
    parser::{Event, RequestParser},
    reply::Reply,
    server::{After, ClientId, Host, Server},
};
use smoltcp::{
    iface::SocketHandle,
    socket::tcp::{Socket, State},
};

/// Clients at one time.
const CONNECTIONS: usize = 128;
/// While more than this waits to be sent to a client, no more is read from it.
const MAX_QUEUED_BYTES: usize = 64 << 10;
/// A peer that has been silent for longer may lose its connection to a new one.
const SILENCE: Micros = Micros(60_000_000);

/// All connections.
pub(crate) struct Connections {
    slots: Vec<Slot>,
}

struct Slot {
    handle: SocketHandle,
    connection: Option<Connection>,
}

struct Connection {
    client: ClientId,
    parser: RequestParser,
    reply: Reply,
    /// Nothing more is read; when all is sent, it is closed.
    closing: bool,
    last_heard: Micros,
}

impl Connections {
    pub(crate) fn new(network: &mut Network) -> Self {
        let slot = |_| Slot { handle: network.add_socket(), connection: None };
        let mut connections = Connections { slots: (0..CONNECTIONS).map(slot).collect() };
        for slot in &mut connections.slots {
            listen(network.socket(slot.handle));
        }
        connections
    }

    /// Does what is to be done on each connection.
    pub(crate) fn serve(
        &mut self,
        network: &mut Network,
        server: &mut Server,
        machine: &mut Machine,
        now: Micros,
    ) {
        let mut listening = 0;
        for slot in &mut self.slots {
            let socket = network.socket(slot.handle);
            slot.serve(socket, server, machine, now);
            listening += usize::from(socket.state() == State::Listen);
        }
        if listening == 0 {
            self.give_up_silent(network, now);
        }
    }

    /// Frees a socket for the next client, if some peer seems to be gone.
    fn give_up_silent(&mut self, network: &mut Network, now: Micros) {
        let last_heard = |slot: &&Slot| slot.connection.as_ref().map(|open| open.last_heard);
        let oldest = self.slots.iter().filter(|slot| slot.connection.is_some()).min_by_key(last_heard);
        if let Some(slot) = oldest
            && last_heard(&slot).is_some_and(|heard| heard.0 + SILENCE.0 < now.0)
        {
            network.socket(slot.handle).abort();
        }
    }
}

impl Slot {
    fn serve(
        &mut self,
        socket: &mut Socket<'_>,
        server: &mut Server,
        machine: &mut Machine,
        now: Micros,
    ) {
        match socket.state() {
            State::Listen | State::SynReceived => {}
            // The reset or the last acknowledgement may still have to be sent.
            State::Closed if socket.remote_endpoint().is_some() => self.forget(server),
            State::Closed => {
                self.forget(server);
                listen(socket);
            }
            // Waiting would keep the socket from the next client. A peer that missed the
            // last acknowledgement is reset instead, and is as well rid of the connection.
            State::TimeWait => socket.abort(),
            _ => {
                let connection =
                    self.connection.get_or_insert_with(|| Connection::new(socket, server, now));
                connection.serve(socket, server, machine, now);
            }
        }
    }

    fn forget(&mut self, server: &mut Server) {
        if let Some(connection) = self.connection.take() {
            server.disconnect(connection.client);
        }
    }
}

impl Connection {
    fn new(socket: &Socket<'_>, server: &mut Server, now: Micros) -> Self {
        let peer = socket.remote_endpoint().expect("the connection is open");
        Connection {
            client: server.connect(format!("{peer}")),
            parser: RequestParser::default(),
            reply: Reply::default(),
            closing: false,
            last_heard: now,
        }
    }

    fn serve(
        &mut self,
        socket: &mut Socket<'_>,
        server: &mut Server,
        machine: &mut Machine,
        now: Micros,
    ) {
        self.send(socket);
        while socket.can_recv() && !self.closing && self.reply.queued() <= MAX_QUEUED_BYTES {
            self.last_heard = now;
            self.read(socket, server, machine);
            self.send(socket);
        }
        let peer_is_done = !socket.may_recv();
        if self.reply.is_empty() && (self.closing || peer_is_done) {
            socket.close();
        }
    }

    /// Reads up to one request and answers it.
    fn read(&mut self, socket: &mut Socket<'_>, server: &mut Server, machine: &mut Machine) {
        let allowance = machine.heap().allowance();
        let parser = &mut self.parser;
        let event = socket.recv(|bytes| {
            let mut rest: &[u8] = bytes;
            let event = parser.step(&mut rest, allowance);
            (bytes.len() - rest.len(), event)
        });
        match event.unwrap_or(Event::NeedMore) {
            Event::NeedMore => {}
            Event::Request(arguments) => {
                let after = server.execute(machine, self.client, arguments, &mut self.reply);
                self.closing = after == After::Close;
            }
            Event::Refused(error) => server.refuse(&error, &mut self.reply),
            Event::Broken(error) => {
                self.reply.error(&error);
                self.closing = true;
            }
        }
    }

    /// Moves as much of the replies as there is room for into the socket's buffer.
    fn send(&mut self, socket: &mut Socket<'_>) {
        while !self.reply.is_empty() {
            match socket.send_slice(self.reply.front()) {
                Ok(sent @ 1..) => self.reply.advance(sent),
                // No room, or no peer any more: then the socket closes soon.
                Ok(0) | Err(_) => break,
            }
        }
    }
}

fn listen(socket: &mut Socket<'_>) {
    socket.listen(PORT).expect("the socket is closed and the port is not zero");
}
