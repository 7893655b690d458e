//! Reports over logs that are made up for the purpose.

use std::fs;

use super::*;
use crate::entry::{BlockStatus, Control, Digest, Kind, OutputDevice, OutputMark};
use crate::store::tests::{SMALL, TOKEN, entries, log_start, segment_files, temp, write};
use crate::store::{Discontinuity, Log, Options, Place, Writer};
use crate::types::{EntryIndex, OutputSeq, Position, VirtualTime};

/// Entries numbered from 1, ten positions apart.
fn log_of(payloads: Vec<Payload>) -> Vec<Entry> {
    let number = |(i, payload): (usize, Payload)| Entry {
        index: EntryIndex(i as u64 + 1),
        position: Position(10 * i as u64),
        payload,
    };
    payloads.into_iter().enumerate().map(number).collect()
}

fn clock(ms: u64) -> Payload {
    Payload::Clock {
        now: VirtualTime(ms * 1_000_000),
    }
}

fn output(seq: u64, device: OutputDevice, len: u32) -> Payload {
    Payload::Output(OutputMark {
        seq: OutputSeq(seq),
        device,
        len,
        crc: 0xAB,
    })
}

fn released(through: u64) -> Payload {
    Payload::Released {
        through: OutputSeq(through),
    }
}

fn console(text: &str) -> Payload {
    Payload::ConsoleRx {
        bytes: text.as_bytes().to_vec(),
    }
}

fn stream(entries: &[Entry]) -> impl Iterator<Item = Result<Timed>> {
    timed(VirtualTime(0), entries.iter().cloned().map(Ok))
}

#[test]
fn info_says_what_a_log_is_and_how_it_ends() {
    let dir = temp();
    let mut written = entries(204);
    let off = EntryIndex(205);
    written.push(Entry {
        index: off,
        position: Position(1_000),
        payload: Payload::Control(Control::PowerOff),
    });
    write(dir.path(), &written, 4, SMALL);
    let report = info(&Log::open(dir.path()).expect("a log")).expect("info");
    assert_eq!(report.format_version, 2);
    assert_eq!(report.life, log_start().initial.life);
    assert_eq!(report.vm, "kv");
    assert_eq!(report.configuration.len(), 12);
    assert_eq!(report.entries, 205);
    assert_eq!(
        (report.first, report.last),
        (Some(EntryIndex(1)), Some(off))
    );
    assert_eq!(report.end.position, Position(1_000));
    assert_eq!(report.span_ns, 198_000);
    assert_eq!(report.segments.len(), segment_files(dir.path()).len());
    assert_eq!(report.segments[0].token, TOKEN);
    let on_disk = |path| fs::metadata(path).expect("a segment").len();
    let bytes: u64 = segment_files(dir.path()).iter().map(on_disk).sum();
    assert_eq!(report.bytes, bytes);
    assert_eq!(report.ending, End::Whole);
    assert!(report.powered_off);

    // The last frame holds the power-off: torn, the log ends before it.
    let last = segment_files(dir.path()).pop().expect("a segment");
    let bytes = fs::read(&last).expect("a segment");
    fs::write(&last, &bytes[..bytes.len() - 1]).expect("the torn log");
    let report = info(&Log::open(dir.path()).expect("a log")).expect("info");
    assert!(matches!(report.ending, End::Torn(_)), "{:?}", report.ending);
    assert_eq!(report.entries, 204);
    assert!(!report.powered_off);

    let middle = segment_files(dir.path()).remove(1);
    let bytes = fs::read(&middle).expect("a segment");
    fs::write(&middle, &bytes[..bytes.len() - 1]).expect("the damaged log");
    let report = info(&Log::open(dir.path()).expect("a log")).expect("info");
    let End::Damaged(what) = &report.ending else {
        panic!("{:?}", report.ending);
    };
    assert!(what.contains(middle.to_str().expect("a name")), "{what}");
}

#[test]
fn an_empty_log_has_no_first_entry() {
    let dir = temp();
    // As a writer leaves it that dies before the first entry; one that ends in order takes it away.
    drop(Writer::create(dir.path(), log_start(), SMALL).expect("a new log"));
    let report = info(&Log::open(dir.path()).expect("a log")).expect("info");
    assert_eq!((report.entries, report.first, report.last), (0, None, None));
    let stats = Stats::of(Place::START, []).expect("no entries");
    assert_eq!((stats.entries, stats.bits_per_s), (0, None));
}

#[test]
fn stats_count_kinds_devices_vectors_and_gaps() {
    let log = log_of(vec![
        clock(1),
        output(1, OutputDevice::Net, 60),
        Payload::Interrupt { vector: 0x20 },
        output(2, OutputDevice::Net, 100),
        Payload::Interrupt { vector: 0x20 },
        Payload::Interrupt { vector: 0x2B },
        output(3, OutputDevice::Console, 5),
        Payload::Digest(Digest {
            machine: 1,
            ram: Some(2),
        }),
        Payload::Digest(Digest {
            machine: 1,
            ram: None,
        }),
        clock(2),
        clock(502),
    ]);
    let stats = Stats::of(Place::START, log.iter().cloned().map(Ok)).expect("stats");
    assert_eq!(stats.entries, 11);
    assert_eq!(stats.span_ns, 502_000_000);
    let counts: Vec<_> = stats.kinds.iter().map(|k| (k.kind, k.count)).collect();
    assert_eq!(
        counts,
        [
            (Kind::Clock, 3),
            (Kind::Interrupt, 3),
            (Kind::Output, 3),
            (Kind::Digest, 2)
        ]
    );
    let outputs: Vec<_> = stats
        .outputs
        .iter()
        .map(|o| (o.device, o.count, o.bytes))
        .collect();
    assert_eq!(outputs, [("net", 2, 160), ("console", 1, 5)]);
    let vectors: Vec<_> = stats
        .interrupts
        .iter()
        .map(|v| (v.vector, v.count))
        .collect();
    assert_eq!(vectors, [(0x20, 2), (0x2B, 1)]);
    assert_eq!((stats.digests.count, stats.digests.with_ram), (2, 1));
    let gaps: Vec<_> = stats.gaps.iter().map(|g| g.count).collect();
    assert_eq!(gaps, [0, 0, 0, 1, 0, 1, 0], "1 ms and 500 ms");
    assert!((stats.kinds.iter().map(|k| k.share).sum::<f64>() - 1.0).abs() < 1e-9);
    assert!((stats.entries_per_s.expect("time passes") - 11.0 / 0.502).abs() < 1e-9);
}

/// The bytes told are those on disk: with one frame, all but the headers.
#[test]
fn stats_tell_the_bytes_that_entries_take() {
    let dir = temp();
    let written = entries(500);
    write(dir.path(), &written, written.len(), Options::default());
    let log = Log::open(dir.path()).expect("a log");
    let stats = Stats::of(log.start(), log.reader().expect("a reader")).expect("a whole log");
    let batch_header = 1 + 1 + 1 + 3;
    let framing = log.segments()[0].header_bytes + 8 + batch_header;
    assert_eq!(stats.bytes, log.bytes().expect("a size") - framing);
}

#[test]
fn a_filter_wants_what_passes_every_part() {
    let all = entries(200);
    let span = |from: u64, to: u64| (Some(from), Some(to));
    let positions = |(from, to): (Option<u64>, Option<u64>)| Span {
        from: from.map(Position),
        to: to.map(Position),
    };
    let indexes = |(from, to): (Option<u64>, Option<u64>)| Span {
        from: from.map(EntryIndex),
        to: to.map(EntryIndex),
    };
    let times = |(from, to): (Option<u64>, Option<u64>)| Span {
        from: from.map(VirtualTime),
        to: to.map(VirtualTime),
    };
    let none = Filter::default;
    type Wants = fn(&Timed) -> bool;
    let cases: [(Filter, Wants); 7] = [
        (none(), |_| true),
        (
            Filter {
                kinds: vec![Kind::NetRx, Kind::Digest],
                ..none()
            },
            |t| matches!(t.entry.payload.kind(), Kind::NetRx | Kind::Digest),
        ),
        (
            Filter {
                indexes: indexes(span(17, 90)),
                ..none()
            },
            |t| (17..=90).contains(&t.entry.index.0),
        ),
        (
            Filter {
                positions: positions(span(30, 62)),
                ..none()
            },
            |t| (30..=62).contains(&t.entry.position.0),
        ),
        (
            Filter {
                times: times(span(20_000, 60_000)),
                ..none()
            },
            |t| (20_000..=60_000).contains(&t.time.0),
        ),
        (
            Filter {
                times: times((None, Some(60_000))),
                positions: positions((Some(31), None)),
                kinds: vec![Kind::Clock],
                ..none()
            },
            |t| {
                t.time.0 <= 60_000
                    && t.entry.position.0 >= 31
                    && t.entry.payload.kind() == Kind::Clock
            },
        ),
        (
            Filter {
                indexes: indexes((Some(1_000), None)),
                ..none()
            },
            |_| false,
        ),
    ];
    let dir = temp();
    write(dir.path(), &all, 7, SMALL);
    let log = Log::open(dir.path()).expect("a log");
    for (filter, wants) in cases {
        let expected: Vec<Timed> = stream(&all)
            .map(|timed| timed.expect("no error"))
            .filter(wants)
            .collect();
        let streamed: Result<Vec<_>> = filter.apply(stream(&all)).collect();
        assert_eq!(streamed.expect("no error"), expected, "{filter:?}");
        let mut reader = log.reader().expect("a reader");
        let sought: Result<Vec<_>> = filter.read(&mut reader).expect("a whole log").collect();
        assert_eq!(sought.expect("a whole log"), expected, "{filter:?}");
    }
}

#[test]
fn entries_are_told_in_a_line() {
    let cases = [
        (clock(1_250), "1.250000000 s"),
        (
            console("ls \"x\"\r\n\u{1b}"),
            "9 bytes, \"ls \\\"x\\\"\\r\\n\\x1b\"",
        ),
        (
            Payload::NetRx { frame: vec![0; 3] },
            "3 bytes, no Ethernet frame: too short",
        ),
        (Payload::Entropy { bytes: vec![1; 8] }, "8 bytes"),
        (Payload::Control(Control::PowerButton), "power button"),
        (Payload::Interrupt { vector: 0x2B }, "vector 0x2b"),
        (
            output(7, OutputDevice::Console, 12),
            "console output 7, 12 bytes, CRC-32C 000000ab",
        ),
        (
            Payload::Digest(Digest {
                machine: 0x1F,
                ram: Some(2),
            }),
            "machine 000000000000001f, RAM 0000000000000002",
        ),
        (Payload::Progress, ""),
        (released(6), "outputs up to 6"),
        (
            Payload::BlockDone {
                tag: 9,
                status: BlockStatus::IoError,
            },
            "request 9, an I/O error",
        ),
    ];
    for (payload, expected) in cases {
        let timed = Timed {
            entry: log_of(vec![payload]).remove(0),
            time: VirtualTime(0),
        };
        assert_eq!(EntryLine::new(&timed, false).detail, expected);
    }
}

#[test]
fn a_line_shows_index_position_time_kind_and_bytes() {
    let timed = Timed {
        entry: log_of(vec![console("0123456789abcdefg")]).remove(0),
        time: VirtualTime(12_000_345_678),
    };
    let line = EntryLine::new(&timed, true);
    assert_eq!(
        line.to_string(),
        "        1           0     12.000345678 console-rx 17 bytes, \"0123456789abcdefg\"\n\
         \x20                                     0000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66\n\
         \x20                                     0010  67"
    );
    assert_eq!(line.hex.map(|hex| hex.len()), Some(34));
}

#[test]
fn diff_names_the_first_entry_where_two_logs_part() {
    let base = vec![
        clock(1),
        console("abc"),
        output(1, OutputDevice::Net, 60),
        released(1),
        clock(2),
    ];
    let changed = |at: usize, payload: Payload| {
        let mut changed = base.clone();
        changed[at] = payload;
        log_of(changed)
    };
    let moved = {
        let mut moved = log_of(base.clone());
        moved[1].position = Position(11);
        moved
    };
    let cases = [
        (moved, 1, "position differs: 10 here, 11 there"),
        (
            changed(1, console("abX")),
            1,
            "content differs: 3 bytes, byte 2 is 0x63 here, 3 bytes, byte 2 is 0x58 there",
        ),
        (
            changed(1, console("ab")),
            1,
            "content differs: 3 bytes, byte 2 is 0x63 here, 2 bytes there",
        ),
        (
            changed(2, Payload::Progress),
            2,
            "kind differs: output here, progress there",
        ),
        (
            changed(0, clock(0)),
            0,
            "virtual time differs: 0.001000000 here, 0.000000000 there",
        ),
        (
            changed(2, output(1, OutputDevice::Net, 61)),
            2,
            "content differs: net output 1, 60 bytes, CRC-32C 000000ab here, net output 1, 61 bytes, CRC-32C 000000ab there",
        ),
    ];
    let ours = log_of(base.clone());
    for (theirs, equal, expected) in cases {
        let (entries, outcome) =
            diff_entries(stream(&ours), stream(&theirs), &[]).expect("no error");
        let Outcome::Parted {
            differences, first, ..
        } = outcome
        else {
            panic!("{expected}: {outcome:?}");
        };
        let told: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert_eq!((entries, told), (equal, vec![expected.to_owned()]));
        assert_eq!(first.index, EntryIndex(equal + 1));
    }
}

#[test]
fn diff_tells_a_prefix_from_a_difference() {
    let long = entries(20);
    let compare = |a, b| diff_entries(stream(a), stream(b), &[]).expect("no error");
    assert_eq!(compare(&long, &long), (20, Outcome::Equal));
    for (a, b, side) in [
        (&long[..12], &long[..], Side::First),
        (&long[..], &long[..12], Side::Second),
    ] {
        let (equal, Outcome::Prefix { shorter, next }) = compare(a, b) else {
            panic!("no prefix");
        };
        assert_eq!((equal, shorter, next.index), (12, side, EntryIndex(13)));
    }
}

#[test]
fn diff_can_leave_markers_out() {
    let with = log_of(vec![clock(1), released(0), Payload::Progress, clock(2)]);
    let mut without = vec![with[0].clone(), with[3].clone()];
    without[1].index = EntryIndex(2);
    let markers = [Kind::Released, Kind::Progress];
    let (equal, outcome) =
        diff_entries(stream(&with), stream(&without), &markers).expect("no error");
    assert_eq!((equal, outcome), (2, Outcome::Equal));
    let (_, outcome) = diff_entries(stream(&with), stream(&without), &[]).expect("no error");
    assert!(matches!(outcome, Outcome::Parted { .. }));
}

#[test]
fn diff_compares_headers_and_begins_where_both_logs_are() {
    let (first, second) = (temp(), temp());
    let written = entries(60);
    write(first.path(), &written, 4, SMALL);
    let mut start = log_start();
    start.initial.configuration.memory_mib = 128;
    start.initial.life.0[0] = 8;
    start.place = written[..10].iter().fold(Place::START, |p, e| p.after(e));
    let mut writer = Writer::create(second.path(), start, SMALL).expect("a new log");
    writer.append(&written[10..]).expect("append");
    writer.close().expect("close");
    let open = |dir: &tempfile::TempDir| Log::open(dir.path()).expect("a log");
    let report = diff(&open(&first), &open(&second), &[]).expect("whole logs");
    let settings: Vec<_> = report.headers.iter().map(|d| d.setting.as_str()).collect();
    assert_eq!(settings, ["life", "memory"]);
    assert_eq!((report.equal_entries, report.outcome), (50, Outcome::Equal));
}

#[test]
fn log_1_verify_finds_what_should_not_be_in_a_log() {
    let gap = {
        let mut gap = log_of(vec![clock(1), clock(2)]);
        gap[1].index = EntryIndex(3);
        gap
    };
    let back = {
        let mut back = log_of(vec![clock(1), clock(2)]);
        back[0].position = Position(11);
        back
    };
    let cases = [
        (log_of(vec![clock(1_000), clock(2_000)]), None),
        (
            gap,
            Some(Problem::Discontinuous(Discontinuity::Index {
                expected: EntryIndex(2),
                found: EntryIndex(3),
            })),
        ),
        (
            back,
            Some(Problem::Discontinuous(Discontinuity::Position {
                before: Position(11),
                found: Position(10),
            })),
        ),
        (
            log_of(vec![clock(2), clock(1)]),
            Some(Problem::Discontinuous(Discontinuity::Time {
                before: VirtualTime(2_000_000),
                found: VirtualTime(1_000_000),
            })),
        ),
        (
            log_of(vec![clock(1), clock(1_002)]),
            Some(Problem::ClockStep {
                step_ns: 1_001_000_000,
            }),
        ),
        (
            log_of(vec![
                output(1, OutputDevice::Net, 60),
                output(3, OutputDevice::Net, 60),
            ]),
            Some(Problem::OutputSequence {
                expected: OutputSeq(2),
                found: OutputSeq(3),
            }),
        ),
        (
            log_of(vec![output(2, OutputDevice::Net, 60)]),
            Some(Problem::OutputSequence {
                expected: OutputSeq(1),
                found: OutputSeq(2),
            }),
        ),
        (
            log_of(vec![output(1, OutputDevice::Net, 60), released(2)]),
            Some(Problem::ReleasedAhead {
                through: OutputSeq(2),
                made: OutputSeq(1),
            }),
        ),
        (
            log_of(vec![
                output(1, OutputDevice::Net, 60),
                output(2, OutputDevice::Net, 60),
                released(2),
                released(1),
            ]),
            Some(Problem::ReleasedBack {
                through: OutputSeq(1),
                before: OutputSeq(2),
            }),
        ),
        (
            log_of(vec![output(1, OutputDevice::Net, 1_519)]),
            Some(Problem::TooLong),
        ),
    ];
    for (log, expected) in cases {
        let mut checker = Checker::new(Place::START);
        let problems: Vec<_> = log.iter().flat_map(|entry| checker.check(entry)).collect();
        assert_eq!(problems, expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn log_6_verify_goes_on_behind_damage_and_names_every_place() {
    let dir = temp();
    let written = entries(300);
    write(dir.path(), &written, 4, SMALL);
    let open = || Log::open(dir.path()).expect("a log");
    let whole = verify(&open());
    assert!(whole.is_sound(), "{:?}", whole.findings);
    assert_eq!((whole.entries, whole.torn_tail), (300, None));

    let files = segment_files(dir.path());
    for number in [1, 3] {
        let mut bytes = fs::read(&files[number]).expect("a segment");
        let at = bytes.len() - 20;
        bytes[at] ^= 1;
        fs::write(&files[number], bytes).expect("the damaged log");
    }
    let last = files.last().expect("a segment");
    let bytes = fs::read(last).expect("a segment");
    fs::write(last, &bytes[..bytes.len() - 1]).expect("the torn log");
    let damaged = verify(&open());
    let places: Vec<_> = damaged
        .findings
        .iter()
        .map(|finding| match &finding.problem {
            Problem::Unreadable { segment, .. } => segment.clone(),
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(places, [files[1].clone(), files[3].clone()]);
    assert!(damaged.torn_tail.is_some());
    assert!(damaged.entries < 300 && damaged.entries > 200);
}
