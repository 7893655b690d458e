//! What the kv guest knows of Redis, without sockets, clock or allocator: the
//! RESP2 parser, the data, the commands.
//!
//! ```text
//!   bytes ─► parser::RequestParser ─► args ─► server::Server::execute ─► reply::Reply ─► bytes
//!                                                │
//!                                  keyspace::Keyspace, value::Value
//! ```
//!
//! Everything is a function of its inputs. There is no randomness: keys lie in
//! the order of a fixed hash, so a replayed guest holds the same bytes. Time and
//! the heap's figures come through [`server::Host`].
//!
//! Memory is bounded by whoever asks: a request's length is believed only as far
//! as its bytes have come in ([`parser`]), a command that adds data is refused
//! while the heap is low, and a reply that would not fit becomes an error.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod commands;
pub mod error;
mod glob;
pub mod keyspace;
mod number;
pub mod parser;
pub mod reply;
pub mod server;
pub mod value;

/// The version of Redis whose behaviour and messages are followed.
pub const REDIS_VERSION: &str = "7.0.15";

/// The most bytes of a key, a value, a field or an element.
pub const MAX_BULK_BYTES: usize = 1 << 20;
