//! Getting a vCPU thread out of `KVM_RUN`.
//!
//! A signal alone is not enough: one that arrives just before `KVM_RUN` would be lost. The handler
//! therefore sets `immediate_exit` in the thread's `kvm_run`, which makes the next `KVM_RUN` return
//! at once (Linux `Documentation/virt/kvm/api.rst`, section 5).

use std::cell::Cell;
use std::sync::Once;
use std::{io, ptr};

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

impl Kicker {
    /// A handle to the calling thread.
    ///
    /// # Errors
    ///
    /// If the signal handler cannot be installed.
    pub fn for_this_thread() -> io::Result<Self> {
        static INSTALL: Once = Once::new();
        let mut result = Ok(());
        INSTALL.call_once(|| result = register_signal_handler(SIGRTMIN(), on_kick));
        result?;
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
