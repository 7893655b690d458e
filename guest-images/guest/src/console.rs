//! The serial console: COM1, a 16550.

use crate::nucleus::{self, in8, out8};
use core::fmt;

const DATA: u16 = 0x3F8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_CONTROL: u16 = DATA + 3;
const MODEM_CONTROL: u16 = DATA + 4;
const LINE_STATUS: u16 = DATA + 5;

/// Interrupt line of COM1.
pub const LINE: u8 = 4;

/// 115,200 baud, 8 data bits, no parity, one stop bit, FIFOs on.
pub(crate) fn init() {
    const DIVISOR_LATCH: u8 = 0x80;
    const EIGHT_BITS: u8 = 0x03;
    out8(INTERRUPT_ENABLE, 0);
    out8(LINE_CONTROL, DIVISOR_LATCH);
    out8(DATA, 1);
    out8(INTERRUPT_ENABLE, 0);
    out8(LINE_CONTROL, EIGHT_BITS);
    out8(FIFO_CONTROL, 0x07); // on, both cleared, trigger at one byte
    out8(MODEM_CONTROL, 0x0B); // DTR, RTS, OUT2: interrupts reach the line
}

/// Lets the UART interrupt when a byte has come in.
pub fn interrupt_on_input() {
    out8(INTERRUPT_ENABLE, 0x01);
}

/// Takes a byte that has come in, if there is one.
pub fn read() -> Option<u8> {
    const DATA_READY: u8 = 0x01;
    (in8(LINE_STATUS) & DATA_READY != 0).then(|| in8(DATA))
}

/// Writes to the console, for `write!` and [`println!`](crate::println).
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        nucleus::console_write(text.as_bytes());
        Ok(())
    }
}

/// Prints a line on the serial console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => {{
        use ::core::fmt::Write as _;
        // The console takes everything: it has no error to give.
        let _ = ::core::writeln!($crate::console::Console, $($argument)*);
    }};
}
