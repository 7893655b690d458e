//! The CPUID that a guest sees: the host's, less what cannot be made deterministic (DET-4).

use std::io;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use xxhash_rust::xxh3::Xxh3;

/// Leaf 1 ECX: SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT. Not MONITOR, x2APIC, TSC-deadline, XSAVE,
/// RDRAND, nor the hypervisor bit with its clocks.
const LEAF_1_ECX: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23;

/// Leaf 1 EDX: FPU, DE, PSE, MSR, PAE, CX8, SEP, PGE, CMOV, PAT, PSE36, CLFSH, MMX, FXSR, SSE, SSE2.
/// Not TSC, APIC, MTRR, MCE.
const LEAF_1_EDX: u32 = 1
    | 1 << 2
    | 1 << 3
    | 1 << 5
    | 1 << 6
    | 1 << 8
    | 1 << 11
    | 1 << 13
    | 1 << 15
    | 1 << 16
    | 1 << 17
    | 1 << 19
    | 1 << 23
    | 1 << 24
    | 1 << 25
    | 1 << 26;

/// Leaf 0x8000_0001 ECX: LAHF in long mode.
const EXTENDED_ECX: u32 = 1;

/// Leaf 0x8000_0001 EDX: SYSCALL, NX, 1 GiB pages, long mode. Not RDTSCP.
const EXTENDED_EDX: u32 = 1 << 11 | 1 << 20 | 1 << 26 | 1 << 29;

/// The leaves for `KVM_SET_CPUID2`.
///
/// # Errors
///
/// What KVM says.
pub fn filtered(kvm: &Kvm) -> io::Result<CpuId> {
    let host = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let leaves: Vec<kvm_cpuid_entry2> =
        host.as_slice().iter().copied().filter_map(filter).collect();
    CpuId::from_entries(&leaves).map_err(|error| io::Error::other(format!("{error:?}")))
}

/// A leaf with everything masked that is not known to be deterministic; `None` for whole leaves of
/// that sort: caches and topology, monitoring, power, XSAVE, clocks, the hypervisor's.
fn filter(mut leaf: kvm_cpuid_entry2) -> Option<kvm_cpuid_entry2> {
    match leaf.function {
        0 => leaf.eax = 1,
        1 => {
            leaf.ebx &= 0x0000_FF00; // CLFLUSH size; not the APIC id and the number of CPUs
            leaf.ecx &= LEAF_1_ECX;
            leaf.edx &= LEAF_1_EDX;
        }
        0x8000_0000 => leaf.eax = 0x8000_0008,
        0x8000_0001 => {
            leaf.ebx = 0;
            leaf.ecx &= EXTENDED_ECX;
            leaf.edx &= EXTENDED_EDX;
        }
        0x8000_0002..=0x8000_0004 => {}
        0x8000_0008 => {
            leaf.eax &= 0xFFFF; // address widths
            (leaf.ebx, leaf.ecx, leaf.edx) = (0, 0, 0);
        }
        _ => return None,
    }
    Some(leaf)
}

/// A hash of the leaves, for the handshake: both nodes must show the same.
#[must_use]
pub fn digest(leaves: &CpuId) -> u64 {
    let mut hasher = Xxh3::new();
    for leaf in leaves.as_slice() {
        for word in [
            leaf.function,
            leaf.index,
            leaf.eax,
            leaf.ebx,
            leaf.ecx,
            leaf.edx,
        ] {
            hasher.update(&word.to_le_bytes());
        }
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_ones(function: u32) -> kvm_cpuid_entry2 {
        let (eax, ebx, ecx, edx) = (!0, !0, !0, !0);
        kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    #[test]
    fn det_4_what_cannot_be_made_deterministic_is_hidden() {
        let one = filter(all_ones(1)).expect("leaf 1 stays");
        let hidden_ecx = [
            (3, "MONITOR"),
            (21, "x2APIC"),
            (24, "TSC deadline"),
            (26, "XSAVE"),
            (27, "OSXSAVE"),
            (28, "AVX"),
            (30, "RDRAND"),
            (31, "hypervisor"),
        ];
        let hidden_edx = [(4, "TSC"), (9, "APIC")];
        for (bit, name) in hidden_ecx {
            assert_eq!(one.ecx >> bit & 1, 0, "{name}");
        }
        for (bit, name) in hidden_edx {
            assert_eq!(one.edx >> bit & 1, 0, "{name}");
        }
        let extended = filter(all_ones(0x8000_0001)).expect("it stays");
        assert_eq!(extended.edx >> 27 & 1, 0, "RDTSCP");
        // Performance monitoring, XSAVE, TSC frequency, the hypervisor's clocks, invariant TSC,
        // and leaf 7 with RDSEED.
        for function in [0xA, 0xD, 0x15, 0x4000_0000, 0x4000_0001, 0x8000_0007, 7] {
            assert_eq!(filter(all_ones(function)), None, "{function:#x}");
        }
    }
}
