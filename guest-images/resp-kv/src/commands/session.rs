//! The connection, and the server as a whole.

use super::{COMMANDS, Call, Command, DONE, Outcome};
use crate::{
    MAX_BULK_BYTES, REDIS_VERSION,
    error::CommandError,
    glob,
    number::parse_i64,
    reply::Reply,
    server::{After, Client, ClientId, HEAP_RESERVE_BYTES},
};
use alloc::{format, string::String, vec::Vec};
use core::fmt::Write as _;

pub(super) fn ping(call: &mut Call<'_>) -> Outcome {
    match call.arguments.len() {
        1 => call.reply.simple("PONG"),
        2 => call.reply.bulk(&call.arguments[1]),
        _ => return Err(call.command.wrong_arity()),
    }
    DONE
}

pub(super) fn echo(call: &mut Call<'_>) -> Outcome {
    call.reply.bulk(&call.arguments[1]);
    DONE
}

pub(super) fn quit(call: &mut Call<'_>) -> Outcome {
    call.reply.simple("OK");
    Ok(After::Close)
}

/// There is one database.
pub(super) fn select(call: &mut Call<'_>) -> Outcome {
    match call.integer(1)? {
        0 => call.ok(),
        _ => Err(CommandError::DbIndexOutOfRange),
    }
}

pub(super) fn time(call: &mut Call<'_>) -> Outcome {
    let now = call.host.unix_micros();
    call.reply.array(2);
    call.reply.bulk(format!("{}", now / 1_000_000).as_bytes());
    call.reply.bulk(format!("{}", now % 1_000_000).as_bytes());
    DONE
}

/// HELLO [2 [SETNAME name]]: RESP3 is not spoken, and there are no users.
pub(super) fn hello(call: &mut Call<'_>) -> Outcome {
    if call.arguments.len() > 1 && parse_i64(call.argument(1)) != Some(2) {
        return Err(CommandError::ProtocolVersion);
    }
    let mut index = 2;
    while index < call.arguments.len() {
        if call.is(index, "SETNAME") && index + 1 < call.arguments.len() {
            set_name(call, index + 1)?;
            index += 2;
        } else if call.is(index, "AUTH") {
            return Err(CommandError::Unsupported { what: "AUTH" });
        } else {
            return Err(CommandError::Syntax);
        }
    }
    let ClientId(id) = call.client;
    let reply = &mut *call.reply;
    reply.array(14);
    for (name, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    for (name, value) in [("proto", 2), ("id", id as i64)] {
        reply.bulk(name.as_bytes());
        reply.integer(value);
    }
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    DONE
}

/// Sets the client's name to an argument.
fn set_name(call: &mut Call<'_>, index: usize) -> Result<(), CommandError> {
    if !call
        .argument(index)
        .iter()
        .all(|byte| (b'!'..=b'~').contains(byte))
    {
        return Err(CommandError::InvalidClientName);
    }
    let name = call.take(index);
    if let Some(client) = call.server.clients.get_mut(&call.client) {
        client.name = name;
    }
    Ok(())
}

/// CLIENT ID | GETNAME | SETNAME name | SETINFO attribute value | INFO | LIST
pub(super) fn client(call: &mut Call<'_>) -> Outcome {
    let arguments = call.arguments.len();
    if call.is(1, "ID") && arguments == 2 {
        call.reply.integer(call.client.0 as i64);
    } else if call.is(1, "GETNAME") && arguments == 2 {
        let name = call
            .server
            .clients
            .get(&call.client)
            .map_or(&[][..], |client| &client.name);
        match name {
            [] => call.reply.null(),
            name => call.reply.bulk(name),
        }
    } else if call.is(1, "SETNAME") && arguments == 3 {
        set_name(call, 2)?;
        call.reply.simple("OK");
    } else if call.is(1, "SETINFO") && arguments == 4 {
        set_library(call)?;
        call.reply.simple("OK");
    } else if call.is(1, "INFO") && arguments == 2 {
        let text = describe_clients(call, |id| id == call.client);
        call.reply.bulk(text.as_bytes());
    } else if call.is(1, "LIST") && arguments == 2 {
        let text = describe_clients(call, |_| true);
        call.reply.bulk(text.as_bytes());
    } else {
        return Err(call.unknown_subcommand());
    }
    DONE
}

fn set_library(call: &mut Call<'_>) -> Result<(), CommandError> {
    let (name, version) = (call.is(2, "LIB-NAME"), call.is(2, "LIB-VER"));
    let value = call.take(3);
    let Some(client) = call.server.clients.get_mut(&call.client) else {
        return Ok(());
    };
    match (name, version) {
        (true, _) => client.library_name = value,
        (_, true) => client.library_version = value,
        _ => {
            return Err(CommandError::Unsupported {
                what: "this attribute",
            });
        }
    }
    Ok(())
}

fn describe_clients(call: &Call<'_>, wanted: impl Fn(ClientId) -> bool) -> String {
    let mut text = String::new();
    for (id, client) in &call.server.clients {
        if wanted(*id) {
            describe_client(&mut text, *id, client);
        }
    }
    text
}

fn describe_client(text: &mut String, ClientId(id): ClientId, client: &Client) {
    let plain = String::from_utf8_lossy;
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "id={id} addr={} name={} db=0 cmd={} resp=2 lib-name={} lib-ver={}",
        client.address,
        plain(&client.name),
        client.last_command,
        plain(&client.library_name),
        plain(&client.library_version),
    );
}

/// CONFIG GET pattern … | RESETSTAT
pub(super) fn config(call: &mut Call<'_>) -> Outcome {
    if call.is(1, "GET") && call.arguments.len() >= 3 {
        let settings = settings(call);
        let patterns = &call.arguments[2..];
        let wanted = |name: &str| {
            patterns
                .iter()
                .any(|pattern| glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
        };
        let found: Vec<_> = settings.iter().filter(|(name, _)| wanted(name)).collect();
        call.reply.array(2 * found.len());
        for (name, value) in found {
            call.reply.bulk(name.as_bytes());
            call.reply.bulk(value.as_bytes());
        }
        return DONE;
    }
    if call.is(1, "RESETSTAT") && call.arguments.len() == 2 {
        call.server.statistics = Default::default();
        return call.ok();
    }
    if call.is(1, "SET") {
        return Err(CommandError::Unsupported { what: "CONFIG SET" });
    }
    Err(call.unknown_subcommand())
}

/// What cannot be changed, but is asked for.
fn settings(call: &Call<'_>) -> [(&'static str, String); 9] {
    let heap = call.host.heap();
    let memory = (heap.used + heap.free).saturating_sub(HEAP_RESERVE_BYTES);
    [
        ("appendonly", String::from("no")),
        ("bind", String::from("10.0.2.15")),
        ("databases", String::from("1")),
        ("maxmemory", format!("{memory}")),
        ("maxmemory-policy", String::from("noeviction")),
        ("port", String::from("6379")),
        ("proto-max-bulk-len", format!("{MAX_BULK_BYTES}")),
        ("save", String::new()),
        ("timeout", String::from("0")),
    ]
}

/// COMMAND [COUNT | LIST | INFO name … | DOCS …]
pub(super) fn command(call: &mut Call<'_>) -> Outcome {
    if call.arguments.len() == 1 {
        call.reply.array(COMMANDS.len());
        COMMANDS
            .iter()
            .for_each(|command| describe_command(call.reply, command));
    } else if call.is(1, "COUNT") {
        call.reply.count(COMMANDS.len());
    } else if call.is(1, "LIST") {
        call.reply.array(COMMANDS.len());
        COMMANDS
            .iter()
            .for_each(|command| call.reply.bulk(command.name.as_bytes()));
    } else if call.is(1, "INFO") {
        call.reply.array(call.arguments.len() - 2);
        for index in 2..call.arguments.len() {
            match super::find(&call.arguments[index..]) {
                Some(command) => describe_command(call.reply, command),
                None => call.reply.null_array(),
            }
        }
    } else if call.is(1, "DOCS") {
        // redis-cli asks for its hints; it does without.
        call.reply.array(0);
    } else {
        return Err(call.unknown_subcommand());
    }
    DONE
}

fn describe_command(reply: &mut Reply, command: &Command) {
    reply.array(6);
    reply.bulk(command.name.as_bytes());
    reply.integer(command.arity);
    reply.array(command.flags.len());
    command
        .flags
        .iter()
        .for_each(|flag| reply.simple(flag.name()));
    let (first, last, step) = command.keys;
    [first, last, step]
        .into_iter()
        .for_each(|position| reply.integer(position));
}

/// INFO [section …]
pub(super) fn info(call: &mut Call<'_>) -> Outcome {
    type Section = fn(&mut Call<'_>, &mut String) -> core::fmt::Result;
    let sections: [(&str, Section); 6] = [
        ("Server", info_server),
        ("Clients", info_clients),
        ("Memory", info_memory),
        ("Stats", info_stats),
        ("Replication", info_replication),
        ("Keyspace", info_keyspace),
    ];
    let mut text = String::new();
    for (name, write) in sections {
        let wanted = call.arguments.len() == 1
            || (1..call.arguments.len()).any(|index| {
                ["all", "default", "everything", name]
                    .iter()
                    .any(|word| call.is(index, word))
            });
        if !wanted {
            continue;
        }
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "# {name}\r\n").and_then(|()| write(call, &mut text));
    }
    call.reply.bulk(text.as_bytes());
    DONE
}

fn info_server(call: &mut Call<'_>, text: &mut String) -> core::fmt::Result {
    let uptime = (call
        .host
        .unix_micros()
        .saturating_sub(call.server.started_micros))
        / 1_000_000;
    write!(
        text,
        "redis_version:{REDIS_VERSION}\r\nredis_mode:standalone\r\nos:ftvm bare metal\r\n\
         arch_bits:64\r\ntcp_port:6379\r\nuptime_in_seconds:{uptime}\r\n\
         uptime_in_days:{}\r\n",
        uptime / 86_400,
    )
}

fn info_clients(call: &mut Call<'_>, text: &mut String) -> core::fmt::Result {
    write!(
        text,
        "connected_clients:{}\r\nblocked_clients:0\r\n",
        call.server.clients.len()
    )
}

fn info_memory(call: &mut Call<'_>, text: &mut String) -> core::fmt::Result {
    let heap = call.host.heap();
    let most = (heap.used + heap.free).saturating_sub(HEAP_RESERVE_BYTES);
    write!(
        text,
        "used_memory:{}\r\ntotal_system_memory:{}\r\nmaxmemory:{most}\r\n\
         maxmemory_policy:noeviction\r\n",
        heap.used,
        heap.used + heap.free,
    )
}

fn info_stats(call: &mut Call<'_>, text: &mut String) -> core::fmt::Result {
    let statistics = &call.server.statistics;
    write!(
        text,
        "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n\
         total_error_replies:{}\r\nexpired_keys:{}\r\nevicted_keys:0\r\n\
         keyspace_hits:{}\r\nkeyspace_misses:{}\r\n",
        statistics.connections,
        statistics.commands,
        statistics.errors,
        statistics.expired_keys,
        statistics.hits,
        statistics.misses,
    )
}

/// To itself the guest is one machine, however many hosts keep it alive.
fn info_replication(_: &mut Call<'_>, text: &mut String) -> core::fmt::Result {
    write!(text, "role:master\r\nconnected_slaves:0\r\n")
}

fn info_keyspace(call: &mut Call<'_>, text: &mut String) -> core::fmt::Result {
    let keyspace = call.keyspace();
    if keyspace.is_empty() {
        return Ok(());
    }
    let (keys, expiring) = (keyspace.len(), keyspace.expiring());
    write!(text, "db0:keys={keys},expires={expiring},avg_ttl=0\r\n")
}
