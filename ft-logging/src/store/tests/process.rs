//! LOG-6: a log survives the death of the process that writes it.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Names the directory to the child.
const CHILD_DIR: &str = "FTVM_TEST_LOG_WRITER_DIR";

const OPTIONS: Options = Options {
    segment_bytes: 16 << 10,
    keep_bytes: 1 << 30,
};

/// Not a test of its own: the writer that the next test kills.
#[test]
fn a_writer_to_be_killed() {
    let Some(dir) = env::var_os(CHILD_DIR) else {
        return;
    };
    let written = entries(500_000);
    let mut writer = Writer::create(Path::new(&dir), log_start(), OPTIONS).expect("a new log");
    for chunk in written.chunks(5) {
        writer.append(chunk).expect("append");
        writer.flush().expect("flush");
        println!("flushed {}", writer.place().index);
    }
}

#[test]
fn log_6_a_log_survives_the_death_of_its_writer() {
    let temp = temp();
    let dir = temp.path().join("log");
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "store::tests::process::a_writer_to_be_killed"])
        .arg("--nocapture")
        .env(CHILD_DIR, &dir)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process");
    let mut flushed = BufReader::new(child.stdout.take().expect("piped"))
        .lines()
        .map_while(|line| line.ok())
        .filter_map(|line| line.strip_prefix("flushed ")?.parse::<u64>().ok());
    let next = flushed.by_ref().nth(400).expect("the child writes");
    let life = log_start().initial.life;
    let locked = Writer::reopen(&dir, life, TOKEN, OPTIONS).map(drop);
    assert!(
        matches!(locked, Err(StoreError::Locked { .. })),
        "{locked:?}"
    );
    child.kill().expect("SIGKILL");
    child.wait().expect("its death");
    let next = flushed.last().unwrap_or(next);

    let (mut writer, _) = Writer::reopen(&dir, life, TOKEN, OPTIONS).expect("the lock is free");
    let end = writer.place().index.0;
    assert!(end >= next, "{next} was flushed, the log ends before {end}");
    let more = entries(end + 9);
    writer.append(&more[end as usize - 1..]).expect("append");
    writer.close().expect("close");
    assert_eq!(read(&dir).expect("a whole log"), more);
}
