//! The commands: one table, and a file for each kind of data.

mod hashes;
mod keys;
mod lists;
mod session;
mod strings;

use crate::{
    error::CommandError,
    keyspace::{Keyspace, UnixMillis},
    number::parse_i64,
    reply::Reply,
    server::{After, ClientId, Host, Server},
};
use alloc::{string::String, vec::Vec};

/// One command under way.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a mut Server,
    pub(crate) host: &'a mut dyn Host,
    pub(crate) client: ClientId,
    pub(crate) command: &'static Command,
    /// The command's name comes first.
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) reply: &'a mut Reply,
}

/// What a command returns; its reply is in [`Call::reply`] unless it is an error.
pub(crate) type Outcome = Result<After, CommandError>;

/// Most commands end so.
const DONE: Outcome = Ok(After::Continue);

/// What COMMAND tells of a command, and what is checked before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Write,
    ReadOnly,
    /// It can add data.
    DenyOutOfMemory,
    Fast,
}

impl Flag {
    fn name(self) -> &'static str {
        match self {
            Flag::Write => "write",
            Flag::ReadOnly => "readonly",
            Flag::DenyOutOfMemory => "denyoom",
            Flag::Fast => "fast",
        }
    }
}

/// An entry of the table.
pub(crate) struct Command {
    /// In small letters.
    pub(crate) name: &'static str,
    /// How many arguments, the name included; negative: at least as many.
    arity: i64,
    flags: &'static [Flag],
    /// Which arguments are keys: first, last (negative: from the end), step.
    keys: (i64, i64, i64),
    pub(crate) run: fn(&mut Call<'_>) -> Outcome,
}

impl core::fmt::Debug for Command {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name)
    }
}

impl Command {
    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }

    pub(crate) fn check_arity(&self, arguments: usize) -> Result<(), CommandError> {
        let needed = self.arity.unsigned_abs() as usize;
        let right = if self.arity < 0 {
            arguments >= needed
        } else {
            arguments == needed
        };
        right.then_some(()).ok_or_else(|| self.wrong_arity())
    }

    fn wrong_arity(&self) -> CommandError {
        CommandError::WrongArity {
            command: String::from(self.name),
        }
    }
}

const fn command(
    name: &'static str,
    arity: i64,
    flags: &'static [Flag],
    keys: (i64, i64, i64),
    run: fn(&mut Call<'_>) -> Outcome,
) -> Command {
    Command {
        name,
        arity,
        flags,
        keys,
        run,
    }
}

const READ: &[Flag] = &[Flag::ReadOnly];
const READ_FAST: &[Flag] = &[Flag::ReadOnly, Flag::Fast];
const REMOVE: &[Flag] = &[Flag::Write, Flag::Fast];
const ADD: &[Flag] = &[Flag::Write, Flag::DenyOutOfMemory];
const ADD_FAST: &[Flag] = &[Flag::Write, Flag::DenyOutOfMemory, Flag::Fast];
const SESSION: &[Flag] = &[Flag::Fast];

const NO_KEY: (i64, i64, i64) = (0, 0, 0);
const ONE_KEY: (i64, i64, i64) = (1, 1, 1);
const ALL_KEYS: (i64, i64, i64) = (1, -1, 1);
const KEYS_AND_VALUES: (i64, i64, i64) = (1, -1, 2);

/// All commands, sorted by name.
static COMMANDS: &[Command] = &[
    command("append", 3, ADD_FAST, ONE_KEY, strings::append),
    command("client", -2, SESSION, NO_KEY, session::client),
    command("command", -1, SESSION, NO_KEY, session::command),
    command("config", -2, SESSION, NO_KEY, session::config),
    command("dbsize", 1, READ_FAST, NO_KEY, keys::dbsize),
    command("decr", 2, ADD_FAST, ONE_KEY, strings::decr),
    command("decrby", 3, ADD_FAST, ONE_KEY, strings::decrby),
    command("del", -2, REMOVE, ALL_KEYS, keys::del),
    command("echo", 2, SESSION, NO_KEY, session::echo),
    command("exists", -2, READ_FAST, ALL_KEYS, keys::exists),
    command("expire", -3, REMOVE, ONE_KEY, keys::expire),
    command("expireat", -3, REMOVE, ONE_KEY, keys::expireat),
    command("expiretime", 2, READ_FAST, ONE_KEY, keys::expiretime),
    command("flushall", -1, REMOVE, NO_KEY, keys::flush),
    command("flushdb", -1, REMOVE, NO_KEY, keys::flush),
    command("get", 2, READ_FAST, ONE_KEY, strings::get),
    command("getdel", 2, REMOVE, ONE_KEY, strings::getdel),
    command("getrange", 4, READ, ONE_KEY, strings::getrange),
    command("getset", 3, ADD_FAST, ONE_KEY, strings::getset),
    command("hdel", -3, REMOVE, ONE_KEY, hashes::hdel),
    command("hello", -1, SESSION, NO_KEY, session::hello),
    command("hexists", 3, READ_FAST, ONE_KEY, hashes::hexists),
    command("hget", 3, READ_FAST, ONE_KEY, hashes::hget),
    command("hgetall", 2, READ, ONE_KEY, hashes::hgetall),
    command("hincrby", 4, ADD_FAST, ONE_KEY, hashes::hincrby),
    command("hkeys", 2, READ, ONE_KEY, hashes::hkeys),
    command("hlen", 2, READ_FAST, ONE_KEY, hashes::hlen),
    command("hmget", -3, READ_FAST, ONE_KEY, hashes::hmget),
    command("hmset", -4, ADD_FAST, ONE_KEY, hashes::hmset),
    command("hset", -4, ADD_FAST, ONE_KEY, hashes::hset),
    command("hvals", 2, READ, ONE_KEY, hashes::hvals),
    command("incr", 2, ADD_FAST, ONE_KEY, strings::incr),
    command("incrby", 3, ADD_FAST, ONE_KEY, strings::incrby),
    command("info", -1, SESSION, NO_KEY, session::info),
    command("keys", 2, READ, NO_KEY, keys::keys),
    command("lindex", 3, READ, ONE_KEY, lists::lindex),
    command("llen", 2, READ_FAST, ONE_KEY, lists::llen),
    command("lpop", -2, REMOVE, ONE_KEY, lists::lpop),
    command("lpush", -3, ADD_FAST, ONE_KEY, lists::lpush),
    command("lrange", 4, READ, ONE_KEY, lists::lrange),
    command("mget", -2, READ_FAST, ALL_KEYS, strings::mget),
    command("mset", -3, ADD, KEYS_AND_VALUES, strings::mset),
    command("persist", 2, REMOVE, ONE_KEY, keys::persist),
    command("pexpire", -3, REMOVE, ONE_KEY, keys::pexpire),
    command("pexpireat", -3, REMOVE, ONE_KEY, keys::pexpireat),
    command("ping", -1, SESSION, NO_KEY, session::ping),
    command("psetex", 4, ADD, ONE_KEY, strings::psetex),
    command("pttl", 2, READ_FAST, ONE_KEY, keys::pttl),
    command("quit", -1, SESSION, NO_KEY, session::quit),
    command("rpop", -2, REMOVE, ONE_KEY, lists::rpop),
    command("rpush", -3, ADD_FAST, ONE_KEY, lists::rpush),
    command("scan", -2, READ, NO_KEY, keys::scan),
    command("select", 2, SESSION, NO_KEY, session::select),
    command("set", -3, ADD, ONE_KEY, strings::set),
    command("setex", 4, ADD, ONE_KEY, strings::setex),
    command("setnx", 3, ADD_FAST, ONE_KEY, strings::setnx),
    command("strlen", 2, READ_FAST, ONE_KEY, strings::strlen),
    command("time", 1, SESSION, NO_KEY, session::time),
    command("ttl", 2, READ_FAST, ONE_KEY, keys::ttl),
    command("type", 2, READ_FAST, ONE_KEY, keys::type_),
    command("unlink", -2, REMOVE, ALL_KEYS, keys::del),
];

/// The command that a request names, in letters of any size.
pub(crate) fn find(arguments: &[Vec<u8>]) -> Option<&'static Command> {
    let name = arguments.first()?;
    let by_name = |command: &Command| {
        command
            .name
            .bytes()
            .cmp(name.iter().map(u8::to_ascii_lowercase))
    };
    COMMANDS
        .binary_search_by(by_name)
        .ok()
        .map(|index| &COMMANDS[index])
}

impl Call<'_> {
    fn keyspace(&mut self) -> &mut Keyspace {
        &mut self.server.keyspace
    }

    /// An argument that the arity promises.
    fn argument(&self, index: usize) -> &[u8] {
        &self.arguments[index]
    }

    /// Takes an argument as it is, to keep it.
    fn take(&mut self, index: usize) -> Vec<u8> {
        core::mem::take(&mut self.arguments[index])
    }

    fn integer(&self, index: usize) -> Result<i64, CommandError> {
        parse_i64(self.argument(index)).ok_or(CommandError::NotAnInteger)
    }

    /// Whether an argument is this word, in letters of any size.
    fn is(&self, index: usize, word: &str) -> bool {
        self.arguments[index].eq_ignore_ascii_case(word.as_bytes())
    }

    fn unix_millis(&mut self) -> UnixMillis {
        UnixMillis(self.host.unix_micros() / 1_000)
    }

    /// Notes for INFO whether a key that was read was there.
    fn note_read(&mut self, found: bool) {
        let statistics = &mut self.server.statistics;
        *(if found {
            &mut statistics.hits
        } else {
            &mut statistics.misses
        }) += 1;
    }

    /// The error for an argument that is no subcommand.
    fn unknown_subcommand(&self) -> CommandError {
        CommandError::UnknownSubcommand {
            command: self.command.name,
            subcommand: String::from_utf8_lossy(self.argument(1)).into_owned(),
        }
    }

    fn ok(&mut self) -> Outcome {
        self.reply.simple("OK");
        DONE
    }

    fn reply_bool(&mut self, value: bool) -> Outcome {
        self.reply.integer(i64::from(value));
        DONE
    }

    fn reply_count(&mut self, count: usize) -> Outcome {
        self.reply.count(count);
        DONE
    }
}

/// A stretch of a sequence of `length` by two inclusive positions, of which the
/// negative count from the end. `None` if it is empty.
fn stretch(length: usize, start: i64, end: i64) -> Option<core::ops::RangeInclusive<usize>> {
    let length = i64::try_from(length).ok()?;
    let from_start = |position: i64| {
        if position < 0 {
            position + length
        } else {
            position
        }
    };
    let start = from_start(start).max(0);
    let end = from_start(end).min(length - 1);
    (start <= end).then_some(start as usize..=end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_that_every_command_is_found() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
        for command in COMMANDS {
            let name = command.name.to_ascii_uppercase().into_bytes();
            assert!(find(&[name]).is_some_and(|found| found.name == command.name));
        }
    }

    #[test]
    fn stretches() {
        for (length, start, end, expected) in [
            (5, 0, -1, Some(0..=4)),
            (5, 1, 2, Some(1..=2)),
            (5, -2, -1, Some(3..=4)),
            (5, -100, 100, Some(0..=4)),
            (5, 3, 1, None),
            (5, 5, 9, None),
            (5, 0, -6, None),
            (0, 0, -1, None),
            (5, i64::MIN, i64::MAX, Some(0..=4)),
        ] {
            assert_eq!(
                stretch(length, start, end),
                expected,
                "{length} {start} {end}"
            );
        }
    }
}
