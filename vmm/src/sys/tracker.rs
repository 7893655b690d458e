//! Which pages of RAM the program itself wrote: the boot loader, and devices on the guest's behalf.
//!
//! Two readers want to know, each at its own time: whoever hashes or copies RAM, once in a while
//! and for all of it, and a CPU that holds code translated from it, often and for a few pages.

use std::num::NonZeroUsize;
use std::sync::Mutex;

use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

use super::vm::PAGE_BYTES;

/// More fresh pages than this are all pages: somebody loads a machine.
const MAX_FRESH: usize = 1024;

/// The pages written since the last call of [`WriteTracker::take_fresh`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// These, by number, some perhaps twice.
    Pages(Vec<u64>),
    /// Too many to tell them apart.
    All,
}

/// A bitmap of written pages, and a list of those written lately.
#[derive(Debug)]
pub struct WriteTracker {
    pages: AtomicBitmap,
    fresh: Mutex<Fresh>,
}

impl WriteTracker {
    /// The pages written since the last call, a bit each.
    #[must_use]
    pub fn take_written(&self) -> Vec<u64> {
        self.pages.get_and_reset()
    }

    /// The pages written lately; the bitmap keeps them.
    pub fn take_fresh(&self) -> Fresh {
        let mut fresh = self.fresh.lock().expect("no holder panics");
        std::mem::replace(&mut *fresh, Fresh::Pages(Vec::new()))
    }
}

impl<'a> WithBitmapSlice<'a> for WriteTracker {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WriteTracker {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        self.pages.mark_dirty(offset, len);
        let mut fresh = self.fresh.lock().expect("no holder panics");
        let Fresh::Pages(list) = &mut *fresh else {
            return;
        };
        let first = offset as u64 / PAGE_BYTES;
        let last = (offset + len - 1) as u64 / PAGE_BYTES;
        // A device writes a page many times in a row.
        if first == last && list.last() == Some(&first) {
            return;
        }
        if list.len() as u64 + (last - first) < MAX_FRESH as u64 {
            list.extend(first..=last);
        } else {
            *fresh = Fresh::All;
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.pages.dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl Default for WriteTracker {
    fn default() -> Self {
        Self::with_len(0)
    }
}

impl NewBitmap for WriteTracker {
    fn with_len(len: usize) -> Self {
        let page = NonZeroUsize::new(PAGE_BYTES as usize).expect("not zero");
        WriteTracker {
            pages: AtomicBitmap::new(len, page),
            fresh: Mutex::new(Fresh::Pages(Vec::new())),
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::super::vm::{allocate_ram, tracker};
    use super::*;

    #[test]
    fn both_readers_see_every_write_once() {
        let ram = allocate_ram(1 << 20).expect("1 MiB");
        let _ = (tracker(&ram).take_fresh(), tracker(&ram).take_written());

        ram.write_slice(&[1; 8192], GuestAddress(0x3800))
            .expect("in RAM");
        ram.write_obj(1u8, GuestAddress(0x5fff)).expect("in RAM");
        assert_eq!(tracker(&ram).take_fresh(), Fresh::Pages(vec![3, 4, 5]));
        assert_eq!(tracker(&ram).take_fresh(), Fresh::Pages(vec![]));
        assert_eq!(tracker(&ram).take_written()[0], 0b11_1000);
        assert_eq!(tracker(&ram).take_written()[0], 0);
    }

    #[test]
    fn the_list_is_bounded_and_says_so() {
        let ram = allocate_ram(16 << 20).expect("16 MiB");
        let _ = tracker(&ram).take_fresh();
        ram.write_slice(&vec![1; 8 << 20], GuestAddress(0))
            .expect("in RAM");
        ram.write_obj(1u8, GuestAddress(0)).expect("in RAM");
        assert_eq!(tracker(&ram).take_fresh(), Fresh::All);
        ram.write_obj(1u8, GuestAddress(0)).expect("in RAM");
        assert_eq!(tracker(&ram).take_fresh(), Fresh::Pages(vec![0]));
    }
}
