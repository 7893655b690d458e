//! A process of the program, and what it says as JSON lines.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use vmm::sys::child::die_with_parent;

use super::PATIENCE;

/// How long one place is listened at before it is another's turn.
const TURN: Duration = Duration::from_millis(5);

/// A running process of the program. Dropping it kills it; so does the end of the thread that
/// started it, which is the test's.
pub(crate) struct Process {
    pub(crate) name: String,
    child: Child,
    events: mpsc::Receiver<Value>,
    seen: Vec<Value>,
    stderr: PathBuf,
}

impl Process {
    /// Starts the program through `command`; its standard error goes to a file in `dir`.
    pub(crate) fn start(dir: &Path, name: &str, mut command: Command) -> Self {
        let stderr = dir.join(format!("{name}.stderr"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&stderr).expect("a file for stderr"));
        die_with_parent(&mut command);
        let mut child = command.spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let _ = sender.send(event);
                }
            }
        });
        Process {
            name: name.to_owned(),
            child,
            events,
            seen: Vec::new(),
            stderr,
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed on standard error.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits for an event; those before it are kept and can still be asked for.
    pub(crate) fn wait_for(&mut self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        if let Some(event) = self.seen.iter().find(|event| matches(event)) {
            return event.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if matches(&event) {
                        return event;
                    }
                }
                Err(error) => panic!(
                    "{}: no {what} ({error}); it said {:?} and {}",
                    self.name,
                    self.seen,
                    self.stderr()
                ),
            }
        }
    }

    pub(crate) fn wait_for_state(&mut self, state: &str) {
        self.wait_for(state, |event| {
            event["event"] == "state" && event["state"] == state
        });
    }

    /// Waits for a warning that contains `text`.
    pub(crate) fn wait_for_warning(&mut self, text: &str) {
        self.wait_for(text, |event| {
            event["event"] == "warning" && event["text"].as_str().is_some_and(|t| t.contains(text))
        });
    }

    /// Waits until it has printed `text` on standard error.
    pub(crate) fn wait_for_stderr(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.stderr().contains(text) {
            match self.events.recv_timeout(TURN) {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(error) => panic!("{}: no {text:?} ({error}): {}", self.name, self.stderr()),
            }
        }
    }

    /// Its last word; waits for it.
    pub(crate) fn last_word(&mut self) -> String {
        let event = self.wait_for("last word", |event| event["event"] == "end");
        event["end"].as_str().expect("text").to_owned()
    }

    /// Whether it has said so by now.
    pub(crate) fn has_said(&mut self, matches: impl Fn(&Value) -> bool) -> bool {
        self.seen.extend(self.events.try_iter());
        self.seen.iter().any(matches)
    }

    /// Where it listens; waits until it does.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let event = self.wait_for("listening", |event| event["event"] == "listening");
        event["address"]
            .as_str()
            .expect("an address")
            .parse()
            .expect("an address")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().cast_signed()), signal).expect("the process is ours");
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("our child");
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Its output ends with it; until then what it says is kept.
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => self.seen.push(event),
                Err(RecvTimeoutError::Disconnected) => {
                    return self.child.wait().expect("our child");
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{} does not end: {}", self.name, self.stderr());
                }
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.seen.extend(self.events.try_iter());
            eprintln!("---- {}: {:?}\n{}", self.name, self.seen, self.stderr());
        }
    }
}

/// Which of two processes is the first to say something: 0 or 1.
pub(crate) fn first_to(
    mut processes: [&mut Process; 2],
    what: &str,
    matches: impl Fn(&Value) -> bool,
) -> usize {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let said = |process: &&mut Process| process.seen.iter().any(&matches);
        if let Some(index) = processes.iter().position(said) {
            return index;
        }
        for process in &mut processes {
            process.seen.extend(process.events.recv_timeout(TURN));
        }
    }
    panic!("neither of the two: {what}");
}
