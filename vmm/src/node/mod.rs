//! The process that runs one machine: it performs what the protocol asks.

mod peer;
mod vcpu;

pub use peer::bind;
