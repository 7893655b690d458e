//! Virtio devices behind the memory-mapped transport (virtio 1.2).
//!
//! [`mmio`] is the register block, the same for every device type; [`queue`] reads
//! and writes rings without trusting them; [`net`], [`rng`] and [`block`] are device
//! types, each a [`VirtioDevice`]. A new type is one file, one slot in
//! [`layout`](super::layout) and one field of the board.

use super::GuestMemory;
use super::output::Output;
use queue::{Broken, Virtqueue};

pub(crate) mod block;
pub(crate) mod mmio;
pub(crate) mod net;
pub(crate) mod queue;
pub(crate) mod rng;

#[cfg(test)]
pub(crate) mod test_driver;

/// Whether the driver is to be told of used buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Quiet,
    UsedBuffers,
}

/// What distinguishes one device type from another.
pub(crate) trait VirtioDevice {
    /// Device type (virtio 1.2, section 5).
    const DEVICE_ID: u32;
    /// How many virtqueues it has.
    const QUEUES: usize;
    /// The size of each, a power of two.
    const QUEUE_SIZE: u16;

    /// Feature bits of the device type; the transport adds its own.
    fn features(&self) -> u64;

    /// One byte of configuration space; beyond its end, 0.
    fn config_byte(&self, offset: u64) -> u8;

    /// The driver says that `queue` has new buffers.
    fn notify(
        &mut self,
        queue: usize,
        queues: &mut [Virtqueue],
        mem: &GuestMemory,
        outputs: &mut Vec<Output>,
    ) -> Result<Signal, Broken>;

    /// The driver resets the device: requests under way are forgotten.
    fn reset(&mut self);
}
