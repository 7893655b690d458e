//! How a guest ends its machine.

use crate::nucleus::{self, out8, out16};

/// Switches the machine off: ACPI's S5 through the PM1a control block.
pub fn off() -> ! {
    const PM1A_CONTROL: u16 = 0x604;
    const SLEEP_ENABLE: u16 = 1 << 13;
    const S5: u16 = 5 << 10;
    out16(PM1A_CONTROL, SLEEP_ENABLE | S5);
    // A machine without this block is ended by a reset.
    reset()
}

/// Resets the machine, by the keyboard controller and by the reset register.
pub fn reset() -> ! {
    const KEYBOARD_CONTROLLER: u16 = 0x64;
    const RESET_REGISTER: u16 = 0xCF9;
    out8(KEYBOARD_CONTROLLER, 0xFE);
    out8(RESET_REGISTER, 0x06);
    loop {
        nucleus::wait(nucleus::Before::default());
    }
}
