//! The server: the data, who is connected, and what was done so far.

use crate::{
    commands::{self, Call, Flag},
    error::CommandError,
    keyspace::{Keyspace, UnixMillis},
    reply::Reply,
};
use alloc::{collections::BTreeMap, string::String, vec::Vec};

/// Commands that add data are refused when less than this is free: what is left
/// is for replies, requests under way and the network.
pub const HEAP_RESERVE_BYTES: usize = 6 << 20;

/// A reply may always be this long, out of the reserve.
const SHORT_REPLY_BYTES: usize = 4 << 10;

/// What the server asks of the machine under it.
pub trait Host {
    /// Microseconds since the beginning of 1970. The same all through a command.
    fn unix_micros(&mut self) -> u64;
    /// How the heap stands.
    fn heap(&self) -> Heap;
}

/// How the heap stands, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heap {
    /// Allocated.
    pub used: usize,
    /// Not allocated.
    pub free: usize,
}

impl Heap {
    /// What may still be allocated for data, requests and replies.
    pub fn allowance(self) -> usize {
        self.free.saturating_sub(HEAP_RESERVE_BYTES)
    }
}

/// A connection, numbered in the order of connecting, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub u64);

/// What is known of a connected client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// "address:port"
    pub(crate) address: String,
    pub(crate) name: Vec<u8>,
    pub(crate) library_name: Vec<u8>,
    pub(crate) library_version: Vec<u8>,
    pub(crate) last_command: &'static str,
}

/// Counts since the start, or since CONFIG RESETSTAT.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Statistics {
    pub(crate) connections: u64,
    pub(crate) commands: u64,
    pub(crate) errors: u64,
    pub(crate) expired_keys: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

/// What becomes of a connection after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum After {
    /// It stays open.
    Continue,
    /// It is closed once the reply has been sent.
    Close,
}

/// The key-value server, apart from its connections' bytes.
#[derive(Debug)]
pub struct Server {
    pub(crate) keyspace: Keyspace,
    pub(crate) clients: BTreeMap<ClientId, Client>,
    pub(crate) statistics: Statistics,
    pub(crate) started_micros: u64,
    next_client: u64,
}

impl Server {
    /// An empty server, started now.
    pub fn new(host: &mut dyn Host) -> Self {
        Server {
            keyspace: Keyspace::default(),
            clients: BTreeMap::new(),
            statistics: Statistics::default(),
            started_micros: host.unix_micros(),
            next_client: 1,
        }
    }

    /// A client has connected.
    pub fn connect(&mut self, address: String) -> ClientId {
        let id = ClientId(self.next_client);
        self.next_client += 1;
        self.statistics.connections += 1;
        self.clients.insert(
            id,
            Client {
                address,
                name: Vec::new(),
                library_name: Vec::new(),
                library_version: Vec::new(),
                last_command: "NULL",
            },
        );
        id
    }

    /// A client is gone.
    pub fn disconnect(&mut self, id: ClientId) {
        self.clients.remove(&id);
    }

    /// When the next key expires, in microseconds since the beginning of 1970.
    pub fn next_expiry_micros(&self) -> Option<u64> {
        self.keyspace
            .next_expiry()
            .map(|UnixMillis(at)| at.saturating_mul(1_000))
    }

    /// Removes the keys whose time has come. Reads the time only if some key has one.
    pub fn expire(&mut self, host: &mut dyn Host) {
        if self.keyspace.next_expiry().is_some() {
            let now = UnixMillis(host.unix_micros() / 1_000);
            self.statistics.expired_keys += self.keyspace.expire(now);
        }
    }

    /// Carries out a request, which has at least one argument, the command's name.
    pub fn execute(
        &mut self,
        host: &mut dyn Host,
        client: ClientId,
        arguments: Vec<Vec<u8>>,
        reply: &mut Reply,
    ) -> After {
        self.statistics.commands += 1;
        self.expire(host);
        reply.begin(host.heap().allowance().max(SHORT_REPLY_BYTES));
        let outcome = self.run(host, client, arguments, reply);
        let after = outcome.as_ref().map_or(After::Continue, |after| *after);
        if reply.finish(outcome.map(|_| ())).is_err() {
            self.statistics.errors += 1;
        }
        after
    }

    /// Answers a request that was refused while it was read.
    pub fn refuse(&mut self, error: &CommandError, reply: &mut Reply) {
        self.statistics.commands += 1;
        self.statistics.errors += 1;
        reply.error(error);
    }

    fn run(
        &mut self,
        host: &mut dyn Host,
        client: ClientId,
        arguments: Vec<Vec<u8>>,
        reply: &mut Reply,
    ) -> Result<After, CommandError> {
        let command = commands::find(&arguments).ok_or_else(|| unknown(&arguments))?;
        command.check_arity(arguments.len())?;
        if command.has(Flag::DenyOutOfMemory) && host.heap().allowance() == 0 {
            return Err(CommandError::OutOfMemory);
        }
        if let Some(client) = self.clients.get_mut(&client) {
            client.last_command = command.name;
        }
        (command.run)(&mut Call {
            server: self,
            host,
            client,
            command,
            arguments,
            reply,
        })
    }
}

/// The error for a command that is not there, with what Redis quotes of it.
fn unknown(arguments: &[Vec<u8>]) -> CommandError {
    const MOST: usize = 128;
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]).into_owned();
    let mut quoted = String::new();
    for argument in arguments.iter().skip(1) {
        if quoted.len() >= MOST {
            break;
        }
        quoted.push_str(&alloc::format!("'{}' ", text(argument)));
    }
    CommandError::UnknownCommand {
        name: arguments
            .first()
            .map_or_else(String::new, |name| text(name)),
        arguments: quoted,
    }
}
