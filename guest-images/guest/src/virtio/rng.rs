//! virtio-rng (virtio 1.2, section 5.4): entropy on request.

use super::{
    mmio::{DeviceType, Transport},
    queue::{Direction, Queue},
};
use crate::nucleus::{self, Before};

/// The most bytes of one request.
pub const MAX_BYTES: usize = 64;

/// A source of entropy.
pub struct RngDevice {
    transport: Transport,
    queue: Queue,
}

impl RngDevice {
    /// Finds and starts the machine's source of entropy, if it has one.
    pub fn open() -> Option<Self> {
        let transport = Transport::open(DeviceType::Entropy, 0)?;
        let mut queue = transport.queue(0, 1, MAX_BYTES, Direction::FromDevice);
        queue.want_interrupt(true);
        transport.start();
        Some(RngDevice { transport, queue })
    }

    /// Its interrupt line.
    pub fn line(&self) -> u8 {
        self.transport.line()
    }

    /// Asks for up to `bytes` (at most [`MAX_BYTES`]) of entropy.
    ///
    /// # Panics
    /// If the last request was not taken yet.
    pub fn request(&mut self, bytes: usize) {
        self.queue.offer(0, bytes);
        if self.queue.publish() {
            self.transport.notify(0);
        }
    }

    /// Takes what the device has given for the request, if it has.
    pub fn take(&mut self) -> Option<&[u8]> {
        let (id, bytes) = self.queue.take()?;
        self.queue.want_interrupt(true);
        Some(&self.queue.buffer(id)[..bytes])
    }

    /// Fills `bytes` with entropy, waiting for it. The device's line must be enabled.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        let mut filled = 0;
        while filled < bytes.len() {
            self.request((bytes.len() - filled).min(MAX_BYTES));
            let given = loop {
                if let Some(given) = self.take() {
                    break given;
                }
                nucleus::wait(Before::default());
            };
            bytes[filled..][..given.len()].copy_from_slice(given);
            filled += given.len();
        }
    }
}
