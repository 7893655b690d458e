//! The arbiter: a Raft-backed test-and-set service that lets exactly one node go on
//! as a VM.
//!
//! It keeps one record a VM (life, generation, members, winner, stopped or not) and
//! promises, across crashes of any or all of its servers:
//!
//! - claims, opens, stops and reads are linearizable (TAS-1);
//! - a generation of a life has one winner, for ever (TAS-2);
//! - a minority of the servers grants nothing (TAS-3);
//! - a claim whose fate is not known is reported so (TAS-4);
//! - a server that lost its store cannot vote as its old self (TAS-5).
//!
//! ```text
//!   register   the pure machine: what is granted to whom
//!   store      log, vote and register on disk (redb)
//!   wire       frames and hellos
//!   server     openraft over TCP, and what clients ask
//!   client     tries all servers, follows the leader, says how far a question came
//! ```
//!
//! A cluster of three: one server is started with [`StartMode::Init`], which names
//! the others, and the others with [`StartMode::Join`], in any order. Started again,
//! each of them uses [`StartMode::Resume`].
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use test_and_set::types::{Generation, Incarnation, Life, Member, Members};
//! use test_and_set::{ChangeOutcome, ClaimOutcome, Client, ClientConfig, Server};
//!
//! let dir = tempfile::tempdir()?;
//! let server = Server::embedded(dir.path()).await?;
//! let mut client = Client::new(ClientConfig::new([server.local_addr().to_string()]));
//!
//! let (vm, life) = ("web".parse()?, Life::random());
//! let me = Incarnation::random();
//! let members = Members::alone(Member {
//!     incarnation: me,
//!     node: "host-a".parse()?,
//!     address: "127.0.0.1:7100".parse()?,
//! });
//! let created = client.create(vm, life, members).await;
//! assert_eq!(created, ChangeOutcome::Done);
//! let claimed = client.claim("web".parse()?, life, Generation::FIRST, me).await;
//! assert_eq!(claimed, ClaimOutcome::Won);
//! # server.shutdown().await;
//! # Ok(()) }
//! ```
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
