//! What clients ask, carried out on the Raft that this server leads.
//!
//! Two things are told apart with care (TAS-4): a request of which nothing was done
//! ([`Response::NotLeader`], [`Response::Unavailable`]), and one that may have been
//! done, or may yet be ([`Response::Undecided`]).

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::time::timeout;

use super::Node;
use crate::raft::Seat;
use crate::register::Command;
use crate::store::State;
use crate::types::{Address, ServerId};
use crate::wire::{Request, Response};

/// How long one request may take here. Longer than an election, so that a client's
/// own deadline decides, and a bound for requests whose client is gone.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How many records a page has: with all texts at their bounds it is a quarter of a
/// frame.
const PAGE: usize = 256;

impl Node {
    pub(super) async fn handle(self: &Arc<Self>, request: Request) -> Response {
        match request {
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Command(command) => self.command(command).await,
            Request::Read(vm) => {
                let read = |state: &State| Response::Record(state.register.read(&vm).cloned());
                self.linearizable(read).await
            }
            Request::List(after) => {
                let page = |state: &State| {
                    let records = state.register.list(after.as_ref()).take(PAGE);
                    let owned = records.map(|(name, record)| (name.clone(), record.clone()));
                    Response::Page(owned.collect())
                };
                self.linearizable(page).await
            }
            Request::AddServer(id, address) => self.add_server(id, address).await,
            Request::RemoveServer(id) => self.remove_server(id).await,
        }
    }

    async fn command(&self, command: Command) -> Response {
        if let Err(not_leader) = self.check_leader() {
            return not_leader;
        }
        let written = self.raft.client_write(command);
        match timeout(REQUEST_TIMEOUT, written).await {
            Ok(Ok(written)) => Response::Answer(written.data.expect("a command has an answer")),
            // This may be said of an entry that was appended and then cut off here,
            // while another server still has it.
            Ok(Err(error)) => Response::Undecided(error.to_string()),
            Err(_) => Response::Undecided("no majority of the servers answers".into()),
        }
    }

    /// Looks at the state as it is now: every change that was answered before this
    /// was asked is in it (TAS-1).
    async fn linearizable(&self, look: impl FnOnce(&State) -> Response) -> Response {
        match self.confirm_leader().await {
            Ok(()) => self.machine.look(look),
            Err(response) => response,
        }
    }

    /// Makes sure, by asking a majority, that this server leads and has applied all
    /// that was committed.
    pub(super) async fn confirm_leader(&self) -> Result<(), Response> {
        let confirmed = timeout(REQUEST_TIMEOUT, self.raft.ensure_linearizable()).await;
        match confirmed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(leader)))) => Err(
                Response::NotLeader(leader.leader_node.map(|seat| seat.address)),
            ),
            Ok(Err(error)) => Err(Response::Unavailable(error.to_string())),
            Err(_) => Err(Response::Unavailable(
                "no majority of the servers answers".into(),
            )),
        }
    }

    /// Whether this server leads, as far as it knows.
    pub(super) fn check_leader(&self) -> Result<(), Response> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader;
        if leader == Some(self.who.seat.server) {
            return Ok(());
        }
        let membership = metrics.membership_config.membership();
        let seat = leader.and_then(|leader: ServerId| membership.get_node(&leader));
        let address: Option<Address> = seat.map(|seat: &Seat| seat.address.clone());
        Err(Response::NotLeader(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::{Record, Stop};
    use crate::types::{
        Generation, Incarnation, Life, MAX_ADDRESS_BYTES, MAX_LABEL_BYTES, MAX_REASON_BYTES,
        MAX_VM_NAME_BYTES, Member,
    };
    use crate::wire::MAX_FRAME_BYTES;

    /// SEC-2: the largest page fits a frame, so that no record can keep a list from
    /// being read.
    #[test]
    fn sec_2_the_largest_page_fits_a_frame() {
        let long = |bytes: usize| "x".repeat(bytes);
        let member = |id| Member {
            incarnation: Incarnation([id; 16]),
            node: long(MAX_LABEL_BYTES).parse().unwrap(),
            address: long(MAX_ADDRESS_BYTES).parse().unwrap(),
        };
        let record = Record {
            life: Life([255; 16]),
            generation: Generation(u64::MAX),
            members: vec![member(1), member(2)].try_into().unwrap(),
            winner: Some(Incarnation([1; 16])),
            stopped: Some(Stop {
                by: Incarnation([1; 16]),
                reason: long(MAX_REASON_BYTES).parse().unwrap(),
            }),
        };
        let name = long(MAX_VM_NAME_BYTES).parse().unwrap();
        let page = Response::Page(vec![(name, record); PAGE]);
        let bytes = postcard::to_stdvec(&page).unwrap();
        assert!(
            bytes.len() < MAX_FRAME_BYTES as usize / 2,
            "{}",
            bytes.len()
        );
    }
}
