//! The two 8259 interrupt controllers: line *n* becomes vector 0x20 + *n*.

use crate::nucleus::out8;

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xA0;
/// Edge/level control: one bit a line, 1 = level.
const ELCR: u16 = 0x4D0;

/// Vectors begin behind the CPU's own; the interrupt table knows this.
const FIRST_VECTOR: u8 = 0x20;
/// Lines of the virtio slots that guests use: 5 (net) and 6 (rng).
const LEVEL_LINES: u8 = 1 << 5 | 1 << 6;

/// Initializes both controllers with all lines masked.
pub(crate) fn init() {
    const INIT_WITH_ICW4: u8 = 0x11;
    const MODE_8086: u8 = 0x01;
    for (base, first_vector, cascade) in
        [(MASTER, FIRST_VECTOR, 1 << 2), (SLAVE, FIRST_VECTOR + 8, 2)]
    {
        out8(base, INIT_WITH_ICW4);
        out8(base + 1, first_vector);
        out8(base + 1, cascade);
        out8(base + 1, MODE_8086);
        out8(base + 1, 0xFF);
    }
    out8(ELCR, LEVEL_LINES);
}

/// Lets these lines of the master interrupt, one bit each, and no others.
pub fn enable(lines: u8) {
    out8(MASTER + 1, !lines);
}
