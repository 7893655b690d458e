//! The arbiter: a Raft-backed test-and-set service.
#![forbid(unsafe_code)]
mod register;
mod types;
