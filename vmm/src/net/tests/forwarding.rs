//! Host clients reach the guest through the gateway, and what either side does
//! to a connection the other side sees.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::fake_guest::{Running, soon, token};
use crate::net::GatewayLink;
use crate::net::gateway::{Forward, Gateway, GatewayConfig, GatewayError, ParseForwardError};
use crate::net::host::{GUEST_ADDRESS, HOST_ADDRESS, HOST_MAC};

/// One round trip.
async fn echo(client: &mut TcpStream, message: &[u8]) {
    let mut answer = vec![0; message.len()];
    soon("the request to be taken", client.write_all(message))
        .await
        .expect("the guest takes it");
    soon("the echo", client.read_exact(&mut answer))
        .await
        .expect("the guest answers");
    assert_eq!(answer, message);
}

#[tokio::test]
async fn a_client_on_the_host_talks_to_the_guest() {
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    let mut client = TcpStream::connect(gateway.echo)
        .await
        .expect("the gateway listens");
    for n in 0..100u32 {
        echo(&mut client, &n.to_le_bytes()).await;
    }
    let stats = gateway.stop().await;
    assert_eq!((stats.connections_opened, stats.connections_reset), (1, 0));
    assert!(stats.frames_to_guests >= 100 && stats.frames_from_guests >= 100);
}

#[tokio::test]
async fn more_than_all_buffers_hold_passes_both_ways_under_back_pressure() {
    const LEN: usize = 8 << 20;
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    let client = TcpStream::connect(gateway.echo)
        .await
        .expect("the gateway listens");
    let (mut reader, mut writer) = client.into_split();
    let sent: Vec<u8> = (0..LEN).map(|n| ((n * 31) >> 7) as u8).collect();
    let expected = sent.clone();
    let upload = tokio::spawn(async move {
        writer.write_all(&sent).await.expect("the guest takes it");
        // Half-close: the echo must still come in full.
        writer.shutdown().await.expect("the connection is there");
    });
    let mut received = Vec::new();
    soon("the whole echo", reader.read_to_end(&mut received))
        .await
        .expect("a clean end");
    upload.await.expect("the upload ends well");
    assert!(received == expected, "{} bytes came back", received.len());
    let stats = gateway
        .until("the connection to end", |stats| stats.connections_open == 0)
        .await;
    assert_eq!((stats.connections_reset, stats.frames_dropped), (0, 0));
}

#[tokio::test]
async fn the_guests_half_close_reaches_the_client_and_leaves_the_other_way_open() {
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    let mut client = TcpStream::connect(gateway.greets)
        .await
        .expect("the gateway listens");
    let mut greeting = Vec::new();
    soon("the guest's end", client.read_to_end(&mut greeting))
        .await
        .expect("a clean end");
    assert_eq!(greeting, b"hello");
    client
        .write_all(b"still here")
        .await
        .expect("this way is open");
    assert_eq!(gateway.stats().await.connections_open, 1);
    drop(client);
    let stats = gateway
        .until("the connection to end", |stats| stats.connections_open == 0)
        .await;
    assert_eq!(stats.connections_reset, 0);
}

#[tokio::test]
async fn a_reset_by_the_guest_resets_the_client() {
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    let mut client = TcpStream::connect(gateway.resets)
        .await
        .expect("the gateway listens");
    client.write_all(b"x").await.expect("the kernel takes it");
    let error = soon("the reset", client.read(&mut [0; 1]))
        .await
        .expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    gateway
        .until("the reset to be counted", |stats| {
            stats.connections_reset == 1
        })
        .await;
}

#[tokio::test]
async fn a_reset_by_the_client_resets_the_guest() {
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    let mut client = TcpStream::connect(gateway.echo)
        .await
        .expect("the gateway listens");
    echo(&mut client, b"up").await;
    client.set_zero_linger().expect("the option is known");
    drop(client);
    let stats = gateway
        .until("the connection to end", |stats| stats.connections_open == 0)
        .await;
    assert_eq!(stats.connections_reset, 1);
}

#[tokio::test]
async fn a_connection_that_the_guest_refuses_is_reset() {
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    let mut client = TcpStream::connect(gateway.refuses)
        .await
        .expect("the gateway listens");
    let error = soon("the reset", client.read(&mut [0; 1]))
        .await
        .expect_err("no clean end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_guest_that_does_not_answer_costs_the_client_the_connect_timeout() {
    let gateway = Running::start(|config| config.connect_timeout = Duration::from_millis(50)).await;
    let mut client = TcpStream::connect(gateway.echo)
        .await
        .expect("the gateway listens");
    soon("the close", client.read(&mut [0; 1]))
        .await
        .expect_err("no clean end");
    let stats = gateway.stop().await;
    assert_eq!(
        (stats.connections_unanswered, stats.connections_open),
        (1, 0)
    );
}

#[tokio::test]
async fn a_connection_that_is_made_before_the_guest_is_there_waits_for_it() {
    let gateway = Running::start(|_| {}).await;
    let mut client = TcpStream::connect(gateway.echo)
        .await
        .expect("the gateway listens");
    client
        .write_all(b"early")
        .await
        .expect("the kernel takes it");
    gateway
        .until("the connection to be taken", |stats| {
            stats.connections_open == 1
        })
        .await;
    let _guest = gateway.guest().await;
    let mut answer = [0; 5];
    soon("the echo", client.read_exact(&mut answer))
        .await
        .expect("the guest answers");
    assert_eq!(&answer, b"early");
}

#[tokio::test]
async fn a_hundred_clients_at_once_each_get_their_own_answers() {
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    let clients: Vec<_> = (0..100u32)
        .map(|client| {
            let address = gateway.echo;
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address)
                    .await
                    .expect("the gateway listens");
                for n in 0..50u32 {
                    let message = [client.to_le_bytes(), n.to_le_bytes()].concat();
                    echo(&mut stream, &message).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("every client is served");
    }
    let stats = gateway
        .until("all connections to end", |stats| {
            stats.connections_open == 0
        })
        .await;
    assert_eq!(
        (stats.connections_opened, stats.connections_reset),
        (100, 0)
    );
}

#[tokio::test]
async fn many_short_connections_in_a_row_leave_nothing_behind() {
    let gateway = Running::start(|_| {}).await;
    let _guest = gateway.guest().await;
    for n in 0..300u32 {
        let mut client = TcpStream::connect(gateway.echo)
            .await
            .expect("the gateway listens");
        echo(&mut client, &n.to_le_bytes()).await;
    }
    let stats = gateway
        .until("all connections to end", |stats| {
            stats.connections_open == 0
        })
        .await;
    assert_eq!(
        (stats.connections_opened, stats.connections_reset),
        (300, 0)
    );
}

#[tokio::test]
async fn the_welcome_tells_the_guests_network() {
    let gateway = Running::start(|_| {}).await;
    let link: GatewayLink = gateway.link(1, token(1, false), false).await;
    let welcome = link.welcome();
    assert_eq!(
        (welcome.mac, welcome.address, welcome.prefix_len),
        (HOST_MAC, HOST_ADDRESS, 24)
    );
    assert_eq!(welcome.guest, GUEST_ADDRESS);
}

#[tokio::test]
async fn sec_1_refuses_to_listen_off_loopback() {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let outside = "0.0.0.0:0".parse().expect("an address");
    let mut config = GatewayConfig::new(outside);
    let error = Gateway::bind(config.clone()).await.err().expect("refused");
    assert!(matches!(error, GatewayError::OffLoopback(address) if address == outside));
    config.listen = loopback;
    config.forwards = vec![Forward {
        listen: outside,
        guest: "10.0.2.15:80".parse().expect("an address"),
    }];
    let error = Gateway::bind(config).await.err().expect("refused");
    assert!(error.to_string().contains("use 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_and_a_capture_that_cannot_be_are_named() {
    let gateway = Running::start(|_| {}).await;
    let error = Gateway::bind(GatewayConfig::new(gateway.address))
        .await
        .err()
        .expect("refused");
    assert!(
        error.to_string().contains(&gateway.address.to_string()),
        "{error}"
    );

    let mut config = GatewayConfig::new("127.0.0.1:0".parse().expect("an address"));
    config.capture = Some("/nowhere/at/all.pcap".into());
    let error = Gateway::bind(config).await.err().expect("refused");
    assert!(
        error.to_string().contains("/nowhere/at/all.pcap"),
        "{error}"
    );
}

#[test]
fn forwards_are_read_from_text() {
    let forward: Forward = "127.0.0.1:6379=10.0.2.15:6379".parse().expect("a forward");
    assert_eq!(
        forward.listen,
        "127.0.0.1:6379".parse().expect("an address")
    );
    assert_eq!(forward.guest, "10.0.2.15:6379".parse().expect("an address"));
    for bad in [
        "",
        "6379",
        "127.0.0.1:1",
        "localhost:1=10.0.2.15:1",
        "127.0.0.1:1=10.0.2.15",
    ] {
        let error = bad.parse::<Forward>().expect_err(bad);
        assert!(
            matches!(error, ParseForwardError::Form(_)),
            "{bad}: {error}"
        );
    }
    for bad in [
        "10.0.2.2:1",
        "10.0.3.15:1",
        "10.0.2.15:0",
        "10.0.2.255:1",
        "10.0.2.0:1",
    ] {
        let error = format!("127.0.0.1:1={bad}")
            .parse::<Forward>()
            .expect_err(bad);
        assert!(
            matches!(error, ParseForwardError::Guest(_)),
            "{bad}: {error}"
        );
    }
}
