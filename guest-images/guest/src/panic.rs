//! The two ways in which a guest can go wrong. Both say so and stop the machine.

use crate::{power, println};
use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    println!("PANIC {info}");
    power::reset()
}

/// Entered from the nucleus after a fault, on a fresh stack.
#[unsafe(no_mangle)]
extern "C" fn guest_fault(vector: u64, error_code: u64, rip: u64, cr2: u64, rsp: u64) -> ! {
    println!(
        "FAULT {vector} error code {error_code:#x} at rip {rip:#x}, cr2 {cr2:#x}, rsp {rsp:#x}"
    );
    power::reset()
}

/// `alloc` comes compiled for unwinding and names this. Panics here do not unwind.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    power::reset()
}
