//! Which port accesses depend on the time.
//!
//! Virtual time stands still between `Clock` entries, so the recorder appends one
//! before an access whose result depends on the time, or that starts something
//! from now. Replay finds the entry in the log and does not ask.

use super::{Board, *};

/// A port access of the guest, before it is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortAccess {
    /// The guest reads.
    Read {
        /// First port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
    },
    /// The guest writes.
    Write {
        /// First port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
        /// What it writes.
        value: u32,
    },
}

impl Board {
    /// Does this access depend on the time? Exact for single bytes; a wider access
    /// does if it touches a port that ever does, since its first byte may change
    /// what the next one means.
    pub fn needs_clock(&self, access: &PortAccess) -> bool {
        match *access {
            PortAccess::Read { port, size: 1 } => self.read_needs_clock(port),
            PortAccess::Write {
                port,
                size: 1,
                value,
            } => self.write_needs_clock(port, value as u8),
            PortAccess::Read { port, size } | PortAccess::Write { port, size, .. } => {
                (0..u16::from(size.min(4))).any(|at| port.checked_add(at).is_some_and(is_clocked))
            }
        }
    }

    fn read_needs_clock(&self, port: u16) -> bool {
        match port {
            PORT_PIC_MASTER | PORT_PIC_SLAVE => self.pic.reads_requests(port),
            0x40..=0x43 => self.pit.read_needs_clock(port),
            PORT_SYSTEM_B => true,
            0x71 => self.rtc.read_needs_clock(),
            // PM1 status, where the timer's carry shows, and the timer.
            0x600 | 0x601 | 0x608..=0x60B => true,
            _ => false,
        }
    }

    fn write_needs_clock(&self, port: u16, value: u8) -> bool {
        match port {
            0x40..=0x43 => self.pit.write_needs_clock(port),
            PORT_SYSTEM_B => self.pit.system_b_needs_clock(value),
            0x71 => self.rtc.write_needs_clock(),
            0x3F8 => self.uart.write_needs_clock(port - PORT_UART, value),
            0x600 | 0x601 => true,
            _ => false,
        }
    }
}

/// Ports for which one of the two functions above can answer yes.
fn is_clocked(port: u16) -> bool {
    matches!(
        port,
        PORT_PIC_MASTER
            | PORT_PIC_SLAVE
            | 0x40..=0x43
            | PORT_SYSTEM_B
            | 0x71
            | 0x3F8
            | 0x600
            | 0x601
            | 0x608..=0x60B
    )
}
