//! Logs on disk: golden bytes, round trips, crashes, damage and strangers.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::entry::{BlockStatus, Control, Digest, Kind, OutputDevice, OutputMark};
use crate::initial;
use crate::types::{Generation, Life, OutputSeq, Token};

mod damage;
mod process;

pub(crate) const TOKEN: Token = Token {
    generation: Generation(1),
    won: false,
};

/// Small segments, so that a short log has many.
pub(crate) const SMALL: Options = Options {
    segment_bytes: 900,
    keep_bytes: 1 << 20,
};

pub(crate) fn log_start() -> LogStart {
    LogStart {
        initial: initial::tests::example(),
        token: TOKEN,
        place: Place::START,
    }
}

/// `count` entries of every kind, as a machine could make them, from the start of a life.
pub(crate) fn entries(count: u64) -> Vec<Entry> {
    (0..count)
        .map(|i| {
            let payload = match Kind::ALL[i as usize % Kind::ALL.len()] {
                Kind::Clock => Payload::Clock {
                    now: VirtualTime(i * 1_000),
                },
                Kind::NetRx => Payload::NetRx {
                    frame: vec![i as u8; 14 + (i % 60) as usize],
                },
                Kind::ConsoleRx => Payload::ConsoleRx {
                    bytes: b"ls\n".to_vec(),
                },
                Kind::Entropy => Payload::Entropy {
                    bytes: vec![0x5A; 8],
                },
                Kind::Control => Payload::Control(Control::PowerButton),
                Kind::Interrupt => Payload::Interrupt { vector: 0x20 },
                Kind::Output => Payload::Output(OutputMark {
                    seq: OutputSeq(i / 11 + 1),
                    device: OutputDevice::Net,
                    len: 60,
                    crc: i as u32,
                }),
                Kind::Digest => Payload::Digest(Digest {
                    machine: i,
                    ram: None,
                }),
                Kind::Progress => Payload::Progress,
                Kind::Released => Payload::Released {
                    through: OutputSeq(i / 11 + 1),
                },
                Kind::BlockDone => Payload::BlockDone {
                    tag: i,
                    status: BlockStatus::Ok,
                },
            };
            Entry {
                index: EntryIndex(i + 1),
                position: Position(i / 3 * 2),
                payload,
            }
        })
        .collect()
}

/// Writes a log of `entries`, `per_frame` at a time.
pub(crate) fn write(dir: &Path, entries: &[Entry], per_frame: usize, options: Options) {
    let mut writer = Writer::create(dir, log_start(), options).expect("a new log");
    for chunk in entries.chunks(per_frame) {
        writer.append(chunk).expect("append");
    }
    writer.close().expect("close");
}

pub(crate) fn read(path: &Path) -> Result<Vec<Entry>> {
    Log::open(path)?.reader()?.collect()
}

/// The segment files of a log in order.
pub(crate) fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let log = Log::open(dir).expect("a log");
    log.segments().iter().map(|s| s.path.clone()).collect()
}

pub(crate) fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A guest that never ran leaves nothing, not even the directory that was made for it.
#[test]
fn a_log_without_an_entry_is_taken_away_when_it_is_closed() {
    let dir = temp();
    let made = dir.path().join("made");
    let mut writer = Writer::create(&made, log_start(), SMALL).expect("a new log");
    let live = Token { won: true, ..TOKEN };
    writer.set_token(live).expect("another token");
    writer.close().expect("closed");
    assert!(!made.exists());

    let given = dir.path().join("given");
    fs::create_dir(&given).expect("a directory");
    let writer = Writer::create(&given, log_start(), SMALL).expect("a new log");
    writer.close().expect("closed");
    assert_eq!(fs::read_dir(&given).expect("still there").count(), 0);

    write(&made, &entries(1), 1, SMALL);
    assert_eq!(read(&made).expect("a log").len(), 1);
}

#[test]
fn golden_header_of_format_version_2() {
    let dir = temp();
    write(dir.path(), &entries(1), 1, Options::default());
    let bytes = fs::read(dir.path().join("00000000000000000001.ftlog")).expect("the first segment");
    let golden = concat!(
        "6674766d2d6c6f67", // ftvm-log
        "02000000",
        "b5000000",
        "97e96d53", // format version, length of the rest, checksum
        "01",
        "0100",
        "010000",             // segment number; token; first index, position, time
        "fd590b6f21f297c579", // configuration digest
        "07070707070707070707070707070707", // life
        "02",
        "026b76",
        "026b76", // machine model, VM, guest
        "0101010101010101010101010101010101010101010101010101010101010101", // image
        "00",
        "40",
        "00",
        "525400123456", // no initrd, memory, command line, MAC
        "01fb000800",   // a disk: sectors, writable, content
        "0202020202020202020202020202020202020202020202020202020202020202",
        "036b766d",
        "0b4578616d706c6520435055",
        "086861726477617265",
        "fb3412",     // CPU: backend, model, kind, CPUID
        "fc00f15365", // RTC epoch
        "0909090909090909090909090909090909090909090909090909090909090909", // seed
        "07000000",
        "1dec780e", // a frame: length, checksum
        "01000001",
        "000000", // a batch of one entry: a clock at 0
    );
    assert_eq!(
        hex(&bytes),
        golden,
        "a change of format is a change of version"
    );
}

#[test]
fn log_1_what_is_written_is_read_whatever_the_frames_and_segments() {
    let written = entries(500);
    for (per_frame, segment_bytes) in [(1, 700), (1, 1 << 20), (7, 900), (500, 700), (500, 1 << 20)]
    {
        let dir = temp();
        let options = Options {
            segment_bytes,
            ..Options::default()
        };
        write(dir.path(), &written, per_frame, options);
        assert_eq!(
            read(dir.path()).expect("a log"),
            written,
            "{per_frame} a frame, segments of {segment_bytes}"
        );
    }
}

#[test]
fn a_batch_of_any_size_is_split_into_frames_that_fit() {
    let largest = |i: u64| Entry {
        index: EntryIndex(i + 1),
        position: Position(u64::MAX >> 1),
        payload: Payload::Entropy {
            bytes: vec![7; crate::entry::MAX_ENTROPY_BYTES],
        },
    };
    let many_small = entries(crate::message::MAX_BATCH_ENTRIES as u64 * 2 + 1);
    let few_large: Vec<Entry> = (0..200).map(largest).collect();
    for written in [many_small, few_large] {
        let dir = temp();
        write(dir.path(), &written, written.len(), Options::default());
        assert!(read(dir.path()).expect("a log") == written);
    }
}

#[test]
fn each_segment_alone_can_be_read() {
    let dir = temp();
    let written = entries(300);
    write(dir.path(), &written, 5, SMALL);
    let files = segment_files(dir.path());
    assert!(files.len() > 5, "{} segments", files.len());
    let apart: Vec<Entry> = files
        .iter()
        .flat_map(|file| read(file).expect("a segment"))
        .collect();
    assert_eq!(apart, written);
}

#[test]
fn every_header_says_where_its_segment_begins_and_what_the_machine_started_from() {
    let dir = temp();
    let written = entries(300);
    write(dir.path(), &written, 5, SMALL);
    let log = Log::open(dir.path()).expect("a log");
    for (i, segment) in log.segments().iter().enumerate() {
        let start = segment.header.start;
        let before = &written[..start.index.0 as usize - 1];
        let expected = before.iter().fold(Place::START, |p, entry| p.after(entry));
        assert_eq!(start, expected);
        assert_eq!(segment.header.number, i as u64 + 1);
        assert_eq!(segment.header.initial, log_start().initial);
    }
}

#[test]
fn a_seek_finds_the_first_entry_that_is_not_before_the_target() {
    let dir = temp();
    let written = entries(400);
    write(dir.path(), &written, 7, SMALL);
    let log = Log::open(dir.path()).expect("a log");
    let mut reader = log.reader().expect("a reader");
    let mut times = Vec::new();
    written.iter().fold(Place::START, |place, entry| {
        times.push(place.after(entry).time);
        place.after(entry)
    });
    let mut check = |target: Target, expected: Option<usize>| {
        reader.seek(target).expect("a whole log");
        let expected = expected.map(|i| &written[i]);
        let found = reader.next().transpose().expect("a whole log");
        assert_eq!(found.as_ref(), expected, "{target:?}");
        if let Some(entry) = expected {
            assert_eq!(reader.place().time, times[entry.index.0 as usize - 1]);
        }
    };
    for at in (0..=402).rev() {
        let index = EntryIndex(at);
        let expected = written.iter().position(|e| e.index >= index);
        check(Target::Index(index), expected);
        let position = Position(at);
        let expected = written.iter().position(|e| e.position >= position);
        check(Target::Position(position), expected);
        let time = VirtualTime(at * 1_000);
        let expected = times.iter().position(|t| *t >= time);
        check(Target::Time(time), expected);
    }
}

#[test]
fn a_reader_goes_along_with_the_writer() {
    let dir = temp();
    let written = entries(300);
    let mut writer = Writer::create(dir.path(), log_start(), SMALL).expect("a new log");
    let log = Log::open(dir.path()).expect("an empty log");
    let mut reader = log.reader().expect("a reader");
    let mut read = Vec::new();
    for (i, chunk) in written.chunks(3).enumerate() {
        writer.append(chunk).expect("append");
        if i == 40 {
            let won = Token { won: true, ..TOKEN };
            writer.set_token(won).expect("the next segment");
        }
        if i % 4 == 0 {
            writer.flush().expect("flush");
            while let Some(entry) = reader.poll_next().expect("a whole log") {
                read.push(entry);
            }
            assert_eq!(read.len(), 3 * (i + 1), "all that was flushed");
        }
    }
    writer.close().expect("close");
    while let Some(entry) = reader.poll_next().expect("a whole log") {
        read.push(entry);
    }
    assert_eq!(read, written);
}

#[test]
fn a_frame_that_is_being_written_is_not_yet_there() {
    let (whole, growing) = (temp(), temp());
    let written = entries(40);
    write(whole.path(), &written, 4, Options::default());
    let bytes = fs::read(&segment_files(whole.path())[0]).expect("the log");
    let path = growing.path().join("00000000000000000001.ftlog");
    let header = Log::open(whole.path()).expect("a log").segments()[0].header_bytes as usize;
    fs::write(&path, &bytes[..header]).expect("a header");
    let mut reader = Log::open(growing.path())
        .expect("a log")
        .reader()
        .expect("a reader");
    let mut read = Vec::new();
    for end in header..=bytes.len() {
        fs::write(&path, &bytes[..end]).expect("one byte more");
        while let Some(entry) = reader.poll_next().expect("never an error") {
            read.push(entry);
        }
    }
    assert_eq!(read, written);
    assert_eq!(reader.torn_tail(), None);
}

#[test]
fn a_new_token_begins_a_segment_of_its_own() {
    let dir = temp();
    let written = entries(30);
    let won = Token { won: true, ..TOKEN };
    let later = Token {
        generation: Generation(2),
        won: false,
    };
    let mut writer = Writer::create(dir.path(), log_start(), Options::default()).expect("a log");
    writer.append(&written[..10]).expect("append");
    writer.set_token(won).expect("the next segment");
    // Nothing is written under it: the segment is begun anew.
    writer.set_token(later).expect("the same segment");
    writer.append(&written[10..]).expect("append");
    writer.close().expect("close");
    let log = Log::open(dir.path()).expect("a log");
    let tokens: Vec<_> = log.segments().iter().map(|s| s.header.token).collect();
    assert_eq!(tokens, [TOKEN, later]);
    assert_eq!(read(dir.path()).expect("a log"), written);
}

#[test]
#[should_panic(expected = "LOG-1")]
fn log_1_a_gap_is_never_written() {
    let dir = temp();
    let mut writer = Writer::create(dir.path(), log_start(), SMALL).expect("a new log");
    let _ = writer.append(&entries(3)[1..]);
}

/// At its bound recording stops loudly, and what is there stays a whole log.
#[test]
fn log_6_recording_stops_at_the_bound() {
    let dir = temp();
    let options = Options {
        segment_bytes: 2_000,
        keep_bytes: 80_000,
    };
    let written = entries(20_000);
    let mut writer = Writer::create(dir.path(), log_start(), options).expect("a new log");
    let stop = written
        .chunks(10)
        .find_map(|chunk| writer.append(chunk).err())
        .expect("the bound is reached");
    let StoreError::KeepLimit { next, .. } = stop else {
        panic!("{stop}");
    };
    assert!(stop.to_string().contains("--log-keep"), "{stop}");
    let again = writer.append(&written[next.0 as usize - 1..]);
    assert!(matches!(again, Err(StoreError::Stopped { .. })));
    assert!(matches!(writer.flush(), Err(StoreError::Stopped { .. })));
    drop(writer);
    assert_eq!(
        read(dir.path()).expect("a log"),
        written[..next.0 as usize - 1]
    );
    let bytes = Log::open(dir.path()).and_then(|log| log.bytes());
    assert!((15_000..=80_000).contains(&bytes.expect("a log")));
}

#[test]
fn only_an_empty_directory_becomes_a_log() {
    let dir = temp();
    let create = |dir: &Path| Writer::create(dir, log_start(), SMALL).map(drop);

    fs::write(dir.path().join("notes.txt"), "mine").expect("a file");
    let error = create(dir.path())
        .expect_err("a stranger's file")
        .to_string();
    assert!(error.contains("notes.txt"), "{error}");
    assert_eq!(files(dir.path()), ["notes.txt"], "nothing is left behind");

    let new = dir.path().join("a/b");
    create(&new).expect("a new directory");
    let error = create(&new).expect_err("a log").to_string();
    assert!(error.contains("the log of life 0707"), "{error}");

    let file = dir.path().join("notes.txt");
    assert!(matches!(create(&file), Err(StoreError::Io { .. })));
}

/// A writer that died before its first segment had its name has left no log.
#[test]
fn log_6_a_half_created_log_is_none() {
    let dir = temp();
    let unfinished = dir.path().join("00000000000000000001.ftlog.tmp");
    fs::write(&unfinished, "ftvm-l").expect("a file");
    assert!(matches!(
        Log::open(dir.path()),
        Err(StoreError::NoLog { .. })
    ));
    let reopened = Writer::reopen(dir.path(), Life([7; 16]), TOKEN, SMALL).map(drop);
    assert!(matches!(reopened, Err(StoreError::NoLog { .. })));
    write(dir.path(), &entries(3), 1, SMALL);
    assert_eq!(files(dir.path()), ["00000000000000000001.ftlog"]);
}

fn files(dir: &Path) -> Vec<String> {
    let name = |path: PathBuf| path.file_name()?.to_str().map(str::to_owned);
    let mut names: Vec<_> = segment::files_of(dir)
        .expect("a directory")
        .into_iter()
        .filter_map(name)
        .collect();
    names.sort();
    names
}

#[test]
fn one_writer_at_a_time() {
    let dir = temp();
    let reopen = || Writer::reopen(dir.path(), Life([7; 16]), TOKEN, SMALL).map(drop);
    let writer = Writer::create(dir.path(), log_start(), SMALL).expect("a new log");
    assert!(matches!(reopen(), Err(StoreError::Locked { .. })));
    let second = Writer::create(dir.path(), log_start(), SMALL).map(drop);
    assert!(matches!(second, Err(StoreError::Locked { .. })));
    drop(writer);
    reopen().expect("the lock is free");
}

#[test]
fn a_reopened_log_goes_on_where_it_ended() {
    let dir = temp();
    let written = entries(200);
    let won = Token { won: true, ..TOKEN };
    write(dir.path(), &written[..100], 7, SMALL);
    let life = log_start().initial.life;
    let (mut writer, torn) = Writer::reopen(dir.path(), life, won, SMALL).expect("the log");
    assert_eq!(torn, None);
    assert_eq!(writer.place().index, EntryIndex(101));
    let bytes = Log::open(dir.path()).and_then(|log| log.bytes());
    assert_eq!(writer.bytes(), bytes.expect("a log"));
    writer.append(&written[100..]).expect("append");
    writer.close().expect("close");
    assert_eq!(read(dir.path()).expect("a log"), written);

    let other = Writer::reopen(dir.path(), Life([8; 16]), won, SMALL).map(drop);
    assert!(matches!(other, Err(StoreError::OtherLife { .. })));
    let back = Writer::reopen(dir.path(), life, TOKEN, SMALL).map(drop);
    assert!(matches!(back, Err(StoreError::BrokenChain { .. })));
}
