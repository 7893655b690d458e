//! The register stack, the control, status and tag words, and their faults (SDM vol. 1, 8.1).
//!
//! The eight registers stand in physical order; `ST(i)` is `(top + i) mod 8`. Of the tag word only
//! "empty" is kept: the other tags follow from the contents, as FNSTENV works them out (8.1.7).

use super::env::{Env, INVALID};
use super::format::F80;

/// SF: the invalid operation was a stack fault.
pub(crate) const STACK_FAULT: u16 = 0x40;
/// ES: an exception that is not masked waits for the next instruction.
pub(crate) const SUMMARY: u16 = 0x80;
/// C0.
pub(crate) const C0: u16 = 0x100;
/// C1.
pub(crate) const C1: u16 = 0x200;
/// C2.
pub(crate) const C2: u16 = 0x400;
/// C3.
pub(crate) const C3: u16 = 0x4000;
/// All condition bits.
pub(crate) const CONDITIONS: u16 = C0 | C1 | C2 | C3;
/// B, which has followed ES since the 80387.
const BUSY: u16 = 0x8000;
/// The six exceptions.
pub(crate) const EXCEPTIONS: u16 = 0x3f;
/// The control word after FNINIT.
const CONTROL_INIT: u16 = 0x37f;
/// The bits of the control word that hold what is written: bits 7, 13 to 15 read as zero and bit 6
/// as one.
const CONTROL_BITS: u16 = 0x1f3f;

/// The x87 state, which MMX shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fpu {
    /// Registers in physical order.
    pub(crate) regs: [F80; 8],
    /// The control word.
    pub(crate) control: u16,
    /// The status word without TOP, ES and B.
    pub(crate) bits: u16,
    /// The physical number of ST(0).
    pub(crate) top: u8,
    /// A bit for each physical register that is not empty.
    pub(crate) full: u8,
    /// Opcode and pointers.
    pub(crate) pointers: Pointers,
}

/// Opcode and address of the last instruction that was not a control instruction, and of its
/// operand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointers {
    /// The last two bytes of the opcode without its five constant bits.
    pub(crate) opcode: u16,
    /// The address of the instruction.
    pub(crate) instruction: u64,
    /// The address of the operand.
    pub(crate) data: u64,
    /// The selector beside `instruction`.
    pub(crate) instruction_selector: u16,
    /// The selector beside `data`.
    pub(crate) data_selector: u16,
}

impl Default for Fpu {
    fn default() -> Fpu {
        Fpu {
            regs: [F80::ZERO; 8],
            control: CONTROL_INIT,
            bits: 0,
            top: 0,
            full: 0,
            pointers: Pointers::default(),
        }
    }
}

impl Fpu {
    /// FNINIT: the registers keep what they hold, but are empty.
    pub(crate) fn initialise(&mut self) {
        *self = Fpu {
            regs: self.regs,
            ..Fpu::default()
        };
    }

    /// Sets the control word.
    pub(crate) fn set_control(&mut self, value: u16) {
        self.control = value & CONTROL_BITS | 0x40;
    }

    /// Whether an exception waits that is not masked: ES.
    pub(crate) fn pending(&self) -> bool {
        self.bits & !self.control & EXCEPTIONS != 0
    }

    /// The status word as it is read.
    pub(crate) fn status(&self) -> u16 {
        let summary = if self.pending() { SUMMARY | BUSY } else { 0 };
        self.bits | summary | u16::from(self.top) << 11
    }

    /// Sets the status word. ES and B follow from the exceptions and the control word.
    pub(crate) fn set_status(&mut self, value: u16) {
        self.bits = value & (CONDITIONS | STACK_FAULT | EXCEPTIONS);
        self.top = (value >> 11 & 7) as u8;
    }

    /// The surroundings of an operation.
    pub(crate) fn env(&self) -> Env {
        Env::new(self.control)
    }

    /// The number of the register that is `ST(i)`.
    pub(super) fn physical(&self, i: u8) -> usize {
        usize::from(self.top.wrapping_add(i) & 7)
    }

    /// Whether `ST(i)` is empty.
    pub(crate) fn empty(&self, i: u8) -> bool {
        self.full >> self.physical(i) & 1 == 0
    }

    /// What stands in `ST(i)`, empty or not.
    pub(crate) fn st(&self, i: u8) -> F80 {
        self.regs[self.physical(i)]
    }

    /// Writes `ST(i)`, which is not empty then.
    pub(crate) fn set_st(&mut self, i: u8, v: F80) {
        let at = self.physical(i);
        self.regs[at] = v;
        self.full |= 1 << at;
    }

    /// Empties `ST(i)`.
    pub(crate) fn free(&mut self, i: u8) {
        self.full &= !(1 << self.physical(i));
    }

    /// Pops.
    pub(crate) fn pop(&mut self) {
        self.free(0);
        self.rotate(1);
    }

    /// Moves TOP.
    pub(crate) fn rotate(&mut self, by: u8) {
        self.top = self.top.wrapping_add(by) & 7;
    }

    /// Sets or clears C1.
    pub(crate) fn set_c1(&mut self, on: bool) {
        self.bits = self.bits & !C1 | if on { C1 } else { 0 };
    }

    /// Sets the condition bits of `mask` to `value`.
    pub(crate) fn set_conditions(&mut self, mask: u16, value: u16) {
        self.bits = self.bits & !mask | value;
    }

    /// Takes over what an operation found; whether its result counts.
    pub(crate) fn settle(&mut self, env: &Env) -> bool {
        self.bits |= env.flags;
        self.set_c1(env.up);
        !env.blocked()
    }

    /// #IS: whether it is masked, so that the indefinite NaN takes the place of the result.
    pub(crate) fn stack_fault(&mut self, overflow: bool) -> bool {
        self.bits |= INVALID | STACK_FAULT;
        self.set_c1(overflow);
        self.control & INVALID != 0
    }

    /// Pushes; #IS where the stack is full.
    pub(crate) fn push(&mut self, v: F80) {
        let v = match self.empty(7) {
            true => v,
            false if self.stack_fault(true) => F80::INDEFINITE,
            false => return,
        };
        self.rotate(7);
        self.set_st(0, v);
    }

    // ---- MMX -----------------------------------------------------------------------------------

    /// What an MMX register holds: the significand of the physical register.
    pub(crate) fn mmx(&self, i: u8) -> u64 {
        self.regs[usize::from(i & 7)].sig
    }

    /// Writes an MMX register: sign and exponent become ones (SDM vol. 1, 9.2.1).
    pub(crate) fn set_mmx(&mut self, i: u8, v: u64) {
        self.regs[usize::from(i & 7)] = F80 { se: 0xffff, sig: v };
    }

    /// What every MMX instruction but EMMS does: TOP is zero, no register is empty (9.5.1).
    pub(crate) fn enter_mmx(&mut self) {
        self.top = 0;
        self.full = 0xff;
    }

    /// EMMS: every register is empty.
    pub(crate) fn leave_mmx(&mut self) {
        self.top = 0;
        self.full = 0;
    }
}
