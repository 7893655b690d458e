//! Golden bytes, round trips, bounds, and bytes from strangers.

use proptest::prelude::*;

use super::*;
use crate::entry::{BlockStatus, Kind, MAX_CONSOLE_BYTES, MAX_ENTROPY_BYTES};
use crate::initial;
use crate::message::Welcome;
use crate::types::{Generation, Incarnation};

/// One entry of each kind.
fn one_of_each() -> Vec<Entry> {
    let payloads = [
        Payload::Clock {
            now: VirtualTime(1_000_000),
        },
        Payload::NetRx {
            frame: vec![0xAA, 0xBB],
        },
        Payload::ConsoleRx {
            bytes: b"hi".to_vec(),
        },
        Payload::Entropy {
            bytes: vec![1, 2, 3],
        },
        Payload::Control(Control::PowerButton),
        Payload::Interrupt { vector: 0x25 },
        Payload::Output(OutputMark {
            seq: OutputSeq(7),
            device: OutputDevice::Console,
            len: 12,
            crc: 0xDEAD_BEEF,
        }),
        Payload::Digest(Digest {
            machine: 0x0102_0304_0506_0708,
            ram: Some(u64::MAX),
        }),
        Payload::Progress,
        Payload::Released {
            through: OutputSeq(6),
        },
        Payload::Clock {
            now: VirtualTime(1_000_300),
        },
        Payload::BlockDone {
            tag: 300,
            status: BlockStatus::IoError,
        },
    ];
    payloads
        .into_iter()
        .enumerate()
        .map(|(i, payload)| Entry {
            index: EntryIndex(300 + i as u64),
            position: Position(70_000 + 3 * i as u64),
            payload,
        })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn golden_bytes_of_format_version_2() {
    let mut bytes = Vec::new();
    encode_batch(&one_of_each(), &mut bytes);
    let golden = concat!(
        "fb2c01",
        "fc70110100",
        "fc40420f00",
        "0c", // first index, position, time, count
        "0000",
        "00", // clock, at the base time
        "03",
        "0102aabb", // net-rx
        "03",
        "02026869", // console-rx
        "03",
        "0303010203", // entropy
        "03",
        "0402", // control: power button
        "03",
        "0525", // interrupt
        "03",
        "0607010cefbeadde", // output
        "03",
        "07080706050403020101ffffffffffffffff", // digest
        "03",
        "08", // progress
        "03",
        "0906", // released
        "03",
        "00fb2c01", // clock, 300 ns later
        "03",
        "0afb2c0101", // block request 300: an error
    );
    assert_eq!(
        hex(&bytes),
        golden,
        "a change of format is a change of version"
    );

    let mut frame = Vec::new();
    let token = Token {
        generation: Generation(1),
        won: true,
    };
    let ack = Signal::Ack {
        received: EntryIndex(5),
        replayed: EntryIndex(4),
    };
    encode_message(token, &ack.into(), &mut frame);
    assert_eq!(hex(&frame), "06000000578a63fc010101050504");
}

#[test]
fn every_kind_round_trips() {
    let entries = one_of_each();
    let kinds: std::collections::BTreeSet<Kind> =
        entries.iter().map(|entry| entry.payload.kind()).collect();
    assert_eq!(
        kinds.len(),
        Kind::ALL.len(),
        "the example must hold every kind"
    );
    let mut bytes = Vec::new();
    encode_batch(&entries, &mut bytes);
    assert_eq!(decode_batch(&bytes).as_ref(), Ok(&entries));
}

#[test]
fn an_entry_costs_its_payload_and_at_most_16_bytes() {
    let entries = one_of_each();
    let mut base = Vec::new();
    encode_batch(&entries[..1], &mut base);
    for entry in &entries[1..] {
        let mut two = Vec::new();
        let second = Entry {
            index: entries[0].index.next(),
            ..entry.clone()
        };
        encode_batch(&[entries[0].clone(), second], &mut two);
        let hashes = match entry.payload {
            Payload::Digest(_) => 16, // a digest's payload are its hashes
            _ => entry.payload.held_bytes(),
        };
        let cost = two.len() - base.len() - hashes;
        assert!(cost <= 16, "{:?} costs {cost} bytes", entry.payload.kind());
    }
}

#[test]
fn the_length_of_an_entry_is_what_it_adds_to_a_batch() {
    let entries = one_of_each();
    let mut time = VirtualTime(0);
    for count in 1..entries.len() {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        encode_batch_from(VirtualTime(0), &entries[..count], &mut without);
        encode_batch_from(VirtualTime(0), &entries[..=count], &mut with);
        assert_eq!(decode_batch(&with).as_deref(), Ok(&entries[..=count]));
        time = clock(&entries[count - 1]).unwrap_or(time);
        let len = entry_len(&entries[count], entries[count - 1].position, time);
        assert_eq!(len, with.len() - without.len(), "{:?}", entries[count]);
    }
}

#[test]
fn messages_round_trip() {
    let token = Token {
        generation: Generation(3),
        won: false,
    };
    let messages: [Message; 4] = [
        Message::Entries(one_of_each().into()),
        Signal::Heartbeat {
            nonce: 1 << 40,
            echo: 0,
        }
        .into(),
        Signal::Diverged {
            at: EntryIndex(9),
            what: "output 4".to_owned(),
        }
        .into(),
        Signal::Welcome(Box::new(Welcome {
            incarnation: Incarnation([3; 16]),
            node: "host-a".to_owned(),
            initial: initial::tests::example(),
        }))
        .into(),
    ];
    for message in messages {
        let mut frame = Vec::new();
        encode_message(token, &message, &mut frame);
        let (header, body) = frame.split_first_chunk().expect("a header");
        assert_eq!(body_len(header), Ok(body.len()));
        assert_eq!(check_body(header, body), Ok(()));
        assert_eq!(decode_message(body), Ok((token, message)));
    }
}

#[test]
fn sec_2_lengths_are_bounded_before_use() {
    let header = [0xFF; FRAME_HEADER_BYTES];
    assert_eq!(body_len(&header), Err(DecodeError::TooLong(0xFFFF_FFFF)));

    let too_long = [
        Payload::NetRx {
            frame: vec![0; MAX_FRAME_BYTES + 1],
        },
        Payload::ConsoleRx {
            bytes: vec![0; MAX_CONSOLE_BYTES + 1],
        },
        Payload::Entropy {
            bytes: vec![0; MAX_ENTROPY_BYTES + 1],
        },
        Payload::Output(OutputMark {
            seq: OutputSeq(1),
            device: OutputDevice::Net,
            len: MAX_FRAME_BYTES as u32 + 1,
            crc: 0,
        }),
    ];
    for payload in too_long {
        let mut bytes = Vec::new();
        encode_batch(
            &[Entry {
                index: EntryIndex(1),
                position: Position(0),
                payload,
            }],
            &mut bytes,
        );
        assert!(matches!(
            decode_batch(&bytes),
            Err(DecodeError::Malformed(_))
        ));
    }
}

#[test]
fn a_flipped_bit_is_noticed() {
    let mut frame = Vec::new();
    encode_message(
        Token::default(),
        &Message::Entries(one_of_each().into()),
        &mut frame,
    );
    for bit in 0..(frame.len() - FRAME_HEADER_BYTES) * 8 {
        let mut damaged = frame.clone();
        damaged[FRAME_HEADER_BYTES + bit / 8] ^= 1 << (bit % 8);
        let (header, body) = damaged.split_first_chunk().expect("a header");
        assert!(check_body(header, body).is_err(), "bit {bit}");
    }
}

#[test]
#[should_panic(expected = "LOG-1")]
fn log_1_a_gap_is_never_encoded() {
    let mut entries = one_of_each();
    entries.remove(3);
    encode_batch(&entries, &mut Vec::new());
}

fn payload() -> impl Strategy<Value = Payload> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    prop_oneof![
        (0u64..1 << 50).prop_map(|now| Payload::Clock {
            now: VirtualTime(now)
        }),
        bytes(MAX_FRAME_BYTES).prop_map(|frame| Payload::NetRx { frame }),
        bytes(64).prop_map(|bytes| Payload::ConsoleRx { bytes }),
        bytes(64).prop_map(|bytes| Payload::Entropy { bytes }),
        any::<u8>().prop_map(|vector| Payload::Interrupt { vector }),
        (any::<u64>(), 0..=1518u32, any::<u32>()).prop_map(|(seq, len, crc)| {
            Payload::Output(OutputMark {
                seq: OutputSeq(seq),
                device: OutputDevice::Net,
                len,
                crc,
            })
        }),
        (any::<u64>(), any::<Option<u64>>())
            .prop_map(|(machine, ram)| Payload::Digest(Digest { machine, ram })),
        Just(Payload::Progress),
        (any::<u64>(), any::<bool>()).prop_map(|(tag, failed)| Payload::BlockDone {
            tag,
            status: if failed {
                BlockStatus::IoError
            } else {
                BlockStatus::Ok
            },
        }),
        any::<u64>().prop_map(|seq| Payload::Released {
            through: OutputSeq(seq)
        }),
    ]
}

proptest! {
    #[test]
    fn any_batch_round_trips(
        first in 1..u64::MAX >> 1,
        steps in prop::collection::vec((0..u64::MAX >> 20, payload()), 1..40),
    ) {
        let (mut position, mut time) = (Position(0), VirtualTime(0));
        let entries: Vec<Entry> = steps
            .into_iter()
            .enumerate()
            .map(|(i, (step, mut payload))| {
                position = Position(position.0 + step);
                if let Payload::Clock { now } = &mut payload {
                    time = time.plus_ns(now.0);
                    *now = time;
                }
                Entry { index: EntryIndex(first + i as u64), position, payload }
            })
            .collect();
        let mut bytes = Vec::new();
        encode_batch(&entries, &mut bytes);
        prop_assert_eq!(decode_batch(&bytes), Ok(entries));
    }

    /// SEC-2: whatever a stranger sends is an error, never a panic.
    #[test]
    fn sec_2_random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode_batch(&bytes);
        let _ = decode_message(&bytes);
    }

    /// SEC-2: nor does a message with bytes changed behind its checksum.
    #[test]
    fn sec_2_damaged_batches_never_panic(at in 0usize..100, value in any::<u8>()) {
        let mut bytes = Vec::new();
        encode_batch(&one_of_each(), &mut bytes);
        let at = at % bytes.len();
        bytes[at] = value;
        let _ = decode_batch(&bytes);
    }
}
