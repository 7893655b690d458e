//! `ftvm demo`, as people run it: every kill, Ctrl-C at any time, and strangers' clients.

#[path = "harness/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the end-to-end tests use the rest of it"
)]
mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{DETECT_MS, Process, no_image, no_kvm};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A demo in a directory for its files, which it takes away again.
fn start(dir: &Path, args: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftvm"));
    command.args(["demo", "--json", "--detect", DETECT_MS]);
    command.args(args);
    let files = dir.join("files");
    fs::create_dir(&files).expect("a directory");
    command.env("TMPDIR", &files);
    Process::start(dir, "demo", command)
}

fn nothing_is_left(dir: &Path) {
    let left = fs::read_dir(dir.join("files"))
        .expect("a directory")
        .count();
    assert_eq!(left, 0, "files are left");
}

/// The demo's own processes: what each was told to be, by process id.
fn children(demo: &Process) -> BTreeMap<i32, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("Linux").flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end while it is looked at.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(demo.id().to_string().as_str()) {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            found.insert(id, line.split('\0').nth(1).unwrap_or_default().to_owned());
        }
    }
    found
}

fn gone(children: &BTreeMap<i32, String>) {
    for (id, role) in children {
        assert_eq!(
            kill(Pid::from_raw(*id), None),
            Err(Errno::ESRCH),
            "the {role} is left"
        );
    }
}

fn report(event: &Value) -> bool {
    event["kill"].is_string()
}

/// One demo, whose winner is one of `winners`; without any, nobody must win.
fn demo(what: &str, cpu: &str, winners: &[&str]) {
    let report = demo_of("kv", what, cpu, winners);
    assert_eq!(report["on_disk"], Value::Null, "{report}");
}

/// The same of any guest; returns the report.
fn demo_of(guest: &str, what: &str, cpu: &str, winners: &[&str]) -> Value {
    let dir = tempfile::tempdir().expect("a directory");
    let args = ["--kill", what, "--cpu", cpu, "--seconds", "2", "--once"];
    let mut demo = start(dir.path(), &[&["--guest", guest], &args[..]].concat());
    let status = demo.wait();
    let report = demo.wait_for("report", report);
    assert!(status.success(), "{report}\n{}", demo.stderr());
    assert_eq!(report["kill"], what);
    for none in [
        "lost",
        "duplicated",
        "connections_broken",
        "connections_reopened",
    ] {
        assert_eq!(report[none], 0, "{none}: {report}");
    }
    for some in [
        "acknowledged",
        "checked",
        "requests",
        "blackout_ms",
        "median_request_us",
        "log_bits_per_s",
        "lag_ms_p99",
    ] {
        assert!(report[some].as_f64() > Some(0.0), "{some}: {report}");
    }
    assert!(report["frames_repeated"].is_u64(), "{report}");
    assert_eq!(report["nodes_speaking"], 1, "{report}");
    assert_eq!(report["gateway_repeat"], true, "{report}");
    assert_eq!(report["without_repeat"], Value::Null, "{report}");
    assert_eq!(report["backend"], cpu, "{report}");
    match report["winner"].as_str() {
        Some(winner) => assert!(winners.contains(&winner), "{report}"),
        None => assert!(winners.is_empty(), "{report}"),
    }
    nothing_is_left(dir.path());
    report
}

#[test]
fn live_1_the_primary_is_killed() {
    demo("primary", "soft", &["backup"]);
}

#[test]
fn live_1_the_primary_is_killed_on_kvm() {
    if no_kvm() {
        return;
    }
    demo("primary", "kvm", &["backup"]);
}

#[test]
fn live_1_the_backup_is_killed() {
    demo("backup", "soft", &["primary"]);
}

#[test]
fn live_1_the_arbiters_leader_is_killed() {
    demo("arbiter-leader", "soft", &[]);
}

#[test]
fn live_1_a_host_is_killed() {
    demo("host", "soft", &["backup"]);
}

#[test]
fn live_1_the_network_between_the_nodes_is_cut() {
    demo("partition", "soft", &["primary", "backup"]);
}

/// Debian's kernel and real Redis, and what it has written to the survivor's disk.
#[test]
fn live_1_the_primary_of_a_real_redis_is_killed() {
    if no_image("redis") {
        return;
    }
    let report = demo_of("redis", "primary", "soft", &["backup"]);
    let disk = &report["on_disk"];
    assert_eq!(disk["node"], "backup", "{report}");
    assert!(disk["checked"].as_u64() > Some(500), "{report}");
    assert_eq!((&disk["lost"], &disk["duplicated"]), (&0.into(), &0.into()));
}

#[test]
fn nothing_is_killed() {
    demo("none", "soft", &[]);
}

#[test]
fn ctrl_c_under_load_leaves_no_process_and_no_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut demo = start(dir.path(), &["--kill", "none", "--seconds", "3600"]);
    demo.wait_for_stderr("the pair is protected");
    let children = children(&demo);
    let roles: Vec<&str> = children.values().map(String::as_str).collect();
    for role in ["arbiter", "gateway", "run", "backup"] {
        assert!(roles.contains(&role), "{role}: {roles:?}");
    }
    demo.signal(Signal::SIGINT);
    assert_eq!(demo.wait().code(), Some(130));
    gone(&children);
    nothing_is_left(dir.path());
}

/// Redis's own client and benchmark, before and after a kill by hand.
#[test]
fn a_kept_demo_serves_redis_clients_until_ctrl_c() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut demo = start(dir.path(), &["--keep", "--seconds", "1"]);
    let figures = demo.wait_for("report", report);
    assert_eq!(figures["lost"], 0, "{figures}");
    let children = children(&demo);
    demo.wait_for_stderr("directory ");
    let said = demo.stderr();
    let port = said
        .split("redis-cli -p ")
        .nth(1)
        .and_then(|rest| rest.lines().next());
    let port = port.expect("how to connect is said").trim();

    let redis = |program: &str, args: &[&str]| {
        let ran = Command::new(program).args(["-p", port]).args(args).output();
        match ran {
            Ok(ran) => {
                let said = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
                assert!(
                    ran.status.success() && !said.contains("ERR"),
                    "{program} {args:?}: {ran:?}"
                );
                Some(said)
            }
            Err(error) => {
                eprintln!("SKIPPED: {program}: {error}: install redis-tools");
                None
            }
        }
    };
    let benchmark = || {
        redis(
            "redis-benchmark",
            &["-t", "set,get,incr", "-n", "2000", "-c", "8", "-q"],
        )
    };
    if let Some(said) = redis("redis-cli", &["SET", "greeting", "hello"]) {
        assert_eq!(said, "OK");
    }
    benchmark();
    let primary = children.iter().find(|(_, role)| *role == "run");
    let (primary, _) = primary.expect("a primary");
    kill(Pid::from_raw(*primary), Signal::SIGKILL).expect("the demo's child");
    if let Some(said) = redis("redis-cli", &["GET", "greeting"]) {
        assert_eq!(said, "hello");
    }
    benchmark();
    demo.signal(Signal::SIGINT);
    assert!(demo.wait().success(), "{}", demo.stderr());
    gone(&children);
    nothing_is_left(dir.path());
}
