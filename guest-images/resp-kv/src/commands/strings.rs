//! Byte strings, and the numbers written in them.

use super::{Call, DONE, Outcome, stretch};
use crate::{
    MAX_BULK_BYTES,
    error::CommandError,
    keyspace::UnixMillis,
    number::{Decimal, parse_i64},
    value::{Blob, Value},
};
use alloc::vec::Vec;

pub(super) fn get(call: &mut Call<'_>) -> Outcome {
    let value = match call.server.keyspace.get(&call.arguments[1]) {
        Some(value) => Some(value.as_string()?),
        None => None,
    };
    call.reply.optional_blob(value);
    let found = value.is_some();
    call.note_read(found);
    DONE
}

pub(super) fn mget(call: &mut Call<'_>) -> Outcome {
    call.reply.array(call.arguments.len() - 1);
    for index in 1..call.arguments.len() {
        // A key of another type reads as if it were not there.
        let value = call.server.keyspace.get(&call.arguments[index]);
        let value = value.and_then(|value| value.as_string().ok());
        call.reply.optional_blob(value);
        let found = value.is_some();
        call.note_read(found);
    }
    DONE
}

/// When SET writes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    IfAbsent,
    IfPresent,
}

/// What SET does with the key's expiry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expiry {
    Remove,
    Keep,
    At(UnixMillis),
}

struct SetOptions {
    condition: Condition,
    expiry: Expiry,
    give_old: bool,
}

/// SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]
pub(super) fn set(call: &mut Call<'_>) -> Outcome {
    let options = set_options(call)?;
    let old = match call.server.keyspace.get(call.argument(1)) {
        // Only GET minds the old value's type.
        Some(value) if options.give_old => Some(Some(value.as_string()?.clone())),
        Some(_) => Some(None),
        None => None,
    };
    let writes = match options.condition {
        Condition::Always => true,
        Condition::IfAbsent => old.is_none(),
        Condition::IfPresent => old.is_some(),
    };
    if writes {
        let value = call.take(2);
        put(call, value, options.expiry);
    }
    match old {
        _ if !options.give_old && writes => call.reply.simple("OK"),
        _ if !options.give_old => call.reply.null(),
        old => call.reply.optional_blob(old.flatten().as_ref()),
    }
    DONE
}

fn set_options(call: &mut Call<'_>) -> Result<SetOptions, CommandError> {
    let mut options = SetOptions {
        condition: Condition::Always,
        expiry: Expiry::Remove,
        give_old: false,
    };
    let mut index = 3;
    while index < call.arguments.len() {
        let condition_free = options.condition == Condition::Always;
        let expiry_free = options.expiry == Expiry::Remove;
        if call.is(index, "NX") && condition_free {
            options.condition = Condition::IfAbsent;
        } else if call.is(index, "XX") && condition_free {
            options.condition = Condition::IfPresent;
        } else if call.is(index, "GET") {
            options.give_old = true;
        } else if call.is(index, "KEEPTTL") && expiry_free {
            options.expiry = Expiry::Keep;
        } else if let Some((unit, from)) = expiry_option(call, index)
            && expiry_free
            && index + 1 < call.arguments.len()
        {
            index += 1;
            options.expiry = Expiry::At(expiry(call, index, unit, from)?);
        } else {
            return Err(CommandError::Syntax);
        }
        index += 1;
    }
    Ok(options)
}

/// The unit of a time, in milliseconds.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Seconds = 1_000,
    Millis = 1,
}

/// What a time is counted from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Now,
    Epoch,
}

fn expiry_option(call: &Call<'_>, index: usize) -> Option<(Unit, From)> {
    [
        ("EX", Unit::Seconds, From::Now),
        ("PX", Unit::Millis, From::Now),
        ("EXAT", Unit::Seconds, From::Epoch),
        ("PXAT", Unit::Millis, From::Epoch),
    ]
    .into_iter()
    .find_map(|(word, unit, from)| call.is(index, word).then_some((unit, from)))
}

/// A time to come, from an argument that must be positive.
fn expiry(
    call: &mut Call<'_>,
    index: usize,
    unit: Unit,
    from: From,
) -> Result<UnixMillis, CommandError> {
    let invalid = CommandError::InvalidExpire {
        command: call.command.name,
    };
    let given = call.integer(index)?;
    let base = if from == From::Now {
        call.unix_millis().0 as i64
    } else {
        0
    };
    if given <= 0 {
        return Err(invalid);
    }
    given
        .checked_mul(unit as i64)
        .and_then(|millis| millis.checked_add(base))
        .map(|millis| UnixMillis(millis as u64))
        .ok_or(invalid)
}

/// Writes argument 1's key.
fn put(call: &mut Call<'_>, value: Vec<u8>, expiry: Expiry) {
    let (keyspace, key) = (&mut call.server.keyspace, &call.arguments[1]);
    keyspace.set(key, Value::String(Blob::from(value)));
    match expiry {
        Expiry::Keep => {}
        Expiry::Remove => {
            if keyspace.expiring() > 0 {
                keyspace.set_expiry(key, None);
            }
        }
        Expiry::At(at) => keyspace.set_expiry(key, Some(at)),
    }
}

pub(super) fn setnx(call: &mut Call<'_>) -> Outcome {
    let absent = !call.server.keyspace.contains(call.argument(1));
    if absent {
        let value = call.take(2);
        put(call, value, Expiry::Remove);
    }
    call.reply_bool(absent)
}

pub(super) fn setex(call: &mut Call<'_>) -> Outcome {
    set_with_expiry(call, Unit::Seconds)
}

pub(super) fn psetex(call: &mut Call<'_>) -> Outcome {
    set_with_expiry(call, Unit::Millis)
}

fn set_with_expiry(call: &mut Call<'_>, unit: Unit) -> Outcome {
    let at = expiry(call, 2, unit, From::Now)?;
    let value = call.take(3);
    put(call, value, Expiry::At(at));
    call.ok()
}

pub(super) fn getset(call: &mut Call<'_>) -> Outcome {
    let old = match call.server.keyspace.get(call.argument(1)) {
        Some(value) => Some(value.as_string()?.clone()),
        None => None,
    };
    call.reply.optional_blob(old.as_ref());
    let value = call.take(2);
    put(call, value, Expiry::Remove);
    DONE
}

pub(super) fn getdel(call: &mut Call<'_>) -> Outcome {
    let outcome = get(call)?;
    call.server.keyspace.remove(&call.arguments[1]);
    Ok(outcome)
}

pub(super) fn mset(call: &mut Call<'_>) -> Outcome {
    if call.arguments.len().is_multiple_of(2) {
        return Err(call.command.wrong_arity());
    }
    for index in (1..call.arguments.len()).step_by(2) {
        let value = call.take(index + 1);
        let (keyspace, key) = (&mut call.server.keyspace, &call.arguments[index]);
        keyspace.set(key, Value::String(Blob::from(value)));
        keyspace.set_expiry(key, None);
    }
    call.ok()
}

pub(super) fn strlen(call: &mut Call<'_>) -> Outcome {
    let length = match call.server.keyspace.get(call.argument(1)) {
        Some(value) => value.as_string()?.len(),
        None => 0,
    };
    call.reply_count(length)
}

pub(super) fn getrange(call: &mut Call<'_>) -> Outcome {
    let (start, end) = (call.integer(2)?, call.integer(3)?);
    let bytes: &[u8] = match call.server.keyspace.get(&call.arguments[1]) {
        Some(value) => value.as_string()?,
        None => &[],
    };
    call.reply
        .bulk(stretch(bytes.len(), start, end).map_or(&[], |range| &bytes[range]));
    DONE
}

pub(super) fn append(call: &mut Call<'_>) -> Outcome {
    let allowance = call.host.heap().allowance();
    let (keyspace, key) = (&mut call.server.keyspace, &call.arguments[1]);
    let length = match keyspace.get_mut(key) {
        Some(value) => {
            let (blob, more) = (value.as_string_mut()?, &call.arguments[2]);
            let length = blob.len() + more.len();
            if length > MAX_BULK_BYTES {
                return Err(CommandError::TooLong);
            }
            // At worst the string is moved, and its room doubled.
            if 2 * length > allowance {
                return Err(CommandError::OutOfMemory);
            }
            blob.to_mut(more.len())?.extend_from_slice(more);
            length
        }
        None => {
            let value = call.take(2);
            let length = value.len();
            put(call, value, Expiry::Remove);
            length
        }
    };
    call.reply_count(length)
}

pub(super) fn incr(call: &mut Call<'_>) -> Outcome {
    add(call, 1)
}

pub(super) fn decr(call: &mut Call<'_>) -> Outcome {
    add(call, -1)
}

pub(super) fn incrby(call: &mut Call<'_>) -> Outcome {
    let by = call.integer(2)?;
    add(call, by)
}

pub(super) fn decrby(call: &mut Call<'_>) -> Outcome {
    let by = call
        .integer(2)?
        .checked_neg()
        .ok_or(CommandError::Overflow)?;
    add(call, by)
}

fn add(call: &mut Call<'_>, by: i64) -> Outcome {
    let key = &call.arguments[1];
    let old = match call.server.keyspace.get(key) {
        Some(value) => parse_i64(value.as_string()?).ok_or(CommandError::NotAnInteger)?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or(CommandError::Overflow)?;
    let digits = Decimal::new(new).as_bytes().to_vec();
    call.server
        .keyspace
        .set(key, Value::String(Blob::from(digits)));
    call.reply.integer(new);
    DONE
}
