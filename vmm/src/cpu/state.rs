//! The architectural state of a CPU, in a form that no backend owns.

use serde::{Deserialize, Serialize};

/// Everything that decides what a CPU does next.
///
/// Registers have their architectural meaning and encodings (Intel SDM vol. 3, chapters 2 and 3;
/// XSAVE image: vol. 1, chapter 13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuState {
    /// The version of this structure.
    pub version: u32,
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
    pub gdt: DescriptorTable,
    /// The interrupt descriptor table.
    pub idt: DescriptorTable,
    /// CR0, CR2, CR3, CR4, CR8.
    pub control: [u64; 5],
    /// DR0 to DR3, DR6, DR7.
    pub debug: [u64; 6],
    /// XCR0.
    pub xcr0: u64,
    /// Model-specific registers that are part of the state, by number.
    pub msrs: Vec<(u32, u64)>,
    /// The XSAVE image in the standard format: 512 bytes of x87 and SSE state, the header, and the
    /// extended components that are in use.
    #[serde(with = "serde_bytes")]
    pub xsave: Vec<u8>,
    /// An exception that is on its way to the guest: vector and error code.
    pub exception: Option<(u8, Option<u32>)>,
    /// An interrupt that is on its way to the guest.
    pub interrupt: Option<u8>,
    /// Interrupts are held off for one instruction, after STI or a load of SS.
    pub interrupt_shadow: bool,
}

/// The version of [`CpuState`].
pub const CPU_STATE_VERSION: u32 = 1;

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The base address.
    pub base: u64,
    /// The limit in bytes, expanded.
    pub limit: u32,
    /// The selector.
    pub selector: u16,
    /// The access rights as in the second word of a descriptor: type, S, DPL, P in bits 0–7, AVL,
    /// L, D/B, G in bits 12–15 (SDM vol. 3, 3.4.5). 0x1_0000 marks an unusable register.
    pub access: u32,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// The base address.
    pub base: u64,
    /// The limit in bytes.
    pub limit: u16,
}
