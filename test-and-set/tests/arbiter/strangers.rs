//! What comes to the port that should not: it is refused, and others are served on.

use std::time::Duration;

use test_and_set::types::{ClusterId, Incarnation};
use test_and_set::wire::{self, Hello, WireError};
use test_and_set::{ClaimOutcome, Client, ClientConfig, Server, ServerError, StartMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Cluster, PATIENCE, Pair};

/// Sends bytes and reads until the server hangs up.
async fn answer_to(cluster: &Cluster, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(cluster.slots[&1].listen())
        .await
        .unwrap();
    // The server may hang up while they are sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset is a way to hang up.
    let _ = read.expect("the server hangs up");
    answer
}

/// SEC-2: a stranger's bytes end its connection and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_2_strangers_are_hung_up_on() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.client();
    let pair = Pair::create(&mut client, "vm").await;
    let preamble = b"ftvm-tas\x01\0\0\0";
    let with_preamble = |rest: &[u8]| [preamble, rest].concat();
    assert_eq!(
        answer_to(&cluster, b"GET / HTTP/1.1\r\nHost: arbiter\r\n\r\n").await,
        b""
    );
    for noise in 0..20u8 {
        let bytes: Vec<u8> = (0..1000u32)
            .map(|n| (n * 167 + 13).to_le_bytes()[1] ^ noise)
            .collect();
        assert_eq!(answer_to(&cluster, &bytes).await, b"");
        assert_eq!(answer_to(&cluster, &with_preamble(&bytes)).await, preamble);
    }
    // Another version learns ours; a huge hello is not waited for.
    assert_eq!(answer_to(&cluster, b"ftvm-tas\x07\0\0\0").await, preamble);
    assert_eq!(
        answer_to(&cluster, &with_preamble(&[255; 4])).await,
        preamble
    );
    // A client that says hello well, and then something else.
    let rest = [&[2, 0, 0, 0, 0, 0][..], &[255; 4]].concat();
    assert!(
        answer_to(&cluster, &with_preamble(&rest))
            .await
            .starts_with(preamble)
    );
    let rest = [&[2, 0, 0, 0, 0, 0][..], &[3, 0, 0, 0, 9, 9, 9]].concat();
    assert!(
        answer_to(&cluster, &with_preamble(&rest))
            .await
            .starts_with(preamble)
    );
    assert_eq!(
        pair.claim(&mut client, pair.who(0)).await,
        ClaimOutcome::Won
    );
    cluster.shutdown().await;
}

/// SEC-2: those who dial and say nothing do not keep others out for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sec_2_the_silent_lose_their_place() {
    let mut cluster = Cluster::start(1).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(
            TcpStream::connect(cluster.slots[&1].listen())
                .await
                .unwrap(),
        );
    }
    let mut client = cluster.client();
    Pair::create(&mut client, "vm").await;
    drop(silent);
    cluster.shutdown().await;
}

/// TAS-5: a client that pinned one cluster has nothing to do with another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_5_another_cluster_is_refused() {
    let mut cluster = Cluster::start(1).await;
    let mut client = cluster.client();
    let pair = Pair::create(&mut client, "vm").await;
    assert_eq!(
        client.cluster(),
        cluster.status(1).cluster,
        "pinned at the first contact"
    );
    let address = cluster.slots[&1].listen().to_string();
    let mut confused = Client::new(ClientConfig {
        cluster: Some(ClusterId::random()),
        total_timeout: Duration::from_secs(2),
        ..ClientConfig::new([address.clone()])
    });
    let claimed = pair.claim(&mut confused, pair.who(0)).await;
    assert!(
        matches!(&claimed, ClaimOutcome::Unreachable(why) if why.contains("cluster")),
        "{claimed:?}"
    );
    let status = confused.status_all().await.remove(&address).unwrap();
    assert!(status.unwrap_err().to_string().contains("cluster"));
    pair.assert_won_by_nobody(&mut client).await;

    // A peer of another cluster, and one with a seat that is not its own.
    let whois = wire::dial(&address, &Hello::Client { cluster: None })
        .await
        .unwrap()
        .1;
    let stranger = test_and_set::wire::SeatId {
        store: test_and_set::types::StoreId::random(),
        ..whois.seat
    };
    let cluster_id = whois.cluster.unwrap();
    let peers = [
        (ClusterId::random(), stranger, whois.seat),
        (cluster_id, stranger, stranger),
        (cluster_id, stranger, whois.seat),
    ];
    for (cluster, from, to) in peers {
        let refused = wire::dial(&address, &Hello::Peer { cluster, from, to }).await;
        assert!(matches!(refused, Err(WireError::Refused(_))), "{refused:?}");
    }
    cluster.shutdown().await;
}

/// A port in use is said, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_leaves_nothing_behind() {
    let mut cluster = Cluster::start(1).await;
    let mut config = cluster.config(1, StartMode::Join);
    config.data_dir = cluster.slots[&1].dir.path().join("another");
    let refused = Server::start(config.clone()).await.err().unwrap();
    assert!(matches!(refused, ServerError::Listen { .. }), "{refused}");
    assert!(!config.data_dir.exists());
    cluster.shutdown().await;
}

impl Pair {
    async fn assert_won_by_nobody(&self, client: &mut Client) {
        let record = client.read(self.vm.clone()).await.unwrap().unwrap();
        assert_eq!(record.winner, None::<Incarnation>);
    }
}
