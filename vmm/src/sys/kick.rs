//! Getting a vCPU thread out of `KVM_RUN`.
//!
//! A signal alone is not enough: one that arrives just before `KVM_RUN` would be lost. The handler
//! therefore sets `immediate_exit` in the thread's `kvm_run`, which makes the next `KVM_RUN` return
//! at once (Linux `Documentation/virt/kvm/api.rst`, section 5).

use std::cell::Cell;
use std::sync::Once;
use std::time::Duration;
use std::{io, mem, ptr};

use kvm_bindings::kvm_run;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    /// The `kvm_run` of the vCPU that this thread runs; null while it runs none.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: `while_armed` sets the pointer to a live `kvm_run` and resets it before the
        // borrow ends, on this same thread. The kernel reads the byte concurrently by design, so
        // the store is volatile.
        unsafe { ptr::addr_of_mut!((*run).immediate_exit).write_volatile(1) };
    }
}

/// Runs `f` with the calling thread's kicks directed at `run`.
pub(super) fn while_armed<T>(run: *mut kvm_run, f: impl FnOnce() -> T) -> T {
    RUN.set(run);
    let result = f();
    RUN.set(ptr::null_mut());
    result
}

/// A handle to kick the thread that made it.
#[derive(Clone, Copy, Debug)]
pub struct Kicker {
    thread: libc::pid_t,
}

fn install_handler() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    let mut result = Ok(());
    INSTALL.call_once(|| result = register_signal_handler(SIGRTMIN(), on_kick));
    Ok(result?)
}

impl Kicker {
    /// A handle to the calling thread.
    ///
    /// # Errors
    ///
    /// If the signal handler cannot be installed.
    pub fn for_this_thread() -> io::Result<Self> {
        install_handler()?;
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        Ok(Kicker { thread })
    }

    /// Makes the thread's `KVM_RUN` return, now or at once when it is entered. Does nothing if the
    /// thread has ended.
    pub fn kick(self) {
        // SAFETY: tgkill takes any numbers; a stale thread id gives ESRCH, since the process
        // group id is our own.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread, SIGRTMIN());
        }
    }
}

/// Kicks a thread again and again, until it is dropped.
#[derive(Debug)]
pub struct Ticker {
    timer: libc::timer_t,
}

// SAFETY: a timer's id belongs to the process, not to a thread.
unsafe impl Send for Ticker {}

impl Ticker {
    /// Kicks the calling thread once in every `period`.
    ///
    /// # Errors
    ///
    /// If the signal handler cannot be installed, or the kernel has no more timers.
    pub fn for_this_thread(period: Duration) -> io::Result<Self> {
        let thread = Kicker::for_this_thread()?.thread;
        // SAFETY: all zeros is a `sigevent`.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGRTMIN();
        event.sigev_notify_thread_id = thread;
        let mut timer = ptr::null_mut();
        // SAFETY: the event and the place for the id live through the call.
        let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        let ticker = Ticker { timer };
        let period = libc::timespec {
            tv_sec: period.as_secs() as libc::time_t,
            tv_nsec: period.subsec_nanos().into(),
        };
        let times = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: the timer is this one's, and the times live through the call.
        match unsafe { libc::timer_settime(timer, 0, &times, ptr::null_mut()) } {
            0 => Ok(ticker),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // SAFETY: the timer is this one's, and nobody uses it afterwards.
        unsafe { libc::timer_delete(self.timer) };
    }
}
