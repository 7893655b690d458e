//! Several instructions in a row: what is fused, and flags that nobody looks at, show only there.
//!
//! The instructions are integer ones with operands in registers or at fixed addresses, so that none
//! depends on what an earlier one computed. Any may fault. The last may be a conditional branch.

use super::case::*;
use super::encode::{self, Encoded};
use super::forms::{Mode, claimed, exemption, host_deviates, only_faults};
use super::random::Random;
use super::undefined::undefined_flags;
use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpCodeOperandKind as Kind,
    OpKind, Register, RflagsBits,
};

/// Instructions of a sequence at most.
const LONGEST: u64 = 6;

/// The forms that sequences are made of.
pub(crate) struct Pool {
    all: Vec<Code>,
    /// Those that look at flags, and conditional branches.
    lookers: Vec<Code>,
    branches: Vec<Code>,
    /// What is fused with a conditional branch behind it.
    comparisons: Vec<Code>,
}

impl Pool {
    pub(crate) fn new(mode: Mode) -> Pool {
        let all: Vec<Code> = claimed(mode)
            .filter(|code| exemption(*code, mode).is_none() && is_plain(*code))
            .collect();
        let branches = claimed(mode)
            .filter(|code| code.is_jcc_short_or_near() && code.op_code().operand_size() != 16)
            .collect();
        let looks = |code: &Code| {
            let mut instruction = Instruction::new();
            instruction.set_code(*code);
            instruction.rflags_read() != 0
        };
        let lookers = all.iter().copied().filter(looks).collect();
        let compares = |code: &Code| matches!(code.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
        let comparisons = all.iter().copied().filter(compares).collect();
        Pool {
            all,
            lookers,
            branches,
            comparisons,
        }
    }

    /// The sequence that `random` draws.
    pub(crate) fn draw(&self, random: &mut Random, mode: Mode) -> Encoded {
        let at = 0x800;
        let mut bytes = Vec::new();
        let mut instructions: Vec<Instruction> = Vec::new();
        let mut mask = 0;
        let count = 2 + random.below(LONGEST - 1);
        while (instructions.len() as u64) < count {
            let last = instructions.len() as u64 + 1 == count;
            let last_but_one = instructions.len() as u64 + 2 == count;
            let code = if last && random.one_in(2) {
                random.pick(&self.branches)
            } else if last_but_one && random.one_in(3) {
                random.pick(&self.comparisons)
            } else if random.one_in(3) {
                random.pick(&self.lookers)
            } else {
                random.pick(&self.all)
            };
            let rip = CODE + u64::from(at) + bytes.len() as u64;
            let Some(more) = encode::assemble(random, code, mode, rip) else {
                continue;
            };
            let mut decoder = Decoder::with_ip(mode.bits(), &more, rip, DecoderOptions::NONE);
            let instruction = decoder.decode();
            // What an undefined flag leads to cannot be compared.
            let fits = bytes.len() + more.len() <= CODE_LEN
                && instruction.rflags_read() & to_iced(mask) == 0
                && is_fixed(&instruction)
                && !host_deviates(&instruction)
                && (!instruction.is_jcc_short_or_near() || instruction.near_branch_target() > rip)
                && instruction.len() == more.len();
            if fits {
                mask = undefined_after(mask, &instruction);
                bytes.extend_from_slice(&more);
                instructions.push(instruction);
            }
        }
        Encoded {
            instruction: instructions.remove(0),
            rest: instructions,
            first_in_soft: bytes[0],
            bytes,
            at,
            mode,
        }
    }
}

/// The flags that are undefined where a sequence was left, before the instruction at `rip`.
pub(crate) fn undefined_before(encoded: &Encoded, rip: u64) -> u64 {
    let all = std::iter::once(&encoded.instruction).chain(&encoded.rest);
    all.take_while(|instruction| instruction.ip() != rip)
        .fold(0, undefined_after)
}

/// Where the instruction began that a sequence was left in, if it was left at `rip`.
pub(crate) fn last_begun(encoded: &Encoded, rip: u64) -> u64 {
    let mut all = std::iter::once(&encoded.instruction).chain(&encoded.rest);
    let at = all.find(|instruction| instruction.ip() == rip);
    at.unwrap_or(&encoded.instruction).ip()
}

/// What is undefined after `instruction`, if `before` was undefined.
pub(crate) fn undefined_after(before: u64, instruction: &Instruction) -> u64 {
    use Mnemonic::*;
    if matches!(
        instruction.mnemonic(),
        Shl | Shr | Sal | Sar | Rol | Ror | Rcl | Rcr
    ) {
        // The count may be zero, and then nothing changes.
        return before | flags::CF | flags::OF | flags::AF;
    }
    if matches!(instruction.mnemonic(), Shld | Shrd) {
        return before | STATUS;
    }
    let undefined = undefined_flags(instruction, &State::default());
    before & !from_iced(instruction.rflags_modified()) | undefined
}

const STATUS: u64 = flags::CF | flags::PF | flags::AF | flags::ZF | flags::SF | flags::OF;

/// iced-x86's bits for flags, and RFLAGS' own.
const FLAGS: [(u32, u64); 6] = [
    (RflagsBits::CF, flags::CF),
    (RflagsBits::PF, flags::PF),
    (RflagsBits::AF, flags::AF),
    (RflagsBits::ZF, flags::ZF),
    (RflagsBits::SF, flags::SF),
    (RflagsBits::OF, flags::OF),
];

fn to_iced(bits: u64) -> u32 {
    FLAGS
        .iter()
        .filter(|(_, ours)| bits & ours != 0)
        .map(|(iced, _)| iced)
        .sum()
}

fn from_iced(bits: u32) -> u64 {
    FLAGS
        .iter()
        .filter(|(iced, _)| bits & iced != 0)
        .map(|(_, ours)| ours)
        .sum()
}

/// Whether a form belongs into sequences.
fn is_plain(code: Code) -> bool {
    let form = code.op_code();
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let plain = |kind: Kind| {
        !matches!(
            kind,
            Kind::seg_reg
                | Kind::cr_reg
                | Kind::dr_reg
                | Kind::st0
                | Kind::sti_opcode
                | Kind::mm_reg
                | Kind::mm_or_mem
                | Kind::xmm_reg
                | Kind::xmm_or_mem
                | Kind::mm_rm
                | Kind::xmm_rm
                | Kind::seg_rSI
                | Kind::es_rDI
                | Kind::seg_rDI
                | Kind::seg_rBX_al
        )
    };
    let count = form.op_count();
    let undefined_result = form.operand_size() == 16
        && matches!(
            code.mnemonic(),
            Mnemonic::Shld | Mnemonic::Shrd | Mnemonic::Bswap
        );
    (0..count).all(|number| plain(form.op_kind(number)))
        && instruction.flow_control() == FlowControl::Next
        && only_faults(code).is_none()
        && !instruction.is_stack_instruction()
        && !instruction.is_privileged()
        && !undefined_result
        && !code
            .cpuid_features()
            .iter()
            .any(|feature| format!("{feature:?}").starts_with("FP"))
        && !matches!(
            code.mnemonic(),
            Mnemonic::Ldmxcsr
                | Mnemonic::Lds
                | Mnemonic::Les
                | Mnemonic::Lfs
                | Mnemonic::Lgs
                | Mnemonic::Lss
                | Mnemonic::Fxsave
                | Mnemonic::Fxsave64
                | Mnemonic::Fxrstor
                | Mnemonic::Fxrstor64
                | Mnemonic::Lar
                | Mnemonic::Lsl
                | Mnemonic::Verr
                | Mnemonic::Verw
        )
}

/// Whether a memory operand, if there is one, is at an address that no register decides.
fn is_fixed(instruction: &Instruction) -> bool {
    let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    let base = instruction.memory_base();
    !memory
        || instruction.memory_index() == Register::None
            && matches!(base, Register::None | Register::RIP | Register::EIP)
}
