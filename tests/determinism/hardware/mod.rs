//! A hardware-like KVM on any machine: QEMU emulates an AMD processor with its virtualisation in
//! software, and Debian's kernel on it offers the mainline `kvm_amd` to the programs beside it.
//!
//! ```text
//!   image kvm-host: kernel, modules, busybox ─┐
//!   image busybox; ftvm, this test program ───┴─▶ QEMU ─▶ /init: suite, doctor, demo, Linux
//!                     asserted ◀─ sections ◀─ serial console ◀─┘
//! ```
//!
//! Skipped, loudly, where something for it is missing; with `FTVM_HARDWARE_KVM=required` that is a
//! failure instead.

mod initramfs;
mod qemu;
mod report;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use guest_images::linux::{BuildOptions, Built, Cache, Image, Job, KVM_HOST};
use serde_json::Value;

use self::initramfs::{Programs, read};
use self::report::{Section, Sections};

/// Set to `required`, it makes a failure of what would be skipped.
const REQUIRED: &str = "FTVM_HARDWARE_KVM";

/// How long a program may run in there, in seconds of the clock in there.
const PROGRAM_PATIENCE_S: u32 = 600;

/// How long the demo's load lasts, in seconds.
const DEMO_SECONDS: u32 = 5;

/// Boots Linux on a CPU of the host's, without a backup, uses its shell, and switches it off.
const LINUX: &str = include_str!("linux.sh");

/// How many tests of this program run on a KVM: fewer mean that a filter took too many.
const SUITE_TESTS: usize = 16;

/// DET-1, DET-4, OUT-1 and the rest of the promise, on the real code of KVM.
#[test]
fn det_1_the_suite_and_the_demo_pass_on_a_mainline_kvm() {
    let [image, busybox] = match host() {
        Ok(images) => images,
        Err(why) if std::env::var(REQUIRED).is_ok_and(|value| value == "required") => {
            panic!("{REQUIRED}=required, but: {why}")
        }
        Err(why) => return eprintln!("SKIPPED: the hardware-like KVM: {why}"),
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let initrd = dir.path().join("initrd");
    std::fs::write(
        &initrd,
        [read(&image.initrd()), programs(&busybox)].concat(),
    )
    .expect("room for it");
    let console = qemu::run(&image, &initrd);
    let sections = Sections::parse(&console);
    sections.succeeded("kvm");
    suite(sections.succeeded("suite"));
    doctor(sections.succeeded("doctor"));
    demo(sections.succeeded("demo"));
    linux(sections.succeeded("linux"));
}

/// What boots, and what boots on that; or why nothing can.
fn host() -> Result<[Image; 2], String> {
    qemu::find()?;
    let mut job = Job {
        progress: &mut |step| eprintln!("hardware-like KVM: {step}"),
        interrupted: &AtomicBool::new(false),
    };
    let cache = Cache::open(None).map_err(|error| error.to_string())?;
    let mut image = |name| match cache.build(name, &BuildOptions::default(), &mut job) {
        Ok(Built::Already(image) | Built::New(image)) => Ok(image),
        Err(error) => Err(error.to_string()),
    };
    Ok([image(KVM_HOST.name)?, image("busybox")?])
}

/// What the host runs, and the script that runs it.
fn programs(busybox: &Image) -> Vec<u8> {
    let mut programs = Programs::default();
    programs.add("ftvm", Path::new(env!("CARGO_BIN_EXE_ftvm")));
    let this = std::env::current_exe().expect("this program has a path");
    programs.add("determinism", &this);
    programs.bytes("linux/run", LINUX.as_bytes());
    programs.bytes("linux/kernel", &read(&busybox.kernel()));
    programs.bytes("linux/initrd", &read(&busybox.initrd()));
    programs.bytes(
        "linux/command-line",
        busybox.manifest.command_line.as_bytes(),
    );
    programs.bytes("init", init().as_bytes());
    programs.finish()
}

/// The first process: runs everything, each between two marks.
fn init() -> String {
    let begins = report::mark("$name", "begins");
    let ended = report::mark("$name", "ended $status $((after - before))");
    format!(
        r#"#!/bin/busybox sh
. /etc/rc
uptime() {{ cut -d. -f1 /proc/uptime; }}
section() {{
  name=$1; shift
  echo; echo "{begins}"; before=$(uptime)
  timeout {PROGRAM_PATIENCE_S} "$@" 2>&1; status=$?
  after=$(uptime); echo; echo "{ended}"
}}
section kvm ls -l /dev/kvm
section suite determinism --skip hardware:: --skip on_soft::
section doctor ftvm doctor --json
section demo ftvm demo --cpu kvm --json --seconds {DEMO_SECONDS}
section linux /linux/run
poweroff -f
"#
    )
}

/// All tests of this program but this one passed, and none was skipped for want of a KVM.
fn suite(Section { lines, seconds, .. }: &Section) {
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
    eprintln!("hardware-like KVM: {passed} tests passed in {seconds} s of its clock");
}

/// It recognises the kind of KVM, and that this one hides what it is told to hide.
fn doctor(section: &Section) {
    let diagnosis = json(section);
    let check = |name: &str| {
        let checks = diagnosis["checks"].as_array().expect("checks");
        checks
            .iter()
            .find(|check| check["check"] == name)
            .unwrap_or_else(|| panic!("no {name} in {diagnosis}"))
    };
    assert_eq!(diagnosis["cpu"], "kvm", "{diagnosis}");
    for name in ["/dev/kvm", "kind of KVM", "CPUID", "unlogged MSRs"] {
        assert_eq!(check(name)["verdict"], "ok", "{}", check(name));
    }
    let kind = check("kind of KVM")["found"].as_str().expect("text");
    assert!(kind.starts_with("hardware"), "{kind}");
    eprintln!("hardware-like KVM: {kind}");
}

/// OUT-4, FAIL-2, ONE-1: the primary is killed, and nobody noticed.
fn demo(section: &Section) {
    let figures = json(section);
    for name in ["lost", "duplicated", "connections_broken"] {
        assert_eq!(figures[name], 0, "{name} in {figures}");
    }
    assert_eq!(figures["backend"], "kvm", "{figures}");
    assert_eq!(figures["winner"], "backup", "{figures}");
    assert!(figures["acknowledged"].as_u64() > Some(0), "{figures}");
    eprintln!(
        "hardware-like KVM: the demo took {} s of its clock; of {} acknowledged writes none was \
         lost, the longest wait was {} ms",
        section.seconds, figures["acknowledged"], figures["blackout_ms"]
    );
}

/// Debian's kernel came up, its shell answered, and its power button worked.
fn linux(Section { lines, seconds, .. }: &Section) {
    for expected in ["Linux is ready", "reboot: Power down"] {
        let found = lines.iter().any(|line| line.contains(expected));
        assert!(found, "no {expected:?} in {lines:#?}");
    }
    eprintln!("hardware-like KVM: Linux was up, used and off in {seconds} s of its clock");
}

/// The last line that is a JSON object.
fn json(section: &Section) -> Value {
    section
        .lines
        .iter()
        .rev()
        .find_map(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("no JSON in {:?}", section.lines))
}
