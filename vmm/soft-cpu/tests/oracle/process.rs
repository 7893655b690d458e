//! A real process that is executed instruction by instruction, through ptrace and /proc.

use super::case::*;
use super::kernel::PAGE;
use super::native::spawn_traced;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};

/// A stopped process.
pub(crate) struct Process {
    child: Child,
    pid: Pid,
    memory: File,
}

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next instruction.
    Done,
    /// A signal, which the process has not taken yet.
    Signal(Signal),
    /// The end, with this exit status.
    Ended(i32),
}

/// A part of the address space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
}

fn failed(what: &str) -> impl FnOnce(Errno) -> io::Error {
    let what = what.to_owned();
    move |errno| io::Error::other(format!("{what}: {errno}"))
}

impl Process {
    /// Starts a program and stops it before its first instruction.
    pub(crate) fn start(
        program: &Path,
        arguments: &[String],
        output: Stdio,
    ) -> io::Result<Process> {
        let child = spawn_traced(program, arguments, output)?;
        let pid = Pid::from_raw(child.id() as i32);
        waitpid(pid, None).map_err(failed("waitpid"))?;
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))?;
        let process = Process { child, pid, memory };
        process.hide_vdso()?;
        Ok(process)
    }

    /// Makes libc use system calls for the time: the vDSO reads pages that nobody else can see.
    fn hide_vdso(&self) -> io::Result<()> {
        const AT_IGNORE: u64 = 1;
        const AT_SYSINFO_EHDR: u64 = 33;
        let mut at = self.state()?.general[4];
        // argc, argv, 0, envp, 0, then the auxiliary vector.
        at += 8 * (self.word(at)? + 2);
        while self.word(at)? != 0 {
            at += 8;
        }
        at += 8;
        while self.word(at)? != 0 {
            if self.word(at)? == AT_SYSINFO_EHDR {
                self.write(at, &AT_IGNORE.to_le_bytes())?;
            }
            at += 16;
        }
        Ok(())
    }

    fn word(&self, at: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads memory.
    pub(crate) fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.memory.read_exact_at(into, at)
    }

    /// Writes memory.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_all_at(bytes, at)
    }

    /// The page at `at`; `None` if it cannot be read.
    pub(crate) fn page(&self, at: u64) -> Option<[u8; PAGE as usize]> {
        let mut page = [0; PAGE as usize];
        self.read(at, &mut page).is_ok().then_some(page)
    }

    /// The part of the address space that `address` lies in.
    pub(crate) fn region(&self, address: u64) -> io::Result<Option<Region>> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        Ok(maps
            .lines()
            .filter_map(region)
            .find(|r| (r.start..r.end).contains(&address)))
    }

    /// All registers but the floating-point ones.
    pub(crate) fn integer_state(&self) -> io::Result<State> {
        let r = ptrace::getregs(self.pid).map_err(failed("PTRACE_GETREGS"))?;
        Ok(State {
            general: [
                r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11,
                r.r12, r.r13, r.r14, r.r15,
            ],
            rip: r.rip,
            rflags: r.eflags,
            selectors: [r.es, r.cs, r.ss, r.ds, r.fs, r.gs].map(|selector| selector as u16),
            fs_base: r.fs_base,
            gs_base: r.gs_base,
            fx: Fx([0; 512]),
        })
    }

    /// All registers.
    pub(crate) fn state(&self) -> io::Result<State> {
        let mut state = self.integer_state()?;
        let f = ptrace::getregset::<ptrace::regset::NT_PRFPREG>(self.pid)
            .map_err(failed("PTRACE_GETREGSET"))?;
        let fx = &mut state.fx;
        fx.0[..2].copy_from_slice(&f.cwd.to_le_bytes());
        fx.0[2..4].copy_from_slice(&f.swd.to_le_bytes());
        fx.0[4..6].copy_from_slice(&f.ftw.to_le_bytes());
        fx.0[24..28].copy_from_slice(&f.mxcsr.to_le_bytes());
        let words = f.st_space.iter().chain(&f.xmm_space);
        for (to, word) in fx.0[32..FX_USED].chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        Ok(state)
    }

    /// Sets the general registers, RIP and the flags.
    pub(crate) fn set(&self, state: &State) -> io::Result<()> {
        let mut r = ptrace::getregs(self.pid).map_err(failed("PTRACE_GETREGS"))?;
        let registers = [
            &mut r.rax, &mut r.rcx, &mut r.rdx, &mut r.rbx, &mut r.rsp, &mut r.rbp, &mut r.rsi,
            &mut r.rdi, &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13,
            &mut r.r14, &mut r.r15,
        ];
        for (register, value) in registers.into_iter().zip(state.general) {
            *register = value;
        }
        r.rip = state.rip;
        r.eflags = state.rflags;
        ptrace::setregs(self.pid, r).map_err(failed("PTRACE_SETREGS"))
    }

    /// Sets the x87 status word, the x87 registers and the XMM registers.
    pub(crate) fn set_floating(&self, fx: &Fx) -> io::Result<()> {
        let mut f = ptrace::getregset::<ptrace::regset::NT_PRFPREG>(self.pid)
            .map_err(failed("PTRACE_GETREGSET"))?;
        f.swd = u16::from_le_bytes([fx.0[2], fx.0[3]]);
        let words = f.st_space.iter_mut().chain(&mut f.xmm_space);
        for (word, from) in words.zip(fx.0[32..FX_USED].as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*from);
        }
        ptrace::setregset::<ptrace::regset::NT_PRFPREG>(self.pid, f)
            .map_err(failed("PTRACE_SETREGSET"))
    }

    /// Executes one instruction, or one iteration of it.
    pub(crate) fn step(&mut self) -> io::Result<Step> {
        ptrace::step(self.pid, None).map_err(failed("PTRACE_SINGLESTEP"))?;
        match waitpid(self.pid, None).map_err(failed("waitpid"))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(Step::Done),
            WaitStatus::Stopped(_, signal) | WaitStatus::Signaled(_, signal, _) => {
                Ok(Step::Signal(signal))
            }
            WaitStatus::Exited(_, status) => Ok(Step::Ended(status)),
            other => Err(io::Error::other(format!("an unexpected stop: {other:?}"))),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of /proc/PID/maps.
fn region(line: &str) -> Option<Region> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let rights = rest.as_bytes();
    Some(Region {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        readable: rights[0] == b'r',
        writable: rights[1] == b'w',
        executable: rights[2] == b'x',
    })
}
