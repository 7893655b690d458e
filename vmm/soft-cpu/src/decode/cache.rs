//! Translated blocks, found by physical address and code size.
//!
//! Links lead from a block to the one that follows it. Within one page they are followed as they are:
//! the translation that found the first block holds for the second, so this skips nothing that paging
//! would notice, and blocks of a page are dropped together, their links with them. Other links, and
//! those of indirect branches, are hints: where an address leads to is looked up, and the block that was
//! there the last time is the first to be compared.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::core::{CodeSize, Core};
use crate::memory::ram::PAGE;
use crate::op::Op;
use crate::trail::Trail;

use super::BLOCK_LIMIT;
use super::trace::Legs;

/// A link that leads nowhere yet.
pub(crate) const NO_BLOCK: u32 = u32::MAX;

/// Marks a link to a block that holds only if the block is found there: a hint where to look first.
pub(crate) const HINT: u32 = 1 << 31;

/// Entries of the table before the map; a power of two.
const FRONT: usize = 1 << 15;

/// Micro-operations kept at most, 32 bytes each: with their blocks about 80 MiB. A guest that
/// executes more code than that has it translated again.
const OPS_LIMIT: usize = 2 << 20;

/// How often a block must have been under way when somebody looked, to be hot.
const HOT: u8 = 3;

/// Stands for: a trace that begins there would be of no use.
const COLD: u8 = u8::MAX;

/// A straight run of instructions, or a trace. As small as a line of the host's cache.
pub(crate) struct Block {
    pub(crate) ops: Box<[Op]>,
    /// What follows the last instruction in memory, and what the branch that it may be leads to.
    links: [u32; 2],
    /// From the first byte to what follows the last instruction in memory.
    bytes: i16,
    instructions: u8,
    /// Ends with a call.
    pub(crate) calls: bool,
    /// How often it was under way when somebody looked, less whole [`HOT`]s; or [`COLD`].
    seen: u8,
    /// The physical page that the block's only instruction reaches into, beyond its own.
    pub(crate) second_page: Option<u64>,
    key: u64,
    trace: Option<Box<Trace>>,
}

const _: () = assert!(size_of::<Block>() == 64);

/// What makes a block a trace.
struct Trace {
    /// The straight run that it begins with.
    plain: Block,
    legs: Legs,
    /// What its other branches lead to, by their numbers among the instructions.
    links: [u32; LINKS],
}

const LINKS: usize = BLOCK_LIMIT as usize;

impl Block {
    pub(crate) fn new(ops: Vec<Op>, instructions: u64, bytes: i64) -> Block {
        Block {
            ops: ops.into_boxed_slice(),
            links: [NO_BLOCK; 2],
            bytes: bytes as i16,
            instructions: instructions as u8,
            calls: false,
            seen: 0,
            second_page: None,
            key: 0,
            trace: None,
        }
    }

    /// How many instructions it has, to the last.
    #[inline(always)]
    pub(crate) fn instructions(&self) -> u64 {
        self.instructions.into()
    }

    /// From the first byte to what follows the last instruction in memory.
    #[inline(always)]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// The straight run that it is or begins with.
    pub(crate) fn plain(&self) -> &Block {
        self.trace.as_ref().map_or(self, |trace| &trace.plain)
    }

    /// Micro-operations that are kept for it.
    fn size(&self) -> usize {
        let plain = self.trace.as_ref().map_or(0, |trace| trace.plain.size());
        self.ops.len() + plain
    }

    /// What comes behind the branch that is the so-manieth instruction, or at 0 behind the last
    /// instruction in memory.
    #[inline(always)]
    pub(crate) fn link(&self, branch: u64) -> u32 {
        if branch == 0 {
            self.links[0]
        } else if branch == self.instructions() {
            self.links[1]
        } else {
            let trace = self.trace.as_ref();
            trace.map_or(NO_BLOCK, |trace| trace.links[branch as usize % LINKS])
        }
    }

    fn set_link(&mut self, branch: u64, to: u32) {
        if branch == 0 {
            self.links[0] = to;
        } else if branch == self.instructions() {
            self.links[1] = to;
        } else if let Some(trace) = &mut self.trace {
            trace.links[branch as usize % LINKS] = to;
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

    /// As [`Cache::find`]. It is probably the block that a link leads to.
    #[inline(always)]
    pub(crate) fn find_again(&mut self, link: u32, physical: u64, size: CodeSize) -> Option<u32> {
        let number = link & !HINT;
        match self.blocks.get(number as usize) {
            Some(block) if block.key == Self::key(physical, size) => Some(number),
            _ => self.find(physical, size),
        }
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
        self.ops += block.size();
        block.key = Self::key(physical, size);
        let bytes = block.bytes();
        let first = bytes.min(PAGE - physical % PAGE);
        let mut watch = |at: u64, len: u64| {
            if core.pages.note_code(at, len) {
                core.tlb.close_for_writes(Some(at & !(PAGE - 1)));
            }
        };
        watch(physical, first);
        if let Some(page) = block.second_page {
            watch(page, bytes - first);
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
    pub(crate) fn link(&mut self, from: u32, branch: u64, to: u32) {
        self.blocks[from as usize].set_link(branch, to);
    }

    /// Notes that a block was under way when somebody looked. True if a trace should begin there.
    pub(crate) fn see(&mut self, number: u32) -> bool {
        let block = &mut self.blocks[number as usize];
        if block.seen == COLD || block.trace.is_some() {
            return false;
        }
        block.seen = (block.seen + 1) % HOT;
        block.seen == 0
    }

    /// No trace need begin at a block.
    pub(crate) fn give_up(&mut self, number: u32) {
        self.blocks[number as usize].seen = COLD;
    }

    /// Puts a trace in the place of the block that it begins with. Its bytes are watched: they are those
    /// of blocks that there are.
    pub(crate) fn set_trace(&mut self, core: &mut Core, number: u32, mut trace: Block, legs: Legs) {
        self.straighten(&mut core.trail, core.position);
        self.ops += trace.size();
        let block = &mut self.blocks[number as usize];
        trace.key = block.key;
        let plain = std::mem::replace(block, trace);
        block.trace = Some(Box::new(Trace {
            plain,
            legs,
            links: [NO_BLOCK; LINKS],
        }));
    }

    /// Brings what is noted of the runs before a position into a form that needs no traces.
    pub(crate) fn straighten(&self, trail: &mut Trail, end: u64) {
        trail.straighten(end, |number| {
            let block = &self.blocks[number as usize];
            block.trace.as_ref().map(|trace| &*trace.legs)
        });
    }

    /// The physical address of a block.
    pub(crate) fn address(&self, number: u32) -> u64 {
        self.block(number).key >> 2
    }

    /// Drops the blocks of all pages whose translated bytes were written.
    pub(crate) fn drop_overwritten(&mut self, core: &mut Core) {
        while let Some((page, pieces)) = core.pages.overwritten.pop() {
            if core.pages.code(page) & pieces != 0 {
                self.drop_page(page, core);
            }
        }
    }

    /// Drops the blocks of a physical page.
    pub(crate) fn drop_page(&mut self, page: u64, core: &mut Core) {
        self.straighten(&mut core.trail, core.position);
        for number in self.by_page.remove(&page).unwrap_or_default() {
            let block = &mut self.blocks[number as usize];
            if block.key == NO_KEY {
                continue;
            }
            let key = std::mem::replace(&mut block.key, NO_KEY);
            self.ops -= block.size();
            block.ops = Box::default();
            block.trace = None;
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
        core.pages.set_code(page, 0);
    }

    /// Drops everything. What that takes depends on how much there is.
    pub(crate) fn clear(&mut self, core: &mut Core) {
        self.straighten(&mut core.trail, core.position);
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
