//! Guest memory for the device tests.

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::GuestMemory;

/// RAM of `bytes` from address 0.
pub(crate) fn memory(bytes: usize) -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), bytes)]).expect("test memory")
}

/// Was the page of `addr` written since the memory was made?
pub(crate) fn is_dirty(mem: &GuestMemory, addr: u64) -> bool {
    let region = mem
        .find_region(GuestAddress(addr))
        .expect("an address inside RAM");
    region
        .bitmap()
        .dirty_at((addr - region.start_addr().0) as usize)
}
