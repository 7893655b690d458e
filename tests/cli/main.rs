//! The commands for people, run as processes: what they print, and how they end.

mod benchmarks;
mod configuration;
#[path = "../harness/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "the end-to-end tests use the rest of it"
)]
mod harness;
mod images;
mod logs;
mod operators;
mod refusals;
mod replays;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// What became of a command.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Ran {
            code: output.status.code().expect("not killed"),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// The answer of a `--json` that has one line.
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn json_lines(&self) -> Vec<Value> {
        let line = |line| serde_json::from_str(line).expect("a line of JSON");
        self.stdout.lines().map(line).collect()
    }

    /// Checks the exit status.
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Checks that standard error says something.
    fn says(self, what: &str) -> Self {
        assert!(self.stderr.contains(what), "no {what:?} in {self:#?}");
        self
    }
}

/// A command of the program, in a runtime directory of its own.
fn command(runtime: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftvm"));
    command.args(args).env("XDG_RUNTIME_DIR", runtime);
    command
}

fn ftvm(args: &[&str]) -> Ran {
    ftvm_in(Path::new("/nonexistent"), args)
}

fn ftvm_in(runtime: &Path, args: &[&str]) -> Ran {
    Ran::of(command(runtime, args).output().expect("the program runs"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// An empty directory that outlives the test, to be looked at.
fn fresh_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands: [&[&str]; 32] = [
        &["run"],
        &["backup"],
        &["gateway"],
        &["status"],
        &["control"],
        &["recover"],
        &["replay"],
        &["doctor"],
        &["console"],
        &["image"],
        &["image", "build"],
        &["image", "list"],
        &["image", "show"],
        &["image", "remove"],
        &["bench"],
        &["bench", "cpu"],
        &["log"],
        &["log", "info"],
        &["log", "dump"],
        &["log", "stats"],
        &["log", "diff"],
        &["log", "verify"],
        &["log", "follow"],
        &["arbiter"],
        &["arbiter", "serve"],
        &["arbiter", "status"],
        &["arbiter", "list"],
        &["arbiter", "show"],
        &["arbiter", "delete"],
        &["arbiter", "add"],
        &["arbiter", "remove"],
        &[],
    ];
    for words in commands {
        let help = ftvm(&[words, &["--help"]].concat()).exits(0).stdout;
        assert!(help.contains("ftvm "), "{words:?}: {help}");
        let examples = ["Example", "for a try"];
        assert!(
            examples.iter().any(|word| help.contains(word)),
            "{words:?}: {help}"
        );
    }
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    let wrong: [&[&str]; 8] = [
        &["frobnicate"],
        &["log", "dump"],
        &["log", "dump", "x", "--kind", "clocks"],
        &["log", "dump", "x", "--position", "5..3"],
        &["replay", "x", "--memory", "everything"],
        &["status", "Not A Name"],
        &["arbiter", "add", "one"],
        &["arbiter", "delete", "kv", "--life", "short"],
    ];
    for words in wrong {
        let ran = ftvm(words).exits(2);
        assert!(ran.stderr.contains("error: "), "{ran:#?}");
    }
}
