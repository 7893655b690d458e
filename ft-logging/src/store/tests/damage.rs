//! LOG-6 and SEC-2: whatever happens to the files, a reader returns what was written, up to an
//! error or a reported tail; and recovery cuts off torn tails and nothing else.

use std::fs::OpenOptions;
use std::io::Write as _;

use proptest::prelude::*;

use super::*;
use crate::codec::FRAME_HEADER_BYTES;
use crate::store::segment::SegmentHeader;

/// What a reader made of a log.
#[derive(Debug)]
struct Outcome {
    entries: Vec<Entry>,
    error: Option<StoreError>,
    torn: Option<TornTail>,
}

fn outcome(path: &Path) -> Outcome {
    let mut outcome = Outcome {
        entries: Vec::new(),
        error: None,
        torn: None,
    };
    let reader = Log::open(path).and_then(|log| log.reader());
    let mut reader = match reader {
        Ok(reader) => reader,
        Err(error) => {
            outcome.error = Some(error);
            return outcome;
        }
    };
    for entry in &mut reader {
        match entry {
            Ok(entry) => outcome.entries.push(entry),
            Err(error) => outcome.error = Some(error),
        }
    }
    outcome.torn = reader.torn_tail().cloned();
    outcome
}

/// A log of one segment, and its bytes.
fn one_segment() -> (TempDir, PathBuf, Vec<u8>) {
    let dir = temp();
    write(dir.path(), &entries(60), 4, Options::default());
    let path = segment_files(dir.path()).remove(0);
    let bytes = fs::read(&path).expect("the segment");
    (dir, path, bytes)
}

/// Where the frames of a segment stand, and where they end.
fn frame_offsets(path: &Path) -> Vec<usize> {
    let log = Log::open(path).expect("a segment");
    let bytes = fs::read(path).expect("the segment");
    let mut offsets = vec![log.segments()[0].header_bytes as usize];
    while offsets[offsets.len() - 1] < bytes.len() {
        let at = offsets[offsets.len() - 1];
        let body = frames::whole_frame(&bytes[at..]).expect("a whole frame");
        offsets.push(at + FRAME_HEADER_BYTES + body.len());
    }
    offsets
}

fn reopen(dir: &Path) -> Result<(Writer, Option<TornTail>)> {
    Writer::reopen(dir, log_start().initial.life, TOKEN, SMALL)
}

/// LOG-6: a log cut at any byte is a prefix and a report; reopening cuts it clean and goes on.
#[test]
fn log_6_a_torn_tail_is_cut_off_and_reported() {
    let (dir, path, bytes) = one_segment();
    let offsets = frame_offsets(&path);
    let written = entries(60);
    for end in offsets[0]..bytes.len() {
        fs::write(&path, &bytes[..end]).expect("the cut log");
        let whole = offsets.iter().rposition(|offset| *offset <= end);
        let whole = whole.expect("the header is whole");
        let seen = outcome(dir.path());
        assert!(seen.error.is_none(), "{seen:?}");
        assert_eq!(seen.entries, written[..4 * whole]);
        let expected = (end > offsets[whole]).then(|| {
            let index = EntryIndex(4 * whole as u64 + 1);
            (offsets[whole] as u64, (end - offsets[whole]) as u64, index)
        });
        let report = |torn: Option<TornTail>| torn.map(|t| (t.at.offset, t.bytes, t.at.index));
        assert_eq!(report(seen.torn), expected);

        let (mut writer, cut) = reopen(dir.path()).expect("a torn log");
        assert_eq!(report(cut), expected);
        writer.append(&written[4 * whole..]).expect("append");
        writer.close().expect("close");
        assert_eq!(read(dir.path()).expect("a whole log"), written);
        for file in segment_files(dir.path()).iter().skip(1) {
            fs::remove_file(file).expect("for the next round");
        }
    }
}

/// A host that lost power may leave zeros, or bytes that were on the disk before.
#[test]
fn log_6_zeros_and_rubbish_behind_the_log_are_a_torn_tail() {
    let rubbish: Vec<u8> = (0..5_000u32).map(|i| ((i * i) >> 3) as u8).collect();
    for tail in [vec![0; 1], vec![0; 20_000], vec![0xFF; 4_097], rubbish] {
        let (dir, path, bytes) = one_segment();
        fs::write(&path, [&bytes[..], &tail].concat()).expect("the log and a tail");
        let (_, cut) = reopen(dir.path()).expect("a torn log");
        let cut = cut.expect("a report");
        assert_eq!(
            (cut.at.offset, cut.bytes),
            (bytes.len() as u64, tail.len() as u64)
        );
        assert_eq!(fs::read(&path).expect("the log"), bytes);
    }
}

/// LOG-6: with a whole frame behind it a bad frame is damage, which is never cut off.
#[test]
fn log_6_damage_before_the_tail_is_an_error_that_names_the_place() {
    let (dir, path, bytes) = one_segment();
    let offsets = frame_offsets(&path);
    let last = offsets.len() - 2;
    for (frame, &offset) in offsets[..last].iter().enumerate() {
        // In the length (small and large), the checksum and the batch.
        for (at, bit) in [(0, 1), (1, 7), (2, 3), (3, 0), (4, 0), (9, 2)] {
            let mut damaged = bytes.clone();
            damaged[offset + at] ^= 1 << bit;
            fs::write(&path, &damaged).expect("the damaged log");
            let seen = outcome(dir.path());
            assert_eq!(seen.entries, entries(4 * frame as u64));
            let Some(StoreError::Damaged { at: spot, .. }) = &seen.error else {
                panic!("{seen:?}");
            };
            assert_eq!(spot.offset, offset as u64);
            assert_eq!(spot.index, EntryIndex(4 * frame as u64 + 1));
            let text = seen.error.expect("an error").to_string();
            assert!(text.contains("00000000000000000001.ftlog"), "{text}");
            assert!(reopen(dir.path()).is_err());
            assert_eq!(fs::read(&path).expect("the log"), damaged, "left as it is");
        }
    }
}

/// LOG-1: frames that are whole, but not where they belong.
#[test]
fn log_1_a_frame_out_of_sequence_is_an_error() {
    let (_dir, path, bytes) = one_segment();
    let offsets = frame_offsets(&path);
    let frame = |n: usize| &bytes[offsets[n]..offsets[n + 1]];
    let without = [&bytes[..offsets[3]], &bytes[offsets[4]..]].concat();
    let doubled = [&bytes[..offsets[4]], frame(3), &bytes[offsets[4]..]].concat();
    let swapped = [
        &bytes[..offsets[3]],
        frame(4),
        frame(3),
        &bytes[offsets[5]..],
    ]
    .concat();
    for (what, damaged, found) in [
        ("left out", without, 17),
        ("doubled", doubled, 13),
        ("swapped", swapped, 17),
    ] {
        fs::write(&path, &damaged).expect("the damaged log");
        let Some(StoreError::Discontinuous {
            what: Discontinuity::Index { found: index, .. },
            ..
        }) = outcome(&path).error
        else {
            panic!("{what}");
        };
        assert_eq!(index, EntryIndex(found), "{what}");
    }
}

/// SEC-2: a frame whose checksum is right and whose numbers are at the end of their range.
#[test]
fn sec_2_indexes_that_run_out_are_an_error() {
    let dir = temp();
    let place = Place {
        index: EntryIndex(u64::MAX),
        ..Place::START
    };
    let header = SegmentHeader::new(1, TOKEN, place, log_start().initial);
    let mut bytes = header.encode();
    crate::codec::encode_frame(&mut bytes, |body| {
        let batch = crate::codec::BatchHeader {
            first: place.index,
            position: place.position,
            time: place.time,
            count: 1,
        };
        crate::codec::encode(&batch, body);
        body.extend_from_slice(&[0, 8]);
    });
    let path = dir.path().join("18446744073709551615.ftlog");
    fs::write(&path, bytes).expect("a log");
    let seen = outcome(dir.path());
    assert!(
        matches!(seen.error, Some(StoreError::Damaged { .. })),
        "{seen:?}"
    );
}

/// What is wrong with a header is a typed error that says so.
#[test]
fn a_bad_header_is_an_error_that_says_what_is_wrong() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage, &str); 9] = [
        ("empty", |b| b.clear(), "is empty"),
        ("not a log", |b| b[0] = b'F', "is no ftvm log"),
        ("a short text", |b| *b = b"hello".to_vec(), "is no ftvm log"),
        ("cut in the magic", |b| b.truncate(5), "at 5 of 20 bytes"),
        (
            "cut in the preamble",
            |b| b.truncate(19),
            "at 19 of 20 bytes",
        ),
        (
            "cut in the body",
            |b| b.truncate(100),
            "at 100 of 201 bytes",
        ),
        (
            "the next format",
            |b| b[8] = 3,
            "has log format version 3, this program reads version 2",
        ),
        ("a huge length", |b| b[15] = 0xFF, "65536 are allowed"),
        ("a flipped bit", |b| b[60] ^= 4, "checksum mismatch"),
    ];
    for (case, damage, expected) in cases {
        let (dir, path, mut bytes) = one_segment();
        damage(&mut bytes);
        fs::write(&path, &bytes).expect("the damaged log");
        for open in [dir.path(), &path] {
            let text = Log::open(open).expect_err(case).to_string();
            assert!(text.contains(expected), "{case}: {text}");
        }
        assert!(reopen(dir.path()).is_err(), "{case}");
        assert_eq!(fs::read(&path).expect("the log"), bytes, "left as it is");
    }
}

/// LOG-6: segments that do not make up one log.
#[test]
fn log_6_a_directory_with_wrong_segments_is_an_error() {
    type Change = fn(&[PathBuf]);
    type Check = fn(&StoreError) -> bool;
    fn swap(a: &Path, b: &Path) {
        let aside = a.with_extension("aside");
        for (from, to) in [(a, aside.as_path()), (b, a), (&aside, b)] {
            fs::rename(from, to).expect("rename");
        }
    }
    /// Replaces a segment by one with the same name from another log.
    fn replace(path: &Path, change: fn(&mut LogStart)) {
        let dir = temp();
        let mut start = log_start();
        start.place = Log::open(path).expect("a segment").start();
        change(&mut start);
        drop(Writer::create(dir.path(), start, SMALL).expect("a log"));
        fs::copy(&segment_files(dir.path())[0], path).expect("copy");
    }
    let cases: [(&str, Change, Check); 7] = [
        (
            "a segment in the middle is missing",
            |files| fs::remove_file(&files[2]).expect("remove"),
            |error| {
                matches!(
                    error,
                    StoreError::Sequence {
                        expected: 3,
                        found: 4,
                        ..
                    }
                )
            },
        ),
        (
            "the first segment is missing",
            |files| fs::remove_file(&files[0]).expect("remove"),
            |error| {
                matches!(
                    error,
                    StoreError::Sequence {
                        expected: 1,
                        found: 2,
                        ..
                    }
                )
            },
        ),
        (
            "two segments have changed names",
            |files| swap(&files[1], &files[2]),
            |error| matches!(error, StoreError::Misnamed { .. }),
        ),
        (
            "a copy lies beside",
            |files| drop(fs::copy(&files[1], files[1].with_file_name("copy.ftlog"))),
            |error| matches!(error, StoreError::Misnamed { .. }),
        ),
        (
            "another life",
            |files| replace(&files[1], |start| start.initial.life = Life([8; 16])),
            |error| {
                matches!(
                    error,
                    StoreError::OtherLife {
                        found: Life([8, ..]),
                        ..
                    }
                )
            },
        ),
        (
            "the number is there twice",
            |files| replace(&files[1], |_| ()),
            |error| {
                matches!(
                    error,
                    StoreError::Sequence {
                        expected: 2,
                        found: 1,
                        ..
                    }
                )
            },
        ),
        (
            "a segment lacks its last frame",
            |files| {
                let end = frame_offsets(&files[1]);
                let file = OpenOptions::new()
                    .write(true)
                    .open(&files[1])
                    .expect("open");
                file.set_len(end[end.len() - 2] as u64).expect("cut");
            },
            |error| matches!(error, StoreError::BrokenChain { .. }),
        ),
    ];
    for (case, change, is_expected) in cases {
        let dir = temp();
        write(dir.path(), &entries(300), 4, SMALL);
        change(&segment_files(dir.path()));
        let seen = outcome(dir.path());
        let error = seen.error.expect(case);
        assert!(is_expected(&error), "{case}: {error:?}");
        let count = seen.entries.len() as u64;
        assert_eq!(seen.entries, entries(count), "{case}");
    }
}

/// LOG-6: a torn end is one only in the last segment.
#[test]
fn log_6_a_tear_in_the_middle_is_damage() {
    let dir = temp();
    write(dir.path(), &entries(300), 4, SMALL);
    let file = segment_files(dir.path()).remove(1);
    let bytes = fs::read(&file).expect("a segment");
    fs::write(&file, &bytes[..bytes.len() - 1]).expect("the damaged log");
    let seen = outcome(dir.path());
    let Some(StoreError::Damaged { at, .. }) = &seen.error else {
        panic!("{seen:?}");
    };
    assert_eq!(at.path, file);
    // By itself, nothing says that it is not the last.
    let alone = outcome(&file);
    assert!(alone.error.is_none() && alone.torn.is_some(), "{alone:?}");
}

/// SEC-2: the search for frames in a file that is full of promising headers ends, on the safe side.
#[test]
fn sec_2_a_file_made_to_cost_time_counts_as_damage() {
    let (dir, path, _) = one_segment();
    let mut file = OpenOptions::new().append(true).open(&path).expect("open");
    // Every seventh byte begins a length of 4 MB and, eight bytes on, the header of a batch that
    // begins with entry 61.
    let promises = [0, 61, 0x3F, 0, 1, 0, 0].repeat((5 << 20) / 7);
    file.write_all(&promises).expect("write");
    let seen = outcome(dir.path());
    assert!(matches!(seen.error, Some(StoreError::Damaged { .. })));
    assert_eq!(seen.entries, entries(60));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// LOG-6, SEC-2: a bit flipped anywhere never changes, adds or hides an entry in silence.
    #[test]
    fn log_6_a_flipped_bit_is_always_noticed(
        per_frame in 1usize..12,
        place in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let dir = temp();
        let written = entries(120);
        write(dir.path(), &written, per_frame, SMALL);
        let files = segment_files(dir.path());
        let sizes: Vec<usize> = files.iter().map(|f| fs::read(f).expect("a segment").len()).collect();
        let mut at = place.index(sizes.iter().sum());
        let file = sizes.iter().position(|size| if at < *size { true } else { at -= size; false });
        let file = &files[file.expect("within the log")];
        let mut bytes = fs::read(file).expect("a segment");
        bytes[at] ^= 1 << bit;
        fs::write(file, &bytes).expect("the damaged log");

        let seen = outcome(dir.path());
        prop_assert!(seen.error.is_some() || seen.torn.is_some(), "unnoticed");
        prop_assert!(written.starts_with(&seen.entries), "different entries");
        let last = files.last() == Some(file);
        prop_assert!(last || seen.torn.is_none(), "torn in the middle");
    }

    /// LOG-6: any segment cut anywhere yields a prefix; nothing is lost without a word, but whole
    /// frames at the very end.
    #[test]
    fn log_6_a_cut_anywhere_yields_a_prefix(
        per_frame in 1usize..12,
        file in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
    ) {
        let dir = temp();
        let written = entries(120);
        write(dir.path(), &written, per_frame, SMALL);
        let files = segment_files(dir.path());
        let file = file.get(&files);
        let bytes = fs::read(file).expect("a segment");
        let end = at.index(bytes.len());
        let ends = frame_offsets(file);
        fs::write(file, &bytes[..end]).expect("the cut log");

        let seen = outcome(dir.path());
        prop_assert!(written.starts_with(&seen.entries));
        let silent = files.last() == Some(file) && ends.contains(&end);
        prop_assert_eq!(seen.error.is_none() && seen.torn.is_none(), silent);
    }

    /// SEC-2: bytes from strangers, as a file, behind a header, and in a frame with a right
    /// checksum, are errors or tails.
    #[test]
    fn sec_2_garbage_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..600)) {
        let dir = temp();
        let path = dir.path().join("00000000000000000001.ftlog");
        let header = SegmentHeader::new(1, TOKEN, Place::START, log_start().initial).encode();
        let mut framed = header.clone();
        crate::codec::encode_frame(&mut framed, |body| body.extend_from_slice(&garbage));
        for bytes in [garbage.clone(), [&header[..], &garbage].concat(), framed] {
            fs::write(&path, bytes).expect("a file");
            let _ = outcome(dir.path());
            let mut log = Log::open(dir.path()).and_then(|log| log.reader());
            if let Ok(reader) = &mut log {
                let _ = reader.seek(Target::Position(Position(1 << 40)));
                let _ = reader.poll_next();
            }
            let _ = reopen(dir.path());
        }
    }
}
