//! Clusters of real servers, over real TCP and real stores, within one test.

pub(crate) mod links;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use links::Links;
use tempfile::TempDir;
use test_and_set::types::*;
use test_and_set::*;

/// How long a test waits for what must come: far beyond what a loaded machine takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An address of loopback that no other test uses, so that a server that is started
/// again finds its port free.
pub(crate) fn own_ip() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(
        127,
        1 + high % 254,
        low,
        NEXT.fetch_add(1, Ordering::Relaxed),
    )
}

const PORT: u16 = 7000;
const PROXY_PORT: u16 = 7001;

/// Times that a loaded machine with two cores keeps.
pub(crate) fn tuning() -> Tuning {
    Tuning::default()
}

/// One server's place: its directory and addresses stay when it is stopped.
pub(crate) struct Slot {
    pub(crate) dir: TempDir,
    pub(crate) ip: Ipv4Addr,
    pub(crate) handle: Option<ServerHandle>,
}

impl Slot {
    pub(crate) fn listen(&self) -> SocketAddr {
        (self.ip, PORT).into()
    }
}

/// A cluster of servers 1 to n.
pub(crate) struct Cluster {
    pub(crate) slots: BTreeMap<u64, Slot>,
    /// Set where every connection between servers can be cut.
    pub(crate) links: Option<Links>,
    pub(crate) tuning: Tuning,
}

impl Cluster {
    /// Starts a cluster of `n` servers and waits until it serves.
    pub(crate) async fn start(n: u64) -> Self {
        Self::start_with(n, tuning(), None).await
    }

    /// Starts a cluster whose connections between servers can be cut.
    pub(crate) async fn partitionable(n: u64) -> Self {
        Self::start_with(n, tuning(), Some(Links::default())).await
    }

    pub(crate) async fn start_with(n: u64, tuning: Tuning, links: Option<Links>) -> Self {
        let mut cluster = Self {
            slots: BTreeMap::new(),
            links,
            tuning,
        };
        for id in 2..=n {
            cluster.add_slot(id);
            cluster.launch(id, StartMode::Join).await.unwrap();
        }
        cluster.add_slot(1);
        let others = (2..=n)
            .map(|id| (ServerId(id), cluster.address(id)))
            .collect();
        cluster.launch(1, StartMode::Init { others }).await.unwrap();
        cluster.leader().await;
        // Whoever is lost from here on, the others know that they are a cluster.
        for id in 1..=n {
            until("all to join", || {
                (cluster.status(id).applied > 0).then_some(())
            })
            .await;
        }
        cluster
    }

    pub(crate) fn add_slot(&mut self, id: u64) {
        let slot = Slot {
            dir: tempfile::tempdir().unwrap(),
            ip: own_ip(),
            handle: None,
        };
        if let Some(links) = &self.links {
            links.proxy(id, (slot.ip, PROXY_PORT).into(), slot.listen());
        }
        self.slots.insert(id, slot);
    }

    /// Where the other servers reach a server.
    pub(crate) fn address(&self, id: u64) -> Address {
        let port = if self.links.is_some() {
            PROXY_PORT
        } else {
            PORT
        };
        format!("{}:{port}", self.slots[&id].ip).parse().unwrap()
    }

    pub(crate) fn config(&self, id: u64, start: StartMode) -> ServerConfig {
        let slot = &self.slots[&id];
        ServerConfig {
            id: ServerId(id),
            listen: slot.listen(),
            advertise: Some(self.address(id)),
            data_dir: slot.dir.path().join("data"),
            start,
            tuning: self.tuning.clone(),
            exposure: Exposure::Loopback,
        }
    }

    pub(crate) async fn launch(&mut self, id: u64, start: StartMode) -> Result<(), ServerError> {
        let handle = Server::start(self.config(id, start)).await?;
        self.slots.get_mut(&id).unwrap().handle = Some(handle);
        Ok(())
    }

    pub(crate) async fn resume(&mut self, id: u64) {
        self.launch(id, StartMode::Resume).await.unwrap();
    }

    pub(crate) async fn stop(&mut self, id: u64) {
        let handle = self.slots.get_mut(&id).unwrap().handle.take();
        handle.expect("it runs").shutdown().await;
    }

    pub(crate) fn data(&self, id: u64) -> PathBuf {
        self.slots[&id].dir.path().join("data")
    }

    pub(crate) fn status(&self, id: u64) -> Status {
        self.slots[&id].handle.as_ref().expect("it runs").status()
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        let running = self.slots.iter().filter(|(_, slot)| slot.handle.is_some());
        running.map(|(id, _)| *id).collect()
    }

    /// Waits until one of these servers leads in the newest term of all of them.
    pub(crate) async fn leader_among(&self, ids: &[u64]) -> u64 {
        until("a leader", || {
            let statuses: Vec<_> = ids.iter().map(|id| self.status(*id)).collect();
            let term = statuses.iter().map(|status| status.term).max()?;
            let leader = statuses
                .iter()
                .find(|status| status.role == Role::Leader && status.term == term)?;
            Some(leader.server.0)
        })
        .await
    }

    pub(crate) async fn leader(&self) -> u64 {
        self.leader_among(&self.running()).await
    }

    /// A client of all servers that waits as long as a test does.
    pub(crate) fn client(&self) -> Client {
        self.client_of(&self.slots.keys().copied().collect::<Vec<_>>(), PATIENCE)
    }

    pub(crate) fn client_of(&self, ids: &[u64], total_timeout: Duration) -> Client {
        let servers = ids.iter().map(|id| self.slots[id].listen().to_string());
        Client::new(ClientConfig {
            attempt_timeout: (total_timeout / 3).min(Duration::from_secs(1)),
            total_timeout,
            ..ClientConfig::new(servers)
        })
    }

    pub(crate) async fn shutdown(&mut self) {
        for id in self.running() {
            self.stop(id).await;
        }
    }
}

/// Waits until something is there.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, wait).await;
    found.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

pub(crate) fn vm(name: &str) -> VmName {
    name.parse().unwrap()
}

pub(crate) fn member() -> Member {
    Member {
        incarnation: Incarnation::random(),
        node: "host".parse().unwrap(),
        address: "127.0.0.1:7100".parse().unwrap(),
    }
}

/// A VM whose life was begun with a pair.
pub(crate) struct Pair {
    pub(crate) vm: VmName,
    pub(crate) life: Life,
    pub(crate) members: [Member; 2],
}

impl Pair {
    pub(crate) async fn create(client: &mut Client, name: &str) -> Self {
        let pair = Self {
            vm: vm(name),
            life: Life::random(),
            members: [member(), member()],
        };
        let members = pair.members.to_vec().try_into().unwrap();
        let created = client.create(pair.vm.clone(), pair.life, members).await;
        assert_eq!(created, ChangeOutcome::Done);
        pair
    }

    pub(crate) fn who(&self, n: usize) -> Incarnation {
        self.members[n].incarnation
    }

    pub(crate) async fn claim(&self, client: &mut Client, by: Incarnation) -> ClaimOutcome {
        let vm = self.vm.clone();
        client.claim(vm, self.life, Generation::FIRST, by).await
    }

    /// Makes sure that the VM has this winner, for whoever asks.
    pub(crate) async fn assert_won_by(&self, client: &mut Client, winner: Incarnation) {
        let record = client
            .read(self.vm.clone())
            .await
            .unwrap()
            .expect("it was created");
        assert_eq!(record.winner, Some(winner));
        for member in &self.members {
            let by = member.incarnation;
            let expected = if by == winner {
                ClaimOutcome::Won
            } else {
                ClaimOutcome::Lost { to: winner }
            };
            assert_eq!(self.claim(client, by).await, expected);
        }
    }
}
