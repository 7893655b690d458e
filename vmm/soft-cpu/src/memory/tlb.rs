//! The translation lookaside buffer, and the fast way of every access to memory.
//!
//! What the TLB holds is part of the machine's behaviour: a guest that changes a page table without
//! INVLPG may see the old entry or the new one, and DET-1 wants the same on both hosts. So its
//! contents are a function of the instructions executed since the last flush, and of nothing else:
//! not of where `run` was stopped, not of what code was translated when.
//!
//! An entry has two tags, the page's linear address where the fast way is open for reads and for
//! writes. The tag for writes is missing on pages whose next write somebody must hear of (not dirty
//! yet; holds translated code): a hint only, nothing architectural.

#![allow(unsafe_code)]

use super::ram::PAGE;

/// Entries for each of the two privilege levels that paging knows: user mode and the kernel.
const ENTRIES: usize = 1024;
/// A tag that matches no page.
const NONE: u64 = 1;

/// The rights that a translation was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Writes may go through it: allowed, and the dirty bit is set.
    pub(crate) write: bool,
    /// It outlives a load of CR3.
    pub(crate) global: bool,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Entry {
    read: u64,
    write: u64,
    /// The page's place in RAM less its linear address.
    host: *mut u8,
    /// The physical address of the page, and the rights in its low bits.
    page: u64,
}

const WRITE: u64 = 1;
const GLOBAL: u64 = 2;

const EMPTY: Entry = Entry {
    read: NONE,
    write: NONE,
    host: std::ptr::null_mut(),
    page: 0,
};

/// The entries for one privilege level.
struct Half {
    entries: Box<[Entry; ENTRIES]>,
    /// Entries that a load of CR3 must drop: the numbers of those filled since the last time.
    local: Vec<u16>,
}

impl Half {
    fn new() -> Half {
        Half {
            entries: vec![EMPTY; ENTRIES]
                .into_boxed_slice()
                .try_into()
                .unwrap_or_else(|_| unreachable!("the length is the array's")),
            local: Vec::new(),
        }
    }
}

/// Translations of data accesses.
pub(crate) struct Tlb {
    /// For the privilege level at which accesses are made now.
    active: Half,
    other: Half,
    /// The active entries are those of user mode.
    user: bool,
}

// SAFETY: The pointers lead into the RAM of the same CPU, which moves with it.
unsafe impl Send for Tlb {}

impl Tlb {
    pub(crate) fn new() -> Tlb {
        Tlb {
            active: Half::new(),
            other: Half::new(),
            user: false,
        }
    }

    /// Lets accesses be user mode's or the kernel's, and says whose they were.
    #[inline(always)]
    pub(crate) fn select(&mut self, user: bool) -> bool {
        let before = self.user;
        if before != user {
            std::mem::swap(&mut self.active, &mut self.other);
            self.user = user;
        }
        before
    }

    /// Whether accesses are user mode's.
    pub(crate) fn user(&self) -> bool {
        self.user
    }

    #[inline(always)]
    fn number(address: u64) -> usize {
        (address >> 12) as usize & (ENTRIES - 1)
    }

    /// Reads `1 << S` bytes if the fast way is open.
    #[inline(always)]
    pub(crate) fn load<const S: usize>(&self, address: u64) -> Option<u64> {
        let entry = &self.active.entries[Self::number(address)];
        let last = address.wrapping_add((1 << S) - 1);
        if entry.read != last & !(PAGE - 1) {
            return None;
        }
        let at = entry.host.wrapping_add(address as usize);
        // SAFETY: The entry stands where its page's accesses look, and the next page's look
        // elsewhere: so the tag, equal to the last byte's page, is the first byte's too. The whole
        // access lies in that page, which `insert` was given as a page of RAM.
        Some(unsafe {
            match S {
                0 => u64::from(at.read()),
                1 => u64::from(at.cast::<u16>().read_unaligned()),
                2 => u64::from(at.cast::<u32>().read_unaligned()),
                _ => at.cast::<u64>().read_unaligned(),
            }
        })
    }

    /// Writes `1 << S` bytes if the fast way is open.
    #[inline(always)]
    #[must_use]
    pub(crate) fn store<const S: usize>(&self, address: u64, value: u64) -> bool {
        let entry = &self.active.entries[Self::number(address)];
        let last = address.wrapping_add((1 << S) - 1);
        if entry.write != last & !(PAGE - 1) {
            return false;
        }
        let at = entry.host.wrapping_add(address as usize);
        // SAFETY: As in `load`.
        unsafe {
            match S {
                0 => at.write(value as u8),
                1 => at.cast::<u16>().write_unaligned(value as u16),
                2 => at.cast::<u32>().write_unaligned(value as u32),
                _ => at.cast::<u64>().write_unaligned(value),
            }
        }
        true
    }

    /// Reads 16 bytes if the fast way is open.
    #[inline(always)]
    pub(crate) fn load_16(&self, address: u64) -> Option<u128> {
        let entry = &self.active.entries[Self::number(address)];
        if entry.read != address.wrapping_add(15) & !(PAGE - 1) {
            return None;
        }
        let at = entry.host.wrapping_add(address as usize);
        // SAFETY: As in `load`.
        Some(unsafe { at.cast::<u128>().read_unaligned() })
    }

    /// Writes 16 bytes if the fast way is open.
    #[inline(always)]
    #[must_use]
    pub(crate) fn store_16(&self, address: u64, value: u128) -> bool {
        let entry = &self.active.entries[Self::number(address)];
        if entry.write != address.wrapping_add(15) & !(PAGE - 1) {
            return false;
        }
        let at = entry.host.wrapping_add(address as usize);
        // SAFETY: As in `load`.
        unsafe { at.cast::<u128>().write_unaligned(value) };
        true
    }

    /// Whether a write of `1 << S` bytes may take the fast way.
    #[inline(always)]
    pub(crate) fn writable<const S: usize>(&self, address: u64) -> bool {
        let last = address.wrapping_add((1 << S) - 1);
        self.active.entries[Self::number(address)].write == last & !(PAGE - 1)
    }

    /// The physical address behind a linear one, if the fast way is open.
    pub(crate) fn open_page(&self, address: u64, write: bool) -> Option<u64> {
        let entry = &self.active.entries[Self::number(address)];
        let tag = if write { entry.write } else { entry.read };
        (tag == address & !(PAGE - 1)).then_some(entry.page & !(PAGE - 1) | address & (PAGE - 1))
    }

    /// The physical page and rights of a linear page, if known.
    pub(crate) fn find(&self, address: u64) -> Option<(u64, Rights)> {
        let entry = &self.active.entries[Self::number(address)];
        (entry.read == address & !(PAGE - 1)).then(|| {
            let rights = Rights {
                write: entry.page & WRITE != 0,
                global: entry.page & GLOBAL != 0,
            };
            (entry.page & !(PAGE - 1), rights)
        })
    }

    /// Remembers a translation to the page of RAM at `host`.
    pub(crate) fn insert(&mut self, address: u64, (page, host): (u64, *mut u8), rights: Rights) {
        let number = Self::number(address);
        let linear = address & !(PAGE - 1);
        let bits = if rights.write { WRITE } else { 0 } | if rights.global { GLOBAL } else { 0 };
        if !rights.global {
            // More entries than the TLB has mean repeats.
            let local = &mut self.active.local;
            if local.len() > 4 * ENTRIES {
                local.sort_unstable();
                local.dedup();
            }
            local.push(number as u16);
        }
        self.active.entries[number] = Entry {
            read: linear,
            write: NONE,
            host: host.wrapping_sub(linear as usize),
            page: page | bits,
        };
    }

    /// Opens the fast way for writes to the page of `address`, whose entry allows writes.
    pub(crate) fn open_for_writes(&mut self, address: u64) {
        let entry = &mut self.active.entries[Self::number(address)];
        if entry.read == address & !(PAGE - 1) && entry.page & WRITE != 0 {
            entry.write = entry.read;
        }
    }

    /// Closes the fast way for writes: to the physical page `page`, or to all.
    pub(crate) fn close_for_writes(&mut self, page: Option<u64>) {
        for half in [&mut self.active, &mut self.other] {
            for entry in half.entries.iter_mut() {
                if page.is_none_or(|page| entry.page & !(PAGE - 1) == page) {
                    entry.write = NONE;
                }
            }
        }
    }

    /// Forgets the page of `address`.
    pub(crate) fn invalidate(&mut self, address: u64) {
        for half in [&mut self.active, &mut self.other] {
            let entry = &mut half.entries[Self::number(address)];
            if entry.read == address & !(PAGE - 1) {
                *entry = EMPTY;
            }
        }
    }

    /// Forgets all but the global pages, as a load of CR3 does.
    pub(crate) fn flush_local(&mut self) {
        for half in [&mut self.active, &mut self.other] {
            for number in half.local.drain(..) {
                let entry = &mut half.entries[usize::from(number)];
                if entry.page & GLOBAL == 0 {
                    *entry = EMPTY;
                }
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        for half in [&mut self.active, &mut self.other] {
            half.local.clear();
            half.entries.fill(EMPTY);
        }
    }
}
