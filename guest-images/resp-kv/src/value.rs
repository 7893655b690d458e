//! What a key can hold.

use crate::error::CommandError;
use alloc::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    vec::Vec,
};
use core::ops::Deref;

/// A byte string that replies share with the data instead of copying it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(Rc<Vec<u8>>);

impl Blob {
    /// The bytes for changing: copied first if a reply still holds them. Room for
    /// `more` bytes is made.
    pub(crate) fn to_mut(&mut self, more: usize) -> Result<&mut Vec<u8>, CommandError> {
        if Rc::get_mut(&mut self.0).is_none() {
            let mut copy = Vec::new();
            copy.try_reserve_exact(self.len() + more)
                .map_err(|_| CommandError::OutOfMemory)?;
            copy.extend_from_slice(self);
            self.0 = Rc::new(copy);
        }
        let bytes = Rc::get_mut(&mut self.0).expect("not shared any more");
        bytes
            .try_reserve(more)
            .map_err(|_| CommandError::OutOfMemory)?;
        Ok(bytes)
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Blob {
    fn from(mut bytes: Vec<u8>) -> Self {
        bytes.shrink_to_fit();
        Blob(Rc::new(bytes))
    }
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A byte string, or a number written in decimal.
    String(Blob),
    /// Fields with values, in the order of the fields.
    Hash(BTreeMap<Vec<u8>, Blob>),
    /// Elements from left to right.
    List(VecDeque<Blob>),
}

impl Value {
    /// As the TYPE command calls it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::String(_) => "string",
            Value::Hash(_) => "hash",
            Value::List(_) => "list",
        }
    }

    pub(crate) fn as_string(&self) -> Result<&Blob, CommandError> {
        match self {
            Value::String(blob) => Ok(blob),
            _ => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn as_hash(&self) -> Result<&BTreeMap<Vec<u8>, Blob>, CommandError> {
        match self {
            Value::Hash(hash) => Ok(hash),
            _ => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn as_list(&self) -> Result<&VecDeque<Blob>, CommandError> {
        match self {
            Value::List(list) => Ok(list),
            _ => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn as_string_mut(&mut self) -> Result<&mut Blob, CommandError> {
        match self {
            Value::String(blob) => Ok(blob),
            _ => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn as_hash_mut(&mut self) -> Result<&mut BTreeMap<Vec<u8>, Blob>, CommandError> {
        match self {
            Value::Hash(hash) => Ok(hash),
            _ => Err(CommandError::WrongType),
        }
    }

    pub(crate) fn as_list_mut(&mut self) -> Result<&mut VecDeque<Blob>, CommandError> {
        match self {
            Value::List(list) => Ok(list),
            _ => Err(CommandError::WrongType),
        }
    }
}
