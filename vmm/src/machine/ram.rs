//! A hash over all of RAM that costs only what was written since the last one.
//!
//! Every page's hash is kept, and the whole is their sum: it does not depend on which pages were
//! hashed anew, so a superset of the dirty pages, different on two hosts, gives the same result.

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::sys::vm::{GuestMemory, PAGE_BYTES, tracker};

/// The hashes of all pages of a machine's RAM.
#[derive(Debug)]
pub(super) struct RamDigest {
    pages: Vec<u64>,
    sum: u64,
}

impl RamDigest {
    /// Hashes all of `ram`.
    #[must_use]
    pub(super) fn new(ram: &GuestMemory) -> Self {
        let count = (ram.last_addr().0 + 1).div_ceil(PAGE_BYTES);
        let mut digest = RamDigest {
            pages: vec![0; count as usize],
            sum: 0,
        };
        digest.update(ram, (0..count as usize).collect());
        digest
    }

    fn update(&mut self, ram: &GuestMemory, pages: Vec<usize>) {
        let mut bytes = [0; PAGE_BYTES as usize];
        for page in pages {
            let address = GuestAddress(page as u64 * PAGE_BYTES);
            ram.read_slice(&mut bytes, address).expect("a page of RAM");
            // The page's number is the seed: swapped pages do not cancel out.
            let hash = xxh3_64_with_seed(&bytes, page as u64);
            let old = std::mem::replace(&mut self.pages[page], hash);
            self.sum = self.sum.wrapping_sub(old).wrapping_add(hash);
        }
    }

    /// The hash of RAM now, given the pages that may have been written since the last call.
    pub(super) fn refresh(&mut self, ram: &GuestMemory, dirty: &[u64]) -> u64 {
        let pages = (0..self.pages.len()).filter(|page| {
            dirty
                .get(page / 64)
                .is_some_and(|word| word >> (page % 64) & 1 != 0)
        });
        self.update(ram, pages.collect());
        self.sum
    }
}

/// Adds the pages that the program wrote into `ram` since the last call to `dirty`, a bit each.
pub(super) fn take_written(ram: &GuestMemory, dirty: &mut Vec<u64>) {
    let words = tracker(ram).take_written();
    dirty.resize(dirty.len().max(words.len()), 0);
    dirty
        .iter_mut()
        .zip(words)
        .for_each(|(all, new)| *all |= new);
}

/// Makes all of `ram` zero.
pub(super) fn clear(ram: &GuestMemory) {
    let zero = [0; PAGE_BYTES as usize];
    for page in 0..(ram.last_addr().0 + 1) / PAGE_BYTES {
        ram.write_slice(&zero, GuestAddress(page * PAGE_BYTES))
            .expect("a page of RAM");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::vm::allocate_ram;

    #[test]
    fn det_5_the_hash_depends_on_contents_only_and_not_on_what_was_rehashed() {
        let ram = allocate_ram(1 << 20).expect("1 MiB");
        let mut digest = RamDigest::new(&ram);
        let mut dirty = Vec::new();
        take_written(&ram, &mut dirty);
        let blank = digest.refresh(&ram, &[]);

        ram.write_obj(1u64, GuestAddress(0x5008)).expect("in RAM");
        dirty.clear();
        take_written(&ram, &mut dirty);
        assert_eq!(dirty, [1 << 5, 0, 0, 0]);
        let changed = digest.refresh(&ram, &dirty);
        assert_ne!(changed, blank);
        assert_eq!(
            changed,
            RamDigest::new(&ram).sum,
            "as if hashed from nothing"
        );
        assert_eq!(
            digest.refresh(&ram, &[u64::MAX; 4]),
            changed,
            "a superset changes nothing"
        );

        ram.write_obj(0u64, GuestAddress(0x5008)).expect("in RAM");
        ram.write_obj(1u64, GuestAddress(0x6008)).expect("in RAM");
        assert_ne!(
            digest.refresh(&ram, &[u64::MAX; 4]),
            changed,
            "the same bytes in another page"
        );
    }
}
