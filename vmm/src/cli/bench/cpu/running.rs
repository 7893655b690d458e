//! A machine that runs as a process, with its console at standard output.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::{Instant as Deadline, timeout_at};

use super::super::super::stage::process::cpu_time_of;
use super::figures::Memory;
use super::machine::{Guest, Machine};
use crate::node::{ControlRequest, ControlResponse, request};
use crate::sys::child::die_with_parent;

/// How long a guest may take until it says or does what is waited for: minutes, on a busy host.
const PATIENCE: Duration = Duration::from_secs(180);

/// How much of what a machine said last is shown when it ends unasked.
const LAST_WORDS: usize = 600;

/// When something happened: since the machine was started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) wall: Duration,
    /// CPU time of the whole process.
    pub(super) cpu: Duration,
}

/// Where what is typed goes.
#[derive(Debug)]
enum Keyboard {
    /// A node's control socket.
    Control(PathBuf),
    Serial(ChildStdin),
}

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Running {
    name: &'static str,
    child: Child,
    pid: u32,
    keyboard: Keyboard,
    console: ChildStdout,
    /// What the guest said since the last text that was waited for.
    said: Vec<u8>,
    /// What the machine itself says.
    words: PathBuf,
    begun: Instant,
    /// CPU time of all machines before.
    before: Duration,
}

impl Running {
    /// Starts `guest`; the machine's files are in `dir`, its log, if it writes one, at `log`.
    pub(super) fn start(
        machine: Machine,
        guest: &Guest,
        dir: &Path,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let (control, words) = (dir.join("control.sock"), dir.join("stderr"));
        let stderr = std::fs::File::create(&words).context("a file for the machine's words")?;
        let mut command = machine.command(guest, &control, log)?;
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        die_with_parent(&mut command);
        let (begun, before) = (Instant::now(), cpu_time_of_the_dead()?);
        let mut child = tokio::process::Command::from(command)
            // Ctrl-C is for this process, which ends the others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", machine.name()))?;
        let serial = child.stdin.take().context("it is piped")?;
        Ok(Running {
            name: machine.name(),
            pid: child.id().context("it has ended already")?,
            keyboard: match machine {
                Machine::Soft => Keyboard::Control(control),
                Machine::Tcg | Machine::Icount => Keyboard::Serial(serial),
            },
            console: child.stdout.take().context("it is piped")?,
            child,
            said: Vec::new(),
            words,
            begun,
            before,
        })
    }

    /// Waits until the guest says `text`.
    ///
    /// # Errors
    ///
    /// If the machine ends before, or nothing comes for [`PATIENCE`].
    pub(super) async fn until(&mut self, text: &str) -> anyhow::Result<Moment> {
        let deadline = Deadline::now() + PATIENCE;
        loop {
            if let Some(at) = find(&self.said, text.as_bytes()) {
                self.said.drain(..at + text.len());
                return Ok(Moment {
                    wall: self.begun.elapsed(),
                    cpu: cpu_time_of(self.pid),
                });
            }
            let read = timeout_at(deadline, self.console.read_buf(&mut self.said)).await;
            match read {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => bail!("{} ended before {text:?}: {}", self.name, self.last_words()),
                Ok(Err(error)) => return Err(error).context("reading the console"),
                Err(_) => bail!(
                    "{} did not say {text:?} in {} s: {}",
                    self.name,
                    PATIENCE.as_secs(),
                    self.last_words()
                ),
            }
        }
    }

    /// Types at the guest's console.
    pub(super) async fn type_in(&mut self, text: &str) -> anyhow::Result<()> {
        match &mut self.keyboard {
            Keyboard::Serial(serial) => {
                serial.write_all(text.as_bytes()).await?;
                serial.flush().await?;
            }
            Keyboard::Control(path) => {
                let text = text.to_owned();
                let answer = request(path, &ControlRequest::Console { text }).await?;
                ensure!(
                    matches!(answer, ControlResponse::Done),
                    "the node answered {answer:?}"
                );
            }
        }
        Ok(())
    }

    /// The memory that the process has by now, of which `guest_mib` are the guest's RAM.
    pub(super) fn memory(&self, guest_mib: u32) -> anyhow::Result<Memory> {
        let read = |file: &str| {
            std::fs::read_to_string(format!("/proc/{}/{file}", self.pid))
                .with_context(|| format!("reading the process's {file}"))
        };
        let (status, mappings) = (read("status")?, read("smaps")?);
        let peak_kib = kib(&status, "VmHWM:").context("no peak is told")?;
        let guest_kib = resident_of_large(&mappings, u64::from(guest_mib) << 10);
        Ok(Memory {
            guest_mib,
            peak_mib: peak_kib as f64 / 1024.0,
            guest_resident_mib: guest_kib as f64 / 1024.0,
            beside_mib: peak_kib.saturating_sub(guest_kib) as f64 / 1024.0,
        })
    }

    /// Waits until the machine is off and its process has ended.
    ///
    /// # Errors
    ///
    /// If it ended with a failure, or not in [`PATIENCE`].
    pub(super) async fn ended(mut self) -> anyhow::Result<Moment> {
        let ending = async {
            self.console.read_to_end(&mut self.said).await?;
            self.child.wait().await
        };
        let status = timeout_at(Deadline::now() + PATIENCE, ending).await;
        let wall = self.begun.elapsed();
        let status = status.with_context(|| format!("{} does not end", self.name))??;
        ensure!(
            status.success(),
            "{} ended with {status}: {}",
            self.name,
            self.last_words()
        );
        Ok(Moment {
            wall,
            cpu: cpu_time_of_the_dead()?.saturating_sub(self.before),
        })
    }

    /// Kills the machine, and waits until it is gone.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// What machine and guest said last.
    fn last_words(&self) -> String {
        let words = std::fs::read(&self.words).unwrap_or_default();
        let last = |bytes: &[u8]| {
            let from = bytes.len().saturating_sub(LAST_WORDS);
            String::from_utf8_lossy(&bytes[from..]).into_owned()
        };
        format!("{}\n{}", last(&words), last(&self.said))
    }
}

/// The CPU time of all processes that were started here and have ended. One machine runs after the
/// other, so the difference is one machine's.
fn cpu_time_of_the_dead() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = |time: nix::sys::time::TimeVal| {
        Duration::new(time.tv_sec().cast_unsigned(), time.tv_usec() as u32 * 1000)
    };
    Ok(micros(usage.user_time()) + micros(usage.system_time()))
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

/// The number behind a name at the beginning of a line, as proc(5) has it.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// How much is resident of the mappings of at least `least_kib`: of all that a node maps, only the
/// guest's RAM is as large and in use.
fn resident_of_large(mappings: &str, least_kib: u64) -> u64 {
    let (mut large, mut sum) = (false, 0);
    for line in mappings.lines() {
        if let Some(size) = kib(line, "Size:") {
            large = size >= least_kib;
        } else if let Some(resident) = kib(line, "Rss:").filter(|_| large) {
            sum += resident;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_large_mappings_what_is_resident_is_summed() {
        let mappings = "\
7f00-7f01 rw-p 00000000 00:00 0
Size:             131072 kB
KernelPageSize:        4 kB
Rss:               70000 kB
Pss:               70000 kB
7f02-7f03 rw-p 00000000 00:00 0
Size:               2048 kB
Rss:                1000 kB
7f04-7f05 ---p 00000000 00:00 0
Size:             200000 kB
Rss:                   1 kB
";
        assert_eq!(resident_of_large(mappings, 128 << 10), 70_001);
        assert_eq!(resident_of_large(mappings, 1), 71_001);
        assert_eq!(
            kib("VmPeak:\t 1 kB\nVmHWM:\t  123 kB\n", "VmHWM:"),
            Some(123)
        );
        assert_eq!(kib("", "VmHWM:"), None);
    }

    #[test]
    fn a_text_is_found_wherever_it_stands() {
        assert_eq!(find(b"x\r\n/ # \x1b[6n", b"/ # "), Some(3));
        assert_eq!(find(b"/ #", b"/ # "), None);
    }
}
