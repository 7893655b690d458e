//! Making clusters, changing their servers, and servers that lost their store.

use std::collections::BTreeMap;
use std::time::Duration;

use test_and_set::types::ServerId;
use test_and_set::{
    ChangeError, ChangeRefusal, ClaimOutcome, Client, ClientConfig, Role, ServerError, StartMode,
    StoreError, Tuning,
};

use crate::common::{Cluster, Pair, tuning, until};

/// For questions that cannot be answered.
const SHORT: Duration = Duration::from_secs(2);

fn refused(result: Result<(), ChangeError>) -> ChangeRefusal {
    match result {
        Err(ChangeError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// From 3 servers to 5 and back to 3, other ones, the old leader gone; nothing that
/// was decided is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_2_the_servers_change_and_the_winners_stay() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.client();
    let pair = Pair::create(&mut client, "vm").await;
    assert_eq!(
        pair.claim(&mut client, pair.who(0)).await,
        ClaimOutcome::Won
    );
    for id in [4, 5] {
        cluster.add_slot(id);
        cluster.launch(id, StartMode::Join).await.unwrap();
        client
            .add_server(ServerId(id), cluster.address(id))
            .await
            .unwrap();
        client
            .add_server(ServerId(id), cluster.address(id))
            .await
            .unwrap();
        // The others know it at once; itself it learns of its vote a little later.
        until("the new server's vote", || {
            (cluster.status(id).role == Role::Follower).then_some(())
        })
        .await;
    }
    let mut client = cluster.client();
    for id in [1, 2] {
        client.remove_server(ServerId(id)).await.unwrap();
        client.remove_server(ServerId(id)).await.unwrap();
        cluster.stop(id).await;
    }
    let leader = cluster.leader().await;
    let servers = cluster.status(leader).servers;
    let ids: Vec<_> = servers
        .iter()
        .map(|server| (server.id.0, server.voter))
        .collect();
    assert_eq!(ids, [(3, true), (4, true), (5, true)]);
    pair.assert_won_by(&mut client, pair.who(0)).await;
    // Two of the three decide.
    cluster.stop(3).await;
    let pair = Pair::create(&mut client, "another").await;
    assert_eq!(
        pair.claim(&mut client, pair.who(1)).await,
        ClaimOutcome::Won
    );
    cluster.shutdown().await;
}

/// A server that joins after the log was cut off gets a snapshot; so does one that
/// was away for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_log_is_replaced_by_a_snapshot() {
    let tuning = Tuning {
        snapshot_every: 20,
        keep_entries: 5,
        ..tuning()
    };
    let mut cluster = Cluster::start_with(3, tuning, None).await;
    let mut client = cluster.client();
    let leader = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop(away).await;
    let mut pairs = Vec::new();
    for n in 0..40 {
        let pair = Pair::create(&mut client, &format!("vm{n}")).await;
        assert_eq!(
            pair.claim(&mut client, pair.who(n % 2)).await,
            ClaimOutcome::Won
        );
        pairs.push(pair);
    }
    let leader = cluster.leader().await;
    until("the log to be cut off", || {
        (cluster.status(leader).purged > 40).then_some(())
    })
    .await;
    cluster.add_slot(4);
    cluster.launch(4, StartMode::Join).await.unwrap();
    client
        .add_server(ServerId(4), cluster.address(4))
        .await
        .unwrap();
    cluster.resume(away).await;
    for id in [4, away] {
        let applied = cluster.status(leader).applied;
        until("the server to catch up", || {
            (cluster.status(id).applied >= applied).then_some(())
        })
        .await;
        assert!(
            cluster.status(id).snapshot > 0,
            "server {id} was sent a snapshot"
        );
    }
    // Only those that were sent a snapshot, and one more for a majority.
    let mut gone = (1..=3).filter(|id| *id != away);
    cluster.stop(gone.next().unwrap()).await;
    for (n, pair) in pairs.iter().enumerate() {
        pair.assert_won_by(&mut client, pair.who(n % 2)).await;
    }
    cluster.shutdown().await;
    for id in [4, away, gone.next().unwrap()] {
        cluster.resume(id).await;
    }
    for (n, pair) in pairs.iter().enumerate() {
        pair.assert_won_by(&mut client, pair.who(n % 2)).await;
    }
    cluster.shutdown().await;
}

/// TAS-5: a server whose store was wiped has no vote as its old self, neither by
/// joining nor by being added, and is welcome under a new id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_5_a_wiped_server_is_not_its_old_self() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.client();
    let pair = Pair::create(&mut client, "vm").await;
    let wiped = (1..=3).find(|id| *id != 1).unwrap();
    let third = 5 - wiped;
    cluster.stop(wiped).await;
    std::fs::remove_dir_all(cluster.data(wiped)).unwrap();
    let missing = cluster.launch(wiped, StartMode::Resume).await.unwrap_err();
    assert!(
        matches!(missing, ServerError::Store(StoreError::Missing { .. })),
        "{missing}"
    );
    cluster.launch(wiped, StartMode::Join).await.unwrap();

    // With one other server gone, its vote would make a majority.
    cluster.stop(third).await;
    let mut impatient = cluster.client_of(&[1, 2, 3], SHORT);
    match pair.claim(&mut impatient, pair.who(0)).await {
        ClaimOutcome::Unknown(_) | ClaimOutcome::Unreachable(_) => {}
        other => panic!("a wiped server voted: {other:?}"),
    }
    assert_eq!(cluster.status(wiped).cluster, None);
    cluster.resume(third).await;
    let mut client = cluster.client();
    let added = client
        .add_server(ServerId(wiped), cluster.address(wiped))
        .await;
    assert_eq!(refused(added), ChangeRefusal::IdTaken(ServerId(wiped)));

    client.remove_server(ServerId(wiped)).await.unwrap();
    let added = client
        .add_server(ServerId(wiped), cluster.address(wiped))
        .await;
    assert_eq!(
        refused(added),
        ChangeRefusal::IdTaken(ServerId(wiped)),
        "for ever"
    );
    cluster.stop(wiped).await;
    std::fs::remove_dir_all(cluster.data(wiped)).unwrap();
    cluster.add_slot(4);
    cluster.launch(4, StartMode::Join).await.unwrap();
    client
        .add_server(ServerId(4), cluster.address(4))
        .await
        .unwrap();
    assert_eq!(
        pair.claim(&mut client, pair.who(0)).await,
        ClaimOutcome::Won
    );
    cluster.shutdown().await;
}

/// TAS-5: who wiped the server that made the cluster, and makes it once more, gets
/// neither a second cluster nor its old vote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_5_a_cluster_is_made_once() {
    let mut cluster = Cluster::start(3).await;
    let others: BTreeMap<_, _> = [2, 3].map(|id| (ServerId(id), cluster.address(id))).into();
    let init = StartMode::Init { others };
    let id = cluster.status(1).cluster.unwrap();
    cluster.stop(1).await;
    let exists = cluster.launch(1, init.clone()).await.unwrap_err();
    assert!(matches!(&exists,
        ServerError::Store(StoreError::Exists { cluster: Some(found), .. }) if *found == id));

    std::fs::remove_dir_all(cluster.data(1)).unwrap();
    cluster.launch(1, init).await.unwrap();
    let waiting = until("the refusal", || cluster.status(1).waiting).await;
    assert!(waiting.contains(&id.to_string()), "{waiting}");
    assert_ne!(cluster.status(1).cluster, Some(id));
    cluster.stop(3).await;
    let pinned = ClientConfig {
        cluster: Some(id),
        total_timeout: SHORT,
        ..ClientConfig::new((1..=3).map(|id| cluster.slots[&id].listen().to_string()))
    };
    let read = Client::new(pinned).list().await;
    assert!(read.is_err(), "server 1 voted as its old self: {read:?}");
    assert_eq!(cluster.status(1).role, Role::Learner);
    cluster.shutdown().await;
}

/// TAS-5: two servers that were both told to make the cluster make none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_5_two_that_make_a_cluster_make_none() {
    let mut cluster = Cluster {
        slots: BTreeMap::new(),
        links: None,
        tuning: tuning(),
    };
    for id in [1, 2] {
        cluster.add_slot(id);
    }
    for (id, other) in [(1, 2), (2, 1)] {
        let others = BTreeMap::from([(ServerId(other), cluster.address(other))]);
        cluster
            .launch(id, StartMode::Init { others })
            .await
            .unwrap();
    }
    for id in [1, 2] {
        let other = cluster.status(3 - id).cluster.unwrap().to_string();
        until("the refusal", || {
            cluster
                .status(id)
                .waiting
                .filter(|waiting| waiting.contains(&other))
        })
        .await;
        assert_eq!(cluster.status(id).role, Role::Learner);
    }
    cluster.shutdown().await;
}

/// The servers of a cluster may be started in any order, and the one that makes it
/// may be stopped before it is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_5_a_cluster_is_made_when_all_are_there() {
    let mut cluster = Cluster {
        slots: BTreeMap::new(),
        links: None,
        tuning: tuning(),
    };
    for id in 1..=3 {
        cluster.add_slot(id);
    }
    let others: BTreeMap<_, _> = [2, 3].map(|id| (ServerId(id), cluster.address(id))).into();
    cluster.launch(1, StartMode::Init { others }).await.unwrap();
    until("server 1 to wait", || cluster.status(1).waiting).await;
    let id = cluster.status(1).cluster;
    cluster.stop(1).await;
    cluster.launch(2, StartMode::Join).await.unwrap();
    cluster.resume(1).await;
    cluster.launch(3, StartMode::Join).await.unwrap();
    cluster.leader().await;
    for server in 1..=3 {
        until("all to know their cluster", || {
            (cluster.status(server).cluster == id).then_some(())
        })
        .await;
    }
    cluster.shutdown().await;
}

/// What a person gets wrong when adding a server is said, and changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_servers_are_not_added() {
    let mut cluster = Cluster::start(1).await;
    let mut foreign = Cluster::start(1).await;
    let mut client = cluster.client();
    let (mine, theirs) = (cluster.address(1), foreign.address(1));
    cluster.add_slot(2);
    let nobody = cluster.address(2);
    let unreachable = refused(client.add_server(ServerId(2), nobody).await);
    assert!(
        matches!(unreachable, ChangeRefusal::Unreachable { .. }),
        "{unreachable}"
    );
    let other = refused(client.add_server(ServerId(2), mine).await);
    assert!(
        matches!(other, ChangeRefusal::OtherServer { .. }),
        "{other}"
    );
    let taken = refused(client.add_server(ServerId(1), theirs).await);
    assert!(
        matches!(taken, ChangeRefusal::OtherCluster { .. }),
        "{taken}"
    );
    let last = refused(client.remove_server(ServerId(1)).await);
    assert_eq!(last, ChangeRefusal::Last(ServerId(1)));
    cluster.launch(2, StartMode::Join).await.unwrap();
    client
        .add_server(ServerId(2), cluster.address(2))
        .await
        .unwrap();
    cluster.shutdown().await;
    foreign.shutdown().await;
}

/// A server alone may move to another address, and others still find it; one of
/// several may not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_moves_while_it_is_alone() {
    let mut cluster = Cluster::start(1).await;
    cluster.stop(1).await;
    cluster.slots.get_mut(&1).unwrap().ip = crate::common::own_ip();
    cluster.resume(1).await;
    let mut client = cluster.client();
    for id in [2, 3] {
        cluster.add_slot(id);
        cluster.launch(id, StartMode::Join).await.unwrap();
        client
            .add_server(ServerId(id), cluster.address(id))
            .await
            .unwrap();
    }
    until("all to be known where they are", || {
        let addresses = cluster
            .status(3)
            .servers
            .into_iter()
            .map(|server| server.address);
        addresses
            .eq((1..=3).map(|id| cluster.address(id)))
            .then_some(())
    })
    .await;
    cluster.stop(1).await;
    let home = cluster.slots[&1].ip;
    cluster.slots.get_mut(&1).unwrap().ip = crate::common::own_ip();
    let moved = cluster.launch(1, StartMode::Resume).await.unwrap_err();
    assert!(matches!(moved, ServerError::Moved { .. }), "{moved}");
    cluster.slots.get_mut(&1).unwrap().ip = home;
    cluster.resume(1).await;
    cluster.shutdown().await;
}
