//! A split virtqueue that believes nothing it reads (SEC-3; virtio 1.2, section 2.7).
//!
//! `virtio-queue` keeps the indexes and the event-index arithmetic. Descriptor
//! chains are walked here instead, because a walk must end with a reason, not
//! silently, and must not follow the indirect tables that were never offered.
//!
//! Work is bounded per call: honest chains share one descriptor table without
//! overlap (section 2.7.5), so one call never meets more descriptors than the queue
//! has. [`Walk`] counts them; a guest that points several heads at one chain, or
//! lays a ring over another, runs into that count.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_bindings::bindings::virtio_ring::{
    VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE,
};
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::devices::GuestMemory;

const DESCRIPTOR_BYTES: u64 = 16;

/// Why a device wants to be reset: what its driver did to a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub(crate) enum Broken {
    #[error("a ring is misaligned or lies outside of RAM")]
    Ring,
    #[error("the available index is further ahead than the queue is long")]
    AvailableIndex,
    #[error("a descriptor index is not below the queue size")]
    DescriptorIndex,
    #[error("more descriptors than the queue has: a loop, or chains that overlap")]
    TooManyDescriptors,
    #[error("an indirect descriptor, which was not negotiated")]
    Indirect,
    #[error("a descriptor of the wrong direction")]
    Direction,
    #[error("a buffer lies outside of RAM")]
    Buffer,
    #[error("a request without room for an answer")]
    EmptyRequest,
}

/// One buffer of a chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) addr: GuestAddress,
    pub(crate) len: u32,
}

/// The direction that every descriptor of a chain must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    DeviceReads,
    DeviceWrites,
}

/// Descriptors that one call may still look at.
pub(crate) struct Walk {
    left: u16,
}

/// A chain of buffers that the driver made available.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) head: u16,
    pub(crate) segments: Vec<Segment>,
}

impl Chain {
    /// Bytes in all segments.
    pub(crate) fn len(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| u64::from(segment.len))
            .sum()
    }

    /// Cuts the last byte off; `None` if there is none.
    pub(crate) fn take_last_byte(&mut self) -> Option<Segment> {
        let last = self.segments.iter_mut().rfind(|segment| segment.len > 0)?;
        last.len -= 1;
        // Wraps at the very end of the address space, where no RAM is: writing fails then.
        let addr = GuestAddress(last.addr.0.wrapping_add(u64::from(last.len)));
        Some(Segment { addr, len: 1 })
    }

    /// Appends the chain's bytes to `bytes`; the caller has bounded [`Self::len`].
    pub(crate) fn read(&self, mem: &GuestMemory, bytes: &mut Vec<u8>) -> Result<(), Broken> {
        for segment in &self.segments {
            let from = bytes.len();
            bytes.resize(from + segment.len as usize, 0);
            mem.read_slice(&mut bytes[from..], segment.addr)
                .map_err(|_| Broken::Buffer)?;
        }
        Ok(())
    }

    /// Writes `parts`, one after the other, from the start of the chain. What does
    /// not fit is left out.
    pub(crate) fn write(&self, mem: &GuestMemory, parts: &[&[u8]]) -> Result<(), Broken> {
        let mut segments = self.segments.iter().copied();
        let mut room = Segment {
            addr: GuestAddress(0),
            len: 0,
        };
        for part in parts {
            let mut rest = *part;
            while !rest.is_empty() {
                if room.len == 0 {
                    match segments.next() {
                        Some(segment) => room = segment,
                        None => return Ok(()),
                    }
                    continue;
                }
                let count = rest.len().min(room.len as usize);
                mem.write_slice(&rest[..count], room.addr)
                    .map_err(|_| Broken::Buffer)?;
                // Wraps at the very end of the address space, where no RAM is: the
                // write before has failed then.
                room.addr = GuestAddress(room.addr.0.wrapping_add(count as u64));
                room.len -= count as u32;
                rest = &rest[count..];
            }
        }
        Ok(())
    }
}

/// A chain of a request with an answer: buffers that the device reads, then buffers that it writes
/// (section 2.7.4.2).
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) head: u16,
    pub(crate) request: Chain,
    pub(crate) answer: Chain,
}

/// A virtqueue: what its registers hold, and how far the device has come.
#[derive(Debug, Serialize, Deserialize)]
#[serde(try_from = "VirtqueueState", into = "VirtqueueState")]
pub(crate) struct Virtqueue {
    queue: Queue,
    registers: Registers,
}

/// The ring addresses as the driver wrote them, checked when the queue is enabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registers {
    pub(crate) descriptors: u64,
    pub(crate) driver: u64,
    pub(crate) device: u64,
}

/// A [`Virtqueue`] as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VirtqueueState {
    max_size: u16,
    size: u16,
    ready: bool,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    registers: Registers,
}

impl Virtqueue {
    /// A disabled queue of at most `max_size` descriptors, a power of two.
    pub(crate) fn new(max_size: u16) -> Self {
        let queue = Queue::new(max_size).expect("queue sizes are constants, powers of two");
        Self {
            queue,
            registers: Registers::default(),
        }
    }

    pub(crate) fn reset(&mut self) {
        self.queue.reset();
        self.registers = Registers::default();
    }

    pub(crate) fn max_size(&self) -> u16 {
        self.queue.max_size()
    }

    pub(crate) fn ready(&self) -> bool {
        self.queue.ready()
    }

    /// Takes a new size; one that the queue cannot have is ignored.
    pub(crate) fn set_size(&mut self, size: u32) {
        if let Ok(size) = u16::try_from(size) {
            let _ignored = self.queue.try_set_size(size);
        }
    }

    pub(crate) fn registers(&mut self) -> &mut Registers {
        &mut self.registers
    }

    /// Enables the queue if its rings are aligned and inside RAM.
    pub(crate) fn enable(&mut self, event_idx: bool, mem: &GuestMemory) -> Result<(), Broken> {
        self.apply_registers().map_err(|_| Broken::Ring)?;
        self.queue.set_event_idx(event_idx);
        self.queue.set_ready(true);
        if !self.queue.is_valid(mem) {
            self.queue.set_ready(false);
            return Err(Broken::Ring);
        }
        Ok(())
    }

    fn apply_registers(&mut self) -> Result<(), virtio_queue::Error> {
        self.queue
            .try_set_desc_table_address(GuestAddress(self.registers.descriptors))?;
        self.queue
            .try_set_avail_ring_address(GuestAddress(self.registers.driver))?;
        self.queue
            .try_set_used_ring_address(GuestAddress(self.registers.device))
    }

    pub(crate) fn disable(&mut self) {
        self.queue.set_ready(false);
    }

    /// Does the driver offer buffers? An index that makes no sense counts as an
    /// offer, so that taking it finds out.
    pub(crate) fn has_available(&self, mem: &GuestMemory) -> bool {
        self.ready()
            && self
                .queue
                .avail_idx(mem, std::sync::atomic::Ordering::Acquire)
                .is_ok_and(|index| index.0 != self.queue.next_avail())
    }

    /// Begins a call's work on this queue.
    pub(crate) fn walk(&self) -> Walk {
        Walk {
            left: self.queue.size(),
        }
    }

    /// Takes the next available chain, all of one direction.
    pub(crate) fn pop(
        &mut self,
        mem: &GuestMemory,
        walk: &mut Walk,
        direction: Direction,
    ) -> Result<Option<Chain>, Broken> {
        let mut available = self.queue.iter(mem).map_err(|_| Broken::AvailableIndex)?;
        let Some(head) = available.next().map(|chain| chain.head_index()) else {
            return Ok(None);
        };
        self.chain(head, mem, walk, direction).map(Some)
    }

    /// Takes the next available chain, a request with room for its answer.
    pub(crate) fn pop_exchange(
        &mut self,
        mem: &GuestMemory,
        walk: &mut Walk,
    ) -> Result<Option<Exchange>, Broken> {
        let mut available = self.queue.iter(mem).map_err(|_| Broken::AvailableIndex)?;
        let Some(head) = available.next().map(|chain| chain.head_index()) else {
            return Ok(None);
        };
        self.exchange(head, mem, walk).map(Some)
    }

    /// Walks the chain that begins at `head`, a request with room for its answer.
    pub(crate) fn exchange(
        &self,
        head: u16,
        mem: &GuestMemory,
        walk: &mut Walk,
    ) -> Result<Exchange, Broken> {
        let (mut request, mut answer) = (Vec::new(), Vec::new());
        self.each_descriptor(head, mem, walk, |segment, direction| {
            match direction {
                Direction::DeviceWrites => answer.push(segment),
                Direction::DeviceReads if answer.is_empty() => request.push(segment),
                Direction::DeviceReads => return Err(Broken::Direction),
            }
            Ok(())
        })?;
        let chain = |segments| Chain { head, segments };
        Ok(Exchange {
            head,
            request: chain(request),
            answer: chain(answer),
        })
    }

    /// Walks the chain that begins at `head`.
    pub(crate) fn chain(
        &self,
        head: u16,
        mem: &GuestMemory,
        walk: &mut Walk,
        direction: Direction,
    ) -> Result<Chain, Broken> {
        let mut segments = Vec::new();
        self.each_descriptor(head, mem, walk, |segment, found| {
            if found != direction {
                return Err(Broken::Direction);
            }
            segments.push(segment);
            Ok(())
        })?;
        Ok(Chain { head, segments })
    }

    fn each_descriptor(
        &self,
        head: u16,
        mem: &GuestMemory,
        walk: &mut Walk,
        mut visit: impl FnMut(Segment, Direction) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let mut index = head;
        loop {
            if index >= self.queue.size() {
                return Err(Broken::DescriptorIndex);
            }
            walk.left = walk.left.checked_sub(1).ok_or(Broken::TooManyDescriptors)?;
            let at = u64::from(index) * DESCRIPTOR_BYTES;
            let at = self
                .registers
                .descriptors
                .checked_add(at)
                .ok_or(Broken::Ring)?;
            let descriptor: Descriptor =
                mem.read_obj(GuestAddress(at)).map_err(|_| Broken::Ring)?;
            let flags = u32::from(descriptor.flags());
            if flags & VRING_DESC_F_INDIRECT != 0 {
                return Err(Broken::Indirect);
            }
            let direction = if flags & VRING_DESC_F_WRITE != 0 {
                Direction::DeviceWrites
            } else {
                Direction::DeviceReads
            };
            let segment = Segment {
                addr: descriptor.addr(),
                len: descriptor.len(),
            };
            visit(segment, direction)?;
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next();
        }
    }

    /// Returns a chain to the driver; the device wrote `len` bytes into it.
    pub(crate) fn finish(&mut self, mem: &GuestMemory, head: u16, len: u32) -> Result<(), Broken> {
        self.queue
            .add_used(mem, head, len)
            .map_err(|_| Broken::Ring)
    }

    /// Asks the driver to notify when it adds the next buffer.
    pub(crate) fn want_kick(&mut self, mem: &GuestMemory) -> Result<(), Broken> {
        self.queue
            .enable_notification(mem)
            .map(|_| ())
            .map_err(|_| Broken::Ring)
    }

    /// Lets the driver add buffers without notifying.
    pub(crate) fn no_kick(&mut self, mem: &GuestMemory) -> Result<(), Broken> {
        self.queue
            .disable_notification(mem)
            .map_err(|_| Broken::Ring)
    }

    /// Does the driver want to hear of the buffers returned since it was last
    /// asked? To be asked once by every call that returned any.
    pub(crate) fn wants_interrupt(&mut self, mem: &GuestMemory) -> Result<bool, Broken> {
        self.queue.needs_notification(mem).map_err(|_| Broken::Ring)
    }

    fn state(&self) -> VirtqueueState {
        VirtqueueState {
            max_size: self.queue.max_size(),
            size: self.queue.size(),
            ready: self.queue.ready(),
            event_idx: self.queue.event_idx_enabled(),
            next_avail: self.queue.next_avail(),
            next_used: self.queue.next_used(),
            registers: self.registers,
        }
    }
}

impl From<Virtqueue> for VirtqueueState {
    fn from(queue: Virtqueue) -> Self {
        queue.state()
    }
}

impl TryFrom<VirtqueueState> for Virtqueue {
    type Error = virtio_queue::Error;

    fn try_from(state: VirtqueueState) -> Result<Self, Self::Error> {
        let mut queue = Queue::new(state.max_size)?;
        queue.try_set_size(state.size)?;
        queue.set_event_idx(state.event_idx);
        queue.set_next_avail(state.next_avail);
        queue.set_next_used(state.next_used);
        let mut queue = Self {
            queue,
            registers: state.registers,
        };
        if state.ready {
            queue.apply_registers()?;
            queue.queue.set_ready(true);
        }
        Ok(queue)
    }
}

impl Clone for Virtqueue {
    fn clone(&self) -> Self {
        self.state()
            .try_into()
            .expect("the state of a queue makes a queue")
    }
}

impl PartialEq for Virtqueue {
    fn eq(&self, other: &Self) -> bool {
        self.state() == other.state()
    }
}

impl Eq for Virtqueue {}

#[cfg(test)]
mod tests;
