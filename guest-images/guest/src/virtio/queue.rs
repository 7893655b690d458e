//! A split virtqueue (virtio 1.2, section 2.7) of buffers that stay where they are.
//!
//! Descriptor *i* is buffer *i*, for ever; what goes round are the numbers:
//!
//! ```text
//!          offer, publish                    the device
//!   idle ────────────────► available ring ───────────────► used ring
//!    ▲                                                         │
//!    └────────────────────────── take ─────────────────────────┘
//! ```
//!
//! A buffer can be touched while it is idle only; that is checked.

use alloc::{vec, vec::Vec};
use core::{
    alloc::Layout,
    mem::size_of,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU16, Ordering, fence},
};

/// Who writes into a queue's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The driver: the device reads.
    ToDevice,
    /// The device.
    FromDevice,
}

#[repr(C)]
struct Descriptor {
    address: u64,
    bytes: u32,
    flags: u16,
    next: u16,
}
const DEVICE_WRITES: u16 = 2;

#[repr(C)]
struct UsedElement {
    id: u32,
    bytes: u32,
}

/// Offsets in the available and the used ring.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const RING: usize = 4;
/// In the available ring's flags: no interrupt, please. In the used ring's: no
/// notification. Both are without effect when event indexes were agreed on.
const NO_NEED: u16 = 1;

pub(crate) struct Queue {
    size: u16,
    direction: Direction,
    event_index: bool,
    descriptors: NonNull<u8>,
    available: NonNull<u8>,
    used: NonNull<u8>,
    buffers: NonNull<u8>,
    buffer_bytes: usize,
    /// Whether a buffer is idle.
    idle: Vec<bool>,
    /// Buffers offered so far, and how many of them the device can see.
    offered: u16,
    published: u16,
    /// Buffers taken back so far.
    taken: u16,
}

impl Queue {
    pub(super) fn new(
        size: u16,
        buffer_bytes: usize,
        direction: Direction,
        event_index: bool,
    ) -> Self {
        assert!(size.is_power_of_two());
        let n = usize::from(size);
        Queue {
            size,
            direction,
            event_index,
            descriptors: zeroed(n * size_of::<Descriptor>()),
            // The two bytes behind each ring are the event index.
            available: zeroed(RING + n * size_of::<u16>() + 2),
            used: zeroed(RING + n * size_of::<UsedElement>() + 2),
            buffers: zeroed(n * buffer_bytes),
            buffer_bytes,
            idle: vec![true; n],
            offered: 0,
            published: 0,
            taken: 0,
        }
    }

    /// Descriptor table, available ring, used ring.
    pub(super) fn addresses(&self) -> [usize; 3] {
        [self.descriptors, self.available, self.used].map(|part| part.as_ptr() as usize)
    }

    /// How many buffers there are.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// Buffers offered but not yet published.
    pub(crate) fn unpublished(&self) -> u16 {
        self.offered.wrapping_sub(self.published)
    }

    /// The buffer `id`.
    ///
    /// # Panics
    /// If it is not idle.
    pub(crate) fn buffer(&mut self, id: u16) -> &mut [u8] {
        assert!(
            self.idle[usize::from(id)],
            "a virtqueue's buffer is not idle"
        );
        // SAFETY: inside of the allocation (the index above was in bounds), which lives as
        // long as `self`; the device has it not (idle), and `&mut self` makes this the only
        // reference.
        unsafe {
            let start = self.buffers.add(usize::from(id) * self.buffer_bytes);
            slice::from_raw_parts_mut(start.as_ptr(), self.buffer_bytes)
        }
    }

    /// Hands the first `bytes` of an idle buffer to the device, from the next
    /// [`publish`](Self::publish) on.
    pub(crate) fn offer(&mut self, id: u16, bytes: usize) {
        let address = self.buffer(id).as_ptr() as u64;
        assert!(bytes <= self.buffer_bytes);
        self.idle[usize::from(id)] = false;
        let flags = if self.direction == Direction::FromDevice {
            DEVICE_WRITES
        } else {
            0
        };
        let descriptor = Descriptor {
            address,
            bytes: bytes as u32,
            flags,
            next: 0,
        };
        let slot = usize::from(self.offered % self.size);
        // SAFETY: both writes are inside of their allocations: `id` was checked by `buffer`,
        // `slot` is below the size. The device reads neither before it sees the index.
        unsafe {
            self.descriptors
                .cast::<Descriptor>()
                .add(usize::from(id))
                .write_volatile(descriptor);
            self.available
                .add(RING + slot * 2)
                .cast::<u16>()
                .write_volatile(id);
        }
        self.offered = self.offered.wrapping_add(1);
    }

    /// Lets the device see what was offered. True if it wants to be notified.
    pub(crate) fn publish(&mut self) -> bool {
        let before = self.published;
        if self.offered == before {
            return false;
        }
        self.published = self.offered;
        self.word(self.available, INDEX)
            .store(self.offered, Ordering::Release);
        // The device must see the index before its wish is read, lest both wait.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = self.word(self.used, RING + usize::from(self.size) * 8);
            crossed(event.load(Ordering::Acquire), self.published, before)
        } else {
            self.word(self.used, FLAGS).load(Ordering::Acquire) & NO_NEED == 0
        }
    }

    /// Whether the device has used a buffer that was not taken yet.
    pub(crate) fn has_used(&self) -> bool {
        self.word(self.used, INDEX).load(Ordering::Acquire) != self.taken
    }

    /// Takes back a used buffer: its number, and how many bytes the device wrote.
    ///
    /// # Panics
    /// If the device names a buffer that it was not given.
    pub(crate) fn take(&mut self) -> Option<(u16, usize)> {
        if !self.has_used() {
            return None;
        }
        let slot = usize::from(self.taken % self.size);
        // SAFETY: inside of the used ring, since `slot` is below the size; the device wrote
        // this element before the index that was just read.
        let element = unsafe {
            self.used
                .add(RING + slot * size_of::<UsedElement>())
                .cast::<UsedElement>()
                .read_volatile()
        };
        self.taken = self.taken.wrapping_add(1);
        let id = element.id as u16;
        let known = element.id < u32::from(self.size) && !self.idle[usize::from(id)];
        assert!(known, "a device returned a buffer that it was not given");
        self.idle[usize::from(id)] = true;
        Some((id, (element.bytes as usize).min(self.buffer_bytes)))
    }

    /// Asks for an interrupt at the next used buffer, or for none if it can be had.
    ///
    /// True if a buffer is used already, for which no interrupt may come.
    pub(crate) fn want_interrupt(&mut self, wanted: bool) -> bool {
        if self.event_index {
            // "None" is half the numbers away: further than the queue is long.
            let at = self.taken.wrapping_add(if wanted { 0 } else { 1 << 15 });
            let event = self.word(self.available, RING + usize::from(self.size) * 2);
            event.store(at, Ordering::Release);
        } else {
            let flags = if wanted { 0 } else { NO_NEED };
            self.word(self.available, FLAGS)
                .store(flags, Ordering::Release);
        }
        fence(Ordering::SeqCst);
        self.has_used()
    }

    /// A word of a ring.
    fn word(&self, ring: NonNull<u8>, offset: usize) -> &AtomicU16 {
        // SAFETY: callers name a ring of this queue and an even offset inside of it; driver
        // and device access these words atomically only.
        unsafe { AtomicU16::from_ptr(ring.add(offset).cast().as_ptr()) }
    }
}

/// Whether going from `before` to `now` passed `event` (section 2.7.10.1).
fn crossed(event: u16, now: u16, before: u16) -> bool {
    now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
}

/// Memory for a device, zeroed, kept for ever.
fn zeroed(bytes: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(bytes, 4096).expect("queues are small");
    // SAFETY: the layout's size is not zero.
    NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) }).expect("no memory for a virtqueue")
}
