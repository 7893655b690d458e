//! The architectural state, as others save, compare and restore it.

use crate::devices::Access;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The base address.
    pub base: u64,
    /// The limit in bytes, expanded.
    pub limit: u32,
    /// The selector.
    pub selector: u16,
    /// The access rights as in the second word of a descriptor: type, S, DPL, P in bits 0–7, AVL,
    /// L, D/B, G in bits 12–15 (SDM vol. 3, 3.4.5). [`UNUSABLE`] marks a null selector's.
    pub access: u32,
}

/// A segment register that holds a null selector.
pub const UNUSABLE: u32 = 0x1_0000;

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The base address.
    pub base: u64,
    /// The limit in bytes.
    pub limit: u16,
}

/// Model-specific registers that are nothing but their value here, besides those with fields of
/// their own in [`State`]. In the order of [`State::stored_msrs`].
pub const STORED_MSRS: [u32; 32] = [
    0x8B,  // IA32_BIOS_SIGN_ID
    0x1A0, // IA32_MISC_ENABLE
    0x2FF, // IA32_MTRR_DEF_TYPE
    0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, // variable MTRRs
    0x208, 0x209, 0x20A, 0x20B, 0x20C, 0x20D, 0x20E, 0x20F, //
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E,
    0x26F, // fixed MTRRs
    0x277, // IA32_PAT
    0x1D9, // IA32_DEBUGCTL
];

/// Everything that decides what the CPU does next, RAM aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15: in the order of their encoding.
    pub general: [u64; 16],
    /// The instruction pointer.
    pub rip: u64,
    /// The flags.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS: in the order of their encoding.
    pub segments: [Segment; 6],
    /// The task register.
    pub task: Segment,
    /// The local descriptor table register.
    pub ldt: Segment,
    /// The global descriptor table.
    pub gdt: Table,
    /// The interrupt descriptor table.
    pub idt: Table,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8, the task priority. No local APIC looks at it.
    pub cr8: u64,
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_STAR.
    pub star: u64,
    /// IA32_LSTAR.
    pub lstar: u64,
    /// IA32_CSTAR.
    pub cstar: u64,
    /// IA32_FMASK.
    pub fmask: u64,
    /// IA32_KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// IA32_SYSENTER_CS, _ESP, _EIP.
    pub sysenter: [u64; 3],
    /// The registers of [`STORED_MSRS`].
    pub stored_msrs: [u64; STORED_MSRS.len()],
    /// The time stamp counter before the guest's adjustment.
    pub tsc: u64,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: u64,
    /// x87, MMX and SSE registers in the 64-bit form of FXSAVE (SDM vol. 1, 10.5.1); bytes that it
    /// leaves undefined are zero.
    pub fxsave: [u8; 512],
    /// Interrupts are held off for one instruction, after STI or a load of SS.
    pub interrupt_shadow: bool,
    /// The instruction at RIP has begun: these are the answers of devices to its first reads.
    /// Empty nearly always; only an instruction that reads devices twice is seen like this.
    pub answers: Vec<u64>,
    /// The instruction before RIP has written to devices that have yet to hear of it. Empty nearly
    /// always; only behind the first access of an instruction with several.
    pub posted: Vec<Access>,
}
