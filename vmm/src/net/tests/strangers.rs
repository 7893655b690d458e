//! What the gateway does with those who are no nodes, and with nodes that are
//! not its own (SEC-2).

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fake_guest::{Running, hello, soon, token};
use crate::net::client::{GatewayLink, LinkError, query_stats};
use crate::net::protocol::{Message, Rejection, ToGateway, ToNode, VERSION};

/// Sends bytes, and returns what the gateway says before it closes.
async fn say(gateway: &Running, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(gateway.address)
        .await
        .expect("the gateway listens");
    stream.write_all(bytes).await.expect("the kernel takes it");
    let mut answer = Vec::new();
    // The gateway may reset what it has not read; either way it is an end.
    let _ = soon("the gateway to close", stream.read_to_end(&mut answer)).await;
    answer
}

fn encoded(message: &ToGateway<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

#[tokio::test]
async fn sec_2_strangers_are_closed_counted_and_told_nothing() {
    let gateway = Running::start(|_| {}).await;
    let before_hello = encoded(&ToGateway::Frame(&[0; 60]));
    let strangers: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0xff; 64],
        &[0; 64],
        &[1, 0, 0, 0, 0x7f],
        &before_hello,
    ];
    for (at, bytes) in strangers.iter().enumerate() {
        assert_eq!(say(&gateway, bytes).await, b"", "{bytes:?}");
        let strangers = at as u64 + 1;
        gateway
            .until("the stranger to be counted", |stats| {
                stats.strangers == strangers
            })
            .await;
    }
    gateway.link(1, token(1, false), true).await;
}

#[tokio::test]
async fn one_that_leaves_amid_its_first_message_is_a_stranger_and_a_probe_is_not() {
    let gateway = Running::start(|_| {}).await;
    drop(
        TcpStream::connect(gateway.address)
            .await
            .expect("the gateway listens"),
    );
    let mut stream = TcpStream::connect(gateway.address)
        .await
        .expect("the gateway listens");
    stream
        .write_all(&encoded(&ToGateway::Hello(hello(1, token(1, false), true)))[..20])
        .await
        .ok();
    drop(stream);
    gateway
        .until("the stranger to be counted", |stats| stats.strangers == 1)
        .await;
    assert_eq!(gateway.stop().await.strangers, 1);
}

#[tokio::test]
async fn a_node_of_another_version_is_told_so() {
    let gateway = Running::start(|_| {}).await;
    let mut bytes = encoded(&ToGateway::Hello(hello(1, token(1, false), true)));
    bytes[9] = 0x7f;
    let answer = say(&gateway, &bytes).await;
    let why = Rejection::Version { gateway: VERSION };
    assert_eq!(ToNode::decode(&answer[4..]), Ok(ToNode::Rejected(why)));
}

#[tokio::test]
async fn a_node_turns_away_from_what_is_no_gateway() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let web_server = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .expect("taken");
        }
    });
    let error = GatewayLink::connect(address, hello(1, token(1, false), true)).await;
    assert!(matches!(error, Err(LinkError::Protocol(_))), "{error:?}");
    let error = query_stats(address).await;
    assert!(matches!(error, Err(LinkError::Protocol(_))), "{error:?}");
    web_server.await.expect("it ends well");
    let error = GatewayLink::connect(address, hello(1, token(1, false), true)).await;
    assert!(matches!(error, Err(LinkError::Connect { .. })), "{error:?}");
}
