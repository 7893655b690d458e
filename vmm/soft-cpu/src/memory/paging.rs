//! Page walks (SDM vol. 3, 5.5): four levels, pages of 4 KiB, 2 MiB and 1 GiB.
//!
//! Paging exists in long mode only here. Page tables outside RAM read as zero.

use crate::core::Core;
use crate::fault::Fault;

use super::ram::PAGE;
use super::tlb::Rights;

/// What an address is translated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Read,
    Write,
    Fetch,
}

/// Physical addresses have so many bits, as CPUID says.
pub(crate) const PHYSICAL_BITS: u32 = 40;

/// Bits of an entry.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = ((1 << PHYSICAL_BITS) - 1) & !(PAGE - 1);
/// Address bits that no physical address has.
const BEYOND: u64 = ((1 << 52) - 1) & !((1 << PHYSICAL_BITS) - 1);

/// Bits of a page fault's error code (SDM vol. 3, 5.7).
mod code {
    pub(super) const PROTECTION: u8 = 1;
    pub(super) const WRITE: u8 = 2;
    pub(super) const USER: u8 = 4;
    pub(super) const RESERVED: u8 = 8;
    pub(super) const FETCH: u8 = 16;
}

/// A successful walk.
struct Walk {
    /// The physical page.
    page: u64,
    rights: Rights,
}

/// Whether bits 47 to 63 are equal.
pub(crate) fn is_canonical(address: u64) -> bool {
    (address as i64) << 16 >> 16 == address as i64
}

impl Core {
    /// The physical address behind a linear one, through the TLB.
    pub(crate) fn translate(&mut self, address: u64, purpose: Purpose) -> Result<u64, Fault> {
        let offset = address & (PAGE - 1);
        if let Some((page, rights)) = self.tlb.find(address)
            && (rights.write || purpose != Purpose::Write)
        {
            return Ok(page | offset);
        }
        let Walk { page, rights } = self.walk(address, purpose)?;
        if !self.checks_alignment
            && !self.is_watched(address)
            && let Some(host) = self.ram.page(page)
        {
            self.tlb.insert(address, (page, host), rights);
        }
        Ok(page | offset)
    }

    /// The physical address of an instruction, through the TLB for instructions.
    #[inline(always)]
    pub(crate) fn translate_fetch(&mut self, address: u64) -> Result<u64, Fault> {
        match self.fetch_tlb.find(address, self.cpl == 3) {
            Some(page) => Ok(page | address & (PAGE - 1)),
            None => self.translate_fetch_slow(address),
        }
    }

    #[cold]
    #[inline(never)]
    fn translate_fetch_slow(&mut self, address: u64) -> Result<u64, Fault> {
        let walk = self.walk(address, Purpose::Fetch)?;
        let global = walk.rights.global;
        self.fetch_tlb
            .insert(address, self.cpl == 3, walk.page, global);
        Ok(walk.page | address & (PAGE - 1))
    }

    fn walk(&mut self, address: u64, purpose: Purpose) -> Result<Walk, Fault> {
        if !self.paging() {
            return Ok(Walk {
                page: address & 0xFFFF_F000,
                rights: Rights {
                    write: true,
                    global: false,
                },
            });
        }
        if !is_canonical(address) {
            return Err(Fault::NonCanonical);
        }
        let user = self.tlb.user();
        let mut fault_code = match purpose {
            Purpose::Read => 0,
            Purpose::Write => code::WRITE,
            Purpose::Fetch if self.no_execute_enabled() => code::FETCH,
            Purpose::Fetch => 0,
        };
        if user {
            fault_code |= code::USER;
        }
        let reserved = BEYOND
            | if self.no_execute_enabled() {
                0
            } else {
                NO_EXECUTE
            };
        let mut entries = [(0, 0); 4];
        let mut table = self.cr3 & ADDRESS;
        // What all levels allow: the AND of their rights, the OR of their prohibitions.
        let (mut allowed, mut forbidden) = (WRITABLE | USER, 0);
        let mut level = 3;
        let (leaf, size) = loop {
            let at = table + ((address >> (12 + 9 * level)) & 511) * 8;
            let entry = self.ram.word(at);
            if entry & PRESENT == 0 {
                return Err(self.page_fault(address, fault_code));
            }
            allowed &= entry;
            forbidden |= entry & NO_EXECUTE;
            entries[level] = (at, entry);
            let large = level > 0 && entry & LARGE != 0;
            let size = PAGE << (9 * level);
            let misaligned = if large {
                // Bit 12 of a large page's entry is PAT.
                (size - 1) & ADDRESS & !PAGE
            } else {
                0
            };
            if entry & (reserved | misaligned) != 0 || large && level == 3 {
                return Err(
                    self.page_fault(address, fault_code | code::PROTECTION | code::RESERVED)
                );
            }
            if large || level == 0 {
                break (entry, size);
            }
            table = entry & ADDRESS;
            level -= 1;
        };
        let write_allowed = allowed & WRITABLE != 0 || !user && !self.write_protect();
        if user && allowed & USER == 0
            || purpose == Purpose::Write && !write_allowed
            || purpose == Purpose::Fetch && forbidden != 0
        {
            return Err(self.page_fault(address, fault_code | code::PROTECTION));
        }
        let dirty = if purpose == Purpose::Write { DIRTY } else { 0 };
        for (above, (at, entry)) in entries.into_iter().enumerate().skip(level) {
            let wanted = entry | ACCESSED | if above == level { dirty } else { 0 };
            if wanted != entry {
                self.write_physical(at, &wanted.to_le_bytes());
            }
        }
        Ok(Walk {
            page: (leaf & ADDRESS & !(size - 1)) | (address & (size - 1) & !(PAGE - 1)),
            rights: Rights {
                write: write_allowed && (leaf | dirty) & DIRTY != 0,
                global: leaf & GLOBAL != 0 && self.global_pages_enabled(),
            },
        })
    }

    #[cold]
    fn page_fault(&mut self, address: u64, code: u8) -> Fault {
        self.fault_address = address;
        Fault::Page(code)
    }
}

/// Entries for each of the two privilege levels.
const FETCH_ENTRIES: usize = 256;

/// The TLB for instructions. A TLB of its own, because what it holds must depend on the pages
/// executed alone (see [`super::tlb`]): then staying in a page needs no look at it, and where a
/// block was interrupted leaves no trace.
pub(crate) struct FetchTlb {
    /// Linear page, and physical page with [`GLOBAL`].
    entries: Box<[(u64, u64); 2 * FETCH_ENTRIES]>,
}

const NO_PAGE: (u64, u64) = (1, 0);

impl FetchTlb {
    pub(crate) fn new() -> FetchTlb {
        FetchTlb {
            entries: Box::new([NO_PAGE; 2 * FETCH_ENTRIES]),
        }
    }

    #[inline(always)]
    fn number(address: u64, user: bool) -> usize {
        (address >> 12) as usize % FETCH_ENTRIES + usize::from(user) * FETCH_ENTRIES
    }

    #[inline(always)]
    fn find(&self, address: u64, user: bool) -> Option<u64> {
        let (linear, page) = self.entries[Self::number(address, user)];
        (linear == address & !(PAGE - 1)).then_some(page & ADDRESS)
    }

    fn insert(&mut self, address: u64, user: bool, page: u64, global: bool) {
        self.entries[Self::number(address, user)] = (
            address & !(PAGE - 1),
            page | if global { GLOBAL } else { 0 },
        );
    }

    /// Forgets the page of `address`.
    pub(crate) fn invalidate(&mut self, address: u64) {
        for user in [false, true] {
            let entry = &mut self.entries[Self::number(address, user)];
            if entry.0 == address & !(PAGE - 1) {
                *entry = NO_PAGE;
            }
        }
    }

    /// Forgets all but the global pages.
    pub(crate) fn flush_local(&mut self) {
        for entry in self.entries.iter_mut() {
            if entry.1 & GLOBAL == 0 {
                *entry = NO_PAGE;
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn flush(&mut self) {
        self.entries.fill(NO_PAGE);
    }
}
