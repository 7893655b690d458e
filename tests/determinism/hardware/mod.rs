//! A hardware-like KVM on any machine: QEMU emulates an AMD processor with its virtualisation in
//! software, and Debian's kernel on it offers the mainline `kvm_amd` to programs in its initramfs.
//!
//! ```text
//!   packages: kernel, modules, busybox ─┐
//!   ftvm, this test program, libraries ─┴▶ initramfs ─▶ QEMU: kernel ─▶ /init: suite, doctor, demo
//!                                            asserted ◀─ sections ◀─ serial console ◀─┘
//! ```
//!
//! Skipped, loudly, where something for it is missing; with `FTVM_HARDWARE_KVM=required` that is a
//! failure instead.

mod initramfs;
mod packages;
mod qemu;
mod report;

use std::path::Path;

use serde_json::Value;

use self::initramfs::Archive;
use self::packages::Lab;
use self::report::Sections;

/// Set to `required`, it makes a failure of what would be skipped.
const REQUIRED: &str = "FTVM_HARDWARE_KVM";

/// How long a program may run in there, in seconds, on a host that does much else.
const PROGRAM_PATIENCE_S: u32 = 600;

/// How long the demo's load lasts, in seconds.
const DEMO_SECONDS: u32 = 5;

/// How many tests the suite has at least: fewer means that a filter took too many.
const SUITE_TESTS: usize = 14;

/// DET-1, DET-4, OUT-1 and the rest of the promise, on the real code of KVM.
#[test]
fn det_1_the_suite_and_the_demo_pass_on_a_mainline_kvm() {
    let lab = match packages::lab() {
        Ok(lab) => lab,
        Err(why) if std::env::var(REQUIRED).is_ok_and(|value| value == "required") => {
            panic!("{REQUIRED}=required, but: {why}")
        }
        Err(why) => return eprintln!("SKIPPED: no hardware-like KVM was tested: {why}"),
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let initrd = dir.path().join("initramfs.cpio");
    std::fs::write(&initrd, archive(&lab)).expect("room for an initramfs");
    let console = qemu::run(&lab.kernel, &initrd);
    let sections = Sections::parse(&console);
    sections.succeeded("kvm");
    suite(sections.succeeded("suite"));
    doctor(sections.succeeded("doctor"));
    demo(sections.succeeded("demo"));
}

/// The kernel's modules, the programs with their libraries, and the script that runs them.
fn archive(lab: &Lab) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.program("/bin/busybox", &read(&lab.busybox));
    let mut insmod = Vec::new();
    for module in &lab.modules {
        archive.file(&format!("/modules/{}", module.name), &module.bytes);
        insmod.push(format!("/bin/busybox insmod /modules/{}", module.name));
    }
    let suite = std::env::current_exe().expect("this program has a path");
    for (name, path) in [
        ("/ftvm", Path::new(env!("CARGO_BIN_EXE_ftvm"))),
        ("/determinism", &suite),
    ] {
        archive.program(name, &read(path));
        for library in packages::libraries(path) {
            let name = library.to_str().expect("UTF-8").to_owned();
            archive.program(&name, &read(&library));
        }
    }
    archive.program("/init", init(&insmod.join(" && ")).as_bytes());
    archive.finish()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

/// The first process: brings the lab up and runs everything, each between two marks.
fn init(insmod: &str) -> String {
    let begins = report::mark("$name", "begins");
    let ended = report::mark("$name", "ended $status");
    format!(
        r#"#!/bin/busybox sh
busybox() {{ /bin/busybox "$@"; }}
section() {{
  name=$1; shift
  echo; echo "{begins}"
  "$@" 2>&1; status=$?
  echo; echo "{ended}"
}}
limited() {{ busybox timeout {PROGRAM_PATIENCE_S} "$@"; }}
load() {{ {insmod} && busybox ls -l /dev/kvm; }}

busybox mkdir -p /proc /sys /dev /tmp
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
busybox mount -t tmpfs tmp /tmp
busybox ip link set lo up
section kvm load
section suite limited /determinism --skip hardware::
section doctor limited /ftvm doctor --json
section demo limited /ftvm demo --cpu kvm --json --seconds {DEMO_SECONDS}
busybox poweroff -f
"#
    )
}

/// All tests of this program but this one passed, and none was skipped for want of a KVM.
fn suite(lines: &[String]) {
    let skipped = lines.iter().find(|line| line.contains("SKIPPED"));
    assert_eq!(skipped, None, "there is a KVM");
    let passed = lines
        .iter()
        .find_map(|line| {
            line.strip_prefix("test result: ok. ")?
                .split_once(" passed")
        })
        .and_then(|(count, _)| count.parse::<usize>().ok())
        .expect("a result");
    assert!(passed >= SUITE_TESTS, "only {passed} tests ran");
    eprintln!("hardware-like KVM: {passed} tests of the suite passed");
}

/// It recognises the kind of KVM, and that this one hides what it is told to hide.
fn doctor(lines: &[String]) {
    let diagnosis = json(lines);
    let check = |name: &str| {
        let checks = diagnosis["checks"].as_array().expect("checks");
        checks
            .iter()
            .find(|check| check["check"] == name)
            .unwrap_or_else(|| panic!("no {name} in {diagnosis}"))
    };
    assert_eq!(diagnosis["runs_guests"], true, "{diagnosis}");
    for name in ["/dev/kvm", "kind of KVM", "CPUID", "unlogged MSRs"] {
        assert_eq!(check(name)["verdict"], "ok", "{}", check(name));
    }
    let kind = check("kind of KVM")["found"].as_str().expect("text");
    assert!(kind.starts_with("hardware"), "{kind}");
    eprintln!("hardware-like KVM: {kind}");
}

/// OUT-4, FAIL-2, ONE-1: the primary is killed, and nobody noticed.
fn demo(lines: &[String]) {
    let figures = json(lines);
    for name in ["lost", "duplicated", "connections_broken"] {
        assert_eq!(figures[name], 0, "{name} in {figures}");
    }
    assert_eq!(figures["backend"], "kvm", "{figures}");
    assert_eq!(figures["winner"], "backup", "{figures}");
    assert!(figures["acknowledged"].as_u64() > Some(0), "{figures}");
    eprintln!(
        "hardware-like KVM: demo, {} acknowledged writes, nothing lost; longest wait {} ms",
        figures["acknowledged"], figures["blackout_ms"]
    );
}

/// The last line that is a JSON object.
fn json(lines: &[String]) -> Value {
    lines
        .iter()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("no JSON in {lines:?}"))
}
