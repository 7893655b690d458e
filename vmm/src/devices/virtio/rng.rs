//! Virtio entropy device (virtio 1.2, section 5.4).
//!
//! ```text
//!   notify ──► Wanted { head, bytes } ──► entropy() ──► used, interrupt
//!                 ▲                                        │ next request
//!                 └────────────────────────────────────────┘
//! ```
//!
//! Random bytes come from outside, as `Entropy` inputs: the device takes one
//! request from its ring, says how many bytes it wants and remembers it until they
//! come. Fewer bytes than wanted complete it just as well.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::queue::{Broken, Direction, Virtqueue};
use super::{Signal, VirtioDevice};
use crate::devices::GuestMemory;
use crate::devices::output::Output;

/// How many bytes one request gets at most.
pub const MAX_ENTROPY_BYTES: usize = 4096;

pub(crate) const REQUESTS: usize = 0;

/// A request that was taken from the ring and not yet answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    head: u16,
    bytes: u16,
}

/// The device behind the transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rng {
    wanted: Option<Wanted>,
}

impl Rng {
    pub(crate) fn new() -> Self {
        Self { wanted: None }
    }

    /// How many bytes the request under way wants.
    pub(crate) fn wanted(&self) -> Option<usize> {
        self.wanted.map(|wanted| usize::from(wanted.bytes))
    }

    /// Answers the request under way; what it does not want is left out. Without a
    /// request, or without bytes, nothing happens.
    pub(crate) fn fill(
        &mut self,
        bytes: &[u8],
        queues: &mut [Virtqueue],
        mem: &GuestMemory,
    ) -> Result<((), Signal), Broken> {
        let Some(wanted) = self.wanted.filter(|_| !bytes.is_empty()) else {
            return Ok(((), Signal::Quiet));
        };
        self.wanted = None;
        let queue = &mut queues[REQUESTS];
        // Walked again: the guest may have changed the descriptors in between.
        let chain = queue.chain(wanted.head, mem, &mut queue.walk(), Direction::DeviceWrites)?;
        let room = chain.len().min(u64::from(wanted.bytes)) as usize;
        let bytes = &bytes[..bytes.len().min(room)];
        chain.write(mem, &[bytes])?;
        queue.finish(mem, chain.head, bytes.len() as u32)?;
        let interrupt = queue.wants_interrupt(mem)?;
        self.take_request(queue, mem)?;
        Ok((
            (),
            if interrupt {
                Signal::UsedBuffers
            } else {
                Signal::Quiet
            },
        ))
    }

    fn take_request(&mut self, queue: &mut Virtqueue, mem: &GuestMemory) -> Result<(), Broken> {
        if self.wanted.is_some() {
            return Ok(());
        }
        match queue.pop(mem, &mut queue.walk(), Direction::DeviceWrites)? {
            Some(chain) => {
                let bytes = chain.len().min(MAX_ENTROPY_BYTES as u64) as u16;
                if bytes == 0 {
                    return Err(Broken::EmptyRequest);
                }
                self.wanted = Some(Wanted {
                    head: chain.head,
                    bytes,
                });
                queue.no_kick(mem)
            }
            None => queue.want_kick(mem),
        }
    }

    /// Checks a restored value (SEC-2).
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        match self.wanted {
            Some(wanted) if !(1..=MAX_ENTROPY_BYTES).contains(&usize::from(wanted.bytes)) => {
                Err("it wants more bytes than it asks for at once, or none")
            }
            _ => Ok(()),
        }
    }
}

impl VirtioDevice for Rng {
    const DEVICE_ID: u32 = VIRTIO_ID_RNG;
    const QUEUES: usize = 1;
    const QUEUE_SIZE: u16 = 64;

    fn features(&self) -> u64 {
        0
    }

    fn config_byte(&self, _offset: u64) -> u8 {
        0
    }

    fn notify(
        &mut self,
        _queue: usize,
        queues: &mut [Virtqueue],
        mem: &GuestMemory,
        _outputs: &mut Vec<Output>,
    ) -> Result<Signal, Broken> {
        self.take_request(&mut queues[REQUESTS], mem)?;
        Ok(Signal::Quiet)
    }

    fn reset(&mut self) {
        self.wanted = None;
    }
}

#[cfg(test)]
mod tests;
