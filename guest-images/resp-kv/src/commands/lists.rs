//! Lists of byte strings.

use super::{Call, DONE, Outcome, stretch};
use crate::{
    error::CommandError,
    number::parse_i64,
    value::{Blob, Value},
};
use alloc::{collections::VecDeque, vec::Vec};

type List = VecDeque<Blob>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Right,
}

/// The list of argument 1's key, if it is there.
fn list<'a>(call: &'a Call<'_>) -> Result<Option<&'a List>, CommandError> {
    call.server
        .keyspace
        .get(&call.arguments[1])
        .map(Value::as_list)
        .transpose()
}

pub(super) fn lpush(call: &mut Call<'_>) -> Outcome {
    push(call, End::Left)
}

pub(super) fn rpush(call: &mut Call<'_>) -> Outcome {
    push(call, End::Right)
}

fn push(call: &mut Call<'_>, end: End) -> Outcome {
    let elements = call.arguments.split_off(2);
    let allowance = call.host.heap().allowance();
    let (keyspace, key) = (&mut call.server.keyspace, &call.arguments[1]);
    let list = keyspace
        .get_or_insert(key, Value::List(List::new()))
        .as_list_mut()?;
    // A list grows by doubling, in one piece.
    let grows = list.len() + elements.len() > list.capacity();
    let larger = 2 * (list.len() + elements.len()) * size_of::<Blob>();
    if grows && (larger > allowance || list.try_reserve(elements.len()).is_err()) {
        if list.is_empty() {
            keyspace.remove(key);
        }
        return Err(CommandError::OutOfMemory);
    }
    for element in elements {
        match end {
            End::Left => list.push_front(Blob::from(element)),
            End::Right => list.push_back(Blob::from(element)),
        }
    }
    let length = list.len();
    call.reply_count(length)
}

pub(super) fn lpop(call: &mut Call<'_>) -> Outcome {
    pop(call, End::Left)
}

pub(super) fn rpop(call: &mut Call<'_>) -> Outcome {
    pop(call, End::Right)
}

/// LPOP key [count]
fn pop(call: &mut Call<'_>, end: End) -> Outcome {
    let count = match call.arguments.get(2) {
        None => None,
        Some(_) if call.arguments.len() > 3 => return Err(call.command.wrong_arity()),
        Some(count) => {
            let count = parse_i64(count).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(CommandError::NotPositive)?)
        }
    };
    let (keyspace, key) = (&mut call.server.keyspace, &call.arguments[1]);
    let Some(list) = keyspace.get_mut(key).map(Value::as_list_mut).transpose()? else {
        match count {
            None => call.reply.null(),
            Some(_) => call.reply.null_array(),
        }
        return DONE;
    };
    let popped: Vec<Blob> = (0..count.unwrap_or(1).min(list.len()))
        .filter_map(|_| match end {
            End::Left => list.pop_front(),
            End::Right => list.pop_back(),
        })
        .collect();
    // A list without elements is no key.
    if list.is_empty() {
        keyspace.remove(key);
    }
    if count.is_some() {
        call.reply.array(popped.len());
    }
    popped.iter().for_each(|element| call.reply.blob(element));
    DONE
}

pub(super) fn llen(call: &mut Call<'_>) -> Outcome {
    let length = list(call)?.map_or(0, List::len);
    call.reply_count(length)
}

pub(super) fn lindex(call: &mut Call<'_>) -> Outcome {
    let index = call.integer(2)?;
    let element = list(call)?
        .and_then(|list| {
            let position = *stretch(list.len(), index, index)?.start();
            list.get(position)
        })
        .cloned();
    call.reply.optional_blob(element.as_ref());
    DONE
}

pub(super) fn lrange(call: &mut Call<'_>) -> Outcome {
    let (start, end) = (call.integer(2)?, call.integer(3)?);
    let value = call.server.keyspace.get(&call.arguments[1]);
    let list = value.map(Value::as_list).transpose()?;
    let range = list.and_then(|list| Some((list, stretch(list.len(), start, end)?)));
    let Some((list, range)) = range else {
        call.reply.array(0);
        return DONE;
    };
    call.reply.array(range.clone().count());
    list.range(range)
        .for_each(|element| call.reply.blob(element));
    DONE
}
