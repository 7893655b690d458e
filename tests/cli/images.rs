//! `ftvm image`, the disks of `ftvm run`, and `ftvm console`.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use super::harness::{Console, Process};
use super::{Ran, command, ftvm, text};

#[test]
fn images_that_are_not_built_are_listed_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = ["--cache", text(dir.path())];
    let image = |words: &[&str]| ftvm(&[&["image"], words, &cache[..]].concat());
    let listed = image(&["list", "--json"]).exits(0).json();
    let names: Vec<_> = (0..3).map(|at| listed[at]["name"].clone()).collect();
    assert_eq!(names, ["busybox", "redis", "debian"]);
    assert!((0..3).all(|at| listed[at]["built"] == false), "{listed}");
    let table = image(&["list"]).exits(0).stdout;
    assert!(
        table.contains("redis") && table.contains("append-only file"),
        "{table}"
    );
    image(&["show", "redis"])
        .exits(1)
        .says("`ftvm image build redis` builds it");
    image(&["remove", "redis"]).exits(1).says("is not built");
    image(&["build", "windows"])
        .exits(1)
        .says("choose one of busybox, redis, debian");
    ftvm(&["run", "--alone", "--guest", "windows"])
        .exits(1)
        .says("kv, bench, noise, busybox, redis, debian");
}

/// What to do without apt, and what a directory of packages lacks.
#[test]
fn packages_that_are_missing_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let cache = dir.path().join("cache");
    let args = ["image", "build", "redis", "--cache", text(&cache)];
    let without_apt = command(dir.path(), &args)
        .env("PATH", "/nonexistent")
        .output();
    let ran = Ran::of(without_apt.expect("the program runs"))
        .exits(1)
        .says("--packages DIR");
    for package in ["linux-image-cloud-amd64", "redis-server", "libjemalloc2"] {
        assert!(ran.stderr.contains(package), "{ran:?}");
    }
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).expect("made");
    ftvm(&[&args[..], &["--packages", text(&empty)]].concat())
        .exits(1)
        .says("linux-image-cloud-amd64, busybox-static, redis-server, redis-tools");
    ftvm(&[&args[..], &["--packages", "/nonexistent"]].concat())
        .exits(1)
        .says("/nonexistent");
    let left = fs::read_dir(&cache).expect("made").count();
    assert_eq!(left, 2, "the lock, and a place for packages");
}

fn disk(dir: &Path, name: &str, bytes: u64) -> String {
    let path = dir.join(name);
    let file = File::create(&path).expect("made");
    file.set_len(bytes).expect("sized");
    text(&path).to_owned()
}

#[test]
fn a_disk_that_is_of_no_use_is_an_error_before_boot() {
    let dir = tempfile::tempdir().expect("a directory");
    let run = |disk: &str| ftvm(&["run", "--alone", "--disk", disk]).exits(1);
    run("/nonexistent").says("there is no disk image");
    run(text(dir.path())).says("is no file");
    run(&disk(dir.path(), "odd", 1000)).says("has 1000 bytes");
    let used = disk(dir.path(), "used", 4096);
    let _held = {
        let file = File::open(&used).expect("opened");
        file.lock().expect("free");
        file
    };
    run(&used).says("in use by another node");
    ftvm(&["run", "--disk-read-only"]).exits(2);
    ftvm(&["run", "--accept-disk"]).exits(2);
}

/// As a user who may read the image and not write it.
#[test]
fn a_disk_that_may_only_be_read_is_an_error_before_boot() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can run the program as somebody else");
        return;
    }
    const NOBODY: u32 = 65534;
    // A copy, since the build's directory may be closed to others.
    let open = tempfile::tempdir().expect("a directory");
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).expect("our own");
    let program = open.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_ftvm"), &program).expect("copied");
    let image = disk(open.path(), "image", 4096);
    let ran = Command::new(&program)
        .args([
            "run",
            "--alone",
            "--listen",
            "127.0.0.1:0",
            "--disk",
            &image,
        ])
        .env("XDG_RUNTIME_DIR", open.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output();
    Ran::of(ran.expect("the program runs"))
        .exits(1)
        .says("cannot be written: Permission denied")
        .says("--disk-read-only");
    assert!(!Path::new(&format!("{image}.ftvm")).exists());
}

fn run_alone(dir: &Path, name: &str, more: &[&str]) -> (Process, String) {
    let socket = text(&dir.join(format!("{name}.sock"))).to_owned();
    let args = [
        "run",
        "--alone",
        "--json",
        "--listen",
        "127.0.0.1:0",
        "--control",
        &socket,
    ];
    let args = [&args[..], more].concat();
    let mut node = Process::start(dir, name, command(dir, &args));
    node.wait_for_state("ALONE");
    (node, socket)
}

/// ONE-3: the image of a node that was killed may not be the newest.
#[test]
fn one_3_an_image_of_a_killed_node_wants_a_persons_word() {
    let dir = tempfile::tempdir().expect("a directory");
    let image = disk(dir.path(), "disk.img", 1 << 20);
    let stamp = || fs::read_to_string(format!("{image}.ftvm")).expect("a stamp");
    let (mut node, socket) = run_alone(dir.path(), "first", &["--disk", &image]);
    ftvm(&["run", "--alone", "--disk", &image])
        .exits(1)
        .says("in use by another node");
    ftvm(&["control", "--control", &socket, "stop"]).exits(0);
    assert!(node.wait().success());
    assert!(
        stamp().contains(r#""role":"alone","stopped":true"#),
        "{}",
        stamp()
    );

    // Killed, but it never had a backup: no other image can be newer.
    let (mut node, _) = run_alone(dir.path(), "second", &["--disk", &image]);
    node.kill();
    assert!(
        stamp().contains(r#""role":"alone","stopped":false"#),
        "{}",
        stamp()
    );

    // Had it had one, that might have gone on.
    let doubtful = stamp().replace("alone", "primary").replace("true", "false");
    fs::write(format!("{image}.ftvm"), doubtful).expect("written");
    ftvm(&["run", "--alone", "--disk", &image])
        .exits(1)
        .says("--accept-disk");
    let (mut node, socket) = run_alone(dir.path(), "third", &["--disk", &image, "--accept-disk"]);
    ftvm(&["control", "--control", &socket, "stop"]).exits(0);
    assert!(node.wait().success());
}

#[test]
fn the_console_is_attached_and_detached() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut node, socket) = run_alone(dir.path(), "node", &["--guest", "kv"]);
    let attach = || Console::attach(command(dir.path(), &["console", "--control", &socket]));
    let mut console = attach();
    console.wait_for("listening");
    console.types("hello\n\x1dnot this");
    Ran::of(console.ends()).exits(0).says("detached");

    // A second time: what was said last is shown again. Then the node goes.
    let mut console = attach();
    console.wait_for("listening");
    ftvm(&["control", "--control", &socket, "stop"]).exits(0);
    Ran::of(console.ends()).exits(1).says("the node is gone");
    assert!(node.wait().success());
}
