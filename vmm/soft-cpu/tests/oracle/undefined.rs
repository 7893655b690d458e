//! What the architecture leaves undefined, so that two right CPUs may differ.
//!
//! The sources are the pages of the Intel SDM, vol. 2, named after the instruction ("Flags
//! Affected"), unless said otherwise.

use super::case::flags::*;
use super::case::*;
use super::fill::address;
use iced_x86::{CodeSize, FlowControl, Instruction, MemorySize, Mnemonic, OpKind};
use std::ops::Range;

/// What not to compare.
#[derive(Default)]
pub(crate) struct Undefined {
    /// Bits of RFLAGS.
    pub(crate) flags: u64,
    /// They are so after a fault, too.
    pub(crate) flags_after_fault: bool,
    /// Bits of the x87 status word.
    pub(crate) status: u16,
    /// How far the result may be off.
    pub(crate) tolerance: Tolerance,
    /// Addresses of bytes that the instruction stores.
    pub(crate) memory: Vec<Range<u64>>,
    /// Which of #AC and another fault of the same access comes first.
    pub(crate) misaligned_order: bool,
    /// Whether #AC is raised at all.
    pub(crate) unaligned_check: bool,
    /// Whether a store of no bytes can fault.
    pub(crate) masked_store: bool,
    /// Which of several faults comes first.
    pub(crate) fault_order: bool,
    /// What the accesses before a fault wrote.
    pub(crate) piecewise: bool,
    /// General registers after a fault.
    pub(crate) registers_after_fault: bool,
    /// x87 registers after a fault.
    pub(crate) x87_after_fault: bool,
}

/// How near two results must be.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Tolerance {
    /// Equal.
    #[default]
    Exact,
    /// Singles within a relative error of 1.5 × 2⁻¹² each (SDM vol. 2, RCPPS and RSQRTPS).
    Approximation,
    /// Double-extended within one unit in the last place each (SDM vol. 1, 8.3.10).
    Transcendental,
}

/// Condition code bits of the x87 status word.
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;

/// What is undefined after `instruction`, begun in `state`.
pub(crate) fn undefined(instruction: &Instruction, state: &State) -> Undefined {
    Undefined {
        flags: undefined_flags(instruction, state),
        flags_after_fault: false,
        // "Exceptions within each class are implementation-dependent" (SDM vol. 3, 7.9).
        misaligned_order: state.rflags & AC != 0,
        // MOVUPS, MOVUPD, MOVDQU: #AC "may or may not be generated (depending on processor
        // implementation)" for an operand that is not aligned.
        unaligned_check: state.rflags & AC != 0 && instruction.memory_size().size() == 16,
        // MASKMOVQ, MASKMOVDQU with a mask of zeros: "exceptions associated with addressing memory
        // and page faults may still be signaled (implementation dependent)".
        masked_store: matches!(
            instruction.mnemonic(),
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu
        ),
        status: undefined_status(instruction.mnemonic()),
        tolerance: tolerance(instruction.mnemonic()),
        memory: undefined_memory(instruction, state),
        fault_order: is_piecewise(instruction) || has_two_faults(instruction),
        piecewise: is_piecewise(instruction),
        // Vol. 3, 7.5: where POPAD faults amid its frame, general registers may have been loaded.
        registers_after_fault: matches!(instruction.mnemonic(), Mnemonic::Popa | Mnemonic::Popad),
        // Vol. 1, 9.5 says what an MMX instruction does to TOP and the tags, and not whether it does
        // so before it faults. Zen does.
        x87_after_fault: (0..instruction.op_count())
            .any(|number| instruction.op_register(number).is_mm()),
    }
}

/// Whether an instruction accesses memory at several places or in several parts. The order is the
/// implementation's: vol. 3, 9.2.
fn is_piecewise(instruction: &Instruction) -> bool {
    let parts = matches!(
        instruction.memory_size(),
        MemorySize::SegPtr16
            | MemorySize::SegPtr32
            | MemorySize::SegPtr64
            | MemorySize::Float80
            | MemorySize::Bcd
            | MemorySize::FpuEnv14
            | MemorySize::FpuEnv28
            | MemorySize::FpuState94
            | MemorySize::FpuState108
            | MemorySize::Fxsave_512Byte
            | MemorySize::Fxsave64_512Byte
    );
    parts
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Bound
                | Mnemonic::Cmpsb
                | Mnemonic::Cmpsw
                | Mnemonic::Cmpsd
                | Mnemonic::Cmpsq
                | Mnemonic::Iret
                | Mnemonic::Iretd
                | Mnemonic::Iretq
                | Mnemonic::Retf
                | Mnemonic::Enter
                | Mnemonic::Pusha
                | Mnemonic::Pushad
                | Mnemonic::Popa
                | Mnemonic::Popad
        )
}

/// Whether an instruction can raise two faults at once, of one class, in an order that is the
/// implementation's (vol. 3, 7.9): MOVS by its source and its destination, an indirect CALL by its
/// target that is not canonical and by the stack, MASKMOVDQU by each of its bytes.
fn has_two_faults(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsq => true,
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu => true,
        Mnemonic::Movsd => instruction.is_string_instruction(),
        Mnemonic::Call => instruction.flow_control() == FlowControl::IndirectCall,
        _ => false,
    }
}

/// Stored bytes whose value is the model's: the x87 instruction and operand pointers with their
/// selectors and opcode (SDM vol. 1, 8.1.8: "the contents ... are implementation-specific" unless an
/// unmasked exception occurred), MXCSR_MASK (vol. 1, 10.5.1.2) and what FXSAVE reserves.
fn undefined_memory(instruction: &Instruction, state: &State) -> Vec<Range<u64>> {
    let offsets: &[(u64, u64)] = match (instruction.mnemonic(), instruction.memory_size()) {
        (Mnemonic::Fxsave | Mnemonic::Fxsave64, _) => &[(5, 24), (28, 32), (416, 512)],
        (Mnemonic::Fnstenv | Mnemonic::Fnsave, MemorySize::FpuEnv28 | MemorySize::FpuState108) => {
            &[(12, 28)]
        }
        (Mnemonic::Fnstenv | Mnemonic::Fnsave, _) => &[(6, 14)],
        _ => return Vec::new(),
    };
    let at = address(instruction, 0, state);
    let absolute = |(from, to): &(u64, u64)| at.wrapping_add(*from)..at.wrapping_add(*to);
    offsets.iter().map(absolute).collect()
}

/// The number of bits that a shift or rotation moves, and of the operand.
fn shift(instruction: &Instruction, state: &State) -> (u64, u64) {
    let last = instruction.op_count() - 1;
    let count = match instruction.op_kind(last) {
        OpKind::Register => state.general[1] & 0xFF,
        _ => instruction.immediate(last),
    };
    let size = match instruction.op0_kind() {
        OpKind::Memory => instruction.memory_size().size(),
        _ => instruction.op0_register().size(),
    } as u64;
    (count & if size == 8 { 63 } else { 31 }, size * 8)
}

/// Bits of RFLAGS that `instruction` leaves undefined.
pub(crate) fn undefined_flags(instruction: &Instruction, state: &State) -> u64 {
    use Mnemonic::*;
    match instruction.mnemonic() {
        // AND, OR, XOR, TEST: "The state of the AF flag is undefined."
        And | Or | Xor | Test => AF,
        // MUL, IMUL: "The SF, ZF, AF, and PF flags are undefined."
        Mul | Imul => SF | ZF | AF | PF,
        // DIV, IDIV: "The CF, OF, SF, ZF, AF, and PF flags are undefined."
        Div | Idiv => CF | OF | SF | ZF | AF | PF,
        // BSF, BSR: "The CF, OF, SF, AF, and PF flags are undefined."
        Bsf | Bsr => CF | OF | SF | AF | PF,
        // BT, BTC, BTR, BTS: "The OF, SF, AF, and PF flags are undefined."
        Bt | Btc | Btr | Bts => OF | SF | AF | PF,
        // SAL/SAR/SHL/SHR: "The CF flag ... is undefined for SHL and SHR instructions where the
        // count is greater than or equal to the size of the destination operand. The OF flag is
        // affected only for 1-bit shifts; otherwise, it is undefined. ... For a non-zero count,
        // the AF flag is undefined. If the count is 0, the flags are not affected."
        Shl | Shr | Sal | Sar => match shift(instruction, state) {
            (0, _) => 0,
            (1, _) => AF,
            (count, size) if count >= size && instruction.mnemonic() != Sar => CF | OF | AF,
            _ => OF | AF,
        },
        // RCL/RCR/ROL/ROR: "The OF flag is affected only for single-bit rotates; it is undefined
        // for multi-bit rotates."
        Rol | Ror | Rcl | Rcr if shift(instruction, state).0 > 1 => OF,
        // SHLD, SHRD: "If the count is greater than the operand size, the flags are undefined."
        // "For a 1-bit shift, the OF flag is set if a sign change occurred; otherwise [undefined].
        // ... the AF flag is undefined. If the count operand is 0, the flags are not affected."
        Shld | Shrd => match shift(instruction, state) {
            (0, _) => 0,
            (1, _) => AF,
            (count, size) if count > size => CF | OF | SF | ZF | AF | PF,
            _ => OF | AF,
        },
        // AAA, AAS: "the OF, SF, ZF, and PF flags are undefined."
        Aaa | Aas => OF | SF | ZF | PF,
        // AAD, AAM: "the OF, AF, and CF flags are undefined."
        Aad | Aam => OF | AF | CF,
        // DAA, DAS: "the OF flag is undefined."
        Daa | Das => OF,
        _ => 0,
    }
}

/// Bits of the x87 status word that an instruction leaves undefined.
fn undefined_status(mnemonic: Mnemonic) -> u16 {
    use Mnemonic::*;
    match mnemonic {
        // These define C0, C2, C3 ("C1: set to 0"), or load the word as a whole.
        Fcom | Fcomp | Fcompp | Fucom | Fucomp | Fucompp | Ficom | Ficomp | Ftst | Fxam | Fprem
        | Fprem1 | Fldenv | Frstor | Fxrstor | Fxrstor64 | Fninit | Finit => 0,
        // "C1: set to 0"; the others are not affected.
        Fcomi | Fcomip | Fucomi | Fucomip => 0,
        // "C0, C1, C2, C3 undefined."
        Fldcw | Fnstcw | Fnstsw | Fnstenv | Fnclex | Fnop | Ffree | Ffreep => C0 | C1 | C2 | C3,
        // "C2 set to 1 if outside range"; C0 and C3 undefined.
        Fsin | Fcos | Fsincos | Fptan => C0 | C1 | C3,
        F2xm1 | Fyl2x | Fyl2xp1 | Fpatan => C0 | C1 | C2 | C3,
        _ => 0,
    }
}

fn tolerance(mnemonic: Mnemonic) -> Tolerance {
    use Mnemonic::*;
    match mnemonic {
        Rcpps | Rcpss | Rsqrtps | Rsqrtss => Tolerance::Approximation,
        Fsin | Fcos | Fsincos | Fptan | Fpatan | F2xm1 | Fyl2x | Fyl2xp1 => {
            Tolerance::Transcendental
        }
        _ => Tolerance::Exact,
    }
}

/// Whether what `instruction` writes besides flags is undefined, so that the case says nothing.
pub(crate) fn is_meaningless(instruction: &Instruction, state: &State) -> bool {
    match instruction.mnemonic() {
        // "If the count is greater than the operand size, the result is undefined."
        Mnemonic::Shld | Mnemonic::Shrd => {
            let (count, size) = shift(instruction, state);
            count > size
        }
        // A far call that leaves 64-bit mode: neither manual says whether it pushes by all of RSP or
        // by the part that the new mode has.
        Mnemonic::Call if instruction.is_call_far_indirect() => {
            instruction.code_size() == CodeSize::Code64 && state.general[4] >> 32 != 0
        }
        // "executing BSWAP with a 16-bit register: the result is undefined."
        Mnemonic::Bswap => instruction.op0_register().size() == 2,
        _ => false,
    }
}
