//! Running QEMU to its end, and what its serial console says.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use guest_images::linux::Image;
use vmm::sys::child::die_with_parent;

/// The program.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// A console that says nothing for this long, by this machine's clock, is dead.
const SILENCE: Duration = Duration::from_secs(900);

/// How many of the last lines are shown of a run that did not end well.
pub(super) const TAIL_LINES: usize = 60;

/// A child process that is gone when this is.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether QEMU is here.
///
/// # Errors
///
/// That it is not, and how to get it.
pub(super) fn find() -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file());
    match found {
        true => Ok(()),
        false => Err(format!(
            "there is no {PROGRAM}: `apt-get install --no-install-recommends qemu-system-x86`"
        )),
    }
}

/// How long an instruction of the emulated processor takes, in nanoseconds, as a power of two: 16 ns.
/// Its clock counts instructions and skips what is idle, so that its timeouts (heartbeats,
/// elections, a client's patience) mean the same however little of this machine it gets. With a
/// clock of this machine, a busy one starves everything in there to beyond all patience.
const CLOCK: &str = "shift=4,sleep=off";

/// Boots `image` with `initrd` on an emulated AMD processor with nested paging, and returns the
/// lines of its console when it has powered off.
pub(super) fn run(image: &Image, initrd: &Path) -> Vec<String> {
    let [log, warnings] = ["hardware-kvm-console.txt", "hardware-kvm-qemu.txt"]
        .map(|name| Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
    let create = |path| File::create(path).expect("room in the target directory");
    let mut log_file = create(&log);
    let mut command = Command::new(PROGRAM);
    command
        .args(["-accel", "tcg,thread=single", "-icount", CLOCK])
        // One processor: with two, and such a clock, the kernel was not seen to get past starting the
        // second one.
        .args(["-cpu", "EPYC,+svm,+npt", "-smp", "1"])
        .args(["-m", &image.manifest.memory_mib.to_string()])
        .args(["-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &image.manifest.command_line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // A page of features that it does not emulate, if all is well.
        .stderr(create(&warnings));
    die_with_parent(&mut command);
    let mut child = Killed(command.spawn().expect("QEMU starts"));
    let mut console = BufReader::new(child.0.stdout.take().expect("piped"));
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if sender.send(text).is_err() {
                return;
            }
        }
    });
    let mut seen = Vec::new();
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                writeln!(log_file, "{line}").expect("room in the target directory");
                seen.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                panic!("QEMU hangs; {} ends with\n{}", log.display(), tail(&seen))
            }
        }
    }
    let status = child.0.wait().expect("our child");
    let said = || std::fs::read_to_string(&warnings).unwrap_or_default();
    assert!(
        status.success(),
        "QEMU: {status}\n{}\n{}",
        said(),
        tail(&seen)
    );
    seen
}

/// The last lines, none of them endless.
pub(super) fn tail(lines: &[String]) -> String {
    let shown = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    let cut = |line: &String| line.chars().take(200).collect::<String>();
    shown.iter().map(cut).collect::<Vec<_>>().join("\n")
}
