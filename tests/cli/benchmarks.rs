//! `ftvm bench`: that every figure is there and makes sense. How large it is depends on the host,
//! so nothing here compares a time with anything but nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{Ran, command, fresh_dir, ftvm};

fn figure(figures: &Value, path: &str) -> f64 {
    let value = figures.pointer(path);
    let number = value.and_then(Value::as_f64);
    number.unwrap_or_else(|| panic!("{path} is {value:?} in {figures}"))
}

fn is_ordered(figures: &Value, path: &str) {
    let [least, median, most] =
        ["least", "median", "most"].map(|part| figure(figures, &format!("{path}/{part}")));
    assert!(
        0.0 < least && least <= median && median <= most,
        "{path}: {least}, {median}, {most}"
    );
}

#[test]
fn a_quick_run_has_every_figure_and_loses_nothing() {
    let figures = ftvm(&["bench", "--quick", "--json"]).exits(0).json();

    for fault in ["/lost", "/duplicated", "/connections_broken"] {
        assert_eq!(figure(&figures, fault), 0.0, "{fault}: {figures}");
    }
    for positive in [
        "/host/cpus",
        "/settings/clients",
        "/requests/log_bits_per_s",
        "/requests/lag_ms_p99",
        "/bandwidth/idle_bits_per_s",
        "/bandwidth/loaded_bits_per_s",
        "/bandwidth/loaded_requests_per_s",
        "/kills/count",
        "/heartbeats/gaps",
        "/heartbeats/gap_ms_p9999",
        "/claims/count",
        "/claims/claim_ms_p99",
    ] {
        assert!(figure(&figures, positive) > 0.0, "{positive}: {figures}");
    }
    for spread in [
        "/requests/protected_ratio",
        "/requests/recorded_ratio",
        "/kills/suspected_ms",
        "/kills/live_ms",
        "/kills/first_answer_ms",
        "/kills/longest_wait_ms",
        "/kills/claim_ms",
        "/claims/claim_ms",
    ] {
        is_ordered(&figures, spread);
    }

    let variants = figures["requests"]["variants"].as_array().expect("a list");
    let names: Vec<&str> = variants
        .iter()
        .filter_map(|variant| variant["variant"].as_str())
        .collect();
    assert_eq!(names, ["alone", "unprotected", "recorded", "protected"]);
    for (at, name) in names.iter().enumerate() {
        is_ordered(&figures, &format!("/requests/variants/{at}/requests_per_s"));
        let median = figure(&figures, &format!("/requests/variants/{at}/median_us"));
        let p99 = figure(&figures, &format!("/requests/variants/{at}/p99_us"));
        assert!(0.0 < median && median <= p99, "{name}: {median}, {p99}");
    }

    // The format's promise: an entry costs its payload and at most 16 bytes.
    let overhead = figure(&figures, "/bandwidth/frame_overhead_bytes");
    assert!(0.0 < overhead && overhead <= 16.0, "{overhead}");
    let kinds = figures["bandwidth"]["loaded_kinds"].as_array();
    let kinds: Vec<&str> = kinds
        .expect("a list")
        .iter()
        .filter_map(|kind| kind["kind"].as_str())
        .collect();
    for kind in ["net-rx", "output", "released"] {
        assert!(kinds.contains(&kind), "{kind} is not in {kinds:?}");
    }

    if Command::new("redis-benchmark")
        .arg("--version")
        .output()
        .is_ok()
    {
        assert_eq!(figures["left_out"], serde_json::json!([]), "{figures}");
        has_redis_benchmark(&figures);
    } else {
        eprintln!("redis-benchmark is not installed: its part is not tested");
        assert_eq!(
            figures["left_out"][0]["what"], "redis-benchmark",
            "{figures}"
        );
    }
}

fn has_redis_benchmark(figures: &Value) {
    let program = figures["redis_benchmark"]["program"].as_str();
    assert!(
        program.is_some_and(|name| name.starts_with("redis-benchmark ")),
        "{figures}"
    );
    let tests = figures["redis_benchmark"]["tests"]
        .as_array()
        .expect("a list");
    let names = tests
        .iter()
        .map(|test| (test["test"].as_str(), test["pipeline"].as_u64()));
    let expected = [("SET", 1), ("GET", 1), ("SET", 16), ("GET", 16)];
    assert!(
        names.eq(expected.map(|(name, pipeline)| (Some(name), Some(pipeline)))),
        "{figures}"
    );
    for at in 0..tests.len() {
        let path = format!("/redis_benchmark/tests/{at}");
        // At least what fills the pipelines of 50 clients once.
        let in_flight = 50.0 * figure(figures, &format!("{path}/pipeline"));
        assert!(
            figure(figures, &format!("{path}/requests")) >= in_flight,
            "{path}: {figures}"
        );
        is_ordered(figures, &format!("{path}/protected_ratio"));
        assert!(
            figure(figures, &format!("{path}/log_bits_per_s")) > 0.0,
            "{path}: {figures}"
        );
        for (variant, name) in ["unprotected", "protected"].into_iter().enumerate() {
            let path = format!("{path}/variants/{variant}");
            assert_eq!(figures.pointer(&path).expect("a variant")["variant"], name);
            is_ordered(figures, &format!("{path}/requests_per_s"));
            let [median, p99] =
                ["median_us", "p99_us"].map(|f| figure(figures, &format!("{path}/{f}")));
            assert!(0.0 < median && median <= p99, "{path}: {median}, {p99}");
            // No node answers without CPU time, and an unprotected VM has no backup.
            assert!(
                figure(figures, &format!("{path}/cpu_us/primary")) > 0.0,
                "{path}"
            );
            let backup = figure(figures, &format!("{path}/cpu_us/backup"));
            assert_eq!(backup > 0.0, name == "protected", "{path}: {backup}");
        }
    }
}

/// `ftvm bench --quick --only redis-benchmark` where only the directory `path` has programs.
fn redis_benchmark_with(path: &Path, more: &[&str]) -> Ran {
    let words = ["bench", "--quick", "--only", "redis-benchmark"];
    let mut command = command(Path::new("/nonexistent"), &[&words, more].concat());
    Ran::of(
        command
            .env("PATH", path)
            .output()
            .expect("the program runs"),
    )
}

#[test]
fn without_redis_benchmark_its_part_is_left_out_and_its_package_named() {
    let nowhere = Path::new("/nonexistent");
    let why = "it is not installed; Debian's package redis-tools has it";
    for format in [&[][..], &["--markdown"]] {
        let page = redis_benchmark_with(nowhere, format).exits(0).stdout;
        let line = format!("left out: redis-benchmark: {why}\n");
        assert!(page.contains(&line), "{page}");
    }
    let figures = redis_benchmark_with(nowhere, &["--json"]).exits(0).json();
    let expected = serde_json::json!([{"what": "redis-benchmark", "why": why}]);
    assert_eq!(figures["left_out"], expected, "{figures}");
    assert!(figures.get("redis_benchmark").is_none(), "{figures}");
}

#[test]
fn an_error_of_redis_benchmark_is_told_in_its_words() {
    let dir = fresh_dir("failing-redis-benchmark");
    std::fs::create_dir_all(&dir).expect("a directory");
    let program = dir.join("redis-benchmark");
    let script = "#!/bin/sh\n\
        test \"$1\" = --version && echo redis-benchmark 0.0.0 && exit 0\n\
        echo '\"test\",\"rps\"'\n\
        echo 'Error from server: OOM command not allowed' >&2\n\
        exit 1\n";
    std::fs::write(&program, script).expect("a script");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("a program");
    redis_benchmark_with(&dir, &[])
        .exits(1)
        .says(" -t set -c 50 -P 1 -n 1000 -r 1000 -d 64 ended with exit status: 1: ")
        .says("Error from server: OOM command not allowed");
}

#[test]
fn one_part_can_be_asked_for_in_markdown() {
    let page = ftvm(&["bench", "--quick", "--only", "claims", "--markdown"])
        .exits(0)
        .stdout;
    assert!(page.contains("| a claim, the arbiter idle | "), "{page}");
    assert!(!page.contains("SIGKILL"), "{page}");
}

#[test]
fn a_quick_run_of_the_software_cpu_has_every_figure_that_needs_no_image_and_no_qemu() {
    let figures = ftvm(&["bench", "cpu", "--quick", "--json"]).exits(0).json();

    let loops = figures["loops"].as_array().expect("a list");
    assert_eq!(loops.len(), 4, "{figures}");
    for at in 0..loops.len() {
        // A pass of the shortest goes over 256 Ki numbers, of the longest a hundred times as often.
        let instructions = figure(&figures, &format!("/loops/{at}/instructions"));
        assert!((1e6..1e9).contains(&instructions), "{at}: {figures}");
        is_ordered(&figures, &format!("/loops/{at}/rates/0/m_per_s"));
    }
    for spread in ["recorded_s", "replayed_s", "ratio"] {
        is_ordered(&figures, &format!("/replay/{spread}"));
    }

    let memory = |name: &str| figure(&figures, &format!("/memory/{name}"));
    // What the guest works on is resident; it is counted once.
    let (guest, resident) = (memory("guest_mib"), memory("guest_resident_mib"));
    assert!(4.0 < resident && resident <= guest, "{figures}");
    assert!(memory("beside_mib") > 1.0, "{figures}");
    let sum = memory("beside_mib") + resident;
    assert!((sum - memory("peak_mib")).abs() < 0.1, "{figures}");

    let left_out = figures["left_out"].as_array().expect("a list");
    assert_eq!(left_out.len(), 1, "{figures}");
    assert!(figures.get("boot").is_none(), "{figures}");
}

#[test]
fn a_guest_that_no_client_can_talk_to_is_refused() {
    ftvm(&["bench", "--guest", "noise"])
        .exits(1)
        .says("choose one of kv, redis");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let wrong: [&[&str]; 6] = [
        &["--seconds", "0"],
        &["--only", "speed"],
        &["--json", "--markdown"],
        &["--kills", "0"],
        &["cpu", "--rounds", "0"],
        &["--quick", "cpu"],
    ];
    for words in wrong {
        let ran = ftvm(&[&["bench"], words].concat()).exits(2);
        assert!(ran.stderr.contains("error: "), "{ran:#?}");
    }
}
