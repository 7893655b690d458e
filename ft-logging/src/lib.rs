//! The log and the protocol of a fault-tolerant VM: no KVM, no sockets, no clocks.
//!
//! ```text
//!   types ◀── entry ◀── initial, message ◀── codec ◀── store, inspect
//!                               ▲
//!                            protocol    (no files, sockets, clocks or threads)
//! ```
#![forbid(unsafe_code)]

pub mod codec;
pub mod entry;
pub mod initial;
pub mod inspect;
pub mod message;
pub mod protocol;
pub mod store;
pub mod types;
