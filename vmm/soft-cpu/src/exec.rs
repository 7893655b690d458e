//! Runs blocks one after the other: finds, links, counts, and stops where it must.

use std::sync::atomic::Ordering;

use crate::core::{CodeSize, Core};
use crate::decode::{BLOCK_LIMIT, Block, HINT, NO_BLOCK, Source, Way, translate};
use crate::fault::Fault;
use crate::flags::TF;
use crate::memory::ram::PAGE;
use crate::op::{Leave, START, next};
use crate::{Exit, SoftCpu};

/// Bytes that the longest instructions of a block could have.
const BLOCK_BYTES: u64 = 15 * BLOCK_LIMIT;

impl SoftCpu {
    /// Runs until something needs the caller, and no further than position `limit`.
    ///
    /// # Panics
    ///
    /// If the read that an [`Exit::Access`] returned has not had its [`SoftCpu::answer`].
    pub fn run(&mut self, limit: u64) -> Exit {
        self.run_to(limit, limit)
    }

    /// Runs until something needs the caller, or to where a block ends at position `limit` or a few
    /// instructions before it. That is quicker than to stop exactly.
    ///
    /// # Panics
    ///
    /// As [`SoftCpu::run`].
    pub fn run_about(&mut self, limit: u64) -> Exit {
        let enough = limit.saturating_sub(BLOCK_LIMIT);
        if self.core.position < enough {
            self.run_to(enough, u64::MAX)
        } else {
            self.run(limit)
        }
    }

    /// Runs to position `enough` at least, and no further than `limit`.
    fn run_to(&mut self, enough: u64, limit: u64) -> Exit {
        assert!(!self.core.devices.waiting, "a read waits for its answer");
        loop {
            if self.core.triple_fault {
                return Exit::TripleFault;
            }
            if std::mem::take(&mut self.core.halted) {
                return Exit::Halt;
            }
            if self.core.position >= limit {
                return Exit::Limit;
            }
            if let Some(access) = self.core.devices.next_access() {
                self.core.position += 1;
                return Exit::Access(access);
            }
            if self.core.position >= enough {
                return Exit::Limit;
            }
            if self.kick.swap(false, Ordering::Acquire) {
                return Exit::Interrupted;
            }
            let mut end = limit;
            if self.interrupt_wanted && self.core.interrupts_enabled() {
                if self.takes_interrupts() {
                    return Exit::Window;
                }
                // Held off for one instruction.
                end = self.core.position + 1;
            }
            let core = &self.core;
            let singly = core.system_flags & TF != 0 || core.has_breakpoints;
            if singly || !core.devices.answers.is_empty() {
                self.step();
            } else {
                let near = enough.saturating_add(BLOCK_LIMIT);
                self.core.limit = end.min(near);
                self.run_blocks(near, end);
            }
        }
    }

    /// Answers the read that [`SoftCpu::run`] returned last, and carries out the rest of its
    /// instruction. No position passes.
    ///
    /// # Panics
    ///
    /// If no read waits.
    pub fn answer(&mut self, value: u64) {
        let devices = &mut self.core.devices;
        assert!(devices.waiting, "no read waits for an answer");
        devices.waiting = false;
        devices.answers.push(value);
        self.step();
    }

    /// Carries out one instruction, or one iteration of it, by a block of its own.
    fn step(&mut self) {
        let trap = self.core.system_flags & TF != 0;
        let goes_on = !self.core.devices.answers.is_empty();
        let behind_ss = self.core.is_behind_load_of_ss();
        if !goes_on && self.core.meets_breakpoint(behind_ss) {
            return;
        }
        if !goes_on && !behind_ss {
            self.core.breakpoints_met = 0;
        }
        let met_before = self.core.breakpoints_met;
        self.core.entered_kernel = false;
        self.core.loaded_ss = false;
        self.core.limit = self.core.position + 1;
        self.core.devices.used = 0;
        let block = self.fetch().and_then(|physical| self.decode(physical, 1));
        let retired = block.is_some_and(|block| self.core.run_once(&block) != Leave::Fault);
        if !retired {
            self.core.breakpoints_met = met_before;
        }
        if self.core.devices.wanted.is_none() && !self.core.triple_fault {
            self.core.trap_behind(trap && retired);
        }
        self.settle();
    }

    /// Runs the blocks that fit before position `near`, up to `limit` at most, or until something has
    /// to be looked at afresh.
    fn run_blocks(&mut self, near: u64, limit: u64) {
        if std::mem::take(&mut self.records) {
            return self.record(limit.min(near));
        }
        let end = limit.min(self.next_look).min(near);
        let Some(mut number) = self.enter() else {
            return;
        };
        loop {
            let block = self.cache.block(number);
            let position = self.core.position;
            if position + block.instructions() > end {
                if end < limit {
                    self.next_look = position.saturating_add(self.slice);
                    self.records = self.cache.see(number);
                } else if position < limit {
                    self.run_part(number, limit - position);
                }
                return;
            }
            let start = self.core.rip;
            self.core.note_run(number);
            self.core.regs[usize::from(START)] = start;
            let leave = next(&mut self.core, &block.ops);
            let branch = match leave {
                Leave::Through => {
                    self.core.rip = self.core.next_rip(start, block.bytes());
                    self.core.position = position + block.instructions();
                    0
                }
                Leave::Branch => {
                    self.core.position = position + self.core.retired;
                    self.core.retired
                }
                Leave::Indirect => {
                    self.core.position = position + block.instructions();
                    if self.core.position >= end {
                        return;
                    }
                    match self.enter_again(number) {
                        Some(found) => number = found,
                        None => return,
                    }
                    continue;
                }
                Leave::After | Leave::Recheck | Leave::Fault => {
                    self.core.left(leave, block);
                    if leave != Leave::After || self.core.attention {
                        self.settle();
                        return;
                    }
                    if self.core.position >= end {
                        return;
                    }
                    match self.enter() {
                        Some(found) => number = found,
                        None => return,
                    }
                    continue;
                }
            };
            let linked = block.link(branch);
            number = if linked < HINT {
                linked
            } else {
                // Beyond the end nothing may be looked up: that could fault, or set a page
                // table's accessed bit.
                if self.core.position >= end {
                    return;
                }
                match self.enter_and_link(number, branch, start) {
                    Some(found) => found,
                    None => return,
                }
            };
        }
    }

    /// Finds the block at RIP, and links it to the one before: for good if that needs no translation,
    /// else as a hint.
    #[inline(never)]
    fn enter_and_link(&mut self, from: u32, branch: u64, start: u64) -> Option<u32> {
        let generation = self.cache.generation();
        let linked = self.cache.block(from).link(branch);
        let found = self.enter_by(linked)?;
        let link = if self.is_beside(found, start) {
            found
        } else {
            found | HINT
        };
        if link != linked && self.cache.generation() == generation {
            self.cache.link(from, branch, link);
        }
        Some(found)
    }

    /// Finds the block at RIP, which an indirect branch led to, where it led to the last time.
    #[inline(always)]
    fn enter_again(&mut self, from: u32) -> Option<u32> {
        let branch = self.cache.block(from).instructions();
        let linked = self.cache.block(from).link(branch);
        let generation = self.cache.generation();
        let found = self.enter_by(linked)?;
        if found | HINT != linked && self.cache.generation() == generation {
            self.cache.link(from, branch, found | HINT);
        }
        Some(found)
    }

    /// Whether a block, which is at RIP, can follow one at another address without a look at page tables.
    fn is_beside(&self, number: u32, start: u64) -> bool {
        (start ^ self.core.rip) & !(PAGE - 1) == 0
            && self.core.code_size == CodeSize::Long
            && self.cache.block(number).second_page.is_none()
    }

    /// Runs the blocks that follow the one at RIP, which is hot, and makes a trace of them.
    #[cold]
    fn record(&mut self, limit: u64) {
        let generation = self.cache.generation();
        let first_rip = self.core.rip;
        let Some(first) = self.enter() else {
            return;
        };
        let (mut number, mut way) = (first, Way::default());
        while self.is_beside(number, first_rip) {
            let block = self.cache.block(number).plain();
            let at = self.core.rip.wrapping_sub(first_rip) as i64;
            if block.instructions() > limit - self.core.position {
                return;
            }
            let leave = self.core.run_once(block);
            if !matches!(leave, Leave::Through | Leave::Branch | Leave::Indirect) {
                return self.settle();
            }
            let direct = leave == Leave::Through || leave == Leave::Branch && !block.calls;
            if !way.add(at, block, leave == Leave::Branch) || !direct || self.core.position >= limit
            {
                break;
            }
            match self.enter() {
                Some(_) if self.core.rip == first_rip => {
                    way.repeat();
                    break;
                }
                Some(found) => number = found,
                None => return,
            }
        }
        if self.cache.generation() != generation {
            return;
        }
        let physical = self.cache.address(first);
        let mut page = [0; PAGE as usize];
        assert!(self.core.ram.read(physical & !(PAGE - 1), &mut page));
        match way.translate(&page, physical & (PAGE - 1)) {
            Some((trace, legs)) => self.cache.set_trace(&mut self.core, first, trace, legs),
            None => self.cache.give_up(first),
        }
    }

    /// Carries out the first instructions of the block at RIP.
    #[cold]
    fn run_part(&mut self, number: u32, instructions: u64) {
        let plain = self.cache.block(number).plain();
        if plain.instructions() <= instructions {
            self.core.run_once(plain);
        } else {
            let block = self
                .fetch()
                .and_then(|physical| self.decode(physical, instructions));
            if let Some(block) = block {
                self.core.run_once(&block);
            }
        }
        self.settle();
    }

    // ---- finding code --------------------------------------------------------------------------

    /// The number of the block at RIP, translated if need be. `None` if an exception was raised.
    #[inline(always)]
    fn enter(&mut self) -> Option<u32> {
        self.enter_by(NO_BLOCK)
    }

    /// As [`SoftCpu::enter`]. It is probably the block that a link leads to.
    #[inline(always)]
    fn enter_by(&mut self, link: u32) -> Option<u32> {
        let physical = self.fetch()?;
        match self.cache.find_again(link, physical, self.core.code_size) {
            Some(found) if self.cache.block(found).second_page.is_none() => Some(found),
            found => self.enter_slowly(physical, found),
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_slowly(&mut self, physical: u64, found: Option<u32>) -> Option<u32> {
        if let Some(found) = found {
            let page = self.fetch_second_page()?;
            if self.cache.block(found).second_page == Some(page) {
                return Some(found);
            }
            self.cache.drop_page(physical & !(PAGE - 1), &mut self.core);
        }
        let block = self.decode(physical, BLOCK_LIMIT)?;
        let size = self.core.code_size;
        Some(self.cache.insert(&mut self.core, physical, size, block))
    }

    /// The physical address of RIP. `None` if an exception was raised.
    #[inline(always)]
    fn fetch(&mut self) -> Option<u64> {
        let linear = if self.core.code_size == CodeSize::Long {
            self.core.rip
        } else {
            match self.core.code_address(self.core.rip) {
                Ok(linear) => linear,
                Err(fault) => return self.fetch_fault(fault),
            }
        };
        match self.core.translate_fetch(linear) {
            Ok(physical) => Some(physical),
            Err(fault) => self.fetch_fault(fault),
        }
    }

    /// The page of RAM behind the one that RIP is in. `None` if an exception was raised.
    fn fetch_second_page(&mut self) -> Option<u64> {
        let linear =
            (self.core.rip.wrapping_add(self.core.code_base()) & !(PAGE - 1)).wrapping_add(PAGE);
        match self.core.translate_fetch(linear) {
            Ok(physical) => Some(physical),
            Err(fault) => self.fetch_fault(fault),
        }
    }

    /// Raises an exception for an instruction that could not be fetched.
    #[cold]
    fn fetch_fault<T>(&mut self, fault: Fault) -> Option<T> {
        self.core.note_run(NO_BLOCK);
        self.core.devices.forget_answers();
        self.core.fault_through_stack = false;
        self.core.position += 1;
        self.core.raise(fault);
        None
    }

    /// Translates up to `limit` instructions at a physical address, where RIP is. `None` if an
    /// exception was raised: outside RAM there is no code, as if it were undefined.
    #[inline(never)]
    fn decode(&mut self, physical: u64, limit: u64) -> Option<Block> {
        let mut bytes = [0xFF; BLOCK_BYTES as usize];
        let in_page = (PAGE - physical % PAGE).min(BLOCK_BYTES) as usize;
        if !self.core.ram.read(physical, &mut bytes[..in_page]) {
            return self.fetch_fault(Fault::UNDEFINED);
        }
        let size = self.core.code_size;
        fn source(bytes: &[u8], size: CodeSize) -> Source<'_> {
            Source { bytes, size }
        }
        if let Some(block) = translate(source(&bytes[..in_page], size), limit) {
            return Some(block);
        }
        // The instruction lies across the end of its page.
        let page = self.fetch_second_page()?;
        let (from, to) = (in_page, in_page + 15);
        if !self.core.ram.read(page, &mut bytes[from..to]) {
            return self.fetch_fault(Fault::UNDEFINED);
        }
        let mut block =
            translate(source(&bytes[..to], size), 1).expect("15 bytes are an instruction");
        block.second_page = Some(page);
        Some(block)
    }
}

impl Core {
    /// Runs a straight block, and brings position and RIP to where it was left.
    fn run_once(&mut self, block: &Block) -> Leave {
        self.note_run(NO_BLOCK);
        self.regs[usize::from(START)] = self.rip;
        let leave = next(self, &block.ops);
        self.left(leave, block);
        leave
    }

    /// Brings position and RIP to where a block was left, and raises its fault.
    fn left(&mut self, leave: Leave, block: &Block) {
        self.position += match leave {
            Leave::Through => {
                let start = self.regs[usize::from(START)];
                self.rip = self.next_rip(start, block.bytes());
                block.instructions()
            }
            Leave::Indirect => block.instructions(),
            Leave::Branch | Leave::After | Leave::Recheck | Leave::Fault => self.retired,
        };
        let answered = !self.devices.answers.is_empty();
        if leave != Leave::Fault {
            if answered || !self.devices.posted.is_empty() {
                // The accesses count in the instruction's stead.
                self.position -= 1;
            }
            self.devices.forget_answers();
            return;
        }
        self.devices.posted.clear();
        if self.fault == Fault::Device {
            self.devices.used = 0;
        } else {
            self.devices.forget_answers();
            if !answered {
                self.position += 1;
            }
            self.raise(self.fault);
        }
    }
}
