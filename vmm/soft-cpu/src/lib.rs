//! An x86-64 CPU in software: deterministic by construction, with an exact count of what it has
//! done.
//!
//! ```text
//!   bytes ──iced-x86──► instructions ──decode──► blocks of micro-operations ──► exec
//!                                                   (by physical address)         │
//!                             ops, simd, x87, system: the handlers  ◄─────────────┤
//!                             memory: paging, TLB, RAM  ◄─────────────────────────┘
//! ```
//!
//! What always holds:
//!
//! - DET-1: state and RAM at a position are a function of the state and RAM at an earlier one, and
//!   of the answers, interrupts, times and writes of devices between them. Where `run` was stopped,
//!   by a limit or from another thread, makes no difference; nor does what was translated when.
//! - Positions are exact. A position is one retired instruction, one iteration of a REP string
//!   instruction, or one exception delivered; an instruction that accesses devices counts once for
//!   each access instead of once. RAM and registers always are as they must be at the position.
//! - SEC-3: whatever a guest does ends in its own exceptions; addresses outside RAM are devices.

mod core;
mod cpuid;
mod decode;
mod devices;
mod exec;
mod fault;
mod flags;
mod memory;
mod op;
mod ops;
#[cfg(test)]
mod oracle;
mod simd;
mod state;
mod system;
mod time;
mod trail;
mod x87;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use cpuid::CpuidTable;
pub use devices::{Access, Target};
pub use memory::ram::Ram;
pub use state::{STORED_MSRS, Segment, State, Table, UNUSABLE};
pub use time::{TICKS_PER_INSTRUCTION, TSC_HZ};
pub use trail::Executed;

use crate::core::Core;
use crate::decode::{BLOCK_LIMIT, Cache};

/// Why [`SoftCpu::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest accesses a device. The access counts one position.
    Access(Access),
    /// The guest executed HLT, and stands behind it.
    Halt,
    /// The limit was reached.
    Limit,
    /// Another thread asked for it, by [`SoftCpu::kick_handle`]. The position is exact.
    Interrupted,
    /// An interrupt is wanted and could be taken now.
    Window,
    /// The guest's fault handlers faulted three times over. The CPU runs no further.
    TripleFault,
}

/// Makes [`SoftCpu::run`] return [`Exit::Interrupted`] soon.
#[derive(Clone, Debug)]
pub struct Kick(Arc<AtomicBool>);

impl Kick {
    /// Asks once. A kick while the CPU stands works on its next run.
    pub fn kick(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Positions between two looks at the kick, unless [`SoftCpu::set_slice`] says otherwise: some ten
/// microseconds.
const SLICE: u64 = 10_000;

/// An x86-64 CPU and its RAM.
pub struct SoftCpu {
    core: Core,
    cache: Cache,
    kick: Arc<AtomicBool>,
    interrupt_wanted: bool,
    /// Positions between two looks at the kick, and at what is hot.
    slice: u64,
    /// The position of the next look.
    next_look: u64,
    /// What runs next is hot: its way is to be recorded.
    records: bool,
}

impl SoftCpu {
    /// A CPU that waits for [`SoftCpu::restore`].
    #[must_use]
    pub fn new(ram: Ram, cpuid: CpuidTable) -> SoftCpu {
        SoftCpu {
            core: Core::new(ram, cpuid),
            cache: Cache::new(),
            kick: Arc::default(),
            interrupt_wanted: false,
            slice: SLICE,
            next_look: 0,
            records: false,
        }
    }

    /// Looks at the kick, and at what is hot, after so many positions: the fewer, the sooner are
    /// blocks that follow each other translated as one. It makes no difference to the guest.
    pub fn set_slice(&mut self, positions: u64) {
        self.slice = positions.max(BLOCK_LIMIT);
        self.next_look = 0;
    }

    /// The RAM.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.core.ram
    }

    /// Writes RAM as a device does; false, and nothing written, if the bytes are not all RAM.
    #[must_use]
    pub fn write_ram(&mut self, at: u64, bytes: &[u8]) -> bool {
        let done = self.core.ram.write(at, bytes);
        if done && !bytes.is_empty() {
            self.written(at..at + bytes.len() as u64);
        }
        done
    }

    /// How far the CPU has run; see the crate's first lines. It includes the access or HLT returned
    /// last.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.core.position
    }

    /// Whether the CPU stands between two instructions (or iterations of one), with no access of
    /// the last one outstanding.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        let devices = &self.core.devices;
        devices.answers.is_empty()
            && devices.wanted.is_none()
            && devices.posted.is_empty()
            && !devices.waiting
    }

    /// Whether an interrupt injected now would be taken before the next instruction.
    #[must_use]
    pub fn takes_interrupts(&self) -> bool {
        self.at_boundary() && !self.core.triple_fault && self.core.interrupts_open()
    }

    /// While wanted, [`SoftCpu::run`] returns [`Exit::Window`] where [`SoftCpu::takes_interrupts`]
    /// holds.
    pub fn want_interrupt(&mut self, wanted: bool) {
        self.interrupt_wanted = wanted;
    }

    /// Takes an external interrupt. No position passes.
    ///
    /// # Panics
    ///
    /// If [`SoftCpu::takes_interrupts`] does not hold.
    pub fn interrupt(&mut self, vector: u8) {
        assert!(self.takes_interrupts(), "interrupts are held off here");
        self.core.external_interrupt(vector);
        self.settle();
    }

    /// The handle for other threads.
    #[must_use]
    pub fn kick_handle(&self) -> Kick {
        Kick(Arc::clone(&self.kick))
    }

    /// Sets the time stamp counter to `ticks` at this position, forwards only: one that is already
    /// past changes nothing, so the guest never sees it go back. From here it counts
    /// [`TICKS_PER_INSTRUCTION`].
    pub fn set_tsc(&mut self, ticks: u64) {
        self.core.time.advance_to(ticks, self.core.position);
    }

    /// The whole state. The translation buffers are emptied, since page tables' accessed bits
    /// depend on them: what runs afterwards is what runs after [`SoftCpu::restore`], but may differ
    /// from what would have run without the call. So it is an event that both hosts share.
    ///
    /// # Panics
    ///
    /// If a read waits for its answer.
    #[must_use]
    pub fn save(&mut self) -> State {
        self.flush_translations();
        self.state()
    }

    /// The state, for a report or a digest; nothing changes.
    ///
    /// # Panics
    ///
    /// As [`SoftCpu::save`].
    #[must_use]
    pub fn state(&self) -> State {
        assert!(!self.core.devices.waiting, "a read waits for its answer");
        self.core.state()
    }

    /// Empties the translation buffers, as [`SoftCpu::save`] does.
    pub fn flush_translations(&mut self) {
        self.core.tlb.flush();
        self.core.fetch_tlb.flush();
    }

    /// Goes on from a state at a position. RAM is the caller's to restore.
    pub fn restore(&mut self, state: &State, position: u64) {
        self.next_look = 0;
        self.core.restore(state, position);
        self.cache.clear(&mut self.core);
    }

    /// Adds the RAM pages that the CPU wrote since the last call to `dirty`, a bit each.
    pub fn take_dirty(&mut self, dirty: &mut Vec<u64>) {
        self.core.pages.take_dirty(dirty);
        self.core.tlb.close_for_writes(None);
    }

    /// Hears that somebody else wrote these bytes of RAM. Until then translated code may be stale.
    pub fn written(&mut self, bytes: std::ops::Range<u64>) {
        self.core.pages.note_foreign_write(bytes);
        self.settle();
    }

    /// The last instructions, `count` at most, the latest last, for a report. They are decoded from
    /// what memory holds now: `read` gives a byte at a virtual address. Where `run` was stopped
    /// meanwhile makes no difference, nor does what was translated when.
    #[must_use]
    pub fn executed(&self, count: usize, read: impl Fn(u64) -> Option<u8>) -> Vec<Executed> {
        let base = self.core.code_base();
        let mut trail = self.core.trail.clone();
        self.cache.straighten(&mut trail, self.core.position);
        self.core
            .executed(&trail, count, |rip| read(rip.wrapping_add(base)))
    }

    /// Drops translations of code that was overwritten.
    fn settle(&mut self) {
        self.core.attention = false;
        self.cache.drop_overwritten(&mut self.core);
    }
}
