//! The real CPU: runs a case in a child process and says what became of it.
//!
//! The child is a fork whose only code is one signal handler. Every case ends in a signal: the
//! instruction faults, or it completes and the `int3` that fills the rest of the code pages traps.
//! The handler writes down the interrupted state, puts the next case's state into the signal frame
//! and returns, so that `rt_sigreturn` loads all registers at once:
//!
//! ```text
//!   parent                    child
//!   new()        ◄─pipe───    handler: waits for the first cases
//!   start(cases) ──pipe──►    handler: frame := case 0 ──sigreturn──► instruction
//!   (runs soft meanwhile)     handler: outcome 0 := frame; frame := case 1 ──► ...
//!   finish()     ◄─pipe───    handler: last outcome written
//! ```
//!
//! A fork keeps the parent's signal handlers, address space and other threads out of it, so any
//! number of these may run at once. The child allocates nothing, takes no lock and uses no
//! thread-local storage (the cases have FS for themselves).
//!
//! The one file of the tests with unsafe code. Memory is shared by `mmap`; code is mapped twice, so
//! that no page is writable and executable at once.

#![allow(unsafe_code)]

use super::case::*;
use std::arch::{asm, naked_asm};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// Cases that go to the child at once.
pub(crate) const BATCH: usize = 64;

/// How long a batch may take before the child counts as hung: 64 instructions take a millisecond,
/// so this says something about the case and nothing about the machine's load.
const HANG_MS: i32 = 120_000;

#[repr(C)]
struct Shared {
    count: AtomicUsize,
    done: AtomicUsize,
    cases: [Case; BATCH],
    outcomes: [Outcome; BATCH],
}

/// A child process that executes cases on the CPU that runs this test.
pub(crate) struct Native {
    pid: libc::pid_t,
    requests: OwnedFd,
    replies: OwnedFd,
    shared: *mut Shared,
    under_way: usize,
}

/// In the child: the shared memory, and the writable view of the code pages.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static CODE_VIEW: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

fn last_error(what: &str) -> io::Error {
    let error = io::Error::last_os_error();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors; they are owned by nobody else.
    unsafe {
        if libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(last_error("pipe"));
        }
        Ok((OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])))
    }
}

impl Native {
    /// Starts the child.
    pub(crate) fn new() -> io::Result<Native> {
        let (requests_in, requests) = pipe()?;
        let (replies, replies_out) = pipe()?;
        // SAFETY: a new anonymous mapping; zero bytes are a valid `Shared` (integers only).
        let shared = unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if at == libc::MAP_FAILED {
                return Err(last_error("mmap"));
            }
            at.cast::<Shared>()
        };
        // SAFETY: the child calls only functions that are async-signal-safe, and never returns.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => Err(last_error("fork")),
            // SAFETY: this is the child, and `shared` is mapped in it.
            0 => unsafe { child(shared, requests_in.as_raw_fd(), replies_out.as_raw_fd()) },
            _ => {
                let mut native = Native {
                    pid,
                    requests,
                    replies,
                    shared,
                    under_way: 0,
                };
                drop(replies_out);
                // Until the child waits for requests, none may be in the mapping: its handler takes
                // its first entry for the end of a case otherwise.
                native.reply()?;
                Ok(native)
            }
        }
    }

    /// Hands `cases` to the child, which executes them while the caller does something else.
    pub(crate) fn start(&mut self, cases: &[Case]) -> io::Result<()> {
        assert!(self.under_way == 0 && !cases.is_empty() && cases.len() <= BATCH);
        // SAFETY: the child reads and writes the mapping only between a request and its reply, and
        // none is under way; the length was checked.
        unsafe {
            let to = (&raw mut (*self.shared).cases).cast::<Case>();
            std::ptr::copy_nonoverlapping(cases.as_ptr(), to, cases.len());
            (*self.shared).done.store(0, Ordering::SeqCst);
            (*self.shared).count.store(cases.len(), Ordering::SeqCst);
        }
        self.under_way = cases.len();
        nix::unistd::write(&self.requests, &[1])?;
        Ok(())
    }

    /// Waits for the child to come to its next request. An error says how it died, or that it hangs,
    /// and in which case.
    fn reply(&mut self) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.replies.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let ready = loop {
            // SAFETY: one valid pollfd.
            let ready = unsafe { libc::poll(&mut poll, 1, HANG_MS) };
            if ready != -1 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                break ready;
            }
        };
        let mut byte = [0];
        if ready == 1 && nix::unistd::read(&self.replies, &mut byte)? == 1 {
            return Ok(());
        }
        // SAFETY: an atomic in the mapping.
        let done = unsafe { (*self.shared).done.load(Ordering::SeqCst) };
        let why = if ready == 1 {
            self.end()
        } else {
            "hangs".to_owned()
        };
        Err(io::Error::other(format!(
            "the native child {why} in case {done} of {}",
            self.under_way
        )))
    }

    /// Waits for the outcomes of what [`Native::start`] began. An error names the case at which
    /// the child died or hung.
    pub(crate) fn finish(&mut self) -> io::Result<Vec<Outcome>> {
        self.reply()?;
        let count = std::mem::take(&mut self.under_way);
        // SAFETY: the child has replied and waits for the next request; `count` of them are written.
        let outcomes = unsafe {
            let from = (&raw const (*self.shared).outcomes).cast::<Outcome>();
            std::slice::from_raw_parts(from, count)
        };
        Ok(outcomes.to_vec())
    }
}

impl Native {
    /// How the child ended, which has closed its pipe. It remains to be waited for.
    fn end(&self) -> String {
        // SAFETY: zero bytes are a valid `siginfo_t`; the child is ours.
        let info = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOWAIT;
            libc::waitid(libc::P_PID, self.pid as libc::id_t, &mut info, options);
            (info.si_code, info.si_status())
        };
        match info {
            (libc::CLD_EXITED, status) => format!("exited with {status}"),
            (_, signal) => format!("was killed by signal {signal}"),
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the child is ours and has not been waited for; the mapping ends with `self`.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
            libc::munmap(self.shared.cast(), size_of::<Shared>());
        }
    }
}

/// Starts a program that stops at its first instruction, for its parent to trace. Its address space
/// is not randomised, its standard output is `output`, and of the environment it gets what keeps
/// glibc from sharing memory with the kernel's scheduler (`rseq`), whose writes come at any time.
///
/// # Errors
///
/// The program cannot be executed.
pub(crate) fn spawn_traced(
    program: &Path,
    arguments: &[String],
    output: Stdio,
) -> io::Result<Child> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
        .stdin(Stdio::null())
        .stdout(output);
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(|| {
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    command.spawn()
}

/// A system call by hand: no `errno`, which would be thread-local.
///
/// # Safety
/// As for the system call itself.
unsafe fn syscall3(number: libc::c_long, a: u64, b: u64, c: u64) -> i64 {
    let result;
    // SAFETY: the registers that the kernel changes are named; the rest is the caller's promise.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
             lateout("rcx") _, lateout("r11") _);
    }
    result
}

/// Maps `length` bytes at exactly `address`, or ends the child.
///
/// # Safety
/// Only in the child.
unsafe fn map_at(address: u64, length: usize, protection: i32, fd: i32) {
    let kind = if fd < 0 {
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS
    } else {
        libc::MAP_SHARED
    };
    let flags = kind | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: NOREPLACE does not touch what is mapped already.
    let at = unsafe { libc::mmap(address as *mut _, length, protection, flags, fd, 0) };
    if at as u64 != address {
        // SAFETY: ends the process.
        unsafe { libc::_exit(10) };
    }
}

/// What the child does: it sets up memory and signals and traps into the handler, for ever.
///
/// # Safety
/// Only in a fresh fork.
unsafe fn child(shared: *mut Shared, requests: i32, replies: i32) -> ! {
    // SAFETY: async-signal-safe calls in a process of one thread; the addresses are the cases' own.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::dup2(requests, 0);
        libc::dup2(replies, 1);
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
        SHARED.store(shared, Ordering::SeqCst);
        FSGSBASE.store(libc::getauxval(libc::AT_HWCAP2) & 2 != 0, Ordering::SeqCst);

        let code = libc::memfd_create(c"code".as_ptr(), 0);
        libc::ftruncate(code, CODE_BYTES as i64);
        let write = libc::PROT_READ | libc::PROT_WRITE;
        let view = libc::mmap(
            std::ptr::null_mut(),
            CODE_BYTES,
            write,
            libc::MAP_SHARED,
            code,
            0,
        );
        if view == libc::MAP_FAILED {
            libc::_exit(11);
        }
        std::ptr::write_bytes(view.cast::<u8>(), INT3, CODE_BYTES);
        CODE_VIEW.store(view.cast(), Ordering::SeqCst);
        map_at(CODE, CODE_BYTES, libc::PROT_READ | libc::PROT_EXEC, code);
        map_at(DATA, DATA_BYTES, write, -1);
        map_at(READ_ONLY, READ_ONLY_BYTES, write, -1);
        std::ptr::copy_nonoverlapping(
            READ_ONLY_IMAGE.as_ptr(),
            READ_ONLY as *mut u8,
            READ_ONLY_BYTES,
        );
        libc::mprotect(READ_ONLY as *mut _, READ_ONLY_BYTES, libc::PROT_READ);

        const STACK: usize = 256 << 10;
        let stack = libc::mmap(
            std::ptr::null_mut(),
            STACK,
            write,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        let alternate = libc::stack_t {
            ss_sp: stack,
            ss_flags: 0,
            ss_size: STACK,
        };
        if stack == libc::MAP_FAILED || libc::sigaltstack(&alternate, std::ptr::null_mut()) != 0 {
            libc::_exit(12);
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler_entry as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        for signal in [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
            libc::SIGTRAP,
        ] {
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        asm!("int3");
        libc::_exit(13)
    }
}

/// Takes the flags out that would disturb compiled code (AC, NT, DF, TF) or outlive `rt_sigreturn`
/// (NT, ID), and goes on in Rust.
#[unsafe(naked)]
extern "C" fn handler_entry() {
    naked_asm!(
        "pushfq",
        "and qword ptr [rsp], {keep}",
        "popfq",
        "jmp {handler}",
        keep = const !(flags::AC | flags::NT | flags::DF | flags::TF | flags::ID) as i32,
        handler = sym handler,
    )
}

/// The index of a register in `mcontext_t::gregs`, by the register's encoding.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Where the XSAVE header's `XSTATE_BV` lies in the signal frame's floating-point state.
const XSTATE_BV: usize = 512;

/// The signal handler: ends one case and begins the next.
///
/// # Safety
/// Called by the kernel in the child.
unsafe extern "C" fn handler(_: i32, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the child alone uses the mapping between request and reply; the kernel's frame is
    // valid for the handler's duration; bounds are checked by the index into the arrays.
    unsafe {
        let shared = SHARED.load(Ordering::Relaxed);
        let code = CODE_VIEW.load(Ordering::Relaxed);
        let mut done = (*shared).done.load(Ordering::Relaxed);
        let count = (*shared).count.load(Ordering::Relaxed);
        if count > 0 {
            let case = &(*shared).cases[done];
            leave(&mut (*shared).outcomes[done], &*context);
            std::ptr::write_bytes(
                code.add(case.code_at as usize),
                INT3,
                case.code_len as usize,
            );
            done += 1;
            (*shared).done.store(done, Ordering::SeqCst);
        }
        if done == count {
            let mut byte = 1u8;
            let at = &raw mut byte as u64;
            if syscall3(libc::SYS_write, 1, at, 1) != 1 {
                syscall3(libc::SYS_exit_group, 14, 0, 0);
            }
            if syscall3(libc::SYS_read, 0, at, 1) != 1 {
                syscall3(libc::SYS_exit_group, 0, 0, 0);
            }
            done = 0;
        }
        let case = &(*shared).cases[done];
        std::ptr::copy_nonoverlapping(
            case.code.as_ptr(),
            code.add(case.code_at as usize),
            case.code_len as usize,
        );
        enter(case, &mut *context);
    }
}

/// Puts a case's state into the frame, its memory where it belongs and its segments into registers.
///
/// # Safety
/// Only in the handler, with its frame.
unsafe fn enter(case: &Case, context: &mut libc::ucontext_t) {
    let state = &case.state;
    let gregs = &mut context.uc_mcontext.gregs;
    for (at, value) in GREGS.iter().zip(state.general) {
        gregs[*at as usize] = value as i64;
    }
    gregs[libc::REG_RIP as usize] = state.rip as i64;
    gregs[libc::REG_EFL as usize] = state.rflags as i64;
    let [es, cs, ss, ds, fs, gs] = state.selectors;
    gregs[libc::REG_CSGSFS as usize] = i64::from(cs) | i64::from(ss) << 48;
    // SAFETY: the frame holds an XSAVE image, whose header follows the 512 bytes; selectors and
    // bases are the case's, and compiled code needs none of them.
    unsafe {
        let fx = context.uc_mcontext.fpregs.cast::<u8>();
        let mask = fx.add(28).cast::<u32>().read();
        std::ptr::copy_nonoverlapping(state.fx.0.as_ptr(), fx, FX_USED);
        fx.add(28).cast::<u32>().write(mask);
        *fx.add(XSTATE_BV).cast::<u64>() |= 3;
        std::ptr::copy_nonoverlapping(case.data.as_ptr(), DATA as *mut u8, DATA_BYTES);
        asm!("mov es, {0:x}", "mov ds, {1:x}", "mov fs, {2:x}", "mov gs, {3:x}",
             in(reg) es, in(reg) ds, in(reg) fs, in(reg) gs);
        set_bases(state.fs_base, state.gs_base);
    }
}

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

/// Whether user programs may use RDFSBASE and the like: bit 1 of AT_HWCAP2.
static FSGSBASE: AtomicBool = AtomicBool::new(false);

/// Loads the bases of FS and GS.
///
/// # Safety
/// Only in the handler.
unsafe fn set_bases(fs: u64, gs: u64) {
    // SAFETY: compiled code here uses neither segment.
    unsafe {
        if FSGSBASE.load(Ordering::Relaxed) {
            asm!("wrfsbase {}", "wrgsbase {}", in(reg) fs, in(reg) gs);
        } else {
            syscall3(libc::SYS_arch_prctl, ARCH_SET_FS, fs, 0);
            syscall3(libc::SYS_arch_prctl, ARCH_SET_GS, gs, 0);
        }
    }
}

/// Reads the bases of FS and GS.
///
/// # Safety
/// Only in the handler.
unsafe fn bases() -> (u64, u64) {
    let (mut fs, mut gs) = (0u64, 0u64);
    // SAFETY: reads only.
    unsafe {
        if FSGSBASE.load(Ordering::Relaxed) {
            asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs);
        } else {
            syscall3(libc::SYS_arch_prctl, ARCH_GET_FS, &raw mut fs as u64, 0);
            syscall3(libc::SYS_arch_prctl, ARCH_GET_GS, &raw mut gs as u64, 0);
        }
    }
    (fs, gs)
}

/// Writes down what the frame, memory and segment registers say.
///
/// # Safety
/// Only in the handler, with its frame.
unsafe fn leave(outcome: &mut Outcome, context: &libc::ucontext_t) {
    let gregs = &context.uc_mcontext.gregs;
    let state = &mut outcome.state;
    for (at, value) in GREGS.iter().zip(&mut state.general) {
        *value = gregs[*at as usize] as u64;
    }
    state.rip = gregs[libc::REG_RIP as usize] as u64;
    state.rflags = gregs[libc::REG_EFL as usize] as u64;
    let (es, ds, fs, gs): (u16, u16, u16, u16);
    // SAFETY: reads segment registers, and the parts of the frame and of memory that `enter` wrote.
    unsafe {
        asm!("mov {0:x}, es", "mov {1:x}, ds", "mov {2:x}, fs", "mov {3:x}, gs",
             out(reg) es, out(reg) ds, out(reg) fs, out(reg) gs);
        (state.fs_base, state.gs_base) = bases();
        let fx = context.uc_mcontext.fpregs.cast::<u8>();
        std::ptr::copy_nonoverlapping(fx, state.fx.0.as_mut_ptr(), FX_USED);
        std::ptr::copy_nonoverlapping(DATA as *const u8, outcome.data.as_mut_ptr(), DATA_BYTES);
    }
    let word = gregs[libc::REG_CSGSFS as usize] as u64;
    state.selectors = [es, word as u16, (word >> 48) as u16, ds, fs, gs];
    outcome.vector = gregs[libc::REG_TRAPNO as usize] as u32;
    outcome.error = gregs[libc::REG_ERR as usize] as u64;
    outcome.cr2 = gregs[libc::REG_CR2 as usize] as u64;
}
