//! The heap: all RAM behind the program.
//!
//! One thread, and nothing that runs in an interrupt allocates, so it needs no
//! lock. Its figures are what the guests bound their memory by.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::UnsafeCell,
    ptr,
};
use talc::{ErrOnOom, Span, Talc};

struct Heap(UnsafeCell<Talc<ErrOnOom>>);

// SAFETY: there is one vCPU and one thread in ring 3; interrupt entries do not allocate.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Talc::new(ErrOnOom)));

impl Heap {
    /// The allocator, for the length of `f`, which must not allocate.
    fn with<R>(&self, f: impl FnOnce(&mut Talc<ErrOnOom>) -> R) -> R {
        // SAFETY: by the argument for Sync no other reference exists while `f` runs, and
        // the closures below call into talc only.
        f(unsafe { &mut *self.0.get() })
    }
}

// SAFETY: talc upholds GlobalAlloc's contract; layouts and pointers are passed on as they are.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises a size other than zero.
        self.with(|talc| unsafe { talc.malloc(layout) })
            .map_or(ptr::null_mut(), |block| block.as_ptr())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if let Some(block) = ptr::NonNull::new(block) {
            // SAFETY: the caller promises a block of this allocator and its layout.
            self.with(|talc| unsafe { talc.free(block, layout) });
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        let Some(block) = ptr::NonNull::new(block) else {
            return ptr::null_mut();
        };
        self.with(|talc| {
            if bytes <= layout.size() {
                // SAFETY: the caller promises a block of this allocator, its layout, and a
                // new size that is not zero; it is not larger than the old one.
                unsafe { talc.shrink(block, layout, bytes) };
                return block.as_ptr();
            }
            // SAFETY: as above, and the new size is not smaller.
            match unsafe { talc.grow_in_place(block, layout, bytes) } {
                Ok(grown) => grown.as_ptr(),
                Err(()) => {
                    // SAFETY: the alignment is valid as it was, the size is not zero; old and
                    // new block do not overlap and both hold the old size.
                    unsafe {
                        let larger = Layout::from_size_align_unchecked(bytes, layout.align());
                        let Ok(to) = talc.malloc(larger) else {
                            return ptr::null_mut();
                        };
                        ptr::copy_nonoverlapping(block.as_ptr(), to.as_ptr(), layout.size());
                        talc.free(block, layout);
                        to.as_ptr()
                    }
                }
            }
        })
    }
}

/// The memory that a heap may take.
pub(crate) struct HeapSpace {
    start: usize,
    end: usize,
}

/// First address behind the program, as `link.ld` sets it.
pub(crate) fn program_end() -> usize {
    unsafe extern "C" {
        static __end: u8;
    }
    &raw const __end as usize
}

impl HeapSpace {
    /// All memory between the program and `memory_end`.
    pub(crate) fn after_program(memory_end: usize) -> Self {
        HeapSpace {
            start: program_end(),
            end: memory_end,
        }
    }
}

/// Gives the heap its memory. Called once, before the first allocation.
pub(crate) fn init(space: HeapSpace) {
    let span = Span::new(space.start as *mut u8, space.end as *mut u8);
    // SAFETY: by the loader's memory map this is RAM, and nothing else is there.
    HEAP.with(|talc| unsafe { talc.claim(span) })
        .expect("too little RAM behind the program");
}

/// How the heap stands, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Allocated, with what the allocator needs for it.
    pub used: usize,
    /// To be had, though not necessarily in one piece.
    pub free: usize,
}

/// The heap's figures now.
pub fn figures() -> Figures {
    HEAP.with(|talc| {
        let counters = talc.get_counters();
        let free = counters.available_bytes;
        Figures {
            used: counters.claimed_bytes - free,
            free,
        }
    })
}
