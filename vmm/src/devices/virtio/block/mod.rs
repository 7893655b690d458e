//! Virtio block device (virtio 1.2, section 5.2): one queue, writes through to stable storage at
//! `FLUSH`.
//!
//! ```text
//!   driver ──ring──► taken, numbered ──► requests: to the disk, in this order
//!                          │                            │ carried out in a buffer of the host
//!                    in flight (≤ 64) ◄──BlockDone──────┘
//!                          └──► data and status into guest memory, interrupt
//! ```
//!
//! The device has no disk. It says what is to be read or written, and remembers it until a
//! `BlockDone` input says that it is done; only then does it touch guest memory (DET-3), so that
//! it makes no difference to the guest how fast the host's disk is, or which host's it is. What
//! needs no disk (an identification, a request that makes no sense) is answered at once.

mod request;

use std::collections::VecDeque;

use ft_logging::entry::BlockStatus;
use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use vm_memory::Bytes;

use super::queue::{Broken, Exchange, Virtqueue, Walk};
use super::{Signal, VirtioDevice};
use crate::devices::GuestMemory;
use crate::devices::output::Output;
use request::{Parsed, parse};

/// The unit in which a disk is addressed, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// The most bytes that one request moves. A driver that keeps to `size_max` and `seg_max` stays
/// below.
pub const MAX_REQUEST_BYTES: u32 = 4 << 20;

/// The most requests in flight; further ones wait in the ring.
pub const MAX_IN_FLIGHT: usize = 64;

/// While requests of this many bytes are in flight, none is taken: bounds the host's buffers.
const MAX_IN_FLIGHT_BYTES: u64 = 16 << 20;

/// The largest segment (`size_max`), and how many a request may have (`seg_max`): those of a
/// queue, less header and status.
const SIZE_MAX: u32 = 32 << 10;
const SEG_MAX: u32 = Block::QUEUE_SIZE as u32 - 2;

pub(crate) const REQUESTS: usize = 0;

/// The guest's disk, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskShape {
    /// Its size in sectors of [`SECTOR_BYTES`].
    pub sectors: u64,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

/// What the guest wants of its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockOperation {
    /// Read.
    Read {
        /// The first sector.
        sector: u64,
        /// How much, whole sectors, at most [`MAX_REQUEST_BYTES`].
        bytes: u32,
    },
    /// Write.
    Write {
        /// The first sector.
        sector: u64,
        /// What, whole sectors, at most [`MAX_REQUEST_BYTES`].
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// See every write that is done to stable storage.
    Flush,
}

impl BlockOperation {
    fn bytes(&self) -> u64 {
        match self {
            BlockOperation::Read { bytes, .. } => u64::from(*bytes),
            BlockOperation::Write { data, .. } => data.len() as u64,
            BlockOperation::Flush => 0,
        }
    }

    /// Whether it lies on a disk of this shape and within the bounds of a request (SEC-2).
    fn fits(&self, disk: DiskShape) -> bool {
        let (sector, bytes) = match self {
            BlockOperation::Read { sector, bytes } => (*sector, u64::from(*bytes)),
            BlockOperation::Write { sector, data } if !disk.read_only => {
                (*sector, data.len() as u64)
            }
            BlockOperation::Write { .. } => return false,
            BlockOperation::Flush => return true,
        };
        let end = sector.checked_add(bytes / SECTOR_BYTES);
        bytes > 0
            && bytes.is_multiple_of(SECTOR_BYTES)
            && bytes <= u64::from(MAX_REQUEST_BYTES)
            && end.is_some_and(|end| end <= disk.sectors)
    }
}

/// A request to the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRequest {
    /// Its number, from 1 on, never used again in a life.
    pub tag: u64,
    /// What is wanted.
    pub operation: BlockOperation,
}

/// A request that was taken from the ring and not yet answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InFlight {
    head: u16,
    request: BlockRequest,
}

/// The device behind the transport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    disk: DiskShape,
    /// The number of the last request.
    last_tag: u64,
    /// Oldest first.
    in_flight: VecDeque<InFlight>,
    /// Requests that were taken and not yet handed to the disk.
    fresh: Vec<BlockRequest>,
}

impl Block {
    /// `last_tag` is the number of the last request that was made before, in this life.
    pub(crate) fn new(disk: DiskShape, last_tag: u64) -> Self {
        Self {
            disk,
            last_tag,
            in_flight: VecDeque::new(),
            fresh: Vec::new(),
        }
    }

    pub(crate) fn disk(&self) -> DiskShape {
        self.disk
    }

    pub(crate) fn last_tag(&self) -> u64 {
        self.last_tag
    }

    /// Requests for the disk since the last call, in the order in which they are to be carried out.
    pub(crate) fn take_requests(&mut self) -> Vec<BlockRequest> {
        std::mem::take(&mut self.fresh)
    }

    /// The next call of [`Self::take_requests`] returns everything in flight, for a disk that has
    /// seen none of it.
    pub(crate) fn issue_again(&mut self) {
        self.fresh = self
            .in_flight
            .iter()
            .map(|in_flight| in_flight.request.clone())
            .collect();
    }

    /// Whether this request waits to be done.
    pub(crate) fn is_in_flight(&self, tag: u64) -> bool {
        self.in_flight.iter().any(|one| one.request.tag == tag)
    }

    /// A request is done; a read's `data` goes to the guest. One that is not in flight, since the
    /// driver has reset the device meanwhile, is passed over.
    pub(crate) fn complete(
        &mut self,
        tag: u64,
        status: BlockStatus,
        data: &[u8],
        queues: &mut [Virtqueue],
        mem: &GuestMemory,
    ) -> Result<((), Signal), Broken> {
        let Some(at) = self.in_flight.iter().position(|one| one.request.tag == tag) else {
            return Ok(((), Signal::Quiet));
        };
        let InFlight { head, request } = self.in_flight.remove(at).expect("just found");
        let queue = &mut queues[REQUESTS];
        // Walked again: the guest may have changed the descriptors in between.
        let exchange = queue.exchange(head, mem, &mut queue.walk())?;
        let (status, data) = match (status, request.operation) {
            (BlockStatus::Ok, BlockOperation::Read { bytes, .. }) => {
                (VIRTIO_BLK_S_OK, &data[..data.len().min(bytes as usize)])
            }
            (BlockStatus::Ok, _) => (VIRTIO_BLK_S_OK, &[][..]),
            (BlockStatus::IoError, _) => (VIRTIO_BLK_S_IOERR, &[][..]),
        };
        answer(exchange, status, data, queue, mem)?;
        // There is room for another now.
        self.take_from_ring(queue, mem, &mut queue.walk())?;
        let signal = if queue.wants_interrupt(mem)? {
            Signal::UsedBuffers
        } else {
            Signal::Quiet
        };
        Ok(((), signal))
    }

    /// Takes what the driver offers, as far as there is room. Returns whether anything was
    /// answered at once.
    fn take_from_ring(
        &mut self,
        queue: &mut Virtqueue,
        mem: &GuestMemory,
        walk: &mut Walk,
    ) -> Result<bool, Broken> {
        let mut answered = false;
        while self.has_room() {
            let Some(exchange) = queue.pop_exchange(mem, walk)? else {
                queue.want_kick(mem)?;
                return Ok(answered);
            };
            match parse(&exchange, self.disk, mem)? {
                Parsed::ForTheDisk(operation) => {
                    self.last_tag += 1;
                    let request = BlockRequest {
                        tag: self.last_tag,
                        operation,
                    };
                    self.fresh.push(request.clone());
                    let head = exchange.head;
                    self.in_flight.push_back(InFlight { head, request });
                }
                Parsed::Answer { status, data } => {
                    answer(exchange, status, &data, queue, mem)?;
                    answered = true;
                }
            }
        }
        // The ring is looked into again once a request is done.
        queue.no_kick(mem)?;
        Ok(answered)
    }

    fn has_room(&self) -> bool {
        let bytes = |one: &InFlight| one.request.operation.bytes();
        self.in_flight.len() < MAX_IN_FLIGHT
            && self.in_flight.iter().map(bytes).sum::<u64>() < MAX_IN_FLIGHT_BYTES
    }

    /// Checks a restored value (SEC-2).
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let tags: Vec<u64> = self.in_flight.iter().map(|one| one.request.tag).collect();
        if tags.iter().any(|tag| *tag == 0 || *tag > self.last_tag)
            || !tags.is_sorted_by(|a, b| a < b)
        {
            return Err("its requests are not numbered in order");
        }
        if tags.len() > MAX_IN_FLIGHT {
            return Err("more requests are in flight than it takes");
        }
        let known = |one: &BlockRequest| self.in_flight.iter().any(|other| other.request == *one);
        if !self.fresh.iter().all(known) {
            return Err("it has requests for its disk that are not in flight");
        }
        let fits = |one: &InFlight| one.request.operation.fits(self.disk);
        if !self.in_flight.iter().all(fits) {
            return Err("a request does not lie on its disk");
        }
        Ok(())
    }
}

/// Returns a chain to the driver with `data` and, as its last byte, the status.
fn answer(
    exchange: Exchange,
    status: u32,
    data: &[u8],
    queue: &mut Virtqueue,
    mem: &GuestMemory,
) -> Result<(), Broken> {
    let Exchange {
        head, mut answer, ..
    } = exchange;
    let last = answer.take_last_byte().ok_or(Broken::EmptyRequest)?;
    let data = &data[..data.len().min(answer.len() as usize)];
    answer.write(mem, &[data])?;
    mem.write_obj(status as u8, last.addr)
        .map_err(|_| Broken::Buffer)?;
    queue.finish(mem, head, data.len() as u32 + 1)
}

impl VirtioDevice for Block {
    const DEVICE_ID: u32 = VIRTIO_ID_BLOCK;
    const QUEUES: usize = 1;
    const QUEUE_SIZE: u16 = 128;

    fn features(&self) -> u64 {
        let read_only = if self.disk.read_only {
            1 << VIRTIO_BLK_F_RO
        } else {
            0
        };
        read_only
            | 1 << VIRTIO_BLK_F_SIZE_MAX
            | 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
    }

    /// `virtio_blk_config` (section 5.2.4): capacity, size_max, seg_max, geometry, blk_size.
    fn config_byte(&self, offset: u64) -> u8 {
        let byte = |value: u64, from: u64| (value >> ((offset - from) * 8)) as u8;
        match offset {
            0..8 => byte(self.disk.sectors, 0),
            8..12 => byte(u64::from(SIZE_MAX), 8),
            12..16 => byte(u64::from(SEG_MAX), 12),
            20..24 => byte(SECTOR_BYTES, 20),
            _ => 0,
        }
    }

    fn notify(
        &mut self,
        _queue: usize,
        queues: &mut [Virtqueue],
        mem: &GuestMemory,
        _outputs: &mut Vec<Output>,
    ) -> Result<Signal, Broken> {
        let queue = &mut queues[REQUESTS];
        let answered = self.take_from_ring(queue, mem, &mut queue.walk())?;
        let interrupt = answered && queue.wants_interrupt(mem)?;
        Ok(if interrupt {
            Signal::UsedBuffers
        } else {
            Signal::Quiet
        })
    }

    fn reset(&mut self) {
        self.in_flight.clear();
    }
}

#[cfg(test)]
mod tests;
