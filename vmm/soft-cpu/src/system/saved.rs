//! From the core to [`State`] and back.

use crate::core::{Core, seg};
use crate::flags::{self, Flags};
use crate::op::{SEGMENT_BASES, ZERO};
use crate::state::State;
use crate::trail::Trail;

/// MXCSR_MASK: all bits but those that need SSE3 and later; DAZ exists.
const MXCSR_MASK: u32 = 0xFFFF;

impl Core {
    pub(crate) fn state(&self) -> State {
        let mut segments = self.segments;
        for (segment, base) in segments
            .iter_mut()
            .zip(&self.regs[usize::from(SEGMENT_BASES)..])
        {
            segment.base = *base;
        }
        State {
            general: self.regs[..16].try_into().expect("sixteen"),
            rip: self.rip,
            rflags: self.rflags(),
            segments,
            task: self.task,
            ldt: self.ldt,
            gdt: self.gdt,
            idt: self.idt,
            cr0: self.cr0,
            cr2: self.cr2,
            cr3: self.cr3,
            cr4: self.cr4,
            cr8: self.cr8,
            debug: self.debug,
            efer: self.efer,
            star: self.star,
            lstar: self.lstar,
            cstar: self.cstar,
            fmask: self.fmask,
            kernel_gs_base: self.kernel_gs_base,
            sysenter: self.sysenter,
            stored_msrs: self.stored_msrs,
            tsc: self.time.ticks(self.position),
            tsc_adjust: self.time.adjust,
            fxsave: self.fxsave_image(),
            interrupt_shadow: self.shadow_at == Some(self.position),
            answers: self.devices.answers.clone(),
            posted: self.devices.posted.iter().copied().collect(),
        }
    }

    pub(crate) fn restore(&mut self, state: &State, position: u64) {
        self.trail = Trail::new();
        self.regs = [0; 32];
        self.regs[..16].copy_from_slice(&state.general);
        debug_assert_eq!(self.regs[usize::from(ZERO)], 0);
        self.rip = state.rip;
        self.flags = Flags::from_bits(state.rflags);
        self.system_flags = state.rflags & !flags::ARITHMETIC | flags::FIXED;
        self.segments = state.segments;
        for (base, segment) in self.regs[usize::from(SEGMENT_BASES)..]
            .iter_mut()
            .zip(&state.segments)
        {
            *base = segment.base;
        }
        self.task = state.task;
        self.ldt = state.ldt;
        self.gdt = state.gdt;
        self.idt = state.idt;
        self.cr0 = state.cr0;
        self.cr2 = state.cr2;
        self.cr3 = state.cr3;
        self.cr4 = state.cr4;
        self.cr8 = state.cr8;
        self.debug = state.debug;
        self.efer = state.efer;
        self.star = state.star;
        self.lstar = state.lstar;
        self.cstar = state.cstar;
        self.fmask = state.fmask;
        self.kernel_gs_base = state.kernel_gs_base;
        self.sysenter = state.sysenter;
        self.stored_msrs = state.stored_msrs;
        self.time.restore(state.tsc, state.tsc_adjust, position);
        self.load_fxsave_image(&state.fxsave);
        self.position = position;
        self.shadow_at = state.interrupt_shadow.then_some(position);
        self.triple_fault = false;
        self.halted = false;
        self.attention = false;
        self.devices = Default::default();
        self.devices.answers.clone_from(&state.answers);
        self.devices.posted.extend(&state.posted);
        // In every mode the privilege level stands in SS's descriptor.
        self.cpl = (state.segments[seg::SS].access >> 5 & 3) as u8;
        self.checks_alignment = false;
        self.tlb.flush();
        self.fetch_tlb.flush();
        self.update_breakpoints();
        self.breakpoints_met = 0;
        self.loaded_ss = false;
        self.update_modes();
    }

    /// The 64-bit FXSAVE image (SDM vol. 1, table 10-2), with all sixteen XMM registers.
    pub(crate) fn fxsave_image(&self) -> [u8; 512] {
        let mut image = [0; 512];
        self.fpu.save_fx(true, &mut image);
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(24, &self.mxcsr.to_le_bytes());
        put(28, &MXCSR_MASK.to_le_bytes());
        for (i, register) in self.xmm.iter().enumerate() {
            put(160 + 16 * i, &register.to_le_bytes());
        }
        image
    }

    /// The reverse of [`Core::fxsave_image`]. Reserved bits of MXCSR are dropped.
    pub(crate) fn load_fxsave_image(&mut self, image: &[u8; 512]) {
        self.fpu.load_fx(true, image);
        let mxcsr = image[24..28].try_into().expect("four bytes");
        self.mxcsr = u32::from_le_bytes(mxcsr) & MXCSR_MASK;
        for (i, register) in self.xmm.iter_mut().enumerate() {
            let at = 160 + 16 * i;
            *register = u128::from_le_bytes(image[at..at + 16].try_into().expect("16 bytes"));
        }
    }
}
