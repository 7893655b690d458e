//! Making a cluster, and changing its servers while it serves.
//!
//! A server's seat names its store. So whoever brings a server in asks it first who
//! it is; and a server id whose store is gone can never be given a seat again,
//! neither by adding it nor by making the cluster once more (TAS-5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::timeout;

use super::Node;
use crate::raft::Seat;
use crate::status::{ChangeRefusal, MAX_SERVERS};
use crate::types::{Address, ServerId, StoreId};
use crate::wire::{self, Hello, Response, Whois, WireError};

/// How long a server may take to say who it is.
const WHOIS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait before a founder is asked again.
const FOUND_AGAIN: Duration = Duration::from_millis(200);

/// How long one step of a change may take: a new server receives the whole state.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Asks whoever listens at an address who it is.
async fn whois(address: &Address) -> Result<Whois, WireError> {
    let hello = Hello::Client { cluster: None };
    let dialled = timeout(WHOIS_TIMEOUT, wire::dial(address.as_str(), &hello)).await;
    let dialled = dialled.map_err(|_| WireError::Io(std::io::ErrorKind::TimedOut.into()))?;
    Ok(dialled?.1)
}

/// Makes the cluster, if this is the server that was told to and it is not made yet:
/// waits until all founders answer and are free, then begins with all of them.
pub(super) async fn found(node: Arc<Node>) {
    let founding = node.who.cluster().is_some() && node.raft.is_initialized().await == Ok(false);
    if !founding {
        return;
    }
    let mut seats = BTreeMap::new();
    let me = Seat {
        address: node.address.clone(),
        store: node.who.seat.store,
    };
    for (id, address) in &node.founders {
        let mut said = None;
        let store = loop {
            match node.recruit(*id, address).await {
                Ok(store) => break store,
                Err(refusal) => {
                    let why = refusal.to_string();
                    if said.as_ref() != Some(&why) {
                        tracing::warn!("the cluster waits for a server: {why}");
                        node.set_waiting(Some(why.clone()));
                        said = Some(why);
                    }
                    tokio::time::sleep(FOUND_AGAIN).await;
                }
            }
        };
        let address = address.clone();
        seats.insert(*id, Seat { address, store });
    }
    seats.insert(node.who.seat.server, me);
    match node.raft.initialize(seats).await {
        Ok(()) => node.set_waiting(None),
        Err(error) => node.set_waiting(Some(error.to_string())),
    }
}

impl Node {
    /// Asks a server who it is, and whether it is free to join this cluster.
    async fn recruit(&self, id: ServerId, address: &Address) -> Result<StoreId, ChangeRefusal> {
        let address = address.clone();
        let Whois { seat, cluster } = match whois(&address).await {
            Ok(whois) => whois,
            Err(error) => {
                let why = error.to_string();
                return Err(ChangeRefusal::Unreachable { id, address, why });
            }
        };
        match cluster {
            _ if seat.server != id => Err(ChangeRefusal::OtherServer {
                id,
                address,
                found: seat.server,
            }),
            Some(cluster) if Some(cluster) != self.who.cluster() => {
                Err(ChangeRefusal::OtherCluster { id, cluster })
            }
            Some(_) | None => Ok(seat.store),
        }
    }

    /// Makes a server part of the cluster: it catches up as a learner, then votes.
    pub(super) async fn add_server(&self, id: ServerId, address: Address) -> Response {
        self.change(async {
            let store = self.recruit(id, &address).await?;
            let known = self.machine.look(|state| state.servers.get(&id).copied());
            if known.is_some_and(|known| known != store) {
                return Err(ChangeRefusal::IdTaken(id).into());
            }
            let (voters, servers) = self.members();
            if voters.contains(&id) {
                return Ok(());
            }
            if servers.len() >= MAX_SERVERS && !servers.contains_key(&id) {
                return Err(ChangeRefusal::TooMany.into());
            }
            self.correct_own_seat(&servers).await?;
            let seat = Seat { address, store };
            step(self.raft.add_learner(id, seat, true)).await?;
            let voter = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
            step(self.raft.change_membership(voter, false)).await
        })
        .await
    }

    /// Takes a server out of the cluster, for ever: its id is not used again.
    pub(super) async fn remove_server(&self, id: ServerId) -> Response {
        self.change(async {
            let (voters, servers) = self.members();
            let gone = BTreeSet::from([id]);
            if voters == gone {
                Err(ChangeRefusal::Last(id).into())
            } else if voters.contains(&id) {
                let gone = ChangeMembers::RemoveVoters(gone);
                step(self.raft.change_membership(gone, false)).await
            } else if servers.contains_key(&id) {
                let gone = ChangeMembers::RemoveNodes(gone);
                step(self.raft.change_membership(gone, false)).await
            } else {
                Ok(())
            }
        })
        .await
    }

    /// Carries out one change of the membership, if this server leads.
    async fn change(&self, change: impl Future<Output = Result<(), Stopped>>) -> Response {
        let Ok(_one_at_a_time) = self.changing.try_lock() else {
            return Response::ChangeRefused(ChangeRefusal::InProgress);
        };
        if let Err(response) = self.confirm_leader().await {
            return response;
        }
        match change.await {
            Ok(()) => Response::Changed,
            Err(Stopped::Refused(refusal)) => Response::ChangeRefused(refusal),
            Err(Stopped::Undecided(why)) => Response::Undecided(why),
        }
    }

    fn members(&self) -> (BTreeSet<ServerId>, BTreeMap<ServerId, Seat>) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let servers = membership.nodes().map(|(id, seat)| (*id, seat.clone()));
        (membership.voter_ids().collect(), servers.collect())
    }

    /// A server that was alone may have moved; before others come they must know
    /// where it is.
    async fn correct_own_seat(&self, servers: &BTreeMap<ServerId, Seat>) -> Result<(), Stopped> {
        let me = self.who.seat.server;
        match servers.get(&me) {
            Some(seat) if seat.address != self.address => {
                let seat = Seat {
                    address: self.address.clone(),
                    ..seat.clone()
                };
                let moved = ChangeMembers::SetNodes(BTreeMap::from([(me, seat)]));
                step(self.raft.change_membership(moved, true)).await
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Why a change did not come to its end.
enum Stopped {
    /// Nothing was changed.
    Refused(ChangeRefusal),
    /// It may have been changed in part. Asking again completes it.
    Undecided(String),
}

impl From<ChangeRefusal> for Stopped {
    fn from(refusal: ChangeRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Waits for one step of a change.
async fn step<T>(
    change: impl Future<Output = Result<T, RaftError<ServerId, ClientWriteError<ServerId, Seat>>>>,
) -> Result<(), Stopped> {
    match timeout(STEP_TIMEOUT, change).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_),
        )))) => Err(ChangeRefusal::InProgress.into()),
        Ok(Err(error)) => Err(Stopped::Undecided(error.to_string())),
        Err(_) => Err(Stopped::Undecided(
            "no majority of the servers answers".into(),
        )),
    }
}
