//! The 8259A pair and its edge/level control registers.
//!
//! Follows Intel's 8259A data sheet (order 231468-003): initialization command
//! words, operation command words 1 to 3, fully nested and special fully nested
//! mode, both rotations, special mask mode, automatic end of interrupt and the
//! poll command; and the ELCR at `0x4D0`/`0x4D1` as in Intel's PIIX (290562-001,
//! section 4.2.9), which takes the place of ICW1's `LTIM`.
//!
//! ```text
//!  IRQ 8..15 ──► slave ──INT──► input 2 ┐
//!  IRQ 0,1,3..7 ────────────────────────┴► master ──► interrupt_pending()
//! ```
//!
//! Where a choice was to be made:
//! - A request on an *edge* input stays latched until it is acknowledged, even if
//!   the line falls first. (On the chip it would end as a spurious IRQ 7.) Virtual
//!   time moves in steps, and a timer tick must not be lost because a step ended
//!   in the low half of its wave.
//! - Input 2 latches the slave's INT the same way, so a slave request that goes
//!   away before it is acknowledged ends as a spurious IRQ 15.
//! - Until a chip has been initialized it requests nothing.

use serde::{Deserialize, Serialize};

use super::layout::{IRQ_CASCADE, PORT_ELCR, PORT_PIC_MASTER, PORT_PIC_SLAVE};

/// Inputs that are always edge-triggered: timer, keyboard, cascade; RTC, FPU.
const MASTER_ELCR: u8 = 0b1111_1000;
const SLAVE_ELCR: u8 = 0b1101_1110;
const CASCADE: u8 = 1 << IRQ_CASCADE;

const ICW1: u8 = 0x10;
const ICW1_NEEDS_ICW4: u8 = 0x01;
const ICW1_SINGLE: u8 = 0x02;
const ICW4_AUTO_EOI: u8 = 0x02;
const ICW4_SPECIAL_FULLY_NESTED: u8 = 0x10;
const OCW3: u8 = 0x08;
const OCW3_POLL: u8 = 0x04;

/// Which of the two chips, and what that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Role {
    Master,
    Slave,
}

/// How far initialization has come (data sheet, figure 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Init {
    PowerOn,
    Icw2 { icw1: u8 },
    Icw3 { icw1: u8 },
    Icw4,
    Done,
}

/// What a read of the command port returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ReadSelect {
    Requests,
    InService,
}

/// One 8259A.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    role: Role,
    init: Init,
    /// Levels of the input lines.
    lines: u8,
    /// Requests of edge inputs that were not yet acknowledged.
    latched: u8,
    in_service: u8,
    mask: u8,
    /// Inputs that are level-triggered.
    elcr: u8,
    vector_base: u8,
    /// The input of lowest priority, 7 unless rotated.
    lowest: u8,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    read_select: ReadSelect,
    /// The next read of the command port acknowledges.
    poll: bool,
}

impl Chip {
    fn new(role: Role) -> Self {
        Self {
            role,
            init: Init::PowerOn,
            lines: 0,
            latched: 0,
            in_service: 0,
            mask: 0,
            elcr: 0,
            vector_base: 0,
            lowest: 7,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_fully_nested: false,
            special_mask: false,
            read_select: ReadSelect::Requests,
            poll: false,
        }
    }

    /// The interrupt request register.
    fn requests(&self) -> u8 {
        (self.latched & !self.elcr) | (self.lines & self.elcr)
    }

    fn set_lines(&mut self, lines: u8) {
        self.latched |= lines & !self.lines & !self.elcr;
        self.lines = lines;
    }

    /// Distance of an input from the highest priority, 0 to 7.
    fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest + 1) & 7
    }

    /// The set bit of highest priority; `bits` must not be 0.
    fn highest(&self, bits: u8) -> u8 {
        let first = (self.lowest + 1) & 7;
        (bits.rotate_right(u32::from(first)).trailing_zeros() as u8 + first) & 7
    }

    /// The input that would be acknowledged now; `Some` is the chip's INT.
    fn pending(&self) -> Option<u8> {
        let requests = self.requests() & !self.mask;
        if requests == 0 || self.init != Init::Done {
            return None;
        }
        let input = self.highest(requests);
        // In special mask mode a masked input blocks nobody while it is in service.
        let blocking = if self.special_mask {
            self.in_service & !self.mask
        } else {
            self.in_service
        };
        if blocking == 0 {
            return Some(input);
        }
        let served = self.highest(blocking);
        let again = self.special_fully_nested
            && self.role == Role::Master
            && input == IRQ_CASCADE
            && served == IRQ_CASCADE;
        (again || self.rank(input) < self.rank(served)).then_some(input)
    }

    /// Moves `input` from requested to in service, as the first INTA pulse does.
    fn acknowledge(&mut self, input: u8) {
        self.latched &= !(1 << input);
        if !self.auto_eoi {
            self.in_service |= 1 << input;
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            // The edge sense is cleared: a line that is high must fall before it
            // requests again.
            *self = Self {
                lines: self.lines,
                elcr: self.elcr,
                init: Init::Icw2 { icw1: value },
                ..Self::new(self.role)
            };
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        self.poll = value & OCW3_POLL != 0;
        match value & 0x03 {
            0x02 => self.read_select = ReadSelect::Requests,
            0x03 => self.read_select = ReadSelect::InService,
            _ => {}
        }
    }

    fn write_ocw2(&mut self, value: u8) {
        let level = value & 7;
        match value >> 5 {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 => {
                self.end_highest();
            }
            0b101 => {
                if let Some(input) = self.end_highest() {
                    self.lowest = input;
                }
            }
            0b011 => self.in_service &= !(1 << level),
            0b111 => {
                self.in_service &= !(1 << level);
                self.lowest = level;
            }
            0b110 => self.lowest = level,
            _ => {} // 0b010: no operation
        }
    }

    /// Non-specific end of interrupt. In special mask mode it passes by masked inputs.
    fn end_highest(&mut self) -> Option<u8> {
        let served = if self.special_mask {
            self.in_service & !self.mask
        } else {
            self.in_service
        };
        if served == 0 {
            return None;
        }
        let input = self.highest(served);
        self.in_service &= !(1 << input);
        Some(input)
    }

    fn write_data(&mut self, value: u8) {
        let after_icw3 = |icw1: u8| {
            if icw1 & ICW1_NEEDS_ICW4 != 0 {
                Init::Icw4
            } else {
                Init::Done
            }
        };
        match self.init {
            Init::PowerOn | Init::Done => self.mask = value,
            Init::Icw2 { icw1 } => {
                self.vector_base = value & 0xF8;
                self.init = if icw1 & ICW1_SINGLE != 0 {
                    after_icw3(icw1)
                } else {
                    Init::Icw3 { icw1 }
                };
            }
            // The wiring of the cascade is fixed: ICW3 is taken and ignored.
            Init::Icw3 { icw1 } => self.init = after_icw3(icw1),
            Init::Icw4 => {
                self.auto_eoi = value & ICW4_AUTO_EOI != 0;
                self.special_fully_nested = value & ICW4_SPECIAL_FULLY_NESTED != 0;
                self.init = Init::Done;
            }
        }
    }

    /// A level input has no latch: what it requests is what its line says.
    fn write_elcr(&mut self, value: u8) {
        self.elcr = value;
        self.latched &= !value;
    }

    fn read_command(&mut self) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.pending() {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match self.read_select {
            ReadSelect::Requests => self.requests(),
            ReadSelect::InService => self.in_service,
        }
    }

    /// Would a rising line change anything that the guest cannot ask for later?
    fn listens(&self, input: u8) -> bool {
        let bit = 1 << input;
        self.init == Init::Done && self.mask & bit == 0 && self.latched & bit == 0
    }

    fn check(&self, role: Role, elcr: u8) -> Result<(), &'static str> {
        if self.role != role {
            return Err("the two chips have changed places");
        }
        if self.lowest > 7
            || self.vector_base & 7 != 0
            || self.elcr & !elcr != 0
            || self.latched & self.elcr != 0
        {
            return Err("a register holds what the chip cannot hold");
        }
        Ok(())
    }
}

/// Both chips, as the PC wires them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pic {
    master: Chip,
    slave: Chip,
}

impl Pic {
    pub(crate) fn new() -> Self {
        Self {
            master: Chip::new(Role::Master),
            slave: Chip::new(Role::Slave),
        }
    }

    /// Sets all sixteen input lines; bit 2, the cascade, is ignored.
    pub(crate) fn set_lines(&mut self, lines: u16) {
        let [master, slave] = lines.to_le_bytes();
        let master = master & !CASCADE;
        if master == self.master.lines && slave == self.slave.lines {
            return;
        }
        self.master.set_lines(master);
        self.slave.set_lines(slave);
        self.cascade();
    }

    /// The input lines as they were last set.
    pub(crate) fn lines(&self) -> u16 {
        u16::from_le_bytes([self.master.lines, self.slave.lines])
    }

    /// Sets one line and leaves the others.
    pub(crate) fn set_line(&mut self, irq: u8, level: bool) {
        let bit = 1 << irq;
        let lines = self.lines();
        self.set_lines(if level { lines | bit } else { lines & !bit });
    }

    fn cascade(&mut self) {
        if self.slave.pending().is_some() {
            self.master.latched |= CASCADE;
        }
    }

    /// The INTR line to the CPU.
    pub(crate) fn interrupt_pending(&self) -> bool {
        self.master.pending().is_some()
    }

    /// The INTA cycle: the vector to deliver. With nothing pending it is a
    /// spurious interrupt, input 7, which sets no in-service bit.
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.pending() else {
            return self.master.vector_base | 7;
        };
        self.master.acknowledge(input);
        if input != IRQ_CASCADE {
            return self.master.vector_base | input;
        }
        let input = match self.slave.pending() {
            Some(input) => {
                self.slave.acknowledge(input);
                input
            }
            None => 7,
        };
        self.cascade();
        self.slave.vector_base | input
    }

    /// Would a rising edge on this line, or a level, have an effect that does not
    /// wait for an access of the guest? If not, its time need not be watched.
    pub(crate) fn listens(&self, irq: u8) -> bool {
        if irq < 8 {
            self.master.listens(irq)
        } else {
            self.slave.listens(irq - 8) && self.master.mask & CASCADE == 0
        }
    }

    /// Does a read of this command port show requests, which time may have raised?
    pub(crate) fn reads_requests(&self, port: u16) -> bool {
        let chip = if port == PORT_PIC_MASTER {
            &self.master
        } else {
            &self.slave
        };
        chip.poll || chip.read_select == ReadSelect::Requests
    }

    /// Reads one of the chips' or the ELCR's ports.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        const MASTER_DATA: u16 = PORT_PIC_MASTER + 1;
        const SLAVE_DATA: u16 = PORT_PIC_SLAVE + 1;
        const SLAVE_ELCR_PORT: u16 = PORT_ELCR + 1;
        let value = match port {
            PORT_PIC_MASTER => self.master.read_command(),
            MASTER_DATA => self.master.mask,
            PORT_PIC_SLAVE => self.slave.read_command(),
            SLAVE_DATA => self.slave.mask,
            PORT_ELCR => self.master.elcr,
            SLAVE_ELCR_PORT => self.slave.elcr,
            _ => 0xFF,
        };
        self.cascade();
        value
    }

    /// Writes one of the chips' or the ELCR's ports.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        const MASTER_DATA: u16 = PORT_PIC_MASTER + 1;
        const SLAVE_DATA: u16 = PORT_PIC_SLAVE + 1;
        const SLAVE_ELCR_PORT: u16 = PORT_ELCR + 1;
        match port {
            PORT_PIC_MASTER => self.master.write_command(value),
            MASTER_DATA => self.master.write_data(value),
            PORT_PIC_SLAVE => self.slave.write_command(value),
            SLAVE_DATA => self.slave.write_data(value),
            PORT_ELCR => self.master.write_elcr(value & MASTER_ELCR),
            SLAVE_ELCR_PORT => self.slave.write_elcr(value & SLAVE_ELCR),
            _ => {}
        }
        self.cascade();
    }

    /// Checks a restored value (SEC-2).
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        self.master.check(Role::Master, MASTER_ELCR)?;
        self.slave.check(Role::Slave, SLAVE_ELCR)?;
        if self.master.lines & CASCADE != 0 {
            return Err("the cascade input has a line of its own");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
