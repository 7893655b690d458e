//! Virtio network device (virtio 1.2, section 5.1): one pair of queues, no
//! offloads, link always up.
//!
//! Frames to send are taken at the driver's notification, at most a queue of them;
//! each becomes one output. A received frame takes one available chain. Whoever
//! has a frame asks [`Net::can_receive`] first and keeps it while there is no
//! buffer; a frame that comes all the same is dropped, on both nodes alike.

use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_S_LINK_UP,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_NET;

use super::queue::{Broken, Chain, Direction, Virtqueue};
use super::{Signal, VirtioDevice};
use crate::devices::GuestMemory;
use crate::devices::output::Output;

/// Largest payload of a frame.
pub const MTU: u16 = 1500;
/// An Ethernet header without VLAN tag.
pub const MIN_FRAME_BYTES: usize = 14;
/// The longest frame in either direction, without frame check sequence.
pub const MAX_FRAME_BYTES: usize = MIN_FRAME_BYTES + MTU as usize;

pub(crate) const RX: usize = 0;
pub(crate) const TX: usize = 1;

/// `virtio_net_hdr` with `num_buffers`, which `VIRTIO_F_VERSION_1` implies.
const HEADER_BYTES: usize = 12;
/// Of a received frame: no flags, no GSO, `num_buffers` 1 (section 5.1.6.4.1).
const RX_HEADER: [u8; HEADER_BYTES] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];

/// What the network device has done since the machine was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetCounters {
    /// Frames that the guest sent.
    pub sent: u64,
    /// Frames of the guest that were dropped: too short or long, or with an
    /// offload that was not negotiated.
    pub sent_dropped: u64,
    /// Frames that the guest received.
    pub received: u64,
    /// Frames that were dropped before the guest: no buffer, or too short or long.
    pub received_dropped: u64,
}

/// The device behind the transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Net {
    mac: [u8; 6],
    counters: NetCounters,
}

impl Net {
    pub(crate) fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            counters: NetCounters::default(),
        }
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        self.mac
    }

    pub(crate) fn counters(&self) -> NetCounters {
        self.counters
    }

    pub(crate) fn count_dropped(&mut self) {
        self.counters.received_dropped += 1;
    }

    /// Puts a frame into the next buffer. Returns whether the guest gets it.
    pub(crate) fn receive(
        &mut self,
        frame: &[u8],
        queues: &mut [Virtqueue],
        mem: &GuestMemory,
    ) -> Result<(bool, Signal), Broken> {
        let queue = &mut queues[RX];
        let Some(chain) = queue.pop(mem, &mut queue.walk(), Direction::DeviceWrites)? else {
            return Ok((false, Signal::Quiet));
        };
        // Section 5.1.6.3.1 wants room for any frame. A buffer without it goes back
        // empty, and the frame is lost.
        let length = HEADER_BYTES + frame.len();
        let fits = chain.len() >= length as u64;
        if fits {
            chain.write(mem, &[&RX_HEADER, frame])?;
            self.counters.received += 1;
        }
        queue.finish(mem, chain.head, if fits { length as u32 } else { 0 })?;
        // A kick matters only when the device has run out of buffers.
        if queue.has_available(mem) {
            queue.no_kick(mem)?;
        } else {
            queue.want_kick(mem)?;
        }
        let signal = if queue.wants_interrupt(mem)? {
            Signal::UsedBuffers
        } else {
            Signal::Quiet
        };
        Ok((fits, signal))
    }

    fn transmit(
        &mut self,
        queue: &mut Virtqueue,
        mem: &GuestMemory,
        outputs: &mut Vec<Output>,
    ) -> Result<Signal, Broken> {
        let mut walk = queue.walk();
        let mut finished = false;
        while let Some(chain) = queue.pop(mem, &mut walk, Direction::DeviceReads)? {
            match take_frame(&chain, mem)? {
                Some(frame) => {
                    self.counters.sent += 1;
                    outputs.push(Output::Net { frame });
                }
                None => self.counters.sent_dropped += 1,
            }
            queue.finish(mem, chain.head, 0)?;
            finished = true;
        }
        queue.want_kick(mem)?;
        let interrupt = finished && queue.wants_interrupt(mem)?;
        Ok(if interrupt {
            Signal::UsedBuffers
        } else {
            Signal::Quiet
        })
    }
}

/// The frame of a chain, unless it is one that the device does not send.
fn take_frame(chain: &Chain, mem: &GuestMemory) -> Result<Option<Vec<u8>>, Broken> {
    const SHORTEST: u64 = (HEADER_BYTES + MIN_FRAME_BYTES) as u64;
    const LONGEST: u64 = (HEADER_BYTES + MAX_FRAME_BYTES) as u64;
    if !(SHORTEST..=LONGEST).contains(&chain.len()) {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(chain.len() as usize);
    chain.read(mem, &mut bytes)?;
    let [flags, gso_type] = [bytes[0], bytes[1]];
    if u32::from(flags) & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0
        || u32::from(gso_type) != VIRTIO_NET_HDR_GSO_NONE
    {
        return Ok(None);
    }
    bytes.drain(..HEADER_BYTES);
    Ok(Some(bytes))
}

impl VirtioDevice for Net {
    const DEVICE_ID: u32 = VIRTIO_ID_NET;
    const QUEUES: usize = 2;
    const QUEUE_SIZE: u16 = 256;

    fn features(&self) -> u64 {
        1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS | 1 << VIRTIO_NET_F_MTU
    }

    /// `virtio_net_config` (section 5.1.4): mac, status, max_virtqueue_pairs, mtu.
    fn config_byte(&self, offset: u64) -> u8 {
        let [status_low, status_high] = (VIRTIO_NET_S_LINK_UP as u16).to_le_bytes();
        let [mtu_low, mtu_high] = MTU.to_le_bytes();
        match offset {
            0..6 => self.mac[offset as usize],
            6 => status_low,
            7 => status_high,
            10 => mtu_low,
            11 => mtu_high,
            _ => 0,
        }
    }

    fn notify(
        &mut self,
        queue: usize,
        queues: &mut [Virtqueue],
        mem: &GuestMemory,
        outputs: &mut Vec<Output>,
    ) -> Result<Signal, Broken> {
        if queue == TX {
            return self.transmit(&mut queues[TX], mem, outputs);
        }
        // The driver has put in buffers; frames will find them.
        queues[RX].no_kick(mem)?;
        Ok(Signal::Quiet)
    }

    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests;
