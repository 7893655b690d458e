//! The machines that are measured, and the command lines that start them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

const QEMU: &str = "qemu-system-x86_64";
const BOCHS: &str = "bochs";

/// A machine that runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    /// This program's, on the software CPU.
    Soft,
    /// QEMU's, with its translator.
    Tcg,
    /// The same, which counts instructions, as its record and replay need it.
    Icount,
}

/// What runs on a machine.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// What `--guest` calls it.
    pub(super) name: &'static str,
    pub(super) kernel: PathBuf,
    pub(super) initrd: Option<PathBuf>,
    /// All of it, where QEMU boots it; what is of the benchmark's own, where ftvm does.
    pub(super) command_line: String,
    pub(super) memory_mib: u32,
}

impl Machine {
    /// What it is called in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Machine::Soft => "ftvm, recorded",
            Machine::Tcg => "QEMU TCG",
            Machine::Icount => "QEMU TCG -icount",
        }
    }

    /// What starts it with its console at standard output. `control` and `log` are what the
    /// software CPU's node makes.
    pub(super) fn command(
        self,
        guest: &Guest,
        control: &Path,
        log: &Path,
    ) -> anyhow::Result<Command> {
        match self {
            Machine::Soft => node(guest, control, log),
            Machine::Tcg => Ok(qemu(guest, &[])),
            // A count is 2 ns of the guest's time, as the images are tested.
            Machine::Icount => Ok(qemu(guest, &["-icount", "shift=1"])),
        }
    }
}

fn node(guest: &Guest, control: &Path, log: &Path) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("finding the ftvm program itself")?;
    let mut command = Command::new(program);
    command
        .args(["run", "--alone", "--cpu", "soft", "--name", "bench-cpu"])
        .args(["--listen", "127.0.0.1:0", "--console", "-"])
        .args(["--guest", guest.name])
        .args(["--memory", &guest.memory_mib.to_string()])
        .arg("--control")
        .arg(control)
        .arg("--log")
        .arg(log);
    if guest.initrd.is_none() {
        // A built image brings its own.
        command.args(["--append", &guest.command_line]);
    }
    Ok(command)
}

/// QEMU's PC. Its microvm is closer to this project's machine, but has no clock that Linux could
/// calibrate by unless instructions are counted, and then does not boot on a busy host.
fn qemu(guest: &Guest, more: &[&str]) -> Command {
    let mut command = Command::new(QEMU);
    command
        .args(["-M", "pc", "-accel", "tcg", "-cpu", "qemu64"])
        .args(more)
        .args(["-no-reboot", "-nodefaults", "-no-user-config"])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-m", &guest.memory_mib.to_string()])
        .args(["-append", &guest.command_line])
        .arg("-kernel")
        .arg(&guest.kernel);
    if let Some(initrd) = &guest.initrd {
        command.arg("-initrd").arg(initrd);
    }
    command
}

/// Whether there is QEMU.
///
/// # Errors
///
/// Why not, for people.
pub(super) fn look_for_qemu() -> Result<(), String> {
    match Command::new(QEMU).arg("--version").output() {
        Ok(version) if version.status.success() => Ok(()),
        Ok(version) => Err(format!("{QEMU} --version ends with {}", version.status)),
        Err(error) => Err(format!("{QEMU} cannot be started: {error}")),
    }
}

/// Why Bochs is not among the machines.
pub(super) fn why_no_bochs() -> &'static str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|dir| dir.join(BOCHS).is_file()) {
        "it boots a disk with a boot loader, and no kernel with its initial RAM disk"
    } else {
        "it is not installed"
    }
}
