use super::super::packet::MacAddress;
use super::super::packet::tests::{ACK, RST, SYN, TcpFrame};
use super::*;

const GUEST: &str = "10.0.2.15";
const GATEWAY: &str = "10.0.2.2";

fn segment(from: &'static str, to: &'static str, flags: u8) -> Vec<u8> {
    TcpFrame {
        macs: (MacAddress([2; 6]), MacAddress([4; 6])),
        from: (from, 1),
        to: (to, 2),
        seq: 0,
        ack: 0,
        flags,
        payload: b"",
    }
    .build()
}

fn written(frames: &[(Duration, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = CaptureWriter::new(&mut bytes).expect("memory takes everything");
    for (at, frame) in frames {
        writer.record(*at, frame).expect("memory takes everything");
    }
    writer.flush().expect("memory takes everything");
    bytes
}

#[test]
fn golden_bytes() {
    let mut golden = vec![0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    golden.extend([0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    golden.extend([5, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0xaa, 0xbb]);
    assert_eq!(written(&[(Duration::new(5, 7), vec![0xaa, 0xbb])]), golden);
}

#[test]
fn what_was_written_is_read_back() {
    let frames = [
        (Duration::new(1, 999_999_999), vec![1; 60]),
        (Duration::new(2, 0), Vec::new()),
    ];
    let read: Result<Vec<_>, _> = CaptureReader::new(&written(&frames)[..])
        .expect("a header")
        .collect();
    let read: Vec<_> = read
        .expect("a whole capture")
        .into_iter()
        .map(|read| (read.at, read.frame))
        .collect();
    assert_eq!(read, frames);
}

#[test]
fn other_byte_order_and_microseconds_are_read() {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC_MICROSECONDS.to_be_bytes());
    bytes.extend([0; 16]);
    bytes.extend(1u32.to_be_bytes());
    for number in [3u32, 250_000, 1, 1] {
        bytes.extend(number.to_be_bytes());
    }
    bytes.push(0xee);
    let read: Vec<_> = CaptureReader::new(&bytes[..])
        .expect("a header")
        .map(|frame| frame.unwrap())
        .collect();
    assert_eq!(
        read,
        [CapturedFrame {
            at: Duration::from_millis(3250),
            frame: vec![0xee]
        }]
    );
}

#[test]
fn sec_2_what_is_no_capture_is_refused_and_a_torn_one_says_where() {
    let whole = written(&[(Duration::ZERO, vec![1; 60]), (Duration::ZERO, vec![2; 60])]);
    for len in 0..whole.len() {
        let Ok(reader) = CaptureReader::new(&whole[..len]) else {
            assert!(len < FILE_HEADER_LEN);
            continue;
        };
        let first_end = FILE_HEADER_LEN + RECORD_HEADER_LEN + 60;
        let results: Vec<_> = reader.collect();
        match results.last() {
            None => assert_eq!(len, FILE_HEADER_LEN),
            Some(Ok(_)) => assert_eq!(len, first_end),
            Some(Err(CaptureError::Truncated { frame })) => {
                assert_eq!(*frame, u64::from(len > first_end));
            }
            Some(Err(error)) => panic!("cut at {len}: {error}"),
        }
    }

    let with = |at: usize, bytes: [u8; 4]| {
        let mut changed = whole.clone();
        changed[at..at + 4].copy_from_slice(&bytes);
        changed
    };
    assert!(matches!(
        CaptureReader::new(&with(0, [1; 4])[..]),
        Err(CaptureError::Format)
    ));
    let wifi = with(20, 105u32.to_le_bytes());
    assert!(matches!(
        CaptureReader::new(&wifi[..]),
        Err(CaptureError::Format)
    ));
    let huge = with(FILE_HEADER_LEN + 8, u32::MAX.to_le_bytes());
    let first = CaptureReader::new(&huge[..]).expect("a header").next();
    assert!(matches!(
        first,
        Some(Err(CaptureError::Length {
            frame: 0,
            len: u32::MAX
        }))
    ));
}

#[test]
fn counts_connections_opened_or_reset_after_the_moment() {
    let at = Duration::from_secs(10);
    let before = Duration::from_secs(9);
    let other = ("10.0.2.7", GATEWAY);
    let frames = [
        (before, segment(GATEWAY, GUEST, SYN)),
        (before, segment(GUEST, GATEWAY, RST)),
        (at, segment(GATEWAY, GUEST, ACK)),
        (at, segment(GUEST, GATEWAY, SYN | ACK)),
        (at, segment(other.0, other.1, SYN)),
        (at, segment(GATEWAY, GUEST, SYN)),
        (at, segment(GUEST, GATEWAY, RST)),
        (at, segment(GATEWAY, GUEST, RST | ACK)),
        (at, vec![0xff; 60]),
    ];
    let bytes = written(&frames);
    let reader = CaptureReader::new(&bytes[..]).expect("a header");
    let counted = connections_reopened(reader, at, GUEST.parse().expect("an address"));
    assert_eq!(
        counted.expect("a whole capture"),
        Reopened {
            opened: 1,
            reset: 2
        }
    );
}

#[test]
fn a_failing_disk_ends_the_capture_and_nothing_else() {
    let mut capture = CaptureFile::create(Path::new("/dev/full"));
    if let Ok(capture) = &mut capture {
        capture.record(Duration::ZERO, Duration::ZERO, &[0; 60]);
        capture.flush();
        assert!(capture.error().is_some());
        capture.record(Duration::ZERO, Duration::ZERO, &[0; 60]);
        assert_eq!(capture.flush_at(), None);
    }
    assert!(capture.is_err(), "the header already does not fit");
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, good_header: bool) {
        let header = if good_header { written(&[]) } else { Vec::new() };
        let bytes = [header, bytes].concat();
        if let Ok(reader) = CaptureReader::new(&bytes[..]) {
            let _ = reader.count();
        }
    }
}
