//! A 16550A UART, COM1.
//!
//! National Semiconductor's PC16550D data sheet (June 1995), with an infinitely
//! fast line: a byte that is written is sent at once, so `THRE` and `TEMT` are
//! always set and a THR-empty interrupt follows every write; and the character
//! timeout is due at once, so bytes below the FIFO's trigger level interrupt as
//! "timeout" instead of waiting for four character times.
//!
//! ```text
//!  console_receive ─► line (bounded) ─► RX FIFO, 16 or 1 ─► RBR
//!                       loopback ──────────────┘
//!  THR ─► gathered bytes ─► Output::Console at a newline, 1 ms or 4 KiB
//! ```
//!
//! The other end of the line has CTS, DSR and DCD raised for ever. Breaks, parity
//! and framing errors do not happen; an overrun only in loopback, since bytes from
//! outside wait on the line until the FIFO has room. As on the PC, `OUT2` gates the
//! interrupt line.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::output::Output;
use super::time::VirtualTime;

/// How long console bytes are gathered at most, in virtual time.
pub const GATHER_NS: u64 = 1_000_000;
/// How many console bytes one output carries at most.
pub const GATHER_BYTES: usize = 4096;
/// How many received bytes wait outside the FIFO at most.
pub const CONSOLE_LINE_BYTES: usize = 4096;

const FIFO_BYTES: usize = 16;

/// RBR and THR, or DLL.
const DATA: u16 = 0;
/// IER, or DLM.
const INTERRUPT_ENABLE: u16 = 1;
/// IIR when read, FCR when written.
const INTERRUPT_ID: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const MODEM_STATUS: u16 = 6;

const IER_RECEIVED: u8 = 0x01;
const IER_THR_EMPTY: u8 = 0x02;
const IER_LINE_STATUS: u8 = 0x04;
const IER_MODEM_STATUS: u8 = 0x08;
const IER_WRITABLE: u8 = 0x0F;

const IIR_NONE: u8 = 0x01;
const IIR_MODEM_STATUS: u8 = 0x00;
const IIR_THR_EMPTY: u8 = 0x02;
const IIR_RECEIVED: u8 = 0x04;
const IIR_LINE_STATUS: u8 = 0x06;
const IIR_TIMEOUT: u8 = 0x0C;
const IIR_FIFOS: u8 = 0xC0;

const FCR_ENABLE: u8 = 0x01;
const FCR_CLEAR_RX: u8 = 0x02;
/// Enable, DMA mode and trigger level are kept.
const FCR_KEPT: u8 = 0xC9;

const LCR_DLAB: u8 = 0x80;

const MCR_DTR: u8 = 0x01;
const MCR_RTS: u8 = 0x02;
const MCR_OUT1: u8 = 0x04;
const MCR_OUT2: u8 = 0x08;
const MCR_LOOP: u8 = 0x10;
const MCR_WRITABLE: u8 = 0x1F;

const LSR_DATA_READY: u8 = 0x01;
const LSR_OVERRUN: u8 = 0x02;
const LSR_THR_EMPTY: u8 = 0x20;
const LSR_TRANSMITTER_EMPTY: u8 = 0x40;

const MSR_CTS: u8 = 0x10;
const MSR_DSR: u8 = 0x20;
const MSR_RI: u8 = 0x40;
const MSR_DCD: u8 = 0x80;
/// Delta bits: a change of CTS, DSR or DCD, and the trailing edge of RI.
const MSR_TERI: u8 = 0x04;

/// Console bytes that do not make an output yet; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Gathered {
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
    due: VirtualTime,
}

/// The UART.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Uart {
    divisor: [u8; 2],
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    overrun: bool,
    /// The THR-empty interrupt: set by a write, cleared when IIR names it.
    thr_empty: bool,
    modem_deltas: u8,
    fifo: VecDeque<u8>,
    line: VecDeque<u8>,
    gathered: Option<Gathered>,
}

impl Uart {
    pub(crate) fn new() -> Self {
        Self {
            divisor: [12, 0], // 9600 baud
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            overrun: false,
            thr_empty: false,
            modem_deltas: 0,
            fifo: VecDeque::new(),
            line: VecDeque::new(),
            gathered: None,
        }
    }

    fn fifo_enabled(&self) -> bool {
        self.fifo_control & FCR_ENABLE != 0
    }

    fn depth(&self) -> usize {
        if self.fifo_enabled() { FIFO_BYTES } else { 1 }
    }

    /// How many received bytes interrupt as data, not as a timeout.
    fn trigger_level(&self) -> usize {
        if !self.fifo_enabled() {
            return 1;
        }
        [1, 4, 8, 14][usize::from(self.fifo_control >> 6)]
    }

    fn loopback(&self) -> bool {
        self.modem_control & MCR_LOOP != 0
    }

    fn dlab(&self) -> bool {
        self.line_control & LCR_DLAB != 0
    }

    /// Lets bytes on the line into the FIFO, as far as it has room.
    fn refill(&mut self) {
        while !self.loopback() && self.fifo.len() < self.depth() {
            let Some(byte) = self.line.pop_front() else {
                break;
            };
            self.fifo.push_back(byte);
        }
    }

    /// Bytes from outside. What is beyond [`Self::room`] is lost.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        let taken = bytes.len().min(self.room());
        self.line.extend(&bytes[..taken]);
        self.refill();
    }

    /// How many bytes [`Self::receive`] can take now.
    pub(crate) fn room(&self) -> usize {
        CONSOLE_LINE_BYTES - self.line.len()
    }

    /// The pending interrupt of highest priority (data sheet, table III).
    fn interrupt(&self) -> u8 {
        let enabled = |bit: u8| self.interrupt_enable & bit != 0;
        if enabled(IER_LINE_STATUS) && self.overrun {
            IIR_LINE_STATUS
        } else if enabled(IER_RECEIVED) && self.fifo.len() >= self.trigger_level() {
            IIR_RECEIVED
        } else if enabled(IER_RECEIVED) && !self.fifo.is_empty() {
            IIR_TIMEOUT
        } else if enabled(IER_THR_EMPTY) && self.thr_empty {
            IIR_THR_EMPTY
        } else if enabled(IER_MODEM_STATUS) && self.modem_deltas != 0 {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// The interrupt line. In loopback `OUT2` is disconnected and it stays low.
    pub(crate) fn line(&self) -> bool {
        self.modem_control & MCR_OUT2 != 0 && !self.loopback() && self.interrupt() != IIR_NONE
    }

    /// The modem inputs: the other end's, or in loopback this end's outputs.
    fn modem_inputs(&self) -> u8 {
        if !self.loopback() {
            return MSR_CTS | MSR_DSR | MSR_DCD;
        }
        [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ]
        .into_iter()
        .filter(|(output, _)| self.modem_control & output != 0)
        .fold(0, |inputs, (_, input)| inputs | input)
    }

    /// Reads register `offset`, 0 to 7.
    pub(crate) fn read(&mut self, offset: u16) -> u8 {
        match offset {
            DATA if self.dlab() => self.divisor[0],
            DATA => {
                let byte = self.fifo.pop_front().unwrap_or(0);
                self.refill();
                byte
            }
            INTERRUPT_ENABLE if self.dlab() => self.divisor[1],
            INTERRUPT_ENABLE => self.interrupt_enable,
            INTERRUPT_ID => {
                let id = self.interrupt();
                if id == IIR_THR_EMPTY {
                    self.thr_empty = false;
                }
                if self.fifo_enabled() {
                    id | IIR_FIFOS
                } else {
                    id
                }
            }
            LINE_CONTROL => self.line_control,
            MODEM_CONTROL => self.modem_control,
            LINE_STATUS => {
                let mut status = LSR_THR_EMPTY | LSR_TRANSMITTER_EMPTY;
                if !self.fifo.is_empty() {
                    status |= LSR_DATA_READY;
                }
                if std::mem::take(&mut self.overrun) {
                    status |= LSR_OVERRUN;
                }
                status
            }
            MODEM_STATUS => self.modem_inputs() | std::mem::take(&mut self.modem_deltas),
            _ => self.scratch,
        }
    }

    /// Does this write begin to gather an output, whose 1 ms begin now?
    pub(crate) fn write_needs_clock(&self, offset: u16, value: u8) -> bool {
        offset == DATA
            && value != b'\n'
            && self.gathered.is_none()
            && !self.dlab()
            && !self.loopback()
    }

    /// Writes register `offset`, 0 to 7. Bytes of the console may become an output.
    pub(crate) fn write(
        &mut self,
        offset: u16,
        value: u8,
        now: VirtualTime,
        outputs: &mut Vec<Output>,
    ) {
        match offset {
            DATA if self.dlab() => self.divisor[0] = value,
            DATA => {
                if self.loopback() {
                    self.receive_loopback(value);
                } else {
                    self.gather(value, now, outputs);
                }
                self.thr_empty = true;
            }
            INTERRUPT_ENABLE if self.dlab() => self.divisor[1] = value,
            INTERRUPT_ENABLE => {
                // Enabling the THR-empty interrupt while THR is empty raises it.
                if value & !self.interrupt_enable & IER_THR_EMPTY != 0 {
                    self.thr_empty = true;
                }
                self.interrupt_enable = value & IER_WRITABLE;
            }
            INTERRUPT_ID => self.write_fifo_control(value),
            LINE_CONTROL => self.line_control = value,
            MODEM_CONTROL => self.write_modem_control(value & MCR_WRITABLE),
            LINE_STATUS | MODEM_STATUS => {}
            _ => self.scratch = value,
        }
    }

    fn write_fifo_control(&mut self, value: u8) {
        let toggles = (value ^ self.fifo_control) & FCR_ENABLE != 0;
        // Without the enable bit the others are not programmed, and a change of it
        // clears the FIFOs.
        self.fifo_control = if value & FCR_ENABLE != 0 {
            value & FCR_KEPT
        } else {
            0
        };
        if toggles || value & (FCR_ENABLE | FCR_CLEAR_RX) == FCR_ENABLE | FCR_CLEAR_RX {
            self.fifo.clear();
        }
        self.refill();
    }

    fn write_modem_control(&mut self, value: u8) {
        let before = self.modem_inputs();
        self.modem_control = value;
        let after = self.modem_inputs();
        let changed = before ^ after;
        self.modem_deltas |= (changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4;
        if changed & before & MSR_RI != 0 {
            self.modem_deltas |= MSR_TERI;
        }
        self.refill();
    }

    /// A byte that comes back to this end; the FIFO may be full.
    fn receive_loopback(&mut self, byte: u8) {
        if self.fifo.len() < self.depth() {
            self.fifo.push_back(byte);
            return;
        }
        self.overrun = true;
        if !self.fifo_enabled() {
            // Without FIFOs the new character overwrites the old one.
            self.fifo.clear();
            self.fifo.push_back(byte);
        }
    }

    fn gather(&mut self, byte: u8, now: VirtualTime, outputs: &mut Vec<Output>) {
        let gathered = self.gathered.get_or_insert_with(|| Gathered {
            bytes: Vec::new(),
            due: VirtualTime(now.0 + GATHER_NS),
        });
        gathered.bytes.push(byte);
        if byte == b'\n' || gathered.bytes.len() == GATHER_BYTES {
            self.flush(outputs);
        }
    }

    /// Makes an output of what was gathered, if anything.
    pub(crate) fn flush(&mut self, outputs: &mut Vec<Output>) {
        if let Some(gathered) = self.gathered.take() {
            outputs.push(Output::Console {
                bytes: gathered.bytes,
            });
        }
    }

    /// Moves to `now`; gathered bytes become an output when their time has come.
    pub(crate) fn advance(&mut self, now: VirtualTime, outputs: &mut Vec<Output>) {
        if self.next_timer().is_some_and(|due| due <= now) {
            self.flush(outputs);
        }
    }

    /// When gathered bytes become an output.
    pub(crate) fn next_timer(&self) -> Option<VirtualTime> {
        self.gathered.as_ref().map(|gathered| gathered.due)
    }

    /// Checks a restored value at its time (SEC-2).
    pub(crate) fn check(&self, now: VirtualTime) -> Result<(), &'static str> {
        if self.interrupt_enable & !IER_WRITABLE != 0
            || self.modem_control & !MCR_WRITABLE != 0
            || self.fifo_control & !FCR_KEPT != 0
            || self.modem_deltas & 0xF0 != 0
        {
            return Err("a register holds bits that it does not have");
        }
        if self.fifo.len() > self.depth() || self.line.len() > CONSOLE_LINE_BYTES {
            return Err("more bytes were received than can wait");
        }
        if let Some(gathered) = &self.gathered
            && (gathered.bytes.is_empty()
                || gathered.bytes.len() >= GATHER_BYTES
                || gathered.due <= now
                || gathered.due.0 > now.0 + GATHER_NS)
        {
            return Err("gathered bytes should have been an output already");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
