//! Keys, whatever they hold: existence, expiry, search.

use super::{
    Call, DONE, Outcome,
    strings::{From, Unit},
};
use crate::{error::CommandError, glob, keyspace::UnixMillis};
use alloc::vec::Vec;

pub(super) fn del(call: &mut Call<'_>) -> Outcome {
    let (keyspace, keys) = (&mut call.server.keyspace, &call.arguments[1..]);
    let removed = keys
        .iter()
        .filter(|key| keyspace.remove(key).is_some())
        .count();
    call.reply_count(removed)
}

pub(super) fn exists(call: &mut Call<'_>) -> Outcome {
    let (keyspace, keys) = (&call.server.keyspace, &call.arguments[1..]);
    // A key that is named twice counts twice.
    let found = keys.iter().filter(|key| keyspace.contains(key)).count();
    call.reply_count(found)
}

pub(super) fn type_(call: &mut Call<'_>) -> Outcome {
    let value = call.server.keyspace.get(&call.arguments[1]);
    call.reply
        .simple(value.map_or("none", |value| value.type_name()));
    DONE
}

pub(super) fn dbsize(call: &mut Call<'_>) -> Outcome {
    let keys = call.keyspace().len();
    call.reply_count(keys)
}

/// FLUSHALL and FLUSHDB [ASYNC | SYNC]: there is one database, and it is emptied at once.
pub(super) fn flush(call: &mut Call<'_>) -> Outcome {
    match call.arguments.len() {
        1 => {}
        2 if call.is(1, "SYNC") || call.is(1, "ASYNC") => {}
        _ => return Err(CommandError::Syntax),
    }
    call.keyspace().clear();
    call.ok()
}

pub(super) fn keys(call: &mut Call<'_>) -> Outcome {
    let (keyspace, pattern) = (&call.server.keyspace, &call.arguments[1]);
    let matching = || {
        keyspace
            .iter()
            .filter(|(key, _)| glob::matches(pattern, key))
    };
    // Counted first: the count comes before the keys, and they are not gathered.
    call.reply.array(matching().count());
    matching().for_each(|(key, _)| call.reply.bulk(key));
    DONE
}

/// SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]
pub(super) fn scan(call: &mut Call<'_>) -> Outcome {
    const DEFAULT_COUNT: usize = 10;
    /// One call stays short, whatever count is asked for.
    const MOST: i64 = 10_000;

    let cursor = str::from_utf8(call.argument(1))
        .ok()
        .and_then(|text| text.parse::<u64>().ok());
    let cursor = cursor.ok_or(CommandError::InvalidCursor)?;
    let (mut pattern, mut kind, mut count) = (None, None, DEFAULT_COUNT);
    let mut index = 2;
    while index < call.arguments.len() {
        if index + 1 == call.arguments.len() {
            return Err(CommandError::Syntax);
        }
        if call.is(index, "MATCH") {
            pattern = Some(call.argument(index + 1));
        } else if call.is(index, "TYPE") {
            kind = Some(call.argument(index + 1));
        } else if call.is(index, "COUNT") {
            count = match call.integer(index + 1)? {
                given @ 1.. => given.min(MOST) as usize,
                _ => return Err(CommandError::Syntax),
            };
        } else {
            return Err(CommandError::Syntax);
        }
        index += 2;
    }

    let stretch = call.server.keyspace.scan(cursor, count);
    let found: Vec<&[u8]> = stretch
        .keys
        .iter()
        .filter(|(key, _)| pattern.is_none_or(|pattern| glob::matches(pattern, key)))
        .filter(|(_, value)| {
            kind.is_none_or(|kind| kind.eq_ignore_ascii_case(value.type_name().as_bytes()))
        })
        .map(|(key, _)| *key)
        .collect();
    call.reply.array(2);
    call.reply
        .bulk(alloc::format!("{}", stretch.next).as_bytes());
    call.reply.array(found.len());
    found.into_iter().for_each(|key| call.reply.bulk(key));
    DONE
}

pub(super) fn expire(call: &mut Call<'_>) -> Outcome {
    set_expiry(call, Unit::Seconds, From::Now)
}

pub(super) fn pexpire(call: &mut Call<'_>) -> Outcome {
    set_expiry(call, Unit::Millis, From::Now)
}

pub(super) fn expireat(call: &mut Call<'_>) -> Outcome {
    set_expiry(call, Unit::Seconds, From::Epoch)
}

pub(super) fn pexpireat(call: &mut Call<'_>) -> Outcome {
    set_expiry(call, Unit::Millis, From::Epoch)
}

/// EXPIRE key time [NX | XX | GT | LT]
fn set_expiry(call: &mut Call<'_>, unit: Unit, from: From) -> Outcome {
    let invalid = CommandError::InvalidExpire {
        command: call.command.name,
    };
    let given = call.integer(2)?;
    let now = call.unix_millis();
    let base = if from == From::Now { now.0 as i64 } else { 0 };
    let at = given
        .checked_mul(unit as i64)
        .and_then(|millis| millis.checked_add(base))
        .ok_or(invalid)?;
    let Some(before) = call.server.keyspace.expiry(call.argument(1)) else {
        return call.reply_bool(false);
    };
    for index in 3..call.arguments.len() {
        // Never is later than any time.
        let held = before.map_or(i64::MAX, |UnixMillis(at)| at as i64);
        let allowed = match () {
            _ if call.is(index, "NX") => before.is_none(),
            _ if call.is(index, "XX") => before.is_some(),
            _ if call.is(index, "GT") => at > held,
            _ if call.is(index, "LT") => at < held,
            _ => {
                return Err(CommandError::Unsupported {
                    what: "this option of EXPIRE",
                });
            }
        };
        if !allowed {
            return call.reply_bool(false);
        }
    }
    let (keyspace, key) = (&mut call.server.keyspace, &call.arguments[1]);
    if at <= now.0 as i64 {
        keyspace.remove(key);
    } else {
        keyspace.set_expiry(key, Some(UnixMillis(at as u64)));
    }
    call.reply_bool(true)
}

pub(super) fn persist(call: &mut Call<'_>) -> Outcome {
    let (keyspace, key) = (&mut call.server.keyspace, &call.arguments[1]);
    let had_expiry = matches!(keyspace.expiry(key), Some(Some(_)));
    if had_expiry {
        keyspace.set_expiry(key, None);
    }
    call.reply_bool(had_expiry)
}

pub(super) fn ttl(call: &mut Call<'_>) -> Outcome {
    reply_time(call, |at, now| (at.0.saturating_sub(now.0) + 500) / 1_000)
}

pub(super) fn pttl(call: &mut Call<'_>) -> Outcome {
    reply_time(call, |at, now| at.0.saturating_sub(now.0))
}

pub(super) fn expiretime(call: &mut Call<'_>) -> Outcome {
    reply_time(call, |at, _| (at.0 + 500) / 1_000)
}

/// Replies with what `f` makes of the key's expiry and of now; −2 without the
/// key, −1 without an expiry.
fn reply_time(call: &mut Call<'_>, f: impl Fn(UnixMillis, UnixMillis) -> u64) -> Outcome {
    let expiry = call.server.keyspace.expiry(call.argument(1));
    let value = match expiry {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => f(at, call.unix_millis()) as i64,
    };
    call.reply.integer(value);
    DONE
}
