//! The software CPU as Linux sets it up for a user program, and as little of a kernel as that takes.
//!
//! Descriptor tables hold Linux's selectors, and the handlers of the interrupt table are one HLT
//! each. So whatever a program does ends in a HLT, behind which the vector can be read from RIP and
//! the interrupted state from the exception's stack frame.
//!
//! ```text
//!   physical 0x1000 PML4   0x2000 IDT   0x3000 GDT, TSS   0x4000 handlers   0x5000 stack
//!            0x7000 tables and pages, in the order in which they are asked for
//! ```

use super::case::*;
use super::fill::{USER_CODE, USER_CODE_32, USER_DATA};
use soft_cpu::{CpuidTable, Exit, Ram, Segment, SoftCpu, State as SoftState, Table, UNUSABLE};

/// Where RAM appears to the kernel: physical address 0 of it, one to one.
const KERNEL: u64 = 0xFFFF_9000_0000_0000;
const PML4_AT: u64 = 0x1000;
const IDT_AT: u64 = 0x2000;
const GDT_AT: u64 = 0x3000;
const TSS_AT: u64 = 0x3800;
const HANDLERS_AT: u64 = 0x4000;
const STACK_TOP: u64 = 0x7000;
const FREE_AT: u64 = 0x7000;

const KERNEL_CODE: u16 = 0x10;
const TSS: u16 = 0x40;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 0x1000;

/// Bits of page table entries (SDM vol. 3, table 5-20).
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const NO_EXECUTE: u64 = 1 << 63;
const PRESENT: u64 = 1;
const ADDRESS: u64 = 0xF_FFFF_FFFF_F000;

/// Linux's descriptors by index (its `asm/segment.h` has the order): access byte and the flags above
/// the limit. All have base 0, limit 4 GiB and the accessed bit.
const DESCRIPTORS: [(usize, u64, u64); 6] = [
    (1, 0x9B, 0xC),
    (2, 0x9B, 0xA),
    (3, 0x93, 0xC),
    (4, 0xFB, 0xC),
    (5, 0xF3, 0xC),
    (6, 0xFB, 0xA),
];

/// Exceptions that push an error code (SDM vol. 3, table 7-1).
const WITH_ERROR_CODE: [u32; 7] = [8, 10, 11, 12, 13, 14, 17];

/// The software CPU and its RAM.
pub(crate) struct Kernel {
    pub(crate) cpu: SoftCpu,
    base: SoftState,
    free: u64,
}

/// What interrupted a program, and where.
pub(crate) struct Interrupted {
    pub(crate) vector: u32,
    pub(crate) error: u64,
    pub(crate) cr2: u64,
    pub(crate) state: State,
    /// Positions that the program came forward before.
    pub(crate) retired: u64,
}

impl Kernel {
    /// A kernel with no user pages.
    pub(crate) fn new(ram_bytes: u64) -> Kernel {
        let mut cpu = SoftCpu::new(Ram::anonymous(ram_bytes), CpuidTable::default());
        // Programs are short here, and what they do often becomes a trace all the same.
        cpu.set_slice(1);
        let base = base_state(cpu.state());
        let mut kernel = Kernel {
            cpu,
            base,
            free: FREE_AT,
        };
        for page in (0..FREE_AT).step_by(PAGE as usize) {
            kernel.map(KERNEL + page, page, WRITABLE);
        }
        for (index, access, flags) in DESCRIPTORS {
            let descriptor = 0xFFFF | access << 40 | 0xF << 48 | flags << 52;
            kernel.put(GDT_AT + 8 * index as u64, &descriptor.to_le_bytes());
        }
        let tss = KERNEL + TSS_AT;
        let low = 103 | (tss & 0xFF_FFFF) << 16 | 0x8B << 40 | (tss >> 24 & 0xFF) << 56;
        kernel.put(GDT_AT + u64::from(TSS), &low.to_le_bytes());
        kernel.put(GDT_AT + u64::from(TSS) + 8, &(tss >> 32).to_le_bytes());
        kernel.put(TSS_AT + 4, &(KERNEL + STACK_TOP).to_le_bytes());
        // No I/O permission bit map.
        kernel.put(TSS_AT + 102, &104u16.to_le_bytes());
        for vector in 0..256 {
            let handler = KERNEL + HANDLERS_AT + 16 * vector;
            let privilege = if vector == 3 || vector == 4 { 3 } else { 0 };
            let low = handler & 0xFFFF
                | u64::from(KERNEL_CODE) << 16
                | (0x8E | privilege << 5) << 40
                | (handler >> 16 & 0xFFFF) << 48;
            kernel.put(IDT_AT + 16 * vector, &low.to_le_bytes());
            kernel.put(IDT_AT + 16 * vector + 8, &(handler >> 32).to_le_bytes());
            kernel.put(HANDLERS_AT + 16 * vector, &[0xF4]);
        }
        kernel
    }

    /// Writes RAM.
    pub(crate) fn put(&mut self, at: u64, bytes: &[u8]) {
        assert!(self.cpu.write_ram(at, bytes), "{at:#x} is RAM");
    }

    /// Reads RAM.
    pub(crate) fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert!(self.cpu.ram().read(at, &mut bytes), "{at:#x} is RAM");
        bytes
    }

    fn word(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    /// Allots a page of zeros.
    pub(crate) fn allot(&mut self) -> u64 {
        let page = self.free;
        self.free += PAGE;
        self.put(page, &[0; PAGE as usize]);
        page
    }

    /// Maps a page, and allots the tables that this takes.
    pub(crate) fn map(&mut self, virtual_address: u64, physical: u64, bits: u64) {
        let mut table = PML4_AT;
        for shift in [39, 30, 21] {
            let entry = table + 8 * (virtual_address >> shift & 511);
            if self.word(entry) == 0 {
                let next = self.allot() | PRESENT | WRITABLE | USER;
                self.put(entry, &next.to_le_bytes());
            }
            table = self.word(entry) & ADDRESS;
        }
        let entry = table + 8 * (virtual_address >> 12 & 511);
        self.put(entry, &(physical | PRESENT | bits).to_le_bytes());
    }

    /// Forgets all user pages and their tables, if they were allotted after `mark`, which is an
    /// earlier [`Kernel::mark`].
    pub(crate) fn unmap_user(&mut self, mark: u64) {
        self.put(PML4_AT, &[0; 2048]);
        self.free = mark;
        self.cpu.flush_translations();
    }

    /// How much has been allotted.
    pub(crate) fn mark(&self) -> u64 {
        self.free
    }

    /// Lets the program go on from `state`.
    pub(crate) fn enter(&mut self, from: &State) {
        let mut state = self.base.clone();
        state.general = from.general;
        state.rip = from.rip;
        state.rflags = from.rflags;
        state.segments = from.selectors.map(segment);
        state.segments[4].base = from.fs_base;
        state.segments[5].base = from.gs_base;
        state.fxsave[..FX_USED].copy_from_slice(&from.fx.0[..FX_USED]);
        self.cpu.restore(&state, 0);
    }

    /// The program's state, while none of it is interrupted.
    pub(crate) fn user_state(&self) -> State {
        let state = self.cpu.state();
        State {
            general: state.general,
            rip: state.rip,
            rflags: state.rflags,
            selectors: state.segments.map(|segment| segment.selector),
            fs_base: state.segments[4].base,
            gs_base: state.segments[5].base,
            fx: Fx(state.fxsave),
        }
    }

    /// Runs `positions`, or up to an exception; this one is returned.
    pub(crate) fn run(&mut self, positions: u64) -> Option<Interrupted> {
        let before = self.cpu.position();
        let exit = self.cpu.run(before + positions);
        let done = self.cpu.position() - before;
        // An exception is a position, and so is the handler's HLT.
        match exit {
            Exit::Limit => self.handler().map(|_| self.interrupted(done - 1)),
            Exit::Halt => Some(self.interrupted(done - 2)),
            other => panic!("a user program led to {other:?}"),
        }
    }

    /// The vector whose handler RIP is in.
    fn handler(&self) -> Option<u32> {
        let offset = self.cpu.state().rip.checked_sub(KERNEL + HANDLERS_AT)?;
        (offset < 256 * 16).then_some((offset / 16) as u32)
    }

    /// What the handler that was reached can see.
    fn interrupted(&self, retired: u64) -> Interrupted {
        let vector = self.handler().expect("only handlers halt");
        let mut state = self.user_state();
        let mut frame = state.general[4] - KERNEL;
        let mut error = 0;
        if WITH_ERROR_CODE.contains(&vector) {
            error = self.word(frame);
            frame += 8;
        }
        state.rip = self.word(frame);
        state.selectors[1] = self.word(frame + 8) as u16;
        state.rflags = self.word(frame + 16);
        state.general[4] = self.word(frame + 24);
        state.selectors[2] = self.word(frame + 32) as u16;
        Interrupted {
            vector,
            error,
            cr2: self.cpu.state().cr2,
            state,
            retired,
        }
    }
}

/// A segment register with one of Linux's user segments, or none.
fn segment(selector: u16) -> Segment {
    let access = match selector {
        USER_CODE => 0xA0FB,
        USER_CODE_32 => 0xC0FB,
        USER_DATA => 0xC0F3,
        _ => {
            return Segment {
                base: 0,
                limit: 0,
                selector,
                access: UNUSABLE,
            };
        }
    };
    Segment {
        base: 0,
        limit: !0,
        selector,
        access,
    }
}

/// Long mode at CPL 3.
fn base_state(mut state: SoftState) -> SoftState {
    // PE, MP, ET, NE, WP, AM, PG.
    state.cr0 = 0x8005_0033;
    state.cr3 = PML4_AT;
    // PAE, PGE, OSFXSR, OSXMMEXCPT.
    state.cr4 = 0x6A0;
    // SCE, LME, LMA, NXE.
    state.efer = 0xD01;
    state.gdt = Table {
        base: KERNEL + GDT_AT,
        limit: 127,
    };
    state.idt = Table {
        base: KERNEL + IDT_AT,
        limit: 4095,
    };
    state.task = Segment {
        base: KERNEL + TSS_AT,
        limit: 103,
        selector: TSS,
        access: 0x8B,
    };
    state
}
