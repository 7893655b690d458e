//! Translated blocks, found by physical address and code size.
//!
//! Links lead from a block to the one that follows it, but only within one page: there the
//! translation that found the first block holds for the second, so following a link skips nothing
//! that paging would notice. Blocks of a page are dropped together, and their links with them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::core::{CodeSize, Core};
use crate::memory::pages::Pages;
use crate::memory::ram::PAGE;
use crate::op::Op;

/// A link that leads nowhere yet.
pub(crate) const NO_BLOCK: u32 = u32::MAX;

/// Entries of the table before the map; a power of two.
const FRONT: usize = 1 << 15;

/// Micro-operations kept at most, 32 bytes each: with their blocks about 80 MiB. A guest that
/// executes more code than that has it translated again.
const OPS_LIMIT: usize = 2 << 20;

/// A straight run of instructions.
pub(crate) struct Block {
    pub(crate) ops: Box<[Op]>,
    /// How many instructions they are.
    pub(crate) instructions: u64,
    /// Bytes of the instructions.
    pub(crate) bytes: u64,
    /// What follows in memory, and what the branch at the end leads to.
    pub(crate) links: [u32; 2],
    /// The physical page that the block's only instruction reaches into, beyond its own.
    pub(crate) second_page: Option<u64>,
    key: u64,
}

impl Block {
    pub(crate) fn new(ops: Vec<Op>, instructions: u64, bytes: u64) -> Block {
        Block {
            ops: ops.into_boxed_slice(),
            instructions,
            bytes,
            links: [NO_BLOCK; 2],
            second_page: None,
            key: 0,
        }
    }
}

/// Keys are addresses; multiplying spreads them well enough.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64");
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(20);
    }
}

type Map<V> = HashMap<u64, V, BuildHasherDefault<Spread>>;

/// All translated blocks.
pub(crate) struct Cache {
    blocks: Vec<Block>,
    unused: Vec<u32>,
    front: Box<[(u64, u32); FRONT]>,
    by_key: Map<u32>,
    /// The blocks of a physical page, those reaching into it included.
    by_page: Map<Vec<u32>>,
    ops: usize,
    /// Grows when all block numbers become invalid.
    generation: u64,
}

const NO_KEY: u64 = u64::MAX;

impl Cache {
    pub(crate) fn new() -> Cache {
        Cache {
            blocks: Vec::new(),
            unused: Vec::new(),
            front: vec![(NO_KEY, NO_BLOCK); FRONT]
                .into_boxed_slice()
                .try_into()
                .unwrap_or_else(|_| unreachable!("the length is the array's")),
            by_key: Map::default(),
            by_page: Map::default(),
            ops: 0,
            generation: 0,
        }
    }

    fn key(physical: u64, size: CodeSize) -> u64 {
        physical << 2 | size as u64
    }

    fn slot(key: u64) -> usize {
        (key >> 2 ^ key >> 17) as usize & (FRONT - 1)
    }

    /// The block at a physical address.
    #[inline(always)]
    pub(crate) fn find(&mut self, physical: u64, size: CodeSize) -> Option<u32> {
        let key = Self::key(physical, size);
        let (found, number) = self.front[Self::slot(key)];
        if found == key {
            return Some(number);
        }
        self.find_slowly(key)
    }

    #[inline(never)]
    fn find_slowly(&mut self, key: u64) -> Option<u32> {
        let number = *self.by_key.get(&key)?;
        self.front[Self::slot(key)] = (key, number);
        Some(number)
    }

    #[inline(always)]
    pub(crate) fn block(&self, number: u32) -> &Block {
        &self.blocks[number as usize]
    }

    /// Keeps a block. `bytes` of code are watched for writes from here on.
    pub(crate) fn insert(
        &mut self,
        core: &mut Core,
        physical: u64,
        size: CodeSize,
        mut block: Block,
    ) -> u32 {
        if self.ops > OPS_LIMIT {
            self.clear(core);
        }
        self.ops += block.ops.len();
        block.key = Self::key(physical, size);
        let first = block.bytes.min(PAGE - physical % PAGE);
        let mut watch = |at: u64, len: u64| {
            if core.pages.note_code(at, len) {
                core.tlb.close_for_writes(Some(at & !(PAGE - 1)));
            }
        };
        watch(physical, first);
        if let Some(page) = block.second_page {
            watch(page, block.bytes - first);
        }
        let (key, second_page) = (block.key, block.second_page);
        let number = match self.unused.pop() {
            Some(number) => {
                self.blocks[number as usize] = block;
                number
            }
            None => {
                self.blocks.push(block);
                (self.blocks.len() - 1) as u32
            }
        };
        self.by_key.insert(key, number);
        self.front[Self::slot(key)] = (key, number);
        for page in [Some(physical & !(PAGE - 1)), second_page]
            .into_iter()
            .flatten()
        {
            self.by_page.entry(page).or_default().push(number);
        }
        number
    }

    /// As long as this stays the same, so do block numbers.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Links a block to one that follows it, in the same linear and physical page.
    pub(crate) fn link(&mut self, from: u32, way: usize, to: u32) {
        self.blocks[from as usize].links[way] = to;
    }

    /// Drops the blocks of all pages whose translated bytes were written.
    pub(crate) fn drop_overwritten(&mut self, core: &mut Core) {
        while let Some((page, pieces)) = core.pages.overwritten.pop() {
            if core.pages.code(page) & pieces != 0 {
                self.drop_page(page, &mut core.pages);
            }
        }
    }

    /// Drops the blocks of a physical page.
    pub(crate) fn drop_page(&mut self, page: u64, pages: &mut Pages) {
        for number in self.by_page.remove(&page).unwrap_or_default() {
            let block = &mut self.blocks[number as usize];
            if block.key == NO_KEY {
                continue;
            }
            let key = std::mem::replace(&mut block.key, NO_KEY);
            self.ops -= block.ops.len();
            block.ops = Box::default();
            // A block that lies in two pages stands in the other one's list too.
            let first = key >> 2 & !(PAGE - 1);
            if let Some(second) = block.second_page.take() {
                let other = if first == page { second } else { first };
                if let Some(list) = self.by_page.get_mut(&other) {
                    list.retain(|in_list| *in_list != number);
                }
            }
            self.by_key.remove(&key);
            let front = &mut self.front[Self::slot(key)];
            if front.0 == key {
                *front = (NO_KEY, NO_BLOCK);
            }
            self.unused.push(number);
        }
        pages.set_code(page, 0);
    }

    /// Drops everything. What that takes depends on how much there is.
    pub(crate) fn clear(&mut self, core: &mut Core) {
        // Only blocks that there are stand in front.
        for block in self.blocks.drain(..).filter(|block| block.key != NO_KEY) {
            self.front[Self::slot(block.key)] = (NO_KEY, NO_BLOCK);
        }
        self.unused.clear();
        self.by_key.clear();
        self.by_page.clear();
        self.ops = 0;
        self.generation += 1;
        core.pages.forget_code();
    }
}
