//! The arbiter: a Raft-backed test-and-set service.
#![forbid(unsafe_code)]
mod client;
mod raft;
pub mod register;
mod server;
mod status;
mod store;
pub mod types;
pub mod wire;

pub use client::{ChangeError, ChangeOutcome, ClaimOutcome, Client, ClientConfig, NoAnswer};
pub use server::{
    ConfigError, Exposure, Server, ServerConfig, ServerError, ServerHandle, StartMode, Tuning,
};
pub use status::{ChangeRefusal, MAX_SERVERS, Role, ServerInfo, Status};
pub use store::StoreError;
