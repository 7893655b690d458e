//! The registers, and what instructions need at hand. The cache of translated blocks is not in
//! here, so a block can be borrowed while its instructions change the core.

use crate::cpuid::CpuidTable;
use crate::devices::Devices;
use crate::fault::Fault;
use crate::flags::{self, Flags};
use crate::memory::pages::Pages;
use crate::memory::paging::FetchTlb;
use crate::memory::ram::Ram;
use crate::memory::tlb::Tlb;
use crate::op::{Leave, Op, SEGMENT_BASES, START};
use crate::state::{STORED_MSRS, Segment, Table};
use crate::time::Time;
use crate::trail::Trail;
use crate::x87::Fpu;

/// Bits of CR0.
pub(crate) mod cr0 {
    pub(crate) const PE: u64 = 1;
    pub(crate) const MP: u64 = 1 << 1;
    pub(crate) const EM: u64 = 1 << 2;
    pub(crate) const TS: u64 = 1 << 3;
    pub(crate) const ET: u64 = 1 << 4;
    pub(crate) const NE: u64 = 1 << 5;
    pub(crate) const WP: u64 = 1 << 16;
    pub(crate) const AM: u64 = 1 << 18;
    pub(crate) const NW: u64 = 1 << 29;
    pub(crate) const CD: u64 = 1 << 30;
    pub(crate) const PG: u64 = 1 << 31;
}

/// Bits of CR4.
pub(crate) mod cr4 {
    pub(crate) const TSD: u64 = 1 << 2;
    pub(crate) const DE: u64 = 1 << 3;
    pub(crate) const PSE: u64 = 1 << 4;
    pub(crate) const PAE: u64 = 1 << 5;
    pub(crate) const PGE: u64 = 1 << 7;
    pub(crate) const OSFXSR: u64 = 1 << 9;
    pub(crate) const OSXMMEXCPT: u64 = 1 << 10;
}

/// Bits of IA32_EFER.
pub(crate) mod efer {
    pub(crate) const SCE: u64 = 1;
    pub(crate) const LME: u64 = 1 << 8;
    pub(crate) const LMA: u64 = 1 << 10;
    pub(crate) const NXE: u64 = 1 << 11;
}

/// Numbers of the segment registers, in the order of their encoding.
pub(crate) mod seg {
    pub(crate) const ES: usize = 0;
    pub(crate) const CS: usize = 1;
    pub(crate) const SS: usize = 2;
    pub(crate) const DS: usize = 3;
    pub(crate) const FS: usize = 4;
    pub(crate) const GS: usize = 5;
}

/// Numbers of general registers.
pub(crate) mod reg {
    pub(crate) const RAX: u8 = 0;
    pub(crate) const RCX: u8 = 1;
    pub(crate) const RDX: u8 = 2;
    pub(crate) const RBX: u8 = 3;
    pub(crate) const RSP: u8 = 4;
    pub(crate) const RBP: u8 = 5;
    pub(crate) const RSI: u8 = 6;
    pub(crate) const RDI: u8 = 7;
    pub(crate) const R11: u8 = 11;
}

/// How the bytes at RIP are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CodeSize {
    /// 64-bit mode.
    Long = 0,
    /// A 32-bit code segment, in compatibility or protected mode.
    Wide = 1,
    /// A 16-bit code segment, likewise.
    Narrow = 2,
}

/// A CPU without its cache of translated blocks.
pub(crate) struct Core {
    /// 0–15 the general registers; above, what [`crate::op`] names.
    pub(crate) regs: [u64; 32],
    /// The arithmetic flags.
    pub(crate) flags: Flags,
    /// The other bits of RFLAGS.
    pub(crate) system_flags: u64,
    /// The instruction pointer, at the borders of blocks.
    pub(crate) rip: u64,
    /// Something happened that the block must be left for: a posted write, translated code was
    /// overwritten.
    pub(crate) attention: bool,
    /// Misaligned accesses fault: CR0.AM, EFLAGS.AC and CPL 3.
    pub(crate) checks_alignment: bool,
    /// The current privilege level.
    pub(crate) cpl: u8,
    /// How code is decoded.
    pub(crate) code_size: CodeSize,
    /// The bits of RSP that stack instructions outside 64-bit mode use.
    pub(crate) stack_mask: u64,
    /// How far the CPU has run, without the block that is under way.
    pub(crate) position: u64,
    /// The position that a REP string instruction must not pass.
    pub(crate) limit: u64,
    /// Positions that the block has come forward, for [`Leave::Branch`] and where it was left amid.
    pub(crate) retired: u64,
    /// Why the block was left, for [`Leave::Fault`].
    pub(crate) fault: Fault,
    /// The faulting instruction accessed memory through SS.
    pub(crate) fault_through_stack: bool,
    /// The address of the page fault that is being raised.
    pub(crate) fault_address: u64,
    /// At this position, interrupts are held off by STI or a load of SS.
    pub(crate) shadow_at: Option<u64>,
    /// A breakpoint is enabled in DR7.
    pub(crate) has_breakpoints: bool,
    /// The bits in DR6 of the data breakpoints that the current instruction has met, or a load of SS
    /// just before it.
    pub(crate) breakpoints_met: u64,
    /// The current instruction went to a handler of the kernel's: no single-step trap behind it.
    pub(crate) entered_kernel: bool,
    /// The current instruction loaded SS by MOV or POP: no debug trap behind it.
    pub(crate) loaded_ss: bool,
    /// HLT was executed.
    pub(crate) halted: bool,
    /// The machine has stopped for good.
    pub(crate) triple_fault: bool,

    pub(crate) tlb: Tlb,
    pub(crate) fetch_tlb: FetchTlb,
    pub(crate) ram: Ram,
    pub(crate) pages: Pages,
    pub(crate) devices: Devices,
    pub(crate) trail: Trail,

    /// ES, CS, SS, DS, FS, GS.
    pub(crate) segments: [Segment; 6],
    pub(crate) task: Segment,
    pub(crate) ldt: Segment,
    pub(crate) gdt: Table,
    pub(crate) idt: Table,
    pub(crate) cr0: u64,
    pub(crate) cr2: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) cr8: u64,
    /// DR0 to DR3, DR6, DR7.
    pub(crate) debug: [u64; 6],
    pub(crate) efer: u64,
    pub(crate) star: u64,
    pub(crate) lstar: u64,
    pub(crate) cstar: u64,
    pub(crate) fmask: u64,
    pub(crate) kernel_gs_base: u64,
    pub(crate) sysenter: [u64; 3],
    pub(crate) stored_msrs: [u64; STORED_MSRS.len()],
    pub(crate) time: Time,
    pub(crate) cpuid: CpuidTable,

    /// XMM0 to XMM15.
    pub(crate) xmm: [u128; 16],
    pub(crate) mxcsr: u32,
    pub(crate) fpu: Fpu,
}

impl Core {
    /// A CPU as after reset, but for the code segment; [`crate::SoftCpu::restore`] gives it the state
    /// to begin with.
    pub(crate) fn new(ram: Ram, cpuid: CpuidTable) -> Core {
        Core {
            regs: [0; 32],
            flags: Flags::from_bits(0),
            system_flags: flags::FIXED,
            rip: 0,
            attention: false,
            checks_alignment: false,
            cpl: 0,
            code_size: CodeSize::Wide,
            stack_mask: 0xFFFF_FFFF,
            position: 0,
            limit: 0,
            retired: 0,
            fault: Fault::UNDEFINED,
            fault_through_stack: false,
            fault_address: 0,
            shadow_at: None,
            has_breakpoints: false,
            breakpoints_met: 0,
            entered_kernel: false,
            loaded_ss: false,
            halted: false,
            triple_fault: false,
            tlb: Tlb::new(),
            fetch_tlb: FetchTlb::new(),
            pages: Pages::new(ram.len()),
            ram,
            devices: Devices::default(),
            trail: Trail::new(),
            segments: [Segment::default(); 6],
            task: Segment::default(),
            ldt: Segment::default(),
            gdt: Table::default(),
            idt: Table::default(),
            cr0: cr0::PE | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            debug: [0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
            efer: 0,
            star: 0,
            lstar: 0,
            cstar: 0,
            fmask: 0,
            kernel_gs_base: 0,
            sysenter: [0; 3],
            stored_msrs: [0; STORED_MSRS.len()],
            time: Time::default(),
            cpuid,
            xmm: [0; 16],
            mxcsr: 0x1F80,
            fpu: Fpu::default(),
        }
    }

    // ---- registers -----------------------------------------------------------------------------

    /// A register of `1 << S` bytes, zero-extended. For bytes, 0x20 to 0x23 are AH, CH, DH, BH.
    #[inline(always)]
    pub(crate) fn get<const S: usize>(&self, register: u8) -> u64 {
        let value = self.regs[usize::from(register & 31)];
        match S {
            0 => u64::from((value >> (register >> 5 << 3)) as u8),
            1 => u64::from(value as u16),
            2 => u64::from(value as u32),
            _ => value,
        }
    }

    /// Sets a register: bytes and words keep the rest of it, doublewords clear the upper half.
    #[inline(always)]
    pub(crate) fn set<const S: usize>(&mut self, register: u8, value: u64) {
        let into = &mut self.regs[usize::from(register & 31)];
        match S {
            0 => {
                let shift = register >> 5 << 3;
                *into = *into & !(0xFF << shift) | (value & 0xFF) << shift;
            }
            1 => *into = *into & !0xFFFF | value & 0xFFFF,
            2 => *into = value & 0xFFFF_FFFF,
            _ => *into = value,
        }
    }

    /// The linear address of the memory operand.
    #[inline(always)]
    pub(crate) fn address(&self, op: &Op) -> u64 {
        self.regs[usize::from(op.base & 31)]
            .wrapping_add(self.regs[usize::from(op.index & 31)] << (op.scale & 3))
            .wrapping_add(op.displacement as u64)
    }

    /// The linear address of a memory operand that has no index.
    #[inline(always)]
    pub(crate) fn address_without_index(&self, op: &Op) -> u64 {
        self.regs[usize::from(op.base & 31)].wrapping_add(op.displacement as u64)
    }

    /// RFLAGS.
    pub(crate) fn rflags(&self) -> u64 {
        self.system_flags | self.flags.bits()
    }

    // ---- leaving a block -----------------------------------------------------------------------

    /// The way out by a direct branch, behind the so many instructions that `op` stands for.
    #[inline(always)]
    pub(crate) fn branch(&mut self, op: &Op, instructions: u64) -> Leave {
        self.branch_to(op, instructions, op.imm)
    }

    /// Likewise, with the target less [`START`].
    #[inline(always)]
    pub(crate) fn branch_to(&mut self, op: &Op, instructions: u64, target: u64) -> Leave {
        self.rip = self.regs[usize::from(START)].wrapping_add(target);
        self.retired = u64::from(op.number) + instructions;
        Leave::Branch
    }

    /// The way out before `op`, which faults.
    #[cold]
    #[inline(never)]
    pub(crate) fn stop_before(&mut self, op: &Op, fault: Fault) -> Leave {
        self.rip = self.address_of(op);
        self.retired = u64::from(op.number);
        self.fault = fault;
        self.fault_through_stack = op.marks & crate::op::THROUGH_STACK != 0;
        Leave::Fault
    }

    /// The way out behind `op`, which is complete.
    #[cold]
    #[inline(never)]
    pub(crate) fn stop_after(&mut self, op: &Op) -> Leave {
        self.rip = self.address_behind(op);
        self.retired = u64::from(op.number) + 1;
        Leave::After
    }

    /// The way out behind `op`, which is complete and went to `rip`.
    #[cold]
    #[inline(never)]
    pub(crate) fn stop_at(&mut self, op: &Op, rip: u64) -> Leave {
        self.stop_after(op);
        self.rip = rip;
        Leave::After
    }

    /// RIP of what follows `bytes` of code at `rip`.
    #[inline(always)]
    pub(crate) fn next_rip(&self, rip: u64, bytes: u64) -> u64 {
        let next = rip.wrapping_add(bytes);
        if self.code_size == CodeSize::Long {
            next
        } else {
            next & 0xFFFF_FFFF
        }
    }

    /// RIP of the instruction.
    pub(crate) fn address_of(&self, op: &Op) -> u64 {
        self.regs[usize::from(START)].wrapping_add(op.at as u64)
    }

    /// RIP of the next instruction.
    pub(crate) fn address_behind(&self, op: &Op) -> u64 {
        self.next_rip(self.address_of(op), u64::from(op.len))
    }

    /// The position before `op`.
    pub(crate) fn position_of(&self, op: &Op) -> u64 {
        self.position + u64::from(op.number)
    }

    // ---- modes ---------------------------------------------------------------------------------

    pub(crate) fn paging(&self) -> bool {
        self.cr0 & cr0::PG != 0
    }

    pub(crate) fn write_protect(&self) -> bool {
        self.cr0 & cr0::WP != 0
    }

    pub(crate) fn no_execute_enabled(&self) -> bool {
        self.efer & efer::NXE != 0
    }

    pub(crate) fn global_pages_enabled(&self) -> bool {
        self.cr4 & cr4::PGE != 0
    }

    /// Whether long mode is active (64-bit or compatibility).
    pub(crate) fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// The base of a segment register, as FS and GS have in every mode.
    pub(crate) fn segment_base(&self, segment: usize) -> u64 {
        self.regs[usize::from(SEGMENT_BASES) + segment]
    }

    /// What is added to RIP.
    pub(crate) fn code_base(&self) -> u64 {
        match self.code_size {
            CodeSize::Long => 0,
            CodeSize::Wide | CodeSize::Narrow => self.segment_base(seg::CS),
        }
    }

    /// Follows a change of CS, SS, EFER, CR0 or the flags.
    pub(crate) fn update_modes(&mut self) {
        const LONG: u32 = 1 << 13;
        const WIDE: u32 = 1 << 14;
        let code = self.segments[seg::CS].access;
        let code_size = if self.long_mode() && code & LONG != 0 {
            CodeSize::Long
        } else if code & WIDE != 0 {
            CodeSize::Wide
        } else {
            CodeSize::Narrow
        };
        if code_size != self.code_size {
            self.code_size = code_size;
            self.trail = Trail::new();
        }
        self.stack_mask = if self.code_size == CodeSize::Long {
            !0
        } else if self.segments[seg::SS].access & WIDE != 0 {
            0xFFFF_FFFF
        } else {
            0xFFFF
        };
        self.tlb.select(self.cpl == 3);
        let checks = self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.system_flags & flags::AC != 0;
        if checks && !self.checks_alignment {
            // Closes the fast way.
            self.tlb.flush();
        }
        self.checks_alignment = checks;
    }

    // ---- floating point ------------------------------------------------------------------------

    /// Fails unless x87 and MMX instructions may run (SDM vol. 3, 2.5).
    #[inline(always)]
    pub(crate) fn require_fpu(&self) -> Result<(), Fault> {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(Fault::NO_FPU);
        }
        Ok(())
    }

    /// Fails unless MMX instructions may run: EM means #UD for them.
    #[inline(always)]
    pub(crate) fn require_mmx(&self) -> Result<(), Fault> {
        if self.cr0 & cr0::EM != 0 {
            return Err(Fault::UNDEFINED);
        }
        self.require_fpu()
    }

    /// Fails unless SSE instructions may run.
    #[inline(always)]
    pub(crate) fn require_sse(&self) -> Result<(), Fault> {
        if self.cr0 & (cr0::EM | cr0::TS) == 0 && self.cr4 & cr4::OSFXSR != 0 {
            return Ok(());
        }
        // #UD goes before #NM.
        let undefined = self.cr0 & cr0::EM != 0 || self.cr4 & cr4::OSFXSR == 0;
        Err(if undefined {
            Fault::UNDEFINED
        } else {
            Fault::NO_FPU
        })
    }
}
