//! What is known of each page of RAM: written since somebody last asked, holds translated code.

use super::ram::PAGE;

/// Notes on all pages of RAM.
pub(crate) struct Pages {
    /// A bit a page: written by the CPU since the last [`Pages::take_dirty`].
    dirty: Vec<u64>,
    /// A word a page, a bit for each 64 bytes of it that were translated.
    code: Vec<u64>,
    /// Writes into translated code: the page and the bytes' bits, for the cache to drop.
    pub(crate) overwritten: Vec<(u64, u64)>,
}

impl Pages {
    pub(crate) fn new(ram_len: u64) -> Pages {
        let pages = (ram_len / PAGE) as usize;
        Pages {
            dirty: vec![0; pages.div_ceil(64)],
            code: vec![0; pages],
            overwritten: Vec::new(),
        }
    }

    /// The bits of the 64-byte pieces that `len` bytes at `at` touch; they lie in one page.
    pub(crate) fn pieces(at: u64, len: u64) -> u64 {
        let first = (at & (PAGE - 1)) >> 6;
        let last = ((at & (PAGE - 1)) + len - 1) >> 6;
        (!0 >> (63 - (last - first))) << first
    }

    /// Notes a write of `len` bytes at `at`, within one page. True if it hit translated code.
    pub(crate) fn note_write(&mut self, at: u64, len: u64) -> bool {
        let page = (at / PAGE) as usize;
        self.dirty[page / 64] |= 1 << (page % 64);
        let hit = self.code[page] & Self::pieces(at, len);
        if hit != 0 {
            self.overwritten.push((at & !(PAGE - 1), hit));
        }
        hit != 0
    }

    /// Notes a write that was none of the CPU's: of interest for translated code only.
    pub(crate) fn note_foreign_write(&mut self, bytes: std::ops::Range<u64>) {
        let end = bytes.end.min(self.code.len() as u64 * PAGE);
        let mut at = bytes.start;
        while at < end {
            let len = (PAGE - at % PAGE).min(end - at);
            let hit = self.code(at) & Self::pieces(at, len);
            if hit != 0 {
                self.overwritten.push((at & !(PAGE - 1), hit));
            }
            at += len;
        }
    }

    /// Whether writes to the page need no further notice.
    pub(crate) fn quiet(&self, page: u64) -> bool {
        self.code[(page / PAGE) as usize] == 0
    }

    /// Notes that `len` bytes at `at`, within one page, were translated. True if they are the
    /// first of their page.
    pub(crate) fn note_code(&mut self, at: u64, len: u64) -> bool {
        let page = &mut self.code[(at / PAGE) as usize];
        let first = *page == 0;
        *page |= Self::pieces(at, len);
        first
    }

    /// The translated pieces of a page.
    pub(crate) fn code(&self, page: u64) -> u64 {
        self.code.get((page / PAGE) as usize).copied().unwrap_or(0)
    }

    /// The cache has dropped the page's code.
    pub(crate) fn set_code(&mut self, page: u64, pieces: u64) {
        self.code[(page / PAGE) as usize] = pieces;
    }

    /// The cache has dropped everything.
    pub(crate) fn forget_code(&mut self) {
        self.code.fill(0);
        self.overwritten.clear();
    }

    /// Adds the pages written since the last call to `into`, a bit each.
    pub(crate) fn take_dirty(&mut self, into: &mut Vec<u64>) {
        into.resize(into.len().max(self.dirty.len()), 0);
        for (into, dirty) in into.iter_mut().zip(&mut self.dirty) {
            *into |= std::mem::take(dirty);
        }
    }
}
