//! A guest moves from one node to another, and its connections go on.

use std::fs::File;
use std::io::BufReader;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_guest::{GUEST_MAC, Running, hello, soon, token};
use crate::net::announce::announcement;
use crate::net::capture::{CaptureReader, Reopened, connections_reopened};
use crate::net::host::{GUEST_ADDRESS, HOST_MAC};
use crate::net::{GatewayLink, LinkEvent, packet};

/// The guest's silence during a move, above the first detection windows.
const BLACKOUT: Duration = Duration::from_millis(400);

fn unix_time() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "compared with a capture's time stamps"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).expect("after 1970")
}

/// What happens to the primary's connection when it dies.
#[derive(Clone, Copy, PartialEq)]
enum Death {
    /// The process is gone: the gateway sees the connection close.
    Killed,
    /// It is stopped, or cut off elsewhere: the connection stays.
    Stopped,
}

/// Sends a request that the dying primary swallows, moves the guest after
/// [`BLACKOUT`], and sees the answer come on the same connection.
async fn request_across_a_move(gateway: &Running, death: Death) {
    let guest = gateway.guest().await;
    let (to_backup, from_gateway) = gateway.link(2, token(1, false), false).await.split();
    let mut client = TcpStream::connect(gateway.echo)
        .await
        .expect("the gateway listens");
    let mut answer = [0; 4];
    client.write_all(b"one.").await.expect("taken");
    soon("an echo", client.read_exact(&mut answer))
        .await
        .expect("the guest answers");

    let (primary, mut swallowed) = guest.die().await;
    let before = gateway.stats().await.frames_to_guests;
    client.write_all(b"two.").await.expect("taken");
    gateway
        .until("the request to reach the primary", |stats| {
            stats.frames_to_guests > before
        })
        .await;
    soon("the request to be swallowed", swallowed.recv())
        .await
        .expect("the link is up");
    let kept_open = match death {
        Death::Killed => {
            drop((primary, swallowed));
            None
        }
        Death::Stopped => Some((primary, swallowed)),
    };
    tokio::time::sleep(BLACKOUT).await;

    let mut to_backup = to_backup;
    to_backup
        .announce(token(1, true), true)
        .await
        .expect("the link is up");
    guest.attach_halves(to_backup, from_gateway);
    soon("the echo", client.read_exact(&mut answer))
        .await
        .expect("the same connection goes on");
    assert_eq!(&answer, b"two.");

    if let Some((mut stale, mut from_gateway)) = kept_open {
        fail_6_a_stale_primary_is_not_heard(gateway, &mut stale, &mut from_gateway).await;
    }
    client.write_all(b"more").await.expect("taken");
    soon("an echo", client.read_exact(&mut answer))
        .await
        .expect("and on");
}

async fn fail_6_a_stale_primary_is_not_heard(
    gateway: &Running,
    stale: &mut crate::net::FrameSender,
    from_gateway: &mut crate::net::FrameReceiver,
) {
    let highest = token(1, true);
    soon("the refusal", async {
        while from_gateway.recv().await.expect("the link is up") != (LinkEvent::Refused { highest })
        {
        }
    })
    .await;
    let refused = gateway.stats().await.frames_refused;
    let forged = announcement(GUEST_MAC);
    stale
        .send([&forged, &forged])
        .await
        .expect("the link is up");
    gateway
        .until("both to be refused", |stats| {
            stats.frames_refused == refused + 2
        })
        .await;
    stale
        .announce(token(1, false), true)
        .await
        .expect("the link is up");
    let event = soon("another refusal", from_gateway.recv())
        .await
        .expect("the link is up");
    assert_eq!(event, LinkEvent::Refused { highest });
}

#[tokio::test]
async fn fail_7_a_connection_survives_the_move_and_the_swallowed_request_is_repeated() {
    for death in [Death::Killed, Death::Stopped] {
        let gateway = Running::start(|_| {}).await;
        request_across_a_move(&gateway, death).await;
        let stats = gateway.stop().await;
        assert!(stats.frames_repeated >= 1, "{stats:?}");
        assert_eq!(stats.port_moves.len(), 1);
        let moved = &stats.port_moves[0];
        assert_eq!((moved.generation, moved.won), (1, true));
        assert_eq!(
            moved.frames_repeated + moved.frames_held,
            stats.frames_repeated
        );
        assert!(
            moved.frames_handled >= 1,
            "the first request was acknowledged: {moved:?}"
        );
        assert_eq!((stats.connections_opened, stats.connections_reset), (1, 0));
    }
}

#[tokio::test]
async fn without_the_repetition_the_connection_survives_by_retransmission() {
    let gateway = Running::start(|config| config.repeat = false).await;
    request_across_a_move(&gateway, Death::Killed).await;
    let stats = gateway.stop().await;
    assert_eq!((stats.frames_repeated, stats.frames_held), (0, 0));
    assert_eq!((stats.port_moves.len(), stats.connections_reset), (1, 0));
}

#[tokio::test]
async fn a_capture_proves_that_no_connection_was_opened_anew_or_reset() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("guest.pcap");
    let gateway = Running::start(|config| config.capture = Some(path.clone())).await;
    let guest = gateway.guest().await;
    let mut client = TcpStream::connect(gateway.echo)
        .await
        .expect("the gateway listens");
    let mut answer = [0; 4];
    client.write_all(b"one.").await.expect("taken");
    soon("an echo", client.read_exact(&mut answer))
        .await
        .expect("the guest answers");

    let killed_at = unix_time();
    drop(guest.die().await);
    let mut stale = gateway.link(3, token(1, false), true).await.split().0;
    let forged = announcement(GUEST_MAC);
    stale.send([&forged]).await.expect("the link is up");
    guest.attach(gateway.link(2, token(1, true), true).await);
    client.write_all(b"two.").await.expect("taken");
    soon("an echo", client.read_exact(&mut answer))
        .await
        .expect("the guest answers");
    gateway
        .until("the forged frame to be refused", |stats| {
            stats.frames_refused == 1
        })
        .await;
    let stats = gateway.stop().await;

    let open = || {
        let file = BufReader::new(File::open(&path).expect("the capture is there"));
        CaptureReader::new(file).expect("a capture")
    };
    let frames: Vec<_> = open()
        .map(|frame| frame.expect("a whole capture"))
        .collect();
    assert_eq!(
        stats.capture.expect("a capture was taken").frames,
        frames.len() as u64
    );
    assert!(frames.is_sorted_by_key(|frame| frame.at));
    let from = |mac| {
        frames
            .iter()
            .filter(move |captured| packet::source(&captured.frame) == Some(mac))
            .count()
    };
    assert!(from(GUEST_MAC) > 0 && from(HOST_MAC) > 0, "both directions");
    assert!(
        frames.iter().all(|captured| captured.frame != forged),
        "only what was accepted"
    );

    let since = |at| connections_reopened(open(), at, GUEST_ADDRESS).expect("a whole capture");
    assert_eq!(
        since(Duration::ZERO),
        Reopened {
            opened: 1,
            reset: 0
        }
    );
    assert_eq!(since(killed_at), Reopened::default());
}

#[tokio::test]
async fn one_1_an_equal_token_of_another_incarnation_is_refused() {
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    let (_sender, mut receiver) = gateway.link(2, token(1, false), true).await.split();
    let event = soon("the refusal", receiver.recv())
        .await
        .expect("the link is up");
    assert_eq!(
        event,
        LinkEvent::Refused {
            highest: token(1, false)
        }
    );
}

#[tokio::test]
async fn a_guest_moves_many_times_under_load() {
    let gateway = Running::start(|_| {}).await;
    let guest = gateway.guest().await;
    let address = gateway.echo;
    let load: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                let mut client = TcpStream::connect(address)
                    .await
                    .expect("the gateway listens");
                let mut answer = [0; 64];
                for n in 0..400u32 {
                    let request = [n as u8; 64];
                    client.write_all(&request).await.expect("taken");
                    soon("an echo", client.read_exact(&mut answer))
                        .await
                        .expect("the same one");
                    assert_eq!(answer, request);
                }
            })
        })
        .collect();
    for generation in 2..10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let next = gateway
            .link(generation as u8, token(generation, false), true)
            .await;
        drop(guest.die().await);
        guest.attach(next);
    }
    for client in load {
        client.await.expect("every request is answered");
    }
    let stats = gateway.stop().await;
    assert_eq!((stats.port_moves.len(), stats.connections_reset), (8, 0));
}

#[tokio::test]
async fn a_link_waits_for_a_gateway_that_comes_later() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let link = tokio::spawn(GatewayLink::connect_within(
        address,
        hello(1, token(1, false), true),
        Duration::from_secs(10),
    ));
    let gateway = Running::start(|config| config.listen = address).await;
    soon("the link", link)
        .await
        .expect("no panic")
        .expect("the gateway has come");
    assert_eq!(gateway.stats().await.nodes, 0, "the link was dropped");
}
