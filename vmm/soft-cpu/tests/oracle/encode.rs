//! Encodings: an instruction form with random registers, addressing, immediates and prefixes.

use super::case::*;
use super::forms::{Mode, exemption, host_deviates, is_amd, is_claimed};
use super::random::Random;
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Instruction, Mnemonic, OpCodeOperandKind as Kind,
    OpKind, Register,
};

/// An instruction as both CPUs will see it.
#[derive(Clone)]
pub(crate) struct Encoded {
    /// What the bytes are, decoded.
    pub(crate) instruction: Instruction,
    /// The instructions behind it, in a sequence.
    pub(crate) rest: Vec<Instruction>,
    pub(crate) bytes: Vec<u8>,
    /// Where the first byte lies, from the beginning of the code pages.
    pub(crate) at: u32,
    pub(crate) mode: Mode,
    /// What the software CPU gets as first byte, where that is another. BSF with a REPE prefix is
    /// TZCNT on newer CPUs, and BSR is LZCNT; for them, it is a prefix that means nothing.
    pub(crate) first_in_soft: u8,
}

const GENERAL: [[Register; 16]; 3] = {
    use Register::*;
    [
        [
            AX, CX, DX, BX, SP, BP, SI, DI, R8W, R9W, R10W, R11W, R12W, R13W, R14W, R15W,
        ],
        [
            EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI, R8D, R9D, R10D, R11D, R12D, R13D, R14D, R15D,
        ],
        [
            RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15,
        ],
    ]
};

const BYTES: [Register; 20] = {
    use Register::*;
    [
        AL, CL, DL, BL, AH, CH, DH, BH, SPL, BPL, SIL, DIL, R8L, R9L, R10L, R11L, R12L, R13L, R14L,
        R15L,
    ]
};

const SEGMENTS: [Register; 6] = [
    Register::ES,
    Register::CS,
    Register::SS,
    Register::DS,
    Register::FS,
    Register::GS,
];

/// The bytes of `code` with random operands for address `rip`, or `None` where the drawn operands do
/// not go together.
pub(crate) fn assemble(random: &mut Random, code: Code, mode: Mode, rip: u64) -> Option<Vec<u8>> {
    let form = code.op_code();
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    for number in 0..form.op_count() {
        operand(
            random,
            &mut instruction,
            number,
            form.op_kind(number),
            rip,
            mode,
        )?;
    }
    let memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
    if form.can_use_lock_prefix() && memory {
        instruction.set_has_lock_prefix(random.one_in(3));
    }
    if form.can_use_repne_prefix() && random.one_in(3) {
        instruction.set_has_repne_prefix(true);
    } else if form.can_use_rep_prefix() && !random.one_in(3) {
        instruction.set_has_rep_prefix(true);
    } else if form.can_use_bnd_prefix() && random.one_in(8) {
        instruction.set_has_repne_prefix(true);
    }
    let mut encoder = Encoder::new(mode.bits());
    encoder.encode(&instruction, rip).ok()?;
    Some(encoder.take_buffer())
}

/// An encoding of `code`, or `None` where the drawn operands do not go together.
pub(crate) fn encode(random: &mut Random, code: Code, mode: Mode) -> Option<Encoded> {
    let at = place(random);
    let mut bytes = assemble(random, code, mode, CODE + u64::from(at))?;
    // A REP prefix makes LOOPE of LOOPNE on some CPUs (SDM vol. 2, 2.1.1: such use is reserved).
    let loops = matches!(code.mnemonic(), Mnemonic::Loope | Mnemonic::Loopne);
    if random.one_in(20) && !loops {
        bytes = odd_prefix(random, bytes, mode);
    }
    let older = matches!(code.mnemonic(), Mnemonic::Bsf | Mnemonic::Bsr)
        && !bytes.contains(&REPNE)
        && random.one_in(3);
    if older {
        bytes.insert(0, DS);
    }
    let at = if random.one_in(60) {
        CODE_BYTES as u32 - bytes.len() as u32
    } else {
        at
    };
    let mut encoded = decode(&bytes, at, mode)?;
    if older {
        // The other prefix names no segment: only where DS is the default is it the same operand.
        let mut in_soft = bytes;
        in_soft[0] = REPE;
        let other = Decoder::with_ip(mode.bits(), &in_soft, 0, DecoderOptions::NONE).decode();
        if other.memory_segment() != encoded.instruction.memory_segment() {
            return None;
        }
        encoded.first_in_soft = REPE;
    }
    Some(encoded)
}

/// What `bytes` at `at` are, if they are one claimed instruction.
pub(crate) fn decode(bytes: &[u8], at: u32, mode: Mode) -> Option<Encoded> {
    let rip = CODE + u64::from(at);
    let decoded = |options| Decoder::with_ip(mode.bits(), bytes, rip, options).decode();
    let instruction = decoded(DecoderOptions::NONE);
    // AMD's CPUs read some prefixes otherwise; there is nothing to compare then.
    // UD0 faults all the same.
    let same = instruction.code() == decoded(DecoderOptions::AMD).code()
        || instruction.mnemonic() == Mnemonic::Ud0
        || !is_amd();
    let whole = instruction.len() == bytes.len() && bytes.len() <= 15;
    let compared = is_claimed(instruction.code(), mode)
        && exemption(instruction.code(), mode).is_none()
        && !host_deviates(&instruction);
    (same && whole && compared).then(|| Encoded {
        instruction,
        rest: Vec::new(),
        bytes: bytes.to_vec(),
        at,
        mode,
        first_in_soft: bytes[0],
    })
}

/// Prefixes.
const DS: u8 = 0x3E;
const REPNE: u8 = 0xF2;
const REPE: u8 = 0xF3;

/// Mostly amid the first page; sometimes across the border to the second.
fn place(random: &mut Random) -> u32 {
    if random.one_in(10) {
        0x1000 - random.below(15) as u32
    } else {
        0x800
    }
}

/// Puts a prefix in front that does not belong to the instruction.
fn odd_prefix(random: &mut Random, bytes: Vec<u8>, mode: Mode) -> Vec<u8> {
    const LEGACY: [u8; 11] = [
        0x66, 0x67, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0xF0,
    ];
    let mut odd = Vec::with_capacity(16);
    if mode == Mode::Long && random.one_in(3) {
        let legacy = bytes
            .iter()
            .take_while(|byte| LEGACY.contains(byte))
            .count();
        odd.extend_from_slice(&bytes[..legacy]);
        odd.push(0x40 | random.below(16) as u8);
        odd.extend_from_slice(&bytes[legacy..]);
    } else {
        odd.push(random.pick(&LEGACY));
        odd.extend_from_slice(&bytes);
    }
    odd
}

fn general(random: &mut Random, size: usize, mode: Mode) -> Register {
    GENERAL[size][random.below(if mode == Mode::Long { 16 } else { 8 }) as usize]
}

/// Draws one operand.
fn operand(
    random: &mut Random,
    to: &mut Instruction,
    number: u32,
    kind: Kind,
    rip: u64,
    mode: Mode,
) -> Option<()> {
    let count = if mode == Mode::Long { 16 } else { 8 };
    let any = random.below(count) as u32;
    let eight = random.below(8) as u32;
    let in_memory = match kind {
        Kind::mem => true,
        Kind::r8_or_mem
        | Kind::r16_or_mem
        | Kind::r32_or_mem
        | Kind::r64_or_mem
        | Kind::mm_or_mem
        | Kind::xmm_or_mem => random.one_in(2),
        _ => false,
    };
    if in_memory {
        to.set_op_kind(number, OpKind::Memory);
        memory(random, to, rip, mode);
        return Some(());
    }
    let register = match kind {
        Kind::r8_or_mem | Kind::r8_reg | Kind::r8_opcode => {
            BYTES[random.below(if mode == Mode::Long { 20 } else { 8 }) as usize]
        }
        Kind::r16_or_mem | Kind::r16_reg | Kind::r16_rm | Kind::r16_opcode => {
            general(random, 0, mode)
        }
        Kind::r32_or_mem | Kind::r32_reg | Kind::r32_rm | Kind::r32_opcode => {
            general(random, 1, mode)
        }
        Kind::r64_or_mem | Kind::r64_reg | Kind::r64_rm | Kind::r64_opcode => {
            general(random, 2, mode)
        }
        Kind::mm_or_mem | Kind::mm_reg | Kind::mm_rm => Register::MM0 + eight,
        Kind::xmm_or_mem | Kind::xmm_reg | Kind::xmm_rm => Register::XMM0 + any,
        Kind::sti_opcode => Register::ST0 + eight,
        Kind::st0 => Register::ST0,
        Kind::seg_reg => random.pick(&SEGMENTS),
        Kind::cr_reg => Register::CR0 + random.pick(&[0, 2, 3, 4, 8]),
        Kind::dr_reg => Register::DR0 + eight,
        Kind::es => Register::ES,
        Kind::cs => Register::CS,
        Kind::ss => Register::SS,
        Kind::ds => Register::DS,
        Kind::fs => Register::FS,
        Kind::gs => Register::GS,
        Kind::al => Register::AL,
        Kind::cl => Register::CL,
        Kind::ax => Register::AX,
        Kind::dx => Register::DX,
        Kind::eax => Register::EAX,
        Kind::rax => Register::RAX,
        _ => return immediate(random, to, number, kind, rip, mode),
    };
    to.set_op_kind(number, OpKind::Register);
    to.set_op_register(number, register);
    Some(())
}

/// Draws an operand that is neither a register nor ordinary memory.
fn immediate(
    random: &mut Random,
    to: &mut Instruction,
    number: u32,
    kind: Kind,
    rip: u64,
    mode: Mode,
) -> Option<()> {
    let wide = random.integer();
    let small = random.pick(&[
        0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 255,
    ]);
    let byte = if random.one_in(2) { small } else { wide & 0xFF };
    let short_address = random.one_in(10);
    let by_address = |kinds: [OpKind; 3]| match (mode, short_address) {
        (Mode::Long, false) => kinds[2],
        (Mode::Long, true) | (Mode::Compatibility, false) => kinds[1],
        (Mode::Compatibility, true) => kinds[0],
    };
    let (kind, value) = match kind {
        Kind::imm8 if number > 0 && to.op_kind(number - 1) == OpKind::Immediate16 => (
            OpKind::Immediate8_2nd,
            wide & if random.one_in(4) { 31 } else { 3 },
        ),
        // The gate of Linux's 32-bit system calls.
        Kind::imm8 if to.code() == Code::Int_imm8 && byte == 0x80 => (OpKind::Immediate8, 0x81),
        Kind::imm8 => (OpKind::Immediate8, byte),
        Kind::imm8_const_1 => (OpKind::Immediate8, 1),
        Kind::imm8sex16 => (OpKind::Immediate8to16, wide as i8 as u64),
        Kind::imm8sex32 => (OpKind::Immediate8to32, wide as i8 as u64),
        Kind::imm8sex64 => (OpKind::Immediate8to64, wide as i8 as u64),
        Kind::imm16 => (OpKind::Immediate16, wide & 0xFFFF),
        Kind::imm32 => (OpKind::Immediate32, wide & 0xFFFF_FFFF),
        Kind::imm32sex64 => (OpKind::Immediate32to64, wide as i32 as u64),
        Kind::imm64 => (OpKind::Immediate64, wide),
        Kind::seg_rSI => {
            let kind = [
                OpKind::MemorySegSI,
                OpKind::MemorySegESI,
                OpKind::MemorySegRSI,
            ];
            to.set_op_kind(number, by_address(kind));
            if random.one_in(8) {
                to.set_segment_prefix(segment(random, mode));
            }
            return Some(());
        }
        Kind::es_rDI => {
            let kinds = [OpKind::MemoryESDI, OpKind::MemoryESEDI, OpKind::MemoryESRDI];
            // Both operands of MOVS and CMPS have one address size.
            let kind = match (number, to.op0_kind(), to.op1_kind()) {
                (1, OpKind::MemorySegSI, _) => kinds[0],
                (1, OpKind::MemorySegESI, _) => kinds[1],
                (1, OpKind::MemorySegRSI, _) => kinds[2],
                _ => by_address(kinds),
            };
            to.set_op_kind(number, kind);
            return Some(());
        }
        Kind::seg_rDI => {
            let kind = [
                OpKind::MemorySegDI,
                OpKind::MemorySegEDI,
                OpKind::MemorySegRDI,
            ];
            to.set_op_kind(number, by_address(kind));
            return Some(());
        }
        Kind::seg_rBX_al => {
            to.set_op_kind(number, OpKind::Memory);
            let base = match by_address([OpKind::MemorySegDI, OpKind::MemorySegEDI, OpKind::Memory])
            {
                OpKind::Memory => Register::RBX,
                OpKind::MemorySegEDI => Register::EBX,
                _ => Register::BX,
            };
            to.set_memory_base(base);
            to.set_memory_index(Register::AL);
            return Some(());
        }
        Kind::mem_offs => {
            to.set_op_kind(number, OpKind::Memory);
            let wide = mode == Mode::Long && !short_address;
            to.set_memory_displacement64(data_address(random));
            to.set_memory_displ_size(if wide { 8 } else { 4 });
            return Some(());
        }
        Kind::br16_1 | Kind::br16_2 => {
            to.set_op_kind(number, OpKind::NearBranch16);
            to.set_near_branch16(branch_target(random, rip, kind == Kind::br16_1) as u16);
            return Some(());
        }
        Kind::br32_1 | Kind::br32_4 => {
            to.set_op_kind(number, OpKind::NearBranch32);
            to.set_near_branch32(branch_target(random, rip, kind == Kind::br32_1) as u32);
            return Some(());
        }
        Kind::br64_1 | Kind::br64_4 => {
            to.set_op_kind(number, OpKind::NearBranch64);
            to.set_near_branch64(branch_target(random, rip, kind == Kind::br64_1));
            return Some(());
        }
        Kind::farbr2_2 | Kind::farbr4_2 => {
            let target = branch_target(random, rip, false);
            to.set_far_branch_selector(super::fill::selector(random));
            if kind == Kind::farbr4_2 {
                to.set_op_kind(number, OpKind::FarBranch32);
                to.set_far_branch32(target as u32);
            } else {
                to.set_op_kind(number, OpKind::FarBranch16);
                to.set_far_branch16(target as u16);
            }
            return Some(());
        }
        other => panic!("a claimed form has an operand kind that nothing draws: {other:?}"),
    };
    to.set_op_kind(number, kind);
    to.set_immediate_i64(number, value as i64);
    Some(())
}

/// An address near RIP that does not lie in the branch itself, which could then loop.
pub(crate) fn branch_target(random: &mut Random, rip: u64, short: bool) -> u64 {
    let distance = match (short, random.below(8)) {
        (true, _) => 16 + random.below(95),
        (false, 0) => 0x4000,
        (false, _) => 16 + random.below(0x700),
    };
    if random.one_in(2) {
        rip + distance
    } else {
        rip - distance - 1
    }
}

/// An address in or beside the data pages.
fn data_address(random: &mut Random) -> u64 {
    match random.below(12) {
        0 => DATA + 0x1000 - random.below(16),
        1 => READ_ONLY - random.below(16),
        2 => READ_ONLY + random.below(0x1000),
        3 => READ_ONLY + 0x1000 - random.below(16),
        4 => DATA - random.below(16),
        5 => random.below(1 << 31),
        6..9 => DATA + random.below(DATA_BYTES as u64),
        _ => DATA + random.below(DATA_BYTES as u64 / 16) * 16,
    }
}

fn segment(random: &mut Random, mode: Mode) -> Register {
    match mode {
        Mode::Long if !random.one_in(4) => random.pick(&[Register::FS, Register::GS]),
        _ => random.pick(&SEGMENTS),
    }
}

/// Draws an addressing form. Registers get their values later, from the address wanted.
fn memory(random: &mut Random, to: &mut Instruction, rip: u64, mode: Mode) {
    let count = if mode == Mode::Long { 16 } else { 8 };
    let narrow = mode == Mode::Compatibility || random.one_in(12);
    let registers = &GENERAL[if narrow { 1 } else { 2 }];
    let base = random.below(count) as usize;
    let mut index = random.below(count) as usize;
    while index == 4 || index == base {
        index = random.below(count) as usize;
    }
    let scale = 1 << random.below(4);
    let none = Register::None;
    let byte = i64::from(random.next() as i8);
    let word = random.integer() as i32;
    let (base, index, scale, displacement, size) = match random.below(10) {
        0 if mode == Mode::Compatibility && random.one_in(3) => {
            use Register::*;
            let (base, index) = random.pick(&[
                (BX, SI),
                (BX, DI),
                (BP, SI),
                (BP, DI),
                (SI, none),
                (BX, none),
            ]);
            (base, index, 1, byte, 1)
        }
        0 => (none, none, 1, data_address(random) as i64, 4),
        1 if mode == Mode::Long => {
            let rip_register = if narrow { Register::EIP } else { Register::RIP };
            let target = data_address(random);
            debug_assert!(target.abs_diff(rip) < 1 << 31);
            (
                rip_register,
                none,
                1,
                target as i64,
                if narrow { 4 } else { 8 },
            )
        }
        2 => (
            none,
            registers[index],
            scale,
            i64::from(word),
            if narrow { 4 } else { 8 },
        ),
        3 | 4 => (registers[base], registers[index], scale, byte, 1),
        5 => {
            let size = if narrow { 4 } else { 8 };
            (
                registers[base],
                registers[index],
                scale,
                i64::from(word),
                size,
            )
        }
        6 => (registers[base], none, 1, byte, 1),
        7 => (
            registers[base],
            none,
            1,
            i64::from(word),
            if narrow { 4 } else { 8 },
        ),
        _ => (registers[base], none, 1, 0, 0),
    };
    let override_segment = if random.one_in(12) {
        segment(random, mode)
    } else {
        Register::None
    };
    to.set_memory_base(base);
    to.set_memory_index(index);
    to.set_memory_index_scale(scale);
    to.set_memory_displacement64(match base {
        Register::None | Register::EIP | Register::RIP if index == none => displacement as u64,
        _ if narrow => u64::from(displacement as u32),
        _ => displacement as u64,
    });
    to.set_memory_displ_size(size);
    to.set_segment_prefix(override_segment);
}
