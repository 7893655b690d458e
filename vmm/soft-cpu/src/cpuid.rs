//! What CPUID says.
//!
//! The CPU is x86-64-v1 plus CMPXCHG16B. It calls itself an Intel Atom of the first generation
//! (family 6, model 0x1C) for two reasons that lie in Linux: it reads the frequency of the TSC from
//! leaf 0x15 only if the vendor is Intel (`native_calibrate_tsc`), and it knows of this in-order
//! model that it does not speculate (`cpu_vuln_whitelist`), which is true of a software CPU too: so
//! no page-table isolation, no return trampolines. Stepping 10, because Linux turns off large pages
//! for an erratum of steppings 0 to 2.

use crate::memory::paging::PHYSICAL_BITS;
use crate::time::TSC_HZ;

/// EAX, EBX, ECX, EDX.
type Registers = [u32; 4];

/// The answers of CPUID, by leaf and subleaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidTable {
    /// Leaf, subleaf if it matters, answer.
    leaves: Vec<(u32, Option<u32>, Registers)>,
}

/// Family 6, model 0x1C, stepping 10.
const SIGNATURE: u32 = 0x0001_06CA;

/// Leaf 1 EDX: FPU, DE, PSE, TSC, MSR, PAE, CX8, SEP, PGE, CMOV, PAT, CLFSH, MMX, FXSR, SSE, SSE2.
/// Not VME, MCE, APIC, MTRR, MCA.
const LEAF_1_EDX: u32 = 1
    | 1 << 2
    | 1 << 3
    | 1 << 4
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 11
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 19
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26;

/// Leaf 1 ECX: CMPXCHG16B.
const LEAF_1_ECX: u32 = 1 << 13;

/// Leaf 7 EBX: IA32_TSC_ADJUST, with which Linux trusts the TSC without a watchdog.
const LEAF_7_EBX: u32 = 1 << 1;

/// Leaf 0x8000_0001 EDX: SYSCALL, NX, 1 GiB pages, long mode.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 29;

/// Leaf 0x8000_0001 ECX: LAHF and SAHF in 64-bit mode.
const EXTENDED_ECX: u32 = 1;

/// The crystal that leaf 0x15 derives the TSC's frequency from, in Hz.
const CRYSTAL_HZ: u32 = 25_000_000;

/// The nominal frequency in MHz.
const MHZ: u32 = (TSC_HZ / 1_000_000) as u32;

impl Default for CpuidTable {
    fn default() -> CpuidTable {
        let text = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let mut leaves = vec![
            (0, None, [0x16, text(b"Genu"), text(b"ntel"), text(b"ineI")]),
            // CLFLUSH lines of 64 bytes, one logical processor.
            (1, None, [SIGNATURE, 0x0001_0800, LEAF_1_ECX, LEAF_1_EDX]),
            // One call, no descriptors: leaf 4 speaks of the caches, and says that there are none.
            (2, None, [1, 0, 0, 0]),
            (7, Some(0), [0, LEAF_7_EBX, 0, 0]),
            (
                0x15,
                None,
                [1, (TSC_HZ / u64::from(CRYSTAL_HZ)) as u32, CRYSTAL_HZ, 0],
            ),
            (0x16, None, [MHZ, MHZ, 100, 0]),
            (0x8000_0000, None, [0x8000_0008, 0, 0, 0]),
            (0x8000_0001, None, [0, 0, EXTENDED_ECX, EXTENDED_EDX]),
            // The TSC runs at one rate in every state.
            (0x8000_0007, None, [0, 0, 0, 1 << 8]),
            (0x8000_0008, None, [48 << 8 | PHYSICAL_BITS, 0, 0, 0]),
        ];
        let name =
            *b"ftvm software CPU\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        for (leaf, part) in (0x8000_0002..).zip(name.chunks(16)) {
            let words = [0, 4, 8, 12].map(|at| text(&part[at..at + 4]));
            leaves.push((leaf, None, words));
        }
        CpuidTable { leaves }
    }
}

impl CpuidTable {
    /// The answer to a leaf and subleaf. One that does not exist is all zero.
    pub(crate) fn answer(&self, leaf: u32, subleaf: u32) -> Registers {
        self.leaves
            .iter()
            .find(|(of, sub, _)| *of == leaf && sub.is_none_or(|sub| sub == subleaf))
            .map_or([0; 4], |(_, _, registers)| *registers)
    }

    /// Every leaf with its subleaf and EAX, EBX, ECX, EDX, for a digest.
    pub fn leaves(&self) -> impl Iterator<Item = (u32, u32, [u32; 4])> {
        self.leaves
            .iter()
            .map(|(leaf, sub, registers)| (*leaf, sub.unwrap_or(0), *registers))
    }
}
