//! TCP connections: bytes to requests, replies to bytes.
//!
//! ```text
//!   listening ──SYN──► open ──── peer or server closes ────► closing ──► listening
//!                       │  ▲
//!                       ▼  │ requests while few replies wait to be sent
//!                      served
//! ```
//!
//! A socket that is not in use listens; `network` adds sockets as clients come.

use crate::{
    host::Machine,
    network::{Network, listen},
};
use alloc::{format, vec::Vec};
use ftvm_guest::clock::Micros;
use resp_kv::{
    parser::{Event, RequestParser},
    reply::Reply,
    server::{After, ClientId, Host, Server},
};
use smoltcp::socket::tcp::{Socket, State};

/// While more than this waits to be sent to a client, no more is read from it.
const MAX_QUEUED_BYTES: usize = 64 << 10;
/// A peer that has been silent for longer may lose its connection to another.
const SILENCE: Micros = Micros(60_000_000);

/// All connections, each beside the socket of the same number.
#[derive(Default)]
pub(crate) struct Connections {
    slots: Vec<Option<Connection>>,
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
    /// Does what is to be done on each connection.
    pub(crate) fn serve(
        &mut self,
        network: &mut Network,
        server: &mut Server,
        machine: &mut Machine,
        now: Micros,
    ) {
        self.slots.resize_with(network.sockets(), || None);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            serve_slot(slot, network.socket(index), server, machine, now);
        }
        if network.is_full() {
            self.give_up_silent(network, now);
        }
    }

    /// Frees a socket for the next client, if some peer seems to be gone.
    fn give_up_silent(&mut self, network: &mut Network, now: Micros) {
        let heard = self
            .slots
            .iter()
            .map(|slot| slot.as_ref().map(|open| open.last_heard));
        let longest = heard
            .enumerate()
            .filter_map(|(index, heard)| Some((heard?, index)))
            .min();
        if let Some((heard, index)) = longest
            && heard.0 + SILENCE.0 < now.0
        {
            network.socket(index).abort();
        }
    }
}

/// Does what is to be done on one connection.
fn serve_slot(
    slot: &mut Option<Connection>,
    socket: &mut Socket<'_>,
    server: &mut Server,
    machine: &mut Machine,
    now: Micros,
) {
    match socket.state() {
        State::Listen | State::SynReceived => {}
        State::Closed => {
            if let Some(connection) = slot.take() {
                server.disconnect(connection.client);
            }
            // Before it listens again, a reset may have to be sent.
            if socket.remote_endpoint().is_none() {
                listen(socket);
            }
        }
        // Waiting would keep the socket from the next client. A peer that missed the last
        // acknowledgement is reset instead, and is as well rid of the connection.
        State::TimeWait => socket.abort(),
        _ => {
            let connection = slot.get_or_insert_with(|| Connection::new(socket, server, now));
            connection.serve(socket, server, machine, now);
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
