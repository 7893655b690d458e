//! What is read is what is: no server answers from the past.

use std::time::Duration;

use test_and_set::types::Incarnation;
use test_and_set::{ClaimOutcome, Role};

use crate::common::{Cluster, Pair, until};

/// For questions to a server that must not answer them.
const SHORT: Duration = Duration::from_secs(2);

/// TAS-1: a leader that was cut off and replaced does not answer reads from what it
/// still believes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_1_a_deposed_leader_does_not_answer_from_the_past() {
    let mut cluster = Cluster::partitionable(3).await;
    let mut client = cluster.client();
    let pair = Pair::create(&mut client, "vm").await;
    let old = cluster.leader().await;
    let rest: Vec<_> = (1..=3).filter(|id| *id != old).collect();
    cluster.links.as_ref().unwrap().isolate(&[old], &rest);
    cluster.leader_among(&rest).await;
    let mut client = cluster.client_of(&rest, crate::common::PATIENCE);
    assert_eq!(
        pair.claim(&mut client, pair.who(1)).await,
        ClaimOutcome::Won
    );

    assert_eq!(
        cluster.status(old).role,
        Role::Leader,
        "it does not know yet"
    );
    let mut asking_old = cluster.client_of(&[old], SHORT);
    if let Ok(record) = asking_old.read(pair.vm.clone()).await {
        panic!("a deposed leader answered {record:?}");
    }
    match pair.claim(&mut asking_old, pair.who(0)).await {
        ClaimOutcome::Unknown(_) => {}
        other => panic!("a deposed leader answered {other:?}"),
    }

    // Mended, it learns what it missed, and its own claim is lost.
    cluster.links.as_ref().unwrap().mend();
    let mut client = cluster.client_of(&[old], crate::common::PATIENCE);
    pair.assert_won_by(&mut client, pair.who(1)).await;
    cluster.shutdown().await;
}

/// TAS-1: a follower that fell behind does not answer reads from what it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_1_a_follower_does_not_answer_from_the_past() {
    let mut cluster = Cluster::partitionable(3).await;
    let mut client = cluster.client();
    let pair = Pair::create(&mut client, "vm").await;
    let leader = cluster.leader().await;
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    until("the follower to have the VM", || {
        let applied = |id| cluster.status(id).applied;
        (applied(behind) >= applied(leader)).then_some(())
    })
    .await;
    let rest: Vec<_> = (1..=3).filter(|id| *id != behind).collect();
    cluster.links.as_ref().unwrap().isolate(&[behind], &rest);
    assert_eq!(
        pair.claim(&mut client, pair.who(1)).await,
        ClaimOutcome::Won
    );

    let winner: Option<Option<Incarnation>> = match cluster
        .client_of(&[behind], SHORT)
        .read(pair.vm.clone())
        .await
    {
        Ok(record) => record.map(|record| record.winner),
        // It does not know a leader any more.
        Err(_) => Some(Some(pair.who(1))),
    };
    assert_eq!(winner, Some(Some(pair.who(1))));
    cluster.links.as_ref().unwrap().mend();
    cluster.shutdown().await;
}
