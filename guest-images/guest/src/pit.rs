//! Channel 0 of the 8254 interval timer, on interrupt line 0.

use crate::nucleus::{in8, out8};

/// Its frequency.
pub const TICKS_PER_SECOND: u64 = 1_193_182;
/// The most ticks that one shot can last: 54.9 ms.
pub const MAX_TICKS: u32 = 65_536;
/// Interrupt line of channel 0.
pub const LINE: u8 = 0;

const CHANNEL_0: u16 = 0x40;
const COMMAND: u16 = 0x43;

/// Mode 0: each count written makes one interrupt when it has run out. The
/// count is written by `nucleus::wait`, without a command before it.
pub fn one_shot_mode() {
    out8(COMMAND, 0x30);
}

/// Mode 2: an interrupt every `ticks` (2 to 65,536).
pub fn periodic(ticks: u32) {
    out8(COMMAND, 0x34);
    let [low, high, ..] = ticks.to_le_bytes();
    out8(CHANNEL_0, low);
    out8(CHANNEL_0, high);
}

/// Latches and reads the count.
pub fn count() -> u16 {
    out8(COMMAND, 0x00);
    let low = in8(CHANNEL_0);
    u16::from_le_bytes([low, in8(CHANNEL_0)])
}
