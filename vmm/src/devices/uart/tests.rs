//! The UART against the PC16550D data sheet, and what Linux's 8250 driver probes.

use super::*;

const FIFO_ON: u8 = 0x01;

struct Line {
    uart: Uart,
    now: VirtualTime,
    outputs: Vec<Output>,
}

impl Line {
    fn new() -> Self {
        Self {
            uart: Uart::new(),
            now: VirtualTime(0),
            outputs: Vec::new(),
        }
    }

    fn write(&mut self, offset: u16, value: u8) {
        self.uart.write(offset, value, self.now, &mut self.outputs);
    }

    fn read(&mut self, offset: u16) -> u8 {
        self.uart.read(offset)
    }

    fn print(&mut self, text: &[u8]) {
        for byte in text {
            self.write(DATA, *byte);
        }
    }

    fn advance(&mut self, to_ns: u64) {
        self.now = VirtualTime(to_ns);
        self.uart.advance(self.now, &mut self.outputs);
    }

    fn texts(&mut self) -> Vec<Vec<u8>> {
        let bytes = |output| match output {
            Output::Console { bytes } => bytes,
            Output::Net { .. } => panic!("a UART sends no frames"),
        };
        std::mem::take(&mut self.outputs)
            .into_iter()
            .map(bytes)
            .collect()
    }
}

#[test]
fn a_line_is_one_output() {
    let mut line = Line::new();
    line.print(b"hello");
    assert_eq!(line.texts(), Vec::<Vec<u8>>::new());
    line.print(b"\r\nworld\n");
    assert_eq!(line.texts(), [b"hello\r\n".to_vec(), b"world\n".to_vec()]);
    assert_eq!(line.uart.next_timer(), None);
}

#[test]
fn an_unfinished_line_waits_for_a_millisecond_after_its_first_byte() {
    let mut line = Line::new();
    line.advance(5_000);
    assert!(line.uart.write_needs_clock(DATA, b'l'));
    line.print(b"log");
    assert!(
        !line.uart.write_needs_clock(DATA, b'i'),
        "the time is running already"
    );
    line.advance(900_000);
    line.print(b"in: ");
    assert_eq!(line.uart.next_timer(), Some(VirtualTime(1_005_000)));
    line.advance(1_004_999);
    assert_eq!(line.texts(), Vec::<Vec<u8>>::new());
    line.advance(1_005_000);
    assert_eq!(line.texts(), [b"login: ".to_vec()]);
}

#[test]
fn an_output_is_bounded() {
    let mut line = Line::new();
    line.print(&vec![b'x'; GATHER_BYTES + 1]);
    assert_eq!(line.texts(), [vec![b'x'; GATHER_BYTES]]);
    assert!(line.uart.next_timer().is_some());
}

#[test]
fn only_gathering_needs_the_clock() {
    let mut line = Line::new();
    assert!(!line.uart.write_needs_clock(DATA, b'\n'));
    assert!(!line.uart.write_needs_clock(INTERRUPT_ENABLE, b'a'));
    line.write(LINE_CONTROL, LCR_DLAB);
    assert!(!line.uart.write_needs_clock(DATA, b'a'));
    line.write(LINE_CONTROL, 0);
    line.write(MODEM_CONTROL, MCR_LOOP);
    assert!(!line.uart.write_needs_clock(DATA, b'a'));
}

#[test]
fn registers_read_back_what_they_can_hold() {
    for (offset, written, expected) in [
        (INTERRUPT_ENABLE, 0xFF, 0x0F),
        (LINE_CONTROL, 0x7F, 0x7F),
        (MODEM_CONTROL, 0xFF, 0x1F),
        (7, 0xA5, 0xA5),
    ] {
        let mut line = Line::new();
        line.write(offset, written);
        assert_eq!(line.read(offset), expected, "register {offset}");
    }
}

#[test]
fn dlab_gives_access_to_the_divisor() {
    let mut line = Line::new();
    line.write(INTERRUPT_ENABLE, 0x05);
    line.write(LINE_CONTROL, LCR_DLAB | 0x03);
    line.write(DATA, 0x34);
    line.write(INTERRUPT_ENABLE, 0x12);
    assert_eq!((line.read(DATA), line.read(INTERRUPT_ENABLE)), (0x34, 0x12));
    line.write(LINE_CONTROL, 0x03);
    assert_eq!((line.read(DATA), line.read(INTERRUPT_ENABLE)), (0x00, 0x05));
    assert!(line.outputs.is_empty());
}

#[test]
fn line_status_is_always_ready_to_send() {
    let mut line = Line::new();
    assert_eq!(line.read(LINE_STATUS), 0x60);
    line.uart.receive(b"a");
    assert_eq!(line.read(LINE_STATUS), 0x61);
    assert_eq!(line.read(DATA), b'a');
    assert_eq!(line.read(LINE_STATUS), 0x60);
    assert_eq!(line.read(DATA), 0);
}

#[test]
fn the_fifo_takes_16_bytes_and_the_rest_waits_on_the_line() {
    let mut line = Line::new();
    line.write(INTERRUPT_ID, FIFO_ON);
    let text: Vec<u8> = (0..100).collect();
    line.uart.receive(&text);
    assert_eq!(line.uart.fifo.len(), FIFO_BYTES);
    assert_eq!(line.uart.room(), CONSOLE_LINE_BYTES - 84);
    let read: Vec<u8> = (0..100).map(|_| line.read(DATA)).collect();
    assert_eq!(read, text);
    assert_eq!(line.read(LINE_STATUS) & LSR_OVERRUN, 0);

    line.uart.receive(&vec![7; 2 * CONSOLE_LINE_BYTES]);
    assert_eq!(
        line.uart.line.len() + line.uart.fifo.len(),
        CONSOLE_LINE_BYTES
    );
}

#[test]
fn received_data_interrupts_by_trigger_level() {
    for (fcr, level) in [(0x00, 1), (0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)] {
        let mut line = Line::new();
        let fifos = if fcr & 1 != 0 { IIR_FIFOS } else { 0 };
        line.write(INTERRUPT_ID, fcr);
        line.write(INTERRUPT_ENABLE, IER_RECEIVED);
        assert_eq!(line.read(INTERRUPT_ID), IIR_NONE | fifos);
        line.uart.receive(&vec![b'x'; level - 1]);
        let below = if level > 1 { IIR_TIMEOUT } else { IIR_NONE };
        assert_eq!(
            line.read(INTERRUPT_ID),
            below | fifos,
            "below level {level}"
        );
        line.uart.receive(b"x");
        assert_eq!(
            line.read(INTERRUPT_ID),
            IIR_RECEIVED | fifos,
            "at level {level}"
        );
    }
}

#[test]
fn the_thr_empty_interrupt_is_raised_by_enabling_and_writing_and_cleared_by_iir() {
    let mut line = Line::new();
    line.write(INTERRUPT_ENABLE, IER_THR_EMPTY);
    assert_eq!(line.read(INTERRUPT_ID), IIR_THR_EMPTY);
    assert_eq!(line.read(INTERRUPT_ID), IIR_NONE);
    // Linux's THRE test: it must come again when it is enabled anew.
    line.write(INTERRUPT_ENABLE, 0);
    line.write(INTERRUPT_ENABLE, IER_THR_EMPTY);
    assert_eq!(line.read(INTERRUPT_ID), IIR_THR_EMPTY);
    line.write(DATA, b'a');
    assert_eq!(line.read(INTERRUPT_ID), IIR_THR_EMPTY);
    line.write(INTERRUPT_ENABLE, IER_THR_EMPTY); // already enabled
    assert_eq!(line.read(INTERRUPT_ID), IIR_NONE);
    // A read of IIR clears it only if IIR names it.
    line.write(INTERRUPT_ENABLE, IER_THR_EMPTY | IER_RECEIVED);
    line.write(DATA, b'a');
    line.uart.receive(b"x");
    assert_eq!(line.read(INTERRUPT_ID), IIR_RECEIVED);
    line.read(DATA);
    assert_eq!(line.read(INTERRUPT_ID), IIR_THR_EMPTY);
}

#[test]
fn out2_gates_the_interrupt_line() {
    let mut line = Line::new();
    line.write(INTERRUPT_ENABLE, IER_RECEIVED);
    line.uart.receive(b"x");
    assert!(!line.uart.line());
    line.write(MODEM_CONTROL, MCR_OUT2);
    assert!(line.uart.line());
    line.read(DATA);
    assert!(!line.uart.line());
}

#[test]
fn priorities_of_the_interrupt_sources() {
    let mut line = Line::new();
    line.write(MODEM_CONTROL, MCR_LOOP);
    line.write(DATA, b'a');
    line.write(DATA, b'b'); // overrun
    line.write(INTERRUPT_ENABLE, 0x0F);
    for (expected, clear) in [
        (IIR_LINE_STATUS, LINE_STATUS),
        (IIR_RECEIVED, DATA),
        (IIR_THR_EMPTY, INTERRUPT_ID),
    ] {
        let id = line.read(INTERRUPT_ID);
        assert_eq!(id, expected);
        if clear != INTERRUPT_ID {
            line.read(clear);
        }
    }
    assert_eq!(line.read(INTERRUPT_ID), IIR_MODEM_STATUS);
    line.read(MODEM_STATUS);
    assert_eq!(line.read(INTERRUPT_ID), IIR_NONE);
}

#[test]
fn loopback_connects_outputs_to_inputs() {
    let mut line = Line::new();
    assert_eq!(line.read(MODEM_STATUS), 0xB0);
    for (mcr, msr) in [
        (0x00, 0x00),
        (0x01, 0x20),
        (0x02, 0x10),
        (0x04, 0x40),
        (0x08, 0x80),
    ] {
        line.write(MODEM_CONTROL, MCR_LOOP | mcr);
        assert_eq!(line.read(MODEM_STATUS) & 0xF0, msr, "MCR {mcr:#x}");
    }
    // Linux's loopback test: RTS and OUT2 show as CTS and DCD.
    line.write(MODEM_CONTROL, MCR_LOOP | 0x0A);
    assert_eq!(line.read(MODEM_STATUS) & 0xF0, 0x90);
    line.write(DATA, b'z');
    assert!(line.outputs.is_empty() && line.uart.gathered.is_none());
    assert_eq!(line.read(DATA), b'z');
    line.uart.receive(b"outside");
    assert_eq!(
        line.read(LINE_STATUS) & LSR_DATA_READY,
        0,
        "the line is cut"
    );
    line.write(MODEM_CONTROL, 0);
    assert_eq!(line.read(DATA), b'o');
}

#[test]
fn modem_deltas_are_cleared_by_reading() {
    let mut line = Line::new();
    line.write(MODEM_CONTROL, MCR_LOOP); // CTS, DSR and DCD fall
    assert_eq!(line.read(MODEM_STATUS), 0x0B);
    assert_eq!(line.read(MODEM_STATUS), 0x00);
    line.write(MODEM_CONTROL, MCR_LOOP | MCR_OUT1);
    assert_eq!(
        line.read(MODEM_STATUS),
        0x40,
        "RI counts at its trailing edge"
    );
    line.write(MODEM_CONTROL, MCR_LOOP);
    assert_eq!(line.read(MODEM_STATUS), 0x04);
}

#[test]
fn loopback_overruns() {
    for (fcr, depth, first) in [(0, 1, 16), (FIFO_ON, 16, 0)] {
        let mut line = Line::new();
        line.write(INTERRUPT_ID, fcr);
        line.write(MODEM_CONTROL, MCR_LOOP);
        for byte in 0..depth {
            line.write(DATA, byte);
        }
        assert_eq!(line.read(LINE_STATUS) & LSR_OVERRUN, 0);
        line.write(DATA, 16);
        assert_eq!(line.read(LINE_STATUS) & LSR_OVERRUN, LSR_OVERRUN);
        assert_eq!(
            line.read(LINE_STATUS) & LSR_OVERRUN,
            0,
            "cleared by reading"
        );
        assert_eq!(line.read(DATA), first);
    }
}

#[test]
fn fifo_control_clears_and_identifies() {
    let mut line = Line::new();
    assert_eq!(line.read(INTERRUPT_ID) & IIR_FIFOS, 0);
    line.uart.receive(b"a");
    line.write(INTERRUPT_ID, FIFO_ON);
    assert_eq!(line.read(INTERRUPT_ID) & IIR_FIFOS, IIR_FIFOS);
    assert_eq!(
        line.read(LINE_STATUS) & LSR_DATA_READY,
        0,
        "changing the mode clears"
    );
    line.uart.receive(b"b");
    line.write(INTERRUPT_ID, FIFO_ON | FCR_CLEAR_RX);
    assert_eq!(line.read(LINE_STATUS) & LSR_DATA_READY, 0);
    line.uart.receive(b"c");
    line.write(INTERRUPT_ID, FCR_CLEAR_RX); // without the enable bit: FIFOs off, cleared
    assert_eq!(line.read(INTERRUPT_ID) & IIR_FIFOS, 0);
    assert_eq!(line.read(LINE_STATUS) & LSR_DATA_READY, 0);
}
