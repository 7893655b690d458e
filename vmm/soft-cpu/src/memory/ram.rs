//! Guest RAM: physical addresses from 0 to its length.
//!
//! With [`super::tlb`] and `simd::host`, the only unsafe code of the crate. What it rests on: the memory that
//! [`Ram::new`] was given stays valid and is touched by nobody else while the CPU runs.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::ptr::NonNull;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// Guest RAM.
pub struct Ram {
    base: NonNull<u8>,
    len: u64,
    owner: Owner,
}

/// Whom the memory belongs to.
enum Owner {
    /// This value. What to free: the pages lie somewhere in it.
    Own(NonNull<u8>, Layout),
    /// Somebody else, who keeps it for as long as this lives.
    Other(#[expect(dead_code, reason = "held, not looked at")] Box<dyn Any + Send>),
}

// SAFETY: The memory belongs to this value alone while the CPU runs (contract of `new`), so it may
// move to another thread with it.
unsafe impl Send for Ram {}

impl Ram {
    /// RAM that somebody else allocated, and frees after `keeper` is dropped.
    ///
    /// # Safety
    ///
    /// `base` points to `len` readable and writable bytes that stay so as long as `keeper` lives.
    /// Nobody else reads or writes them while a method of the CPU runs.
    ///
    /// # Panics
    ///
    /// If `base` is null or `len` not a multiple of 4096.
    #[must_use]
    pub unsafe fn new(base: *mut u8, len: u64, keeper: Box<dyn Any + Send>) -> Ram {
        assert!(len.is_multiple_of(PAGE), "RAM of {len} bytes is not pages");
        Ram {
            base: NonNull::new(base).expect("RAM is somewhere"),
            len,
            owner: Owner::Other(keeper),
        }
    }

    /// `len` zero bytes of its own, for tests.
    ///
    /// # Panics
    ///
    /// If `len` is not a positive multiple of 4096.
    #[must_use]
    pub fn anonymous(len: u64) -> Ram {
        assert!(len > 0 && len.is_multiple_of(PAGE));
        // Aligned by hand: of an allocator that is asked for alignment, Rust does not know that its
        // new pages are zero, and would touch them all.
        let layout = Layout::from_size_align((len + PAGE) as usize, 1).expect("it is a size");
        // SAFETY: The size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        let before = start.as_ptr().align_offset(PAGE as usize);
        Ram {
            // SAFETY: Less than a page before the pages, and a page more than they was allocated.
            base: unsafe { start.add(before) },
            len,
            owner: Owner::Own(start, layout),
        }
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether all of `len` bytes at `at` are RAM.
    fn holds(&self, at: u64, len: usize) -> bool {
        at <= self.len && len as u64 <= self.len - at
    }

    /// The first byte of the page at physical address `page`, or `None` if that is no RAM.
    pub(crate) fn page(&self, page: u64) -> Option<*mut u8> {
        let page = page & !(PAGE - 1);
        // SAFETY: The page lies within the allocation.
        (page < self.len).then(|| unsafe { self.base.as_ptr().add(page as usize) })
    }

    /// Reads `into.len()` bytes; false, and nothing read, if they are not all RAM.
    #[must_use]
    pub fn read(&self, at: u64, into: &mut [u8]) -> bool {
        if !self.holds(at, into.len()) {
            return false;
        }
        // SAFETY: The range lies in RAM, and `into` cannot overlap it: RAM is only ever reached
        // through raw pointers, so nobody holds a reference into it.
        unsafe {
            let from = self.base.as_ptr().add(at as usize);
            std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len());
        }
        true
    }

    /// Writes `bytes`; false, and nothing written, if they are not all RAM.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        if !self.holds(at, bytes.len()) {
            return false;
        }
        // SAFETY: As in `read`.
        unsafe {
            let to = self.base.as_ptr().add(at as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        true
    }

    /// Copies `len` bytes within RAM, one after the other from the lowest up, as REP MOVSB does
    /// where the ranges overlap. Both ranges must be RAM.
    pub(crate) fn copy_upwards(&mut self, from: u64, to: u64, len: usize) {
        assert!(self.holds(from, len) && self.holds(to, len));
        // SAFETY: Both ranges lie in RAM; the overlapping case goes byte by byte.
        unsafe {
            let from_ptr = self.base.as_ptr().add(from as usize);
            let to_ptr = self.base.as_ptr().add(to as usize);
            if to <= from || to - from >= len as u64 {
                std::ptr::copy(from_ptr, to_ptr, len);
            } else {
                for i in 0..len {
                    *to_ptr.add(i) = *from_ptr.add(i);
                }
            }
        }
    }

    /// Fills `len` bytes at `at`, which must be RAM, with `pattern` over and over.
    pub(crate) fn fill(&mut self, at: u64, len: usize, pattern: &[u8]) {
        assert!(self.holds(at, len));
        // SAFETY: The range lies in RAM.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at as usize), len) };
        for chunk in bytes.chunks_mut(pattern.len()) {
            chunk.copy_from_slice(&pattern[..chunk.len()]);
        }
    }

    /// A 64-bit word, as page walks read it; zero outside RAM.
    pub(crate) fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        if self.read(at, &mut bytes) {
            u64::from_le_bytes(bytes)
        } else {
            0
        }
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        if let Owner::Own(start, layout) = self.owner {
            // SAFETY: Allocated in `anonymous` with this layout.
            unsafe { dealloc(start.as_ptr(), layout) };
        }
    }
}
