//! Breakpoints in the debug registers (SDM vol. 3, 18.2).
//!
//! While one is enabled, the CPU goes instruction by instruction, and pages with a data breakpoint
//! stay out of the TLB, so that every access to them takes the slow way and is compared. Without
//! breakpoints nothing is compared anywhere.

use crate::core::{CodeSize, Core, seg};
use crate::fault::vector;
use crate::flags::{RF, TF};
use crate::memory::ram::PAGE;

/// DR6: a single step was executed.
const STEP: u64 = 1 << 14;

/// What a breakpoint waits for: bits 16 and 17 of DR7 for the first.
const EXECUTION: u64 = 0;
const WRITE: u64 = 1;
const READ_OR_WRITE: u64 = 3;

/// An enabled breakpoint.
#[derive(Clone, Copy)]
struct Breakpoint {
    /// Its bit in DR6.
    bit: u64,
    address: u64,
    len: u64,
    kind: u64,
}

impl Core {
    fn breakpoints(&self) -> impl Iterator<Item = Breakpoint> + use<> {
        let [.., control] = self.debug;
        let addresses = [self.debug[0], self.debug[1], self.debug[2], self.debug[3]];
        (0..4).zip(addresses).filter_map(move |(number, address)| {
            let enabled = control >> (2 * number) & 3 != 0;
            let len = [1, 2, 8, 4][(control >> (18 + 4 * number) & 3) as usize];
            enabled.then_some(Breakpoint {
                bit: 1 << number,
                address: address & !(len - 1),
                len,
                kind: control >> (16 + 4 * number) & 3,
            })
        })
    }

    /// Follows a change of the debug registers.
    pub(crate) fn update_breakpoints(&mut self) {
        let before = self.has_breakpoints;
        self.has_breakpoints = self.breakpoints().next().is_some();
        if before || self.has_breakpoints {
            self.tlb.flush();
        }
    }

    /// Whether accesses to the page of an address are compared.
    pub(crate) fn is_watched(&self, address: u64) -> bool {
        self.has_breakpoints
            && self
                .breakpoints()
                .any(|point| (point.address ^ address) & !(PAGE - 1) == 0)
    }

    /// Compares an access to memory with the data breakpoints.
    pub(crate) fn compare_access(&mut self, address: u64, len: usize, write: bool) {
        if !self.has_breakpoints {
            return;
        }
        for point in self.breakpoints() {
            let meets = address < point.address.wrapping_add(point.len)
                && point.address < address.wrapping_add(len as u64);
            let kind = point.kind == READ_OR_WRITE || write && point.kind == WRITE;
            if meets && kind {
                self.breakpoints_met |= point.bit;
            }
        }
    }

    /// Whether the instruction before the one at RIP has loaded SS.
    pub(crate) fn is_behind_load_of_ss(&self) -> bool {
        self.loaded_ss && self.shadow_at == Some(self.position)
    }

    /// Raises #DB if the instruction at RIP has a breakpoint. It is a fault: RF lets the
    /// instruction pass when the handler returns to it, and a load of SS before it does so too
    /// (SDM vol. 3, 18.3.1.1).
    pub(crate) fn meets_breakpoint(&mut self, behind_ss: bool) -> bool {
        // RF holds for one instruction, which may set it anew: IRET.
        let resumes = self.system_flags & RF != 0 || behind_ss;
        self.system_flags &= !RF;
        if !self.has_breakpoints || resumes {
            return false;
        }
        let linear = if self.code_size == CodeSize::Long {
            self.rip
        } else {
            self.segment_base(seg::CS).wrapping_add(self.rip) & 0xFFFF_FFFF
        };
        let met = self
            .breakpoints()
            .filter(|point| point.kind == EXECUTION && point.address == linear)
            .fold(0, |met, point| met | point.bit);
        if met == 0 {
            return false;
        }
        self.debug[4] = self.debug[4] & !0xF | met;
        self.position += 1;
        self.raise(crate::fault::Fault::Plain(vector::DB));
        true
    }

    /// Raises #DB behind an instruction that met data breakpoints, or that began with TF set and did
    /// not enter the kernel (INT n and SYSCALL clear TF). None is raised behind a load of SS: what
    /// that has met is raised behind the next instruction, even if that faults, and in the kernel if
    /// it leads there (SDM vol. 3, 6.8.3).
    pub(crate) fn trap_behind(&mut self, began_with_tf: bool) {
        if self.loaded_ss {
            return;
        }
        let untouched = !self.entered_kernel || self.system_flags & TF != 0;
        let stepped = began_with_tf && untouched;
        let met = self.tell_breakpoints();
        if stepped {
            self.debug[4] |= STEP;
        }
        if met || stepped {
            self.debug_trap();
        }
    }

    /// Puts the data breakpoints met so far into DR6. False if there is none.
    pub(super) fn tell_breakpoints(&mut self) -> bool {
        let met = std::mem::take(&mut self.breakpoints_met);
        if met != 0 {
            self.debug[4] = self.debug[4] & !0xF | met;
        }
        met != 0
    }
}
