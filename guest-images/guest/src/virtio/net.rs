//! virtio-net (virtio 1.2, section 5.1): one receive and one transmit queue.

use super::{
    mmio::{DeviceType, Transport},
    queue::{Direction, Queue},
};
use crate::nucleus::Before;
use alloc::vec::Vec;

/// The configuration space has a MAC address.
const FEATURE_MAC: u64 = 1 << 5;

const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;

/// Enough that a burst of 64 clients fits several times.
const QUEUE_SIZE: u16 = 256;
/// `virtio_net_hdr` of a virtio 1 device. Zero means: a plain frame.
const HEADER_BYTES: usize = 12;
/// The header and an Ethernet frame of 1514 bytes, rounded up.
const BUFFER_BYTES: usize = 2048;
/// Used receive buffers go back to the device this many at a time, since the
/// device may want a notification each time.
const RECEIVE_BATCH: u16 = QUEUE_SIZE / 4;

/// A network card.
pub struct NetDevice {
    transport: Transport,
    mac: [u8; 6],
    /// The half that takes frames in.
    pub receiver: Receiver,
    /// The half that sends frames out.
    pub transmitter: Transmitter,
}

/// The receive queue.
pub struct Receiver {
    queue: Queue,
    frames: u64,
}

/// The transmit queue.
pub struct Transmitter {
    queue: Queue,
    idle: Vec<u16>,
    frames: u64,
}

impl NetDevice {
    /// Finds and starts the machine's network card.
    ///
    /// # Panics
    /// If there is none, or it has no MAC address.
    pub fn open() -> Self {
        let transport =
            Transport::open(DeviceType::Net, FEATURE_MAC).expect("the machine has no virtio-net");
        assert!(
            transport.features() & FEATURE_MAC != 0,
            "the network card has no MAC address"
        );
        let mut mac = [0; 6];
        for (offset, byte) in mac.iter_mut().enumerate() {
            *byte = transport.configuration(offset);
        }
        let queue = |index, direction| transport.queue(index, QUEUE_SIZE, BUFFER_BYTES, direction);
        let mut receiver = Receiver {
            queue: queue(RECEIVE, Direction::FromDevice),
            frames: 0,
        };
        let transmitter = Transmitter::new(queue(TRANSMIT, Direction::ToDevice));
        transport.start();
        if receiver.offer_all() {
            transport.notify(RECEIVE);
        }
        NetDevice {
            transport,
            mac,
            receiver,
            transmitter,
        }
    }

    /// The card's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The card's interrupt line.
    pub fn line(&self) -> u8 {
        self.transport.line()
    }

    /// What the card must be told before the next wait: that there are frames to
    /// send, and from time to time that there are buffers to receive into.
    pub fn before_wait(&mut self) -> Before {
        let mut notify_queues = 0;
        if self.receiver.queue.unpublished() >= RECEIVE_BATCH && self.receiver.queue.publish() {
            notify_queues |= 1 << RECEIVE;
        }
        // No interrupt comes for a frame that came in before it was asked for.
        let received = self.receiver.queue.want_interrupt(true);
        if self.transmitter.queue.publish() {
            notify_queues |= 1 << TRANSMIT;
        }
        let room = self.transmitter.want_interrupt();
        Before {
            notify_register: self.transport.notify_register(),
            notify_queues,
            pit_ticks: 0,
            no_halt: received || room,
        }
    }

    /// Has the card send what is queued without waiting; dearer than with a wait.
    pub fn send_now(&mut self) {
        if self.transmitter.queue.publish() {
            self.transport.notify(TRANSMIT);
        }
    }
}

impl Receiver {
    /// Gives all buffers to the device. True if it wants to be notified.
    fn offer_all(&mut self) -> bool {
        for id in 0..self.queue.size() {
            self.queue.offer(id, BUFFER_BYTES);
        }
        self.queue.want_interrupt(true);
        self.queue.publish()
    }

    /// Whether a frame is here.
    pub fn ready(&self) -> bool {
        self.queue.has_used()
    }

    /// Gives the next frame to `f`.
    ///
    /// # Panics
    /// If none is [`ready`](Self::ready).
    pub fn receive<R>(&mut self, f: impl FnOnce(&[u8]) -> R) -> R {
        let (id, bytes) = self.queue.take().expect("a frame is ready");
        self.frames += 1;
        let result = f(self.queue.buffer(id)[..bytes]
            .get(HEADER_BYTES..)
            .unwrap_or(&[]));
        self.queue.offer(id, BUFFER_BYTES);
        result
    }

    /// Frames received so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }
}

impl Transmitter {
    fn new(queue: Queue) -> Self {
        let idle = (0..queue.size()).rev().collect();
        Transmitter {
            queue,
            idle,
            frames: 0,
        }
    }

    /// Whether there is room for a frame.
    pub fn ready(&mut self) -> bool {
        if self.idle.is_empty() {
            while let Some((id, _)) = self.queue.take() {
                self.idle.push(id);
            }
        }
        !self.idle.is_empty()
    }

    /// Lets `f` fill a frame of `bytes` and queues it.
    ///
    /// # Panics
    /// If there is no room ([`ready`](Self::ready)) or the frame is too long.
    pub fn transmit<R>(&mut self, bytes: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let id = self.idle.pop().expect("there is room");
        self.frames += 1;
        let (header, frame) =
            self.queue.buffer(id)[..HEADER_BYTES + bytes].split_at_mut(HEADER_BYTES);
        header.fill(0);
        let result = f(frame);
        self.queue.offer(id, HEADER_BYTES + bytes);
        result
    }

    /// Frames sent so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Sent frames are worth an interrupt only when there is no room for more.
    /// True if there was none and is again.
    fn want_interrupt(&mut self) -> bool {
        let full = !self.ready();
        self.queue.want_interrupt(full) && full
    }
}
