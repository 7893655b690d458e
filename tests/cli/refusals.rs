//! What bad input gets: one clear message, an exit status that is not 0, and nothing left behind.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use super::harness::{Process, World, no_kvm};
use super::logs::{initial, writer};
use super::{Ran, command, ftvm, text};

/// Everything that a command could have made in its directory.
fn left(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let names = entries.map(|entry| entry.expect("readable").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// Runs a command that must be refused, in a directory of its own where `{dir}` is, and checks that
/// it says `what` in one message, does not panic, and leaves nothing.
fn refused(args: &[&str], what: &str) {
    let dir = tempfile::tempdir().expect("a directory");
    let args: Vec<String> = args
        .iter()
        .map(|arg| arg.replace("{dir}", text(dir.path())))
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let output = command(dir.path(), &args)
        .env("TMPDIR", dir.path())
        .output()
        .expect("the program runs");
    check(Ran::of(output), &args, what);
    let left = left(dir.path());
    assert!(
        left.is_empty() || left == ["ftvm"],
        "{args:?} left {left:?}"
    );
    if left == ["ftvm"] {
        // The directory of the control sockets stays, empty.
        let sockets = self::left(&dir.path().join("ftvm"));
        assert!(sockets.is_empty(), "{args:?} left {sockets:?}");
    }
}

fn check(ran: Ran, args: &[&str], what: &str) {
    assert!(ran.code == 1 || ran.code == 2, "{args:?}: {ran:#?}");
    assert!(!ran.stderr.contains("panicked"), "{args:?}: {ran:#?}");
    // Its last word is why it ended; clap's says `error`.
    let begins = if ran.code == 2 { "error: " } else { "ftvm: " };
    let last = ran.stderr.rsplit(begins).next().unwrap_or_default();
    assert!(
        last.contains(what),
        "{args:?}: no {what:?} at the end of {ran:#?}"
    );
    assert_eq!(ran.stderr.matches(what).count(), 1, "{args:?}: {ran:#?}");
}

#[test]
fn what_cannot_be_is_refused_with_a_word_and_leaves_nothing() {
    let files = tempfile::tempdir().expect("a directory");
    let no_kernel = files.path().join("no-kernel");
    fs::write(&no_kernel, "this is no kernel, but text").expect("written");
    let torn_kernel = files.path().join("torn-kernel");
    fs::write(&torn_kernel, b"\x7fELF\x02\x01\x01").expect("written");
    let full = files.path().join("full");
    fs::create_dir(&full).expect("a directory");
    fs::write(full.join("00000000000000000001.ftlog"), "not mine").expect("written");
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port");
    let busy = busy.local_addr().expect("bound").to_string();
    let forward = format!("{busy}=10.0.2.15:6379");

    // What a node is told; the log and the socket are what it could leave.
    let node = |more: &[&str], what: &str| {
        let args = [
            "run",
            "--alone",
            "--listen",
            "127.0.0.1:0",
            "--log",
            "{dir}/log",
        ];
        refused(&[&args, more].concat(), what);
    };
    node(&["--frobnicate"], "unexpected argument '--frobnicate'");
    node(&["--guest", "windows"], "choose one of kv");
    node(
        &["--kernel", "/nonexistent/vmlinuz"],
        "reading /nonexistent/vmlinuz",
    );
    node(&["--memory", "1"], "a machine has");
    node(&["--name", "No Name"], "--name");
    node(&["--node", ""], "no name for a node");
    node(&["--mac", "ff:ff:ff:ff:ff:ff"], "group address");
    node(&["--mac", "1:2:3"], "no Ethernet address");
    node(&["--net", "carrier-pigeon"], "write gateway=HOST:PORT");
    node(
        &["--net", "gateway=somewhere"],
        "no address like 127.0.0.1:7500",
    );
    node(&["--detect", "1"], "--detect");
    node(&["--failpoint", "nowhere"], "before-write");
    node(&["--kernel", text(&no_kernel)], "is no kernel");
    node(&["--kernel", text(&torn_kernel)], "cannot boot here");
    node(&["--net", "gateway=127.0.0.1:1"], "127.0.0.1:1");
    node(
        &["--net", "tap=a-name-that-is-too-long"],
        "no name of a network interface",
    );
    node(
        &["--console", "/nonexistent/console"],
        "opening the console file",
    );
    node(
        &["--control", "/proc/nowhere/socket"],
        "for the control socket",
    );
    let run = |more: &[&str], what: &str| refused(&[&["run"], more].concat(), what);
    // DET-4: who could replay it?
    let kernel = files.path().join("kernel");
    fs::write(&kernel, guest_images::KV.elf).expect("written");
    run(
        &["--kernel", text(&kernel), "--cpu", "kvm"],
        "run the guest unprotected, with --alone",
    );
    run(&["--listen", &busy], "is another node using the port");
    // SEC-1
    run(&["--listen", "0.0.0.0:0"], "needs keys and encryption");
    run(
        &["--log", text(&full), "--listen", "127.0.0.1:0"],
        "name an empty or a new directory",
    );
    run(
        &["--log", "/proc/log", "--listen", "127.0.0.1:0"],
        "cannot create /proc/log",
    );
    let backup = [
        "backup",
        "--primary",
        "127.0.0.1:1",
        "--arbiter",
        "127.0.0.1:1",
    ];
    refused(
        &[&backup[..], &["--listen", "0.0.0.0:0"]].concat(),
        "needs keys",
    );
    refused(&["backup"], "required arguments were not provided");
    refused(&["backup", "--primary", "127.0.0.1:1"], "give --arbiter");

    let gateway = |more: &[&str], what: &str| {
        let capture = ["gateway", "--capture", "{dir}/capture"];
        refused(&[&capture, more].concat(), what);
    };
    gateway(
        &["--listen", &busy],
        "is another gateway or server using it",
    );
    gateway(
        &["--listen", "127.0.0.1:0", "--forward", &forward],
        "is another gateway or server using it",
    );
    gateway(
        &["--listen", "127.0.0.1:0", "--forward", "6379"],
        "--forward",
    );
    gateway(&["--listen", "0.0.0.0:0"], "off loopback every channel");

    let serve = |more: &[&str], what: &str| {
        let data = ["arbiter", "serve", "--id", "1", "--data", "{dir}/data"];
        refused(&[&data, more].concat(), what);
    };
    serve(&["--listen", "127.0.0.1:0"], "start with --init");
    serve(&["--listen", &busy, "--init"], "in use");
    serve(&["--listen", "0.0.0.0:0", "--init"], "without keys");
    serve(&["--listen", "127.0.0.1:0", "--init", "--join"], "--join");
}

#[test]
fn a_log_of_another_version_is_refused_by_all_that_read_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let mut writer = writer(&log, initial());
    writer.append(&super::logs::entries(3)).expect("appended");
    writer.close().expect("closed");
    let segment = log.join("00000000000000000001.ftlog");
    let mut bytes = fs::read(&segment).expect("read");
    // Behind the eight bytes that say what it is.
    bytes[8] = bytes[8].wrapping_add(1);
    fs::write(&segment, bytes).expect("written");
    for command in [
        &["log", "info"][..],
        &["log", "dump"],
        &["log", "stats"],
        &["replay"],
    ] {
        let ran = ftvm(&[command, &[text(&log)]].concat()).exits(1);
        let said = ran.stdout.clone() + &ran.stderr;
        assert!(said.contains("version"), "{command:?}: {said}");
    }
}

/// DET-4: what two nodes must agree on is named when they do not.
#[test]
fn nodes_with_different_configurations_refuse_each_other() {
    let world = World::new(1);
    let dir = tempfile::tempdir().expect("a directory");
    let disk = |name: &str, byte: u8| {
        let path = dir.path().join(name);
        fs::write(&path, [byte; 4096]).expect("written");
        text(&path).to_owned()
    };
    let (first, equal, other) = (disk("a", 0), disk("b", 0), disk("c", 1));
    let mut primary = world.primary("node-a", &["--disk", &first]);
    let address = primary.address();
    let cases: [(&[&str], &str); 6] = [
        (&["--disk", &equal, "--memory", "128"], "memory"),
        (&["--disk", &equal, "--guest", "bench"], "guest"),
        (&["--disk", &equal, "--append", "other"], "command line"),
        (&["--disk", &equal, "--mac", "52:54:00:12:34:57"], "address"),
        (&["--disk", &other], "disk"),
        (&[], "disk"),
    ];
    for (more, what) in cases {
        let mut backup = world.backup("node-b", address, more);
        assert!(!backup.wait().success());
        let end = backup.last_word();
        assert!(
            end.contains("configured differently") && end.contains(what),
            "{more:?}: {end}"
        );
        assert!(!world.log("node-b").exists());
        assert!(!world.control("node-b").exists());
    }
    primary.wait_for_warning("was turned away");
    let mut backup = world.backup("node-b", address, &["--disk", &equal]);
    backup.wait_for_state("PROTECTED");
    primary.wait_for_state("PROTECTED");
    // ONE-3: a disk says whose it was, but for that of a node that was turned away.
    let control = world.control("node-a");
    ftvm(&["control", "--control", text(&control), "stop"]).exits(0);
    assert!(primary.wait().success() && backup.wait().success());
    let stamps = ["a", "b", "c"].map(|name| dir.path().join(format!("{name}.ftvm")).exists());
    assert_eq!(stamps, [true, true, false]);
}

/// FAIL-4: without the arbiter a node holds, and says so; it can still be ended, and then nothing is
/// left of a guest that never ran.
#[test]
fn fail_4_without_an_arbiter_a_node_says_so_and_waits() {
    let dir = tempfile::tempdir().expect("a directory");
    let (log, control) = (dir.path().join("log"), dir.path().join("a.sock"));
    let args = [
        "run",
        "--alone",
        "--json",
        "--arbiter",
        "127.0.0.1:1",
        "--listen",
        "127.0.0.1:0",
        "--log",
        text(&log),
        "--control",
        text(&control),
    ];
    let mut node = Process::start(dir.path(), "node", command(dir.path(), &args));
    node.wait_for_warning("the arbiter does not answer, holding");
    node.signal(Signal::SIGINT);
    assert!(node.wait().success());
    assert!(!log.exists() && !control.exists());
}

/// In a namespace where /dev is empty, and as a user who may not open /dev/kvm.
#[test]
fn without_kvm_a_node_says_what_to_do() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can take /dev/kvm away");
        return;
    }
    let run = ["run", "--alone", "--cpu", "kvm", "--listen", "127.0.0.1:0"];
    let hidden = tempfile::tempdir().expect("a directory");
    let mut unshare = Command::new("unshare");
    unshare
        .args([
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /dev && exec \"$@\"",
            "sh",
        ])
        .arg(env!("CARGO_BIN_EXE_ftvm"))
        .args(run)
        .env("XDG_RUNTIME_DIR", hidden.path());
    let ran = Ran::of(unshare.output().expect("unshare runs"));
    if ran.stderr.contains("unshare: ") {
        eprintln!("SKIPPED: no namespace without /dev/kvm: {}", ran.stderr);
    } else {
        check(ran, &run, "/dev/kvm does not exist");
        assert_eq!(left(hidden.path()), [""; 0]);
    }

    if no_kvm() {
        return;
    }
    // A copy, since the build's directory may be closed to others.
    let open = tempfile::tempdir().expect("a directory");
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).expect("our own");
    let program = open.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_ftvm"), &program).expect("copied");
    let runtime = open.path().join("runtime");
    fs::create_dir(&runtime).expect("a directory");
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o777)).expect("our own");
    const NOBODY: u32 = 65534;
    let mut as_nobody = Command::new(&program);
    as_nobody
        .args(run)
        .env("XDG_RUNTIME_DIR", &runtime)
        .env("TMPDIR", &runtime)
        .uid(NOBODY)
        .gid(NOBODY);
    let ran = Ran::of(as_nobody.output().expect("the program runs"));
    if ran.code == 0 {
        eprintln!("SKIPPED: everybody may open /dev/kvm here");
        return;
    }
    check(ran, &run, "no permission to open /dev/kvm");
    assert_eq!(left(&runtime), [""; 0]);
}
