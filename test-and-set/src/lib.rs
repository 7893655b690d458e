//! The arbiter: a Raft-backed test-and-set service.
#![forbid(unsafe_code)]
mod raft;
mod register;
mod store;
mod types;
