//! One process of the demo: this program again, in another role.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::node::NodeState;
use crate::sys::child::die_with_parent;

/// How many of a process's last words are shown when it ends unasked.
const LAST_LINES: usize = 8;

/// How long a process that was killed may take to be gone.
const REAP_PATIENCE: Duration = Duration::from_secs(5);

/// Which process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::cli) enum Who {
    /// An arbiter server, by its id.
    Arbiter(u64),
    Gateway,
    Primary,
    Backup,
    /// The node that boots the guest once more, from the disk that another wrote.
    Reader,
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Who::Arbiter(id) => write!(f, "arbiter server {id}"),
            Who::Gateway => f.write_str("gateway"),
            Who::Primary => f.write_str("primary"),
            Who::Backup => f.write_str("backup"),
            Who::Reader => f.write_str("reader"),
        }
    }
}

impl Who {
    /// The stem of its files' names.
    pub(in crate::cli) fn stem(self) -> String {
        match self {
            Who::Arbiter(id) => format!("arbiter-{id}"),
            other => other.to_string(),
        }
    }
}

/// What a process says with `--json`: the events of all roles, as far as the demo wants them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(in crate::cli) enum Said {
    Listening {
        address: SocketAddr,
        #[serde(default)]
        forwards: Vec<SocketAddr>,
    },
    State {
        state: NodeState,
        why: String,
    },
    Live {
        token: String,
    },
    Warning {
        text: String,
    },
    End {
        /// A node's last word.
        #[serde(default)]
        end: Option<String>,
    },
}

/// What happens to a process.
#[derive(Clone, Debug)]
pub(in crate::cli) enum What {
    Said(Said),
    Ended(ExitStatus),
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Happening {
    pub(in crate::cli) at: Instant,
    pub(in crate::cli) who: Who,
    pub(in crate::cli) what: What,
}

/// A running process. Dropping it kills it.
#[derive(Debug)]
pub(in crate::cli) struct Process {
    who: Who,
    pid: Pid,
    log: PathBuf,
    ended: watch::Receiver<Option<ExitStatus>>,
    task: JoinHandle<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        // The task owns the child, which is killed when it is dropped.
        self.task.abort();
    }
}

impl Process {
    /// Starts this program with `arguments`; its standard error goes to a file in `dir`.
    pub(in crate::cli) fn spawn(
        who: Who,
        arguments: &[String],
        dir: &Path,
        happenings: mpsc::UnboundedSender<Happening>,
    ) -> anyhow::Result<Self> {
        let log = dir.join(format!("{}.log", who.stem()));
        let program = std::env::current_exe().context("finding the ftvm program itself")?;
        let stderr = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // Ctrl-C is for the demo, which ends the others in its own way.
            .process_group(0);
        die_with_parent(&mut command);
        let child = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting the {who}"))?;
        let pid = child.id().context("it has ended already")?;
        let (tell_end, ended) = watch::channel(None);
        let task = tokio::spawn(attend(who, child, happenings, tell_end));
        Ok(Process {
            who,
            pid: Pid::from_raw(pid.cast_signed()),
            log,
            ended,
            task,
        })
    }

    /// Its process id.
    pub(in crate::cli) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Whether it still runs.
    pub(in crate::cli) fn runs(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// The CPU time that it has used.
    pub(in crate::cli) fn cpu_time(&self) -> Duration {
        cpu_time_of(self.pid)
    }

    /// SIGKILL: no last word, no clean-up.
    pub(in crate::cli) fn kill(&self) -> io::Result<()> {
        // Not after it was reaped, when the number may be somebody else's. The task that reaps it
        // says so in the same step, on this thread.
        if self.runs() {
            kill(self.pid, Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// Kills it, and waits until it is gone.
    pub(in crate::cli) async fn end(mut self) {
        let _ = self.kill();
        let _ = timeout(REAP_PATIENCE, self.ended.wait_for(Option::is_some)).await;
    }

    /// Why it ended, in its own words.
    pub(in crate::cli) fn obituary(&self, status: ExitStatus) -> String {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with status {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended".to_owned(),
        };
        let words = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = words.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() {
            format!("the {} {how} and said nothing", self.who)
        } else {
            format!("the {} {how}:\n  {}", self.who, last.join("\n  "))
        }
    }
}

/// The CPU time that a process has used: of the threads that still run, as far as the kernel tells.
pub(in crate::cli) fn cpu_time_of(pid: impl std::fmt::Display) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let of_thread = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    let ns: u64 = threads
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(of_thread)
        .sum();
    Duration::from_nanos(ns)
}

/// Passes on what a process says, and reaps it.
async fn attend(
    who: Who,
    mut child: Child,
    happenings: mpsc::UnboundedSender<Happening>,
    ended: watch::Sender<Option<ExitStatus>>,
) {
    let tell = |what| {
        let at = Instant::now();
        let _ = happenings.send(Happening { at, who, what });
    };
    if let Some(stdout) = child.stdout.take() {
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Ok(said) = serde_json::from_str(&line) {
                tell(What::Said(said));
            }
        }
    }
    if let Ok(status) = child.wait().await {
        ended.send_replace(Some(status));
        tell(What::Ended(status));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_of_all_roles_are_understood() {
        let cases = [
            (
                r#"{"event":"listening","address":"127.0.0.1:1","forwards":["127.0.0.1:2"]}"#,
                Said::Listening {
                    address: "127.0.0.1:1".parse().expect("an address"),
                    forwards: vec!["127.0.0.1:2".parse().expect("an address")],
                },
            ),
            (
                r#"{"event":"state","state":"HOLDING","why":"because"}"#,
                Said::State {
                    state: NodeState::Holding,
                    why: "because".to_owned(),
                },
            ),
            (
                r#"{"event":"end","frames_repeated":3}"#,
                Said::End { end: None },
            ),
        ];
        for (line, expected) in cases {
            let said: Said = serde_json::from_str(line).expect("an event");
            assert_eq!(said, expected);
        }
    }
}
