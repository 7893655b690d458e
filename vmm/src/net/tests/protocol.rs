use proptest::prelude::*;

use super::*;

fn token(generation: u64, won: bool) -> Token {
    Token {
        generation: Generation(generation),
        won,
    }
}

fn hello() -> Hello {
    Hello {
        name: "db".to_owned(),
        life: Life([0x11; 16]),
        incarnation: Incarnation([0x22; 16]),
        announcement: Announcement {
            token: token(0x0102, false),
            speaking: true,
        },
    }
}

fn bytes<'a>(message: &impl Message<'a>) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Golden bytes of version 1: a change here is a new version.
#[test]
fn golden_bytes_to_gateway() {
    let life = "11".repeat(16);
    let incarnation = "22".repeat(16);
    let said = Announcement {
        token: token(3, true),
        speaking: false,
    };
    let cases = [
        (
            ToGateway::Hello(hello()),
            format!("33000000 01 46544757 0100 {life} {incarnation} 0201000000000000 00 01 6462"),
        ),
        (
            ToGateway::Announce(said),
            "0b000000 02 0300000000000000 01 00".to_owned(),
        ),
        (
            ToGateway::Frame(&[0xaa, 0xbb]),
            "03000000 03 aabb".to_owned(),
        ),
        (ToGateway::Query, "07000000 04 46544757 0100".to_owned()),
    ];
    for (message, golden) in cases {
        let encoded = bytes(&message);
        assert_eq!(hex(&encoded), golden.replace(' ', ""), "{message:?}");
        assert_eq!(ToGateway::decode(&encoded[4..]), Ok(message));
    }
}

#[test]
fn golden_bytes_to_node() {
    let gateway = "33".repeat(16);
    let welcome = Welcome {
        gateway: [0x33; 16],
        mac: MacAddress([0x52, 0x55, 10, 0, 2, 2]),
        address: Ipv4Addr::new(10, 0, 2, 2),
        prefix_len: 24,
        guest: Ipv4Addr::new(10, 0, 2, 15),
    };
    let cases = [
        (
            ToNode::Welcome(welcome),
            format!("20000000 81 {gateway} 52550a000202 0a000202 18 0a00020f"),
        ),
        (
            ToNode::Refused(token(7, true)),
            "0a000000 82 0700000000000000 01".to_owned(),
        ),
        (ToNode::Frame(&[0xcc]), "02000000 83 cc".to_owned()),
        (
            ToNode::Rejected(Rejection::Version { gateway: 0x0203 }),
            "04000000 84 00 0302".to_owned(),
        ),
        (
            ToNode::Rejected(Rejection::TooManyVms),
            "04000000 84 01 0100".to_owned(),
        ),
        (
            ToNode::Rejected(Rejection::TooManyNodes),
            "04000000 84 02 0100".to_owned(),
        ),
        (ToNode::Stats(b"{}"), "03000000 85 7b7d".to_owned()),
    ];
    for (message, golden) in cases {
        let encoded = bytes(&message);
        assert_eq!(hex(&encoded), golden.replace(' ', ""), "{message:?}");
        assert_eq!(ToNode::decode(&encoded[4..]), Ok(message));
    }
}

#[test]
fn sec_2_what_is_not_of_the_layout_is_refused() {
    let good = bytes(&ToGateway::Hello(hello()));
    let hello_with = |at: usize, byte: u8| {
        let mut body = good[4..].to_vec();
        body[at] = byte;
        ToGateway::decode(&body).map(|_| ()).unwrap_err()
    };
    assert_eq!(hello_with(0, 0x7f), DecodeError::Kind(0x7f));
    assert_eq!(hello_with(1, b'G'), DecodeError::Magic);
    assert_eq!(hello_with(5, 9), DecodeError::Version { theirs: 9 });
    assert_eq!(
        hello_with(47, 2),
        DecodeError::Body(kind::HELLO),
        "neither true nor false"
    );
    assert_eq!(
        hello_with(49, 0xff),
        DecodeError::Body(kind::HELLO),
        "a name that is no text"
    );
    assert_eq!(
        hello_with(49, b'\n'),
        DecodeError::Body(kind::HELLO),
        "a name of two lines"
    );
    for len in 1..49 {
        assert!(
            ToGateway::decode(&good[4..4 + len]).is_err(),
            "cut at {len}"
        );
    }
    let mut long_name = good[4..].to_vec();
    long_name.extend([b'x'; MAX_NAME_LEN]);
    assert_eq!(
        ToGateway::decode(&long_name),
        Err(DecodeError::Body(kind::HELLO))
    );
    let trailing = [&bytes(&ToGateway::Query)[4..], &[0]].concat();
    assert_eq!(
        ToGateway::decode(&trailing),
        Err(DecodeError::Body(kind::QUERY))
    );
    assert_eq!(ToGateway::decode(&[]), Err(DecodeError::Length { len: 0 }));
}

fn feed(inbox: &mut Inbox, bytes: &[u8]) {
    for part in bytes.chunks(READ_LEN) {
        inbox.room()[..part.len()].copy_from_slice(part);
        inbox.filled(part.len());
    }
}

#[test]
fn sec_2_a_length_beyond_the_bound_is_refused_before_anything_is_kept() {
    for len in [0, MAX_MESSAGE_LEN as u32 + 1, u32::MAX] {
        let mut inbox = Inbox::default();
        feed(&mut inbox, &len.to_le_bytes());
        assert_eq!(
            inbox.next::<ToGateway<'_>>(),
            Err(DecodeError::Length { len })
        );
    }
}

#[test]
fn the_longest_frame_passes() {
    let frame = vec![7; MAX_FRAME_LEN];
    let mut inbox = Inbox::default();
    feed(&mut inbox, &bytes(&ToNode::Frame(&frame)));
    assert_eq!(inbox.next(), Ok(Some(ToNode::Frame(&frame))));
    assert!(!inbox.is_amid_message());
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_without_a_panic_in_bounded_memory(
        parts: Vec<Vec<u8>>,
    ) {
        let mut inbox = Inbox::default();
        'parts: for part in parts {
            feed(&mut inbox, &part);
            loop {
                match inbox.next::<ToGateway<'_>>() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'parts,
                }
            }
            prop_assert!(inbox.buf.len() <= 4 + MAX_MESSAGE_LEN + READ_LEN);
        }
    }

    #[test]
    fn any_body_is_decoded_without_a_panic(body: Vec<u8>, kind in 0u8..8) {
        let message = [&[kind][..], &body[..]].concat();
        let _ = ToGateway::decode(&message);
        let message = [&[0x80 | kind][..], &body[..]].concat();
        let _ = ToNode::decode(&message);
    }

    /// However the stream is cut, the same messages come out.
    #[test]
    fn a_stream_may_be_cut_anywhere(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..20),
        cut in 1usize..5000,
    ) {
        let mut stream = Vec::new();
        for frame in &frames {
            ToGateway::Frame(frame).encode(&mut stream);
        }
        let mut inbox = Inbox::default();
        let mut out = Vec::new();
        for part in stream.chunks(cut) {
            feed(&mut inbox, part);
            while inbox.has_message().expect("a valid stream") {
                match inbox.next() {
                    Ok(Some(ToGateway::Frame(frame))) => out.push(frame.to_vec()),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
        prop_assert_eq!(out, frames);
    }
}
