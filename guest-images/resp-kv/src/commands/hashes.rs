//! Hashes: fields with values.

use super::{Call, DONE, Outcome};
use crate::{
    error::CommandError,
    number::{Decimal, parse_i64},
    value::{Blob, Value},
};
use alloc::{collections::BTreeMap, vec::Vec};

type Hash = BTreeMap<Vec<u8>, Blob>;

/// The hash of argument 1's key, if it is there.
fn hash<'a>(call: &'a Call<'_>) -> Result<Option<&'a Hash>, CommandError> {
    call.server
        .keyspace
        .get(&call.arguments[1])
        .map(Value::as_hash)
        .transpose()
}

/// The hash of argument 1's key, made if it is not there.
fn hash_to_write<'a>(call: &'a mut Call<'_>) -> Result<&'a mut Hash, CommandError> {
    let key = &call.arguments[1];
    call.server
        .keyspace
        .get_or_insert(key, Value::Hash(Hash::new()))
        .as_hash_mut()
}

/// Sets all pairs of arguments; how many fields are new.
fn write_pairs(call: &mut Call<'_>) -> Result<usize, CommandError> {
    if !call.arguments.len().is_multiple_of(2) {
        return Err(call.command.wrong_arity());
    }
    let pairs = call.arguments.split_off(2);
    let hash = hash_to_write(call)?;
    let before = hash.len();
    let mut pairs = pairs.into_iter();
    while let (Some(field), Some(value)) = (pairs.next(), pairs.next()) {
        hash.insert(field, Blob::from(value));
    }
    Ok(hash.len() - before)
}

pub(super) fn hset(call: &mut Call<'_>) -> Outcome {
    let added = write_pairs(call)?;
    call.reply_count(added)
}

pub(super) fn hmset(call: &mut Call<'_>) -> Outcome {
    write_pairs(call)?;
    call.ok()
}

pub(super) fn hget(call: &mut Call<'_>) -> Outcome {
    let value = hash(call)?
        .and_then(|hash| hash.get(call.argument(2)))
        .cloned();
    call.reply.optional_blob(value.as_ref());
    call.note_read(value.is_some());
    DONE
}

pub(super) fn hmget(call: &mut Call<'_>) -> Outcome {
    let values: Vec<Option<Blob>> = {
        let hash = hash(call)?;
        let value = |field: &Vec<u8>| hash.and_then(|hash| hash.get(field)).cloned();
        call.arguments[2..].iter().map(value).collect()
    };
    call.reply.array(values.len());
    values
        .iter()
        .for_each(|value| call.reply.optional_blob(value.as_ref()));
    DONE
}

/// Replies with what `f` says of each field, `parts` replies a field.
fn reply_all(
    call: &mut Call<'_>,
    parts: usize,
    f: impl Fn(&mut crate::reply::Reply, &[u8], &Blob),
) -> Outcome {
    let value = call.server.keyspace.get(&call.arguments[1]);
    let Some(hash) = value.map(Value::as_hash).transpose()? else {
        call.reply.array(0);
        return DONE;
    };
    call.reply.array(parts * hash.len());
    hash.iter()
        .for_each(|(field, value)| f(call.reply, field, value));
    DONE
}

pub(super) fn hgetall(call: &mut Call<'_>) -> Outcome {
    reply_all(call, 2, |reply, field, value| {
        reply.bulk(field);
        reply.blob(value);
    })
}

pub(super) fn hkeys(call: &mut Call<'_>) -> Outcome {
    reply_all(call, 1, |reply, field, _| reply.bulk(field))
}

pub(super) fn hvals(call: &mut Call<'_>) -> Outcome {
    reply_all(call, 1, |reply, _, value| reply.blob(value))
}

pub(super) fn hlen(call: &mut Call<'_>) -> Outcome {
    let fields = hash(call)?.map_or(0, Hash::len);
    call.reply_count(fields)
}

pub(super) fn hexists(call: &mut Call<'_>) -> Outcome {
    let found = hash(call)?.is_some_and(|hash| hash.contains_key(call.argument(2)));
    call.reply_bool(found)
}

pub(super) fn hdel(call: &mut Call<'_>) -> Outcome {
    let (keyspace, key) = (&mut call.server.keyspace, &call.arguments[1]);
    let Some(hash) = keyspace.get_mut(key).map(Value::as_hash_mut).transpose()? else {
        return call.reply_count(0);
    };
    let fields = &call.arguments[2..];
    let removed = fields
        .iter()
        .filter(|field| hash.remove(field.as_slice()).is_some())
        .count();
    // A hash without fields is no key.
    if hash.is_empty() {
        keyspace.remove(key);
    }
    call.reply_count(removed)
}

pub(super) fn hincrby(call: &mut Call<'_>) -> Outcome {
    let by = call.integer(3)?;
    let old = match hash(call)?.and_then(|hash| hash.get(call.argument(2))) {
        Some(value) => parse_i64(value).ok_or(CommandError::HashValueNotAnInteger)?,
        None => 0,
    };
    let new = old.checked_add(by).ok_or(CommandError::Overflow)?;
    let field = call.take(2);
    hash_to_write(call)?.insert(field, Blob::from(Decimal::new(new).as_bytes().to_vec()));
    call.reply.integer(new);
    DONE
}
