//! `--config`: the same words in a file.

use std::fs;
use std::path::Path;

use super::harness::Process;
use super::{command, ftvm, text};

/// A node that writes a small log, told by a file; it runs into the log's bound.
#[test]
fn a_node_runs_as_the_file_says_and_flags_win() {
    let dir = tempfile::tempdir().expect("a directory");
    let (socket, log) = (dir.path().join("a.sock"), dir.path().join("log"));
    let file = dir.path().join("vm.toml");
    let said = format!(
        "name = 'from-file'\nnode = 'host-a'\nalone = true\njson = true\nlisten = '127.0.0.1:0'\n\
         guest = 'noise'\nmemory = 48\ncontrol = {:?}\nlog = {:?}\nlog-keep = '20KiB'\n",
        text(&socket),
        text(&log)
    );
    fs::write(&file, said).expect("written");
    let args = ["run", "--config", text(&file), "--name", "from-flag"];
    let mut node = Process::start(dir.path(), "node", command(dir.path(), &args));
    node.wait_for_state("ALONE");

    // LOG-6: recording stops aloud at its bound, and the VM goes on.
    let warning = node.wait_for("a warning", |event| event["event"] == "warning");
    let warning = warning["text"].as_str().expect("a text");
    assert!(warning.contains("bound of 20480 bytes"), "{warning}");
    let status = ftvm(&["status", "--control", text(&socket), "--json"])
        .exits(1)
        .json();
    assert_eq!(status["vm"], "from-flag");
    assert_eq!(status["node"], "host-a");
    assert_eq!(status["state"], "ALONE");
    assert_eq!(status["guest"], "noise");
    let space = &status["log_on_disk"];
    assert_eq!(space["recording"], false, "{status}");
    assert_eq!(space["keep_bytes"], 20480, "{status}");
    assert!(
        space["bytes"].as_u64().is_some_and(|bytes| bytes <= 20480),
        "{status}"
    );
    let view = ftvm(&["status", "--control", text(&socket)])
        .exits(1)
        .stdout;
    assert!(view.contains("recording has stopped"), "{view}");
    ftvm(&["log", "verify", text(&log)]).exits(0);
}

fn refused(file: &Path, content: &str, words: &[&str]) -> super::Ran {
    fs::write(file, content).expect("written");
    ftvm(&[words, &["--config", text(file)]].concat()).exits(2)
}

#[test]
fn what_a_file_cannot_say_is_named_with_its_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("vm.toml");
    let run = |content: &str| refused(&file, content, &["run"]);
    run("detec = 200\n")
        .says("key \"detec\"")
        .says("did you mean \"detect\"");
    run("max_lag = 50\n").says("did you mean \"max-lag\"");
    run("colour = 'red'\n").says("no such key");
    run("primary = '127.0.0.1:7400'\n").says("no such key");
    run("config = 'other.toml'\n").says("no such key");
    run("detect = 1\n")
        .says("key \"detect\"")
        .says("50..=60000");
    run("log-keep = '5 bananas'\n").says("neither a size");
    run("net = ['none', 'none']\n").says("it has one value");
    run("alone = 'yes'\n").says("write true or false");
    run("[net]\ngateway = '127.0.0.1:7500'\n").says("it has one value");
    run("alone = \n").says("is no TOML");
    ftvm(&["run", "--config", "/nonexistent/vm.toml"])
        .exits(2)
        .says("reading the configuration /nonexistent/vm.toml");
    // Two keys that exclude each other, and one that wants another.
    run("guest = 'kv'\nkernel = 'vmlinux'\n").says("cannot be used with");
    run("initrd = 'initrd'\n").says("--kernel");
}

#[test]
fn what_is_required_may_stand_in_the_file_and_a_typed_flag_takes_the_place_of_what_it_excludes() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("vm.toml");
    // So far it is understood: what is missing is the arbiter.
    fs::write(&file, "primary = '127.0.0.1:1'\n").expect("written");
    ftvm(&["backup", "--config", text(&file)])
        .exits(1)
        .says("a backup must know the arbiter");
    // The typed kernel is tried, not the guest that the file names.
    fs::write(
        &file,
        "guest = 'bench'\nalone = true\nlisten = '127.0.0.1:0'\n",
    )
    .expect("written");
    ftvm(&["run", "--config", text(&file), "--kernel", "/nonexistent"])
        .exits(1)
        .says("reading /nonexistent");
    // A list becomes a list.
    fs::write(&file, "arbiter = ['127.0.0.1:1', '127.0.0.1:2']\n").expect("written");
    ftvm(&["backup", "--config", text(&file)])
        .exits(2)
        .says("--primary");
}
