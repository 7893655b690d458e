//! `ftvm log`, over logs that are written here: no machine is needed.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ft_logging::entry::{Entry, Output, OutputDevice, Payload};
use ft_logging::initial::{Configuration, CpuIdentity, InitialState, MACHINE_MODEL_VERSION};
use ft_logging::store::{LogStart, Options, Place, Writer};
use ft_logging::types::{EntryIndex, Generation, Life, OutputSeq, Position, Token, VirtualTime};

use super::{command, ftvm, text};

pub(crate) fn initial() -> InitialState {
    InitialState {
        life: Life([7; 16]),
        configuration: Configuration {
            machine_model: MACHINE_MODEL_VERSION,
            vm: "kv".to_owned(),
            guest: "mine".to_owned(),
            image: [1; 32],
            initrd: None,
            memory_mib: 64,
            command_line: String::new(),
            mac: [2, 0, 0, 0, 0, 1],
            disk: None,
            cpu: CpuIdentity {
                backend: "kvm".to_owned(),
                model: "a CPU".to_owned(),
                kind: "hardware".to_owned(),
                cpuid: 1,
            },
        },
        rtc_epoch_s: 1_700_000_000,
        seed: [9; 32],
    }
}

/// A writer of a new log.
pub(crate) fn writer(dir: &Path, initial: InitialState) -> Writer {
    let start = LogStart {
        initial,
        token: Token {
            generation: Generation(1),
            won: false,
        },
        place: Place::START,
    };
    Writer::create(dir, start, Options::default()).expect("a new log")
}

/// Entry 1 to `last`: a clock, a frame and an output of it in turn, 1 ms apart.
pub(crate) fn entries(last: u64) -> Vec<Entry> {
    (1..=last)
        .map(|index| {
            let round = index.div_ceil(3);
            let payload = match index % 3 {
                1 => Payload::Clock {
                    now: VirtualTime(round * 1_000_000),
                },
                2 => Payload::NetRx {
                    frame: vec![round as u8; 60],
                },
                _ => Payload::Output(
                    Output {
                        device: OutputDevice::Net,
                        bytes: vec![round as u8; 60],
                    }
                    .mark(OutputSeq(round)),
                ),
            };
            Entry {
                index: EntryIndex(index),
                position: Position(10 * round),
                payload,
            }
        })
        .collect()
}

fn write(dir: &Path, entries: &[Entry]) {
    let mut writer = writer(dir, initial());
    writer.append(entries).expect("appended");
    writer.close().expect("closed");
}

#[test]
fn a_log_is_told_counted_and_dumped() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    write(&log, &entries(30));
    let log = text(&log);

    let info = ftvm(&["log", "info", log, "--json"]).exits(0).json();
    assert_eq!(info["entries"], 30);
    assert_eq!(info["vm"], "kv");
    assert_eq!(info["ending"], "whole");
    let told = ftvm(&["log", "info", log]).exits(0).stdout;
    for expected in [
        "30 (1 to 30)",
        "guest mine",
        "0.010000000 s",
        "1 segment\n",
        "64 MiB",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }

    let stats = ftvm(&["log", "stats", log, "--json"]).exits(0).json();
    assert_eq!(stats["entries"], 30);
    assert_eq!(stats["outputs"][0]["bytes"], 600);
    let counted = ftvm(&["log", "stats", log]).exits(0).stdout;
    assert!(counted.contains("10 outputs, 600 bytes"), "{counted}");

    let all = ftvm(&["log", "dump", log, "--json"]).exits(0).json_lines();
    assert_eq!(all.len(), 30);
    let indexes = |flags: &[&str]| -> Vec<u64> {
        let args = [&["log", "dump", log, "--json"], flags].concat();
        let lines = ftvm(&args).exits(0).json_lines();
        lines
            .iter()
            .filter_map(|line| line["index"].as_u64())
            .collect()
    };
    let cases: [(&[&str], &[u64]); 8] = [
        (&["--kind", "net-rx", "--limit", "2"], &[2, 5]),
        (&["--kind", "clock,output", "--index", "4..6"], &[4, 6]),
        (&["--index", "29.."], &[29, 30]),
        (&["--position", "20"], &[4, 5, 6]),
        (&["--time", "0.002..0.003"], &[4, 5, 6, 7, 8, 9]),
        (&["--position", "30..40", "--kind", "clock"], &[7, 10]),
        (&["--limit", "0"], &[]),
        (&["--index", "100.."], &[]),
    ];
    for (flags, expected) in cases {
        assert_eq!(indexes(flags), expected, "{flags:?}");
    }
    let frame = ftvm(&["log", "dump", log, "--index", "2", "--hex"]).exits(0);
    assert!(frame.stdout.contains("0000  01 01 01"), "{frame:#?}");
}

#[test]
fn two_logs_part_at_a_named_entry() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let original = entries(30);
    write(&path("whole"), &original);
    write(&path("shorter"), &original[..20]);
    let mut changed = original.clone();
    changed[13].payload = Payload::NetRx {
        frame: vec![0xEE; 60],
    };
    write(&path("changed"), &changed);
    let diff = |second: &str, more: &[&str]| {
        let (first, second) = (path("whole"), path(second));
        let args = [&["log", "diff", text(&first), text(&second)], more].concat();
        ftvm(&args)
    };
    assert!(
        diff("whole", &[])
            .exits(0)
            .stdout
            .contains("equal: 30 entries")
    );
    let prefix = diff("shorter", &[]).exits(0).stdout;
    assert!(
        prefix.contains("the second log ends after 20 equal entries"),
        "{prefix}"
    );
    let parted = diff("changed", &[]).exits(1).stdout;
    for expected in [
        "PARTED: after 13 equal entries",
        "byte 0 is 0x05 here",
        "14 ",
    ] {
        assert!(parted.contains(expected), "{expected}: {parted}");
    }
    let json = diff("changed", &["--json"]).exits(1).json();
    assert_eq!(json["outcome"]["parted"]["first"]["index"], 14);
    diff("changed", &["--ignore", "net-rx"]).exits(0);
}

/// LOG-6.
#[test]
fn log_6_damage_is_named_and_a_torn_tail_is_told_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let mut writer = writer(&log, initial());
    for entries in entries(30).chunks(10) {
        writer.append(entries).expect("appended");
    }
    writer.close().expect("closed");
    let segment = fs::read_dir(&log).expect("a directory").next();
    let segment = segment.expect("a segment").expect("readable").path();
    let whole = fs::read(&segment).expect("read");
    let log = text(&log);
    let sound = ftvm(&["log", "verify", log]).exits(0).stdout;
    assert!(sound.contains("sound: 30 entries in 1 segment"), "{sound}");

    fs::write(&segment, &whole[..whole.len() - 5]).expect("cut");
    let verify = ftvm(&["log", "verify", log]).exits(0).stdout;
    assert!(verify.contains("mark of a crash"), "{verify}");
    assert!(
        ftvm(&["log", "info", log])
            .exits(0)
            .stdout
            .contains("torn tail")
    );
    let dump = ftvm(&["log", "dump", log]).exits(0).says("torn tail");
    assert_eq!(dump.stdout.lines().count(), 20);

    let mut damaged = whole.clone();
    let middle = whole.len() * 3 / 5;
    damaged[middle] ^= 1;
    fs::write(&segment, &damaged).expect("damaged");
    let verify = ftvm(&["log", "verify", log]).exits(1).stdout;
    assert!(
        verify.contains("NOT SOUND") && verify.contains("offset"),
        "{verify}"
    );
    let json = ftvm(&["log", "verify", log, "--json"]).exits(1).json();
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(1));
    assert!(
        ftvm(&["log", "info", log])
            .exits(1)
            .stdout
            .contains("DAMAGED")
    );
    let dump = ftvm(&["log", "dump", log]).exits(1).says("damaged at");
    assert_eq!(
        dump.stdout.lines().count(),
        10,
        "what is whole is shown first"
    );
    ftvm(&["log", "stats", log]).exits(1).says("damaged at");
    ftvm(&["log", "diff", log, log]).exits(1).says("damaged at");
}

#[test]
fn what_is_no_log_is_refused_with_what_to_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let missing = dir.path().join("missing");
    let file = dir.path().join("file.ftlog");
    fs::write(&file, "hello, this is no log at all, but text").expect("written");
    for command in ["info", "dump", "stats", "verify", "follow"] {
        ftvm(&["log", command, text(&missing)])
            .exits(1)
            .says("there is no log at");
        ftvm(&["log", command, text(dir.path())]).exits(1);
        ftvm(&["log", command, text(&file)])
            .exits(1)
            .says("no ftvm log");
    }
    ftvm(&["replay", text(&missing)])
        .exits(1)
        .says("there is no log at");
}

#[test]
fn a_log_is_followed_while_it_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let mut writer = writer(&log, initial());
    let entries = entries(30);
    writer.append(&entries[..10]).expect("appended");
    writer.flush().expect("flushed");
    let args = [
        "log",
        "follow",
        text(&log),
        "--json",
        "--index",
        "9..",
        "--limit",
        "15",
    ];
    let follower = command(dir.path(), &args)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    for entry in &entries[10..] {
        writer
            .append(std::slice::from_ref(entry))
            .expect("appended");
        writer.flush().expect("flushed");
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = follower.wait_with_output().expect("it ends at its limit");
    let lines = super::Ran::of(output).exits(0).json_lines();
    let indexes: Vec<u64> = lines
        .iter()
        .filter_map(|line| line["index"].as_u64())
        .collect();
    assert_eq!(indexes, (9..24).collect::<Vec<_>>());

    // Without a place to begin, only what is new.
    let quiet = ftvm(&["log", "follow", text(&log), "--until-idle", "100"]).exits(0);
    assert_eq!(quiet.stdout, "");
    let all = [
        "log",
        "follow",
        text(&log),
        "--until-idle",
        "100",
        "--time",
        "0..",
    ];
    assert_eq!(ftvm(&all).exits(0).stdout.lines().count(), 30);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    write(&log, &entries(30_000));
    for args in [
        &["log", "dump", text(&log)][..],
        &["log", "follow", text(&log), "--index", "1.."],
    ] {
        let mut child = command(dir.path(), args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut stdout = child.stdout.take().expect("piped");
        let mut some = [0; 100];
        stdout.read_exact(&mut some).expect("the first lines");
        drop(stdout);
        let ended = super::Ran::of(child.wait_with_output().expect("it ends")).exits(0);
        assert_eq!(ended.stderr, "", "{args:?}");
    }
}
