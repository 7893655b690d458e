//! The board: every device of the machine on two buses, wired to one pair of 8259s.
//!
//! A closed struct without dynamic dispatch, caches or hidden state: what
//! [`Board::save`] returns is all there is. Two boards with equal states answer
//! every sequence of calls alike (DET-1).
//!
//! After each call that can move an interrupt line the lines of all devices are
//! handed to the 8259s together, so no device knows its interrupt number and no
//! edge depends on the order of two devices.
//!
//! Ports are bytes: a wider access is made of accesses to successive ports, from
//! the lowest, as the ISA bus does it.

use ft_logging::entry::BlockStatus;
use serde::{Deserialize, Serialize};

use super::GuestMemory;
use super::acpi::Acpi;
use super::layout::*;
use super::output::Output;
use super::pic::Pic;
use super::pit::Pit;
use super::rtc::Rtc;
use super::time::{MAX_TIME, VirtualTime, earlier};
use super::uart::Uart;
use super::virtio::block::{self, Block, BlockRequest, DiskShape};
use super::virtio::mmio::VirtioMmio;
use super::virtio::net::{MAX_FRAME_BYTES, MIN_FRAME_BYTES, Net, NetCounters, RX};
use super::virtio::rng::{REQUESTS, Rng};

mod clock;
mod state;

pub use clock::PortAccess;
pub use state::{BoardState, RestoreError, STATE_VERSION};

/// Reset control register: the bit whose rise resets the machine, and the one that
/// chooses how, which makes no difference here.
const RESET_CPU: u8 = 0x04;
const RESET_WRITABLE: u8 = 0x02 | RESET_CPU;
/// Keyboard controller command: pulse the CPU's reset line.
const KEYBOARD_PULSE_RESET: u8 = 0xFE;
/// System control port A: the A20 gate is open.
const A20_OPEN: u8 = 0x02;

/// What a board is built from; part of the machine's initial state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardConfig {
    /// MAC address of the network device.
    pub mac: [u8; 6],
    /// What the RTC shows at virtual time 0, in seconds since 1970.
    pub rtc_epoch_s: u64,
    /// Size of the guest's RAM, for the CMOS.
    pub ram_bytes: u64,
    /// The block device's disk; without one there is no block device.
    pub disk: Option<DiskShape>,
}

/// How the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerRequest {
    /// The guest entered ACPI S5.
    PowerOff,
    /// The guest reset the machine.
    Reset,
}

/// All devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Board {
    time: VirtualTime,
    pic: Pic,
    pit: Pit,
    acpi: Acpi,
    rtc: Rtc,
    uart: Uart,
    net: VirtioMmio<Net>,
    rng: VirtioMmio<Rng>,
    block: Option<VirtioMmio<Block>>,
    reset_control: u8,
    power: Option<PowerRequest>,
    outputs: Vec<Output>,
}

impl Board {
    /// A board just switched on, at virtual time 0.
    pub fn new(config: BoardConfig) -> Self {
        let mut board = Self {
            time: VirtualTime(0),
            pic: Pic::new(),
            pit: Pit::new(),
            acpi: Acpi::new(),
            rtc: Rtc::new(config.rtc_epoch_s, config.ram_bytes),
            uart: Uart::new(),
            net: VirtioMmio::new(Net::new(config.mac)),
            rng: VirtioMmio::new(Rng::new()),
            block: config.disk.map(|disk| VirtioMmio::new(Block::new(disk, 0))),
            reset_control: 0,
            power: None,
            outputs: Vec::new(),
        };
        board.sync_lines();
        board
    }

    /// The machine is reset: everything is as if just switched on, except that time goes on, and
    /// that no number of a request to the disk is used again.
    pub fn reset(&mut self, config: BoardConfig) {
        let last_tag = self
            .block
            .as_ref()
            .map_or(0, |block| block.device().last_tag());
        let now = self.time;
        *self = Self::new(config);
        self.block = config
            .disk
            .map(|disk| VirtioMmio::new(Block::new(disk, last_tag)));
        self.set_time(now);
    }

    /// The time that the last [`Self::set_time`] brought.
    pub fn time(&self) -> VirtualTime {
        self.time
    }

    /// Reads `size` (1, 2 or 4) bytes from ports. Where no device is, ones.
    pub fn port_read(&mut self, port: u16, size: u8) -> u32 {
        let mut value = 0;
        for at in 0..u16::from(size.min(4)) {
            let byte = match port.checked_add(at) {
                Some(port) => self.port_read_byte(port, size),
                None => 0xFF,
            };
            value |= u32::from(byte) << (at * 8);
        }
        self.sync_lines();
        value
    }

    fn port_read_byte(&mut self, port: u16, size: u8) -> u8 {
        match port {
            0x20 | 0x21 | 0xA0 | 0xA1 | 0x4D0 | 0x4D1 => self.pic.read(port),
            0x40..=0x43 => self.pit.read(port),
            PORT_SYSTEM_B => self.pit.read_system_b(),
            0x71 => self.rtc.read(),
            PORT_SYSTEM_A => A20_OPEN,
            0x3F8..=0x3FF => self.uart.read(port - PORT_UART),
            0x600..=0x603 => self.acpi.read_event(port - PORT_PM1_EVENT),
            0x604..=0x605 => self.acpi.read_control(port - PORT_PM1_CONTROL),
            0x608..=0x60B => self.acpi.read_timer(port - PORT_PM_TIMER),
            PORT_RESET if size == 1 => self.reset_control,
            _ => 0xFF,
        }
    }

    /// Writes `size` (1, 2 or 4) bytes to ports. Where no device is, they vanish.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32, _mem: &GuestMemory) {
        for at in 0..u16::from(size.min(4)) {
            if let Some(port) = port.checked_add(at) {
                self.port_write_byte(port, size, (value >> (at * 8)) as u8);
            }
        }
        self.sync_lines();
    }

    fn port_write_byte(&mut self, port: u16, size: u8, value: u8) {
        match port {
            0x20 | 0x21 | 0xA0 | 0xA1 | 0x4D0 | 0x4D1 => self.pic.write(port, value),
            0x40..=0x43 => self.pit.write(port, value),
            PORT_SYSTEM_B => self.pit.write_system_b(value),
            PORT_KEYBOARD_COMMAND if value == KEYBOARD_PULSE_RESET => {
                self.request_power(PowerRequest::Reset);
            }
            PORT_RTC => self.rtc.select(value),
            0x71 => self.rtc.write(value),
            0x3F8..=0x3FF => {
                self.uart
                    .write(port - PORT_UART, value, self.time, &mut self.outputs);
            }
            0x600..=0x603 => self.acpi.write_event(port - PORT_PM1_EVENT, value),
            0x604..=0x605 => {
                let turned_off = self.acpi.write_control(port - PORT_PM1_CONTROL, value);
                if turned_off {
                    self.request_power(PowerRequest::PowerOff);
                }
            }
            PORT_RESET if size == 1 => {
                let rises = value & !self.reset_control & RESET_CPU != 0;
                self.reset_control = value & RESET_WRITABLE;
                if rises {
                    self.request_power(PowerRequest::Reset);
                }
            }
            _ => {}
        }
    }

    /// The first request stands. What the console gathered goes out before it.
    fn request_power(&mut self, request: PowerRequest) {
        self.uart.flush(&mut self.outputs);
        self.power.get_or_insert(request);
    }

    /// Reads `size` (1, 2, 4 or 8) bytes of a memory-mapped device. Where none is,
    /// ones.
    pub fn mmio_read(&mut self, addr: u64, size: u8) -> u64 {
        match slot_of(addr) {
            Some((SLOT_BLOCK, offset)) if let Some(block) = &self.block => {
                block.read(offset, size.min(8))
            }
            Some((SLOT_NET, offset)) => self.net.read(offset, size.min(8)),
            Some((SLOT_RNG, offset)) => self.rng.read(offset, size.min(8)),
            _ => u64::MAX >> (64 - 8 * u32::from(size.clamp(1, 8))),
        }
    }

    /// Writes `size` (1, 2, 4 or 8) bytes of a memory-mapped device. Where none is,
    /// they vanish.
    pub fn mmio_write(&mut self, addr: u64, size: u8, value: u64, mem: &GuestMemory) {
        match slot_of(addr) {
            Some((SLOT_NET, at)) => self.net.write(at, size, value, mem, &mut self.outputs),
            Some((SLOT_RNG, at)) => self.rng.write(at, size, value, mem, &mut self.outputs),
            Some((SLOT_BLOCK, at)) if let Some(block) = &mut self.block => {
                block.write(at, size, value, mem, &mut self.outputs);
            }
            _ => return,
        }
        self.sync_lines();
    }

    /// Virtual time goes on to `now`; timers that are due on the way take effect.
    ///
    /// # Panics
    ///
    /// If time would go backwards or beyond [`MAX_TIME`]: whoever applies entries
    /// has checked that.
    pub fn set_time(&mut self, now: VirtualTime) {
        assert!(
            now >= self.time,
            "virtual time went back from {:?} to {now:?}",
            self.time
        );
        assert!(now <= MAX_TIME, "virtual time {now:?} is beyond its end");
        self.time = now;
        if self.pit.advance(now) {
            // The line may be low again by now, or high as before; the edge counts.
            self.pic.set_line(IRQ_PIT, false);
            self.pic.set_line(IRQ_PIT, true);
        }
        self.acpi.advance(now);
        self.rtc.advance(now);
        self.uart.advance(now, &mut self.outputs);
        self.sync_lines();
    }

    /// When the next timer will have an effect of its own: an interrupt request or
    /// an output. Strictly after [`Self::time`], a function of the state alone.
    ///
    /// A timer whose interrupt is masked or already requested is left out, since
    /// its tick would change nothing; unmasking brings it back, due in the past if
    /// need be. What it does to registers meanwhile is seen because reading them
    /// needs the clock ([`Self::needs_clock`]).
    pub fn next_timer(&self) -> Option<VirtualTime> {
        let due_on = |irq: u8, timer: Option<VirtualTime>| timer.filter(|_| self.pic.listens(irq));
        let due = [
            due_on(IRQ_PIT, self.pit.next_timer()),
            due_on(IRQ_RTC, self.rtc.next_timer()),
            due_on(IRQ_SCI, self.acpi.next_timer()),
            self.uart.next_timer(),
        ];
        due.into_iter().fold(None, earlier)
    }

    /// Hands a frame to the guest. Returns whether it was taken; otherwise it is
    /// dropped: no buffer, or not between [`MIN_FRAME_BYTES`] and
    /// [`MAX_FRAME_BYTES`] long.
    pub fn net_receive(&mut self, frame: &[u8], mem: &GuestMemory) -> bool {
        let taken = (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&frame.len())
            && self
                .net
                .act(RX, |net, queues| net.receive(frame, queues, mem))
                == Some(true);
        if !taken {
            self.net.device_mut().count_dropped();
        }
        self.sync_lines();
        taken
    }

    /// Does the guest have a buffer for a frame? While not, a source of frames had
    /// better keep them.
    pub fn net_can_receive(&self, mem: &GuestMemory) -> bool {
        self.net
            .live_queue(RX)
            .is_some_and(|queue| queue.has_available(mem))
    }

    /// What the network device has done so far.
    pub fn net_counters(&self) -> NetCounters {
        self.net.device().counters()
    }

    /// Bytes for the serial console. What is beyond [`Self::console_room`] is lost.
    pub fn console_receive(&mut self, bytes: &[u8]) {
        self.uart.receive(bytes);
        self.sync_lines();
    }

    /// How many bytes the serial console can take now.
    pub fn console_room(&self) -> usize {
        self.uart.room()
    }

    /// Random bytes for the request that [`Self::entropy_wanted`] tells of. Bytes
    /// that nobody wants are ignored.
    pub fn entropy(&mut self, bytes: &[u8], mem: &GuestMemory) {
        self.rng
            .act(REQUESTS, |rng, queues| rng.fill(bytes, queues, mem));
        self.sync_lines();
    }

    /// How many random bytes the guest waits for, at most
    /// [`MAX_ENTROPY_BYTES`](super::MAX_ENTROPY_BYTES) at once.
    pub fn entropy_wanted(&self) -> Option<usize> {
        self.rng.live_queue(REQUESTS)?;
        self.rng.device().wanted()
    }

    /// Requests for the disk since the last call, in the order in which they are to be carried out.
    /// To be taken after every access and input, as outputs are.
    pub fn take_block_requests(&mut self) -> Vec<BlockRequest> {
        match &mut self.block {
            Some(block) => block.device_mut().take_requests(),
            None => Vec::new(),
        }
    }

    /// The next call of [`Self::take_block_requests`] returns everything in flight: for a restored
    /// machine, whose disk has seen none of it. To carry a request out once more changes nothing,
    /// since those in flight are the last ones and keep their order.
    pub fn issue_block_requests_again(&mut self) {
        if let Some(block) = &mut self.block {
            block.device_mut().issue_again();
        }
    }

    /// Whether this request waits for [`Self::block_done`].
    pub fn block_in_flight(&self, tag: u64) -> bool {
        let block = self.block.as_ref();
        block.is_some_and(|block| block.device().is_in_flight(tag))
    }

    /// The disk is done with a request; `data` is what it read.
    pub fn block_done(&mut self, tag: u64, status: BlockStatus, data: &[u8], mem: &GuestMemory) {
        if let Some(block) = &mut self.block {
            block.act(block::REQUESTS, |device, queues| {
                device.complete(tag, status, data, queues, mem)
            });
        }
        self.sync_lines();
    }

    /// Somebody presses the power button.
    pub fn press_power_button(&mut self) {
        self.acpi.press_power_button();
        self.sync_lines();
    }

    /// The outputs since the last call, in the order of their creation (OUT-5).
    /// To be taken after every access and input, so that they do not pile up.
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Are there outputs to take?
    pub fn has_outputs(&self) -> bool {
        !self.outputs.is_empty()
    }

    /// The INTR line to the CPU.
    pub fn interrupt_pending(&self) -> bool {
        self.pic.interrupt_pending()
    }

    /// The CPU acknowledges an interrupt. Returns its vector, that of a spurious one
    /// if none is pending.
    pub fn acknowledge_interrupt(&mut self) -> u8 {
        self.pic.acknowledge()
    }

    /// Whether the guest has turned the machine off or reset it.
    pub fn power_request(&self) -> Option<PowerRequest> {
        self.power
    }

    fn sync_lines(&mut self) {
        let line = |irq: u8, level: bool| u16::from(level) << irq;
        self.pic.set_lines(
            line(IRQ_PIT, self.pit.line())
                | line(IRQ_UART, self.uart.line())
                | line(virtio_irq(SLOT_NET), self.net.line())
                | line(virtio_irq(SLOT_RNG), self.rng.line())
                | line(
                    virtio_irq(SLOT_BLOCK),
                    self.block.as_ref().is_some_and(VirtioMmio::line),
                )
                | line(IRQ_RTC, self.rtc.line())
                | line(IRQ_SCI, self.acpi.line()),
        );
    }
}

/// The virtio slot of an address, and the offset in it.
fn slot_of(addr: u64) -> Option<(u64, u64)> {
    let offset = addr.checked_sub(VIRTIO_BASE)?;
    (offset < VIRTIO_SLOTS * VIRTIO_STRIDE)
        .then_some((offset / VIRTIO_STRIDE, offset % VIRTIO_STRIDE))
}

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod time_tests;
