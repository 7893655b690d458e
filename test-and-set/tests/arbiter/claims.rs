//! Who wins, and what survives which loss.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use test_and_set::register::Refusal;
use test_and_set::types::{Generation, Incarnation, Life};
use test_and_set::wire::{self, Hello, MAX_HELLO_BYTES, SeatId, Welcome, Whois};
use test_and_set::{ChangeOutcome, ClaimOutcome, Client, ClientConfig, Server};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::common::{Cluster, Pair, member, own_ip, vm};

/// For claims that cannot be answered: as long as an election.
const SHORT: Duration = Duration::from_millis(700);

/// TAS-2: of many that claim at the same time, one wins; who is no member never does.
async fn one_of_many_wins(servers: u64) {
    const VMS: usize = 6;
    let mut cluster = Cluster::start(servers).await;
    let mut client = cluster.client();
    let mut claims = JoinSet::new();
    let mut pairs = Vec::new();
    for n in 0..VMS {
        let pair = Arc::new(Pair::create(&mut client, &format!("vm{n}")).await);
        pairs.push(pair.clone());
        for by in [
            pair.who(0),
            pair.who(1),
            pair.who(0),
            pair.who(1),
            Incarnation::random(),
        ] {
            let (mut client, pair) = (cluster.client(), pair.clone());
            claims.spawn(async move { (n, by, pair.claim(&mut client, by).await) });
        }
    }
    let mut winners = vec![BTreeSet::new(); VMS];
    for (n, by, outcome) in claims.join_all().await {
        match outcome {
            ClaimOutcome::Won => drop(winners[n].insert(by)),
            ClaimOutcome::Lost { to } => drop(winners[n].insert(to)),
            ClaimOutcome::Refused(Refusal::NotMember(_)) => {
                assert!(
                    !pairs[n]
                        .members
                        .iter()
                        .any(|member| member.incarnation == by)
                );
            }
            other => panic!("{by} of vm{n}: {other:?}"),
        }
    }
    for (pair, winners) in pairs.iter().zip(winners) {
        assert_eq!(winners.len(), 1, "{}: {winners:?}", pair.vm);
        pair.assert_won_by(&mut client, *winners.first().unwrap())
            .await;
    }
    cluster.shutdown().await;
}

/// TAS-2, with 3 servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_2_one_of_many_wins_with_3_servers() {
    one_of_many_wins(3).await;
}

/// TAS-2, with 5 servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_2_one_of_many_wins_with_5_servers() {
    one_of_many_wins(5).await;
}

/// TAS-3: a minority grants nothing and says nothing, whoever of the servers it is;
/// with a majority it goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_3_a_minority_grants_nothing() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.client();
    let decided = Pair::create(&mut client, "decided").await;
    assert_eq!(
        decided.claim(&mut client, decided.who(1)).await,
        ClaimOutcome::Won
    );
    let pair = Pair::create(&mut client, "open").await;
    for survivor in 1..=3 {
        let others: Vec<_> = (1..=3).filter(|id| *id != survivor).collect();
        for id in &others {
            cluster.stop(*id).await;
        }
        let mut client = cluster.client_of(&[1, 2, 3], SHORT);
        for asked in [&pair, &decided] {
            match asked.claim(&mut client, asked.who(0)).await {
                ClaimOutcome::Unknown(_) | ClaimOutcome::Unreachable(_) => {}
                other => panic!("a minority answered {other:?}"),
            }
            client.read(asked.vm.clone()).await.unwrap_err();
        }
        for id in &others {
            cluster.resume(*id).await;
        }
        cluster.leader().await;
    }
    // The claims above may have been granted when the majority was back, to who sent
    // them and to nobody else.
    assert_eq!(
        pair.claim(&mut client, pair.who(0)).await,
        ClaimOutcome::Won
    );
    pair.assert_won_by(&mut client, pair.who(0)).await;
    decided.assert_won_by(&mut client, decided.who(1)).await;
    cluster.shutdown().await;
}

/// TAS-2: the winners are the same after all servers were stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_2_winners_survive_a_restart_of_all() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.client();
    let mut pairs = Vec::new();
    for n in 0..10 {
        let pair = Pair::create(&mut client, &format!("vm{n}")).await;
        assert_eq!(
            pair.claim(&mut client, pair.who(n % 2)).await,
            ClaimOutcome::Won
        );
        pairs.push(pair);
    }
    for _ in 0..2 {
        cluster.shutdown().await;
        for id in 1..=3 {
            cluster.resume(id).await;
        }
        for (n, pair) in pairs.iter().enumerate() {
            pair.assert_won_by(&mut client, pair.who(n % 2)).await;
        }
    }
    assert_eq!(client.list().await.unwrap().len(), pairs.len());
    cluster.shutdown().await;
}

/// TAS-2, FAIL-5: while each server in turn is stopped and started, claims go on
/// being decided, each for one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_2_each_server_restarts_under_load() {
    let mut cluster = Cluster::start(3).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    for worker in 0..2 {
        let mut clients = [cluster.client(), cluster.client()];
        let done = done.clone();
        load.spawn(async move {
            let mut decided = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let name = format!("vm{worker}-{}", decided.len());
                let [one, two] = &mut clients;
                let pair = Pair::create(one, &name).await;
                let claims =
                    tokio::join!(pair.claim(one, pair.who(0)), pair.claim(two, pair.who(1)),);
                let winner = match claims {
                    (ClaimOutcome::Won, ClaimOutcome::Lost { to }) if to == pair.who(0) => to,
                    (ClaimOutcome::Lost { to }, ClaimOutcome::Won) if to == pair.who(1) => to,
                    other => panic!("{name}: {other:?}"),
                };
                decided.push((pair, winner));
            }
            decided
        });
    }
    for id in [1, 2, 3, 1, 2, 3] {
        cluster.stop(id).await;
        cluster.leader().await;
        cluster.resume(id).await;
        cluster.leader().await;
    }
    done.store(true, Ordering::Relaxed);
    let mut client = cluster.client();
    for (pair, winner) in load.join_all().await.into_iter().flatten() {
        pair.assert_won_by(&mut client, winner).await;
    }
    cluster.shutdown().await;
}

/// A whole life: two failovers, a recovery, a stop, another life, its deletion.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_2_a_life_from_creation_to_deletion() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.client();
    let pair = Pair::create(&mut client, "vm").await;
    let (name, life) = (pair.vm.clone(), pair.life);
    assert_eq!(
        pair.claim(&mut client, pair.who(1)).await,
        ClaimOutcome::Won
    );
    let spare = member();
    let members = vec![pair.members[1].clone(), spare.clone()]
        .try_into()
        .unwrap();
    let opened = client
        .open(name.clone(), life, Generation(2), pair.who(1), members)
        .await;
    assert_eq!(opened, ChangeOutcome::Done);
    let claimed = client
        .claim(name.clone(), life, Generation(2), spare.incarnation)
        .await;
    assert_eq!(claimed, ClaimOutcome::Won);
    let saved = member();
    let recovered = client
        .recover(name.clone(), life, Generation(2), saved.clone())
        .await;
    assert_eq!(recovered, ChangeOutcome::Done);
    let record = client.read(name.clone()).await.unwrap().unwrap();
    assert_eq!(
        (record.generation, record.winner),
        (Generation(3), Some(saved.incarnation))
    );
    let reason = "power-off".parse().unwrap();
    let stopped = client
        .stop(name.clone(), life, Generation(3), saved.incarnation, reason)
        .await;
    assert_eq!(stopped, ChangeOutcome::Stopped);
    assert_eq!(
        pair.claim(&mut client, pair.who(0)).await,
        ClaimOutcome::Stopped
    );
    let next = Pair::create(&mut client, "vm").await;
    assert_eq!(
        pair.claim(&mut client, pair.who(0)).await,
        ClaimOutcome::Stopped
    );
    let other = client.create(
        name.clone(),
        Life::random(),
        pair.members.to_vec().try_into().unwrap(),
    );
    assert!(matches!(
        other.await,
        ChangeOutcome::Refused(Refusal::OtherLife(_))
    ));
    assert_eq!(
        client.delete(name.clone(), next.life).await,
        ChangeOutcome::Deleted
    );
    assert_eq!(
        next.claim(&mut client, next.who(0)).await,
        ClaimOutcome::Deleted
    );
    assert_eq!(client.read(name).await.unwrap(), None);
    cluster.shutdown().await;
}

/// The quick start on one machine: begins by itself, and goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_server_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::embedded(dir.path()).await.unwrap();
    let config = |server: &test_and_set::ServerHandle| ClientConfig {
        cluster: server.cluster_id(),
        ..ClientConfig::new([server.local_addr().to_string()])
    };
    let mut client = Client::new(config(&server));
    let pair = Pair::create(&mut client, "vm").await;
    assert_eq!(
        pair.claim(&mut client, pair.who(0)).await,
        ClaimOutcome::Won
    );
    let cluster = server.cluster_id();
    server.shutdown().await;
    let server = Server::embedded(dir.path()).await.unwrap();
    assert_eq!(server.cluster_id(), cluster);
    let mut client = Client::new(config(&server));
    pair.assert_won_by(&mut client, pair.who(0)).await;
    server.shutdown().await;
}

/// A server that welcomes clients and then swallows what they ask.
async fn swallower(cluster: test_and_set::types::ClusterId) -> String {
    let listener = TcpListener::bind((own_ip(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                wire::read_preamble(&mut stream).await.unwrap();
                let _: Hello = wire::read_frame(&mut stream, MAX_HELLO_BYTES)
                    .await
                    .unwrap();
                wire::write_preamble(&mut stream).await.unwrap();
                let seat = SeatId {
                    server: test_and_set::types::ServerId(9),
                    store: test_and_set::types::StoreId::random(),
                };
                let whois = Whois {
                    seat,
                    cluster: Some(cluster),
                };
                wire::write_frame(&mut stream, &Welcome::Accepted(whois))
                    .await
                    .unwrap();
                stream.read_to_end(&mut Vec::new()).await.unwrap();
            });
        }
    });
    address
}

/// TAS-4: a claim that was sent and not answered is unknown; one that was never sent
/// is not; and a refusal says nothing about the claim that was sent before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_4_a_claim_without_an_answer_is_unknown() {
    let mut cluster = Cluster::start(1).await;
    let id = cluster.slots[&1]
        .handle
        .as_ref()
        .unwrap()
        .cluster_id()
        .unwrap();
    let mut client = cluster.client();
    let pair = Pair::create(&mut client, "vm").await;
    let swallower = swallower(id).await;
    let nobody = format!("{}:7000", own_ip());
    let real = cluster.slots[&1].listen().to_string();
    let asking = |servers: &[&str]| {
        Client::new(ClientConfig {
            attempt_timeout: Duration::from_millis(200),
            total_timeout: SHORT,
            ..ClientConfig::new(servers.iter().copied())
        })
    };

    let unreachable = pair.claim(&mut asking(&[&nobody]), pair.who(0)).await;
    assert!(
        matches!(unreachable, ClaimOutcome::Unreachable(_)),
        "{unreachable:?}"
    );
    let unknown = pair.claim(&mut asking(&[&swallower]), pair.who(0)).await;
    assert!(matches!(unknown, ClaimOutcome::Unknown(_)), "{unknown:?}");
    let unknown = pair
        .claim(&mut asking(&[&swallower, &nobody]), pair.who(0))
        .await;
    assert!(matches!(unknown, ClaimOutcome::Unknown(_)), "{unknown:?}");
    let stranger = Incarnation::random();
    let refused = pair.claim(&mut asking(&[&nobody, &real]), stranger).await;
    assert!(matches!(refused, ClaimOutcome::Refused(_)), "{refused:?}");
    let unknown = pair
        .claim(&mut asking(&[&swallower, &real]), stranger)
        .await;
    assert!(matches!(unknown, ClaimOutcome::Unknown(_)), "{unknown:?}");
    let won = pair
        .claim(&mut asking(&[&swallower, &real]), pair.who(0))
        .await;
    assert_eq!(won, ClaimOutcome::Won);
    let read = asking(&[&swallower]).read(vm("vm")).await;
    assert!(read.is_err());
    cluster.shutdown().await;
}
