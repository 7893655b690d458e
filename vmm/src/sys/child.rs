//! Child processes that do not outlive their parent.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

/// Makes the kernel kill what `command` starts when the calling thread ends, however it ends
/// (prctl(2), `PR_SET_PDEATHSIG`). Call it, and spawn, on a thread that lives as long as the
/// program.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let tie = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the kernel knew.
        if getppid().as_raw().cast_unsigned() != parent {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(tie) };
}
