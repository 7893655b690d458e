//! `ftvm replay`, on the real KVM: what was recorded comes out again, and what was tampered with is
//! named.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ft_logging::entry::{Entry, Kind, OutputDevice, Payload};
use ft_logging::initial::InitialState;
use ft_logging::store::Log;
use vmm::net::capture::CaptureReader;

use super::harness::{Clients, World, no_kvm};
use super::logs::writer;
use super::{Ran, command, fresh_dir, ftvm, text};

/// A short run of the `noise` guest, recorded once for all tests; none where there is no KVM.
static RECORDED: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    if no_kvm() {
        return None;
    }
    let dir = fresh_dir("recorded");
    let log = dir.join("log");
    let args = [
        "run",
        "--alone",
        "--guest",
        "noise",
        "--append",
        "rounds=60 report=10",
        "--listen",
        "127.0.0.1:0",
        "--log",
        text(&log),
        "--console",
        text(&dir.join("console")),
    ]
    .map(str::to_owned);
    fs::create_dir_all(&dir).expect("a directory");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = command(&dir, &args).output().expect("the program runs");
    Ran::of(output).exits(0);
    Some(log)
});

fn replay(log: &Path, more: &[&str]) -> Ran {
    ftvm(&[&["replay", text(log)], more].concat())
}

fn read(log: &Path) -> (InitialState, Vec<Entry>) {
    let log = Log::open(log).expect("a log");
    let entries = log.reader().expect("a reader").collect::<Result<_, _>>();
    (log.initial().clone(), entries.expect("a whole log"))
}

/// A changed copy of a log, with valid checksums.
fn copy(dir: &Path, initial: InitialState, entries: &[Entry]) -> PathBuf {
    let log = dir.join("changed");
    let _ = fs::remove_dir_all(&log);
    let mut writer = writer(&log, initial);
    writer.append(entries).expect("appended");
    writer.close().expect("closed");
    log
}

#[test]
fn det_1_a_recorded_run_comes_out_again() {
    let Some(log) = RECORDED.as_deref() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (console, frames) = (dir.path().join("console"), dir.path().join("frames"));
    let flags = [
        "--json",
        "--console",
        text(&console),
        "--outputs",
        text(&frames),
    ];
    let summary = replay(log, &flags).exits(0).json();
    let (_, entries) = read(log);
    let count = |kind| {
        entries
            .iter()
            .filter(|entry| entry.payload.kind() == kind)
            .count()
    };
    assert_eq!(summary["ended"], "off");
    assert_eq!(summary["divergence"], serde_json::Value::Null);
    assert_eq!(summary["entries"], entries.len());
    assert_eq!(summary["digests_checked"], count(Kind::Digest));
    assert_eq!(summary["interrupts_checked"], count(Kind::Interrupt));
    assert_eq!(summary["outputs"], count(Kind::Output));
    let said = fs::read_to_string(&console).expect("the console");
    assert!(said.contains("noise: done, checksum"), "{said}");
    let first = fs::read_to_string(log.with_file_name("console")).expect("the first console");
    assert_eq!(said, first);
    let frames = CaptureReader::new(File::open(&frames).expect("a capture")).expect("a capture");
    assert_eq!(frames.count(), 0, "noise has no network");

    let told = replay(log, &[]).exits(0).stdout;
    assert!(
        told.starts_with("AGREED  to the end of the log; the machine is off"),
        "{told}"
    );
    replay(log, &["--json", "--console", "-"])
        .exits(1)
        .says("give the console a file");
}

#[test]
fn a_replay_stops_where_it_is_asked_to_and_shows_the_machine() {
    let Some(log) = RECORDED.as_deref() else {
        return;
    };
    let (_, entries) = read(log);
    let middle = &entries[entries.len() / 2];
    let until_entry = middle.index.to_string();
    let ran = replay(
        log,
        &["--until-entry", &until_entry, "--json", "--memory", "0:16"],
    )
    .exits(0);
    let stopped = ran.json();
    assert_eq!(stopped["ended"], "stopped");
    assert!(
        stopped["last_entry"].as_u64() >= Some(middle.index.0),
        "{stopped}"
    );
    let state = &stopped["state"];
    assert_eq!(state["memory"][0]["hex"].as_str().map(str::len), Some(32));
    assert!(state["registers"]["general"]["rip"].is_string(), "{state}");
    let again = replay(
        log,
        &["--until-entry", &until_entry, "--json", "--memory", "0:16"],
    );
    assert_eq!(again.exits(0).json()["state"], *state, "DET-1");

    let until = middle.position.to_string();
    let view = replay(log, &["--until", &until, "--memory", "0x100000:20"])
        .exits(0)
        .stdout;
    for expected in [
        "AGREED SO FAR",
        "rip",
        "000000100010  ",
        "The console so far:\nnoise: ",
    ] {
        assert!(view.contains(expected), "{expected}: {view}");
    }
    let start = replay(log, &["--until", "0", "--json"]).exits(0).json();
    assert_eq!(start["position"], 0);
    replay(log, &["--until", "999999999"])
        .exits(1)
        .says("before the stop");
    replay(log, &["--memory", "0xffffffff:1"])
        .exits(1)
        .says("not all RAM");
}

#[test]
fn det_5_an_entry_that_was_tampered_with_is_named() {
    let Some(log) = RECORDED.as_deref() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (initial, entries) = read(log);
    let nth = |kind, n| {
        let of_kind = entries.iter().filter(|entry| entry.payload.kind() == kind);
        of_kind
            .map(|entry| entry.index.0 as usize - 1)
            .nth(n)
            .expect("enough of them")
    };
    let tampered = |at: usize, change: fn(&mut Payload)| {
        let mut entries = entries.clone();
        change(&mut entries[at].payload);
        let log = copy(dir.path(), initial.clone(), &entries);
        let ran = replay(&log, &["--json"]).exits(1).says("ftvm log dump");
        let summary = ran.json();
        assert_eq!(summary["ended"], "diverged", "{summary}");
        summary["divergence"]["at"].as_u64().expect("an index")
    };

    // A check that is wrong shows where it stands.
    let interrupt = nth(Kind::Interrupt, 20);
    let shown = tampered(interrupt, |payload| {
        *payload = Payload::Interrupt { vector: 0x77 };
    });
    assert_eq!(shown, interrupt as u64 + 1);
    let output = nth(Kind::Output, 1);
    let shown = tampered(output, |payload| match payload {
        Payload::Output(mark) => mark.crc ^= 1,
        other => panic!("{other:?}"),
    });
    assert_eq!(shown, output as u64 + 1);
    // An input that is wrong shows at the next check: here at the checksum on the console.
    let entropy = nth(Kind::Entropy, 3);
    let shown = tampered(entropy, |payload| match payload {
        Payload::Entropy { bytes } => bytes[0] ^= 1,
        other => panic!("{other:?}"),
    });
    assert!(shown > entropy as u64 + 1, "{shown}");
    let view = replay(&dir.path().join("changed"), &[]).exits(1).stdout;
    assert!(
        view.starts_with("DIVERGED  at entry ") && view.contains("rip"),
        "{view}"
    );
}

/// LOG-6.
#[test]
fn log_6_a_damaged_log_is_replayed_up_to_the_damage_and_that_is_named() {
    let Some(log) = RECORDED.as_deref() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let segment = fs::read_dir(log).expect("a directory").next();
    let segment = segment.expect("a segment").expect("readable").path();
    let copy = dir.path().join(segment.file_name().expect("a name"));
    let whole = fs::read(&segment).expect("read");

    let mut damaged = whole.clone();
    let middle = whole.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&copy, &damaged).expect("written");
    let ran = replay(dir.path(), &["--json"])
        .exits(1)
        .says("ftvm log verify");
    let summary = ran.json();
    assert_eq!(summary["ended"], "damaged");
    assert!(summary["entries"].as_u64() > Some(0), "{summary}");
    let damage = summary["damage"].as_str().expect("what is wrong");
    assert!(damage.contains("offset"), "{damage}");

    // A torn tail is the end of a log whose writer was killed.
    fs::write(&copy, &whole[..whole.len() - 1]).expect("written");
    let summary = replay(dir.path(), &["--json"]).exits(0).json();
    assert_eq!(summary["ended"], "end-of-log");
    assert!(summary["torn_tail"].is_string(), "{summary}");
}

#[test]
fn a_log_that_cannot_be_replayed_here_is_refused() {
    let Some(log) = RECORDED.as_deref() else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let (initial, entries) = read(log);
    let changed = |change: fn(&mut InitialState)| {
        let mut initial = initial.clone();
        change(&mut initial);
        copy(dir.path(), initial, &entries)
    };
    type Change = fn(&mut InitialState);
    let refusals: [(Change, &str); 6] = [
        (|i| i.configuration.machine_model += 1, "of the machine"),
        (|i| i.configuration.memory_mib = 1 << 20, "1048576 MiB"),
        (|i| i.configuration.image[0] ^= 1, "--kernel"),
        (|i| i.configuration.cpu.backend.push('x'), "CPU backend"),
        (
            |i| i.configuration.cpu.backend = "kvm-free".to_owned(),
            "ran freely",
        ),
        (|i| i.configuration.cpu.model.push('x'), "--force"),
    ];
    for (change, expected) in refusals {
        replay(&changed(change), &[]).exits(1).says(expected);
    }
    let other_cpu = changed(|i| i.configuration.cpu.model.push('x'));
    replay(&other_cpu, &["--force"]).exits(0);
    let kernel = text(&other_cpu.join("00000000000000000001.ftlog")).to_owned();
    replay(log, &["--kernel", &kernel])
        .exits(1)
        .says("not the image that was recorded");
}

#[test]
fn one_1_the_log_of_a_survivor_is_one_history_and_its_frames_come_out_again() {
    let world = World::new(1);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::start(world.forward());
    clients.wait_for(50);
    primary.kill();
    backup.wait_for_state("ALONE");
    clients.wait_for(50);
    clients.finish();
    let control = world.control("node-b");
    ftvm(&["control", "--control", text(&control), "stop"]).exits(0);
    assert!(backup.wait().success());

    let (first, second) = (
        world.dir.path().join("node-a.log"),
        world.dir.path().join("node-b.log"),
    );
    let info = ftvm(&["log", "info", text(&second), "--json"])
        .exits(0)
        .json();
    let segments = info["segments"].as_array().expect("segments");
    assert!(segments.len() > 1, "one for each token: {info}");
    ftvm(&["log", "verify", text(&second)]).exits(0);

    let frames = world.dir.path().join("frames.pcap");
    let summary = replay(&second, &["--json", "--outputs", text(&frames)])
        .exits(0)
        .json();
    assert_eq!(summary["entries"], info["entries"]);
    let (_, entries) = read(&second);
    let lengths = entries.iter().filter_map(|entry| match &entry.payload {
        Payload::Output(mark) if mark.device == OutputDevice::Net => Some(mark.len as usize),
        _ => None,
    });
    let reader = CaptureReader::new(File::open(&frames).expect("a capture")).expect("a capture");
    let replayed = reader.map(|frame| frame.expect("a frame").frame.len());
    assert!(replayed.eq(lengths), "every frame, in order");

    // The dead primary's log says the same as far as the survivor's knows it.
    let diff = [
        "log",
        "diff",
        text(&first),
        text(&second),
        "--ignore",
        "released,progress,digest",
    ];
    let diff = ftvm(&[&diff[..], &["--json"]].concat()).json();
    assert!(diff["equal_entries"].as_u64() > Some(100), "{diff}");
    replay(&first, &[]).exits(0);
}
