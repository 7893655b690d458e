//! The state before an instruction: random, but such that most addresses hit and most branches land.

use super::case::*;
use super::encode::{Encoded, branch_target};
use super::floating::{random_fx, random_mxcsr_word, random_x87_words};
use super::forms::Mode;
use super::random::Random;
use iced_x86::{FlowControl, Instruction, MemorySize, Mnemonic, OpKind, Register};

/// The selectors of Linux's user segments, and what else its GDT holds at any time: 32-bit code,
/// data, 64-bit code, kernel code and data, the TSS, empty and absent entries. Not the LDT's and
/// the CPU number's, which are no constants.
pub(crate) const USER_CODE_32: u16 = 0x23;
pub(crate) const USER_DATA: u16 = 0x2B;
pub(crate) const USER_CODE: u16 = 0x33;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RBP: usize = 5;
const RSI: usize = 6;
const RDI: usize = 7;

/// A selector that names each kind of segment now and then.
pub(crate) fn selector(random: &mut Random) -> u16 {
    random.pick(&[
        USER_CODE,
        USER_DATA,
        USER_CODE_32,
        USER_CODE,
        USER_DATA,
        USER_CODE_32,
        0,
        1,
        2,
        3,
        0x08,
        0x10,
        0x13,
        0x18,
        0x1B,
        0x20,
        0x28,
        0x2A,
        0x30,
        0x31,
        0x38,
        0x3B,
        0x40,
        0x43,
        0x4B,
        0x63,
        0x6B,
        0x73,
        0x83,
        0xFFF8,
        0xFFFF,
    ])
}

/// Draws cases for encodings. Holds memory contents that are drawn once, for speed.
pub(crate) struct Filler {
    patterns: Vec<[u8; DATA_BYTES]>,
}

impl Filler {
    pub(crate) fn new() -> Filler {
        let mut random = Random::new(&[1]);
        let pattern = |_| {
            let mut pattern = [0; DATA_BYTES];
            for chunk in pattern.chunks_exact_mut(16) {
                chunk.copy_from_slice(&random.vector());
            }
            pattern
        };
        Filler {
            patterns: (0..32).map(pattern).collect(),
        }
    }

    /// A case for `encoded`.
    pub(crate) fn fill(&self, random: &mut Random, encoded: &Encoded) -> Case {
        let instruction = &encoded.instruction;
        let mut case = blank(encoded);
        case.data = self.patterns[random.below(self.patterns.len() as u64) as usize];
        case.state.rflags = random_flags(random);
        case.state.fx = random_fx(random);
        for value in &mut case.state.general {
            *value = if random.one_in(4) {
                target(random, 8, 1)
            } else {
                random.integer()
            };
        }
        if random.one_in(6) {
            equal_values(random, &mut case);
        }
        general_by_mnemonic(random, instruction, &mut case);
        stack(random, instruction, encoded.mode, &mut case);
        strings(random, instruction, &mut case);
        if encoded.mode == Mode::Compatibility {
            for value in &mut case.state.general {
                *value &= 0xFFFF_FFFF;
            }
        }
        self.aim(random, instruction, encoded.mode, &mut case);
        case
    }

    /// Gives the address registers values such that the operand lies where one is wanted, and puts
    /// something fitting there.
    fn aim(&self, random: &mut Random, instruction: &Instruction, mode: Mode, case: &mut Case) {
        let Some(number) =
            (0..instruction.op_count()).find(|n| instruction.op_kind(*n) == OpKind::Memory)
        else {
            let registers = (0..instruction.op_count()).map(|n| instruction.op_register(n));
            let first = registers.into_iter().next().unwrap_or(Register::None);
            if is_indirect(instruction) && first.is_gpr() && !random.one_in(8) {
                let target = branch_target(random, case.state.rip, false);
                set(&mut case.state, first, target);
            }
            return;
        };
        let size = instruction.memory_size().size().max(1);
        let alignment = if size >= 512 {
            16
        } else {
            size.next_power_of_two().min(16)
        };
        let wanted = target(random, size as u64, alignment as u64);
        let base = instruction.memory_base();
        if matches!(
            instruction.mnemonic(),
            Mnemonic::Bt | Mnemonic::Btc | Mnemonic::Btr | Mnemonic::Bts
        ) && instruction.op1_kind() == OpKind::Register
            && !random.one_in(8)
        {
            let offset = random.below(8192) as i64 - 4096;
            set(&mut case.state, instruction.op1_register(), offset as u64);
        }
        if instruction.mnemonic() == Mnemonic::Xlatb {
            case.state.general[RBX] = wanted;
        } else if base.is_gpr() {
            set(&mut case.state, base, 0);
            let rest = address(instruction, number, &case.state);
            set(&mut case.state, base, wanted.wrapping_sub(rest));
        } else if instruction.memory_index().is_gpr() {
            let rest = instruction.memory_displacement64();
            let scale = u64::from(instruction.memory_index_scale());
            let index = wanted.wrapping_sub(rest) / scale;
            set(&mut case.state, instruction.memory_index(), index);
        }
        if mode == Mode::Compatibility {
            for value in &mut case.state.general {
                *value &= 0xFFFF_FFFF;
            }
        }
        let address = address(instruction, number, &case.state);
        let value = self.operand(random, instruction, size, case);
        patch(case, address, &value);
    }

    /// The bytes of a memory operand of `instruction`.
    fn operand(
        &self,
        random: &mut Random,
        instruction: &Instruction,
        size: usize,
        case: &Case,
    ) -> Vec<u8> {
        let state = &case.state;
        let kind = instruction.memory_size();
        if is_indirect(instruction) {
            let target = branch_target(random, state.rip, false);
            let mut bytes = target.to_le_bytes().to_vec();
            if matches!(
                kind,
                MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64
            ) {
                bytes.truncate(size - 2);
                bytes.extend_from_slice(&selector(random).to_le_bytes());
            }
            return bytes;
        }
        match kind {
            MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64 => {
                let mut bytes = random.integer().to_le_bytes()[..size - 2].to_vec();
                bytes.extend_from_slice(&selector(random).to_le_bytes());
                bytes
            }
            MemorySize::Fxsave_512Byte | MemorySize::Fxsave64_512Byte => {
                let mut image = random_fx(random).0.to_vec();
                for byte in &mut image[FX_USED..] {
                    *byte = random.next() as u8;
                }
                if random.one_in(12) {
                    // A reserved bit of MXCSR, as in `random_mxcsr_word`.
                    image[26..28]
                        .copy_from_slice(&random.pick(&[1u16, 4, 1 << 8, 1 << 15]).to_le_bytes());
                }
                image
            }
            MemorySize::FpuEnv14 | MemorySize::FpuState94 => {
                let words = |random: &mut Random| random_x87_words(random).map(u16::to_le_bytes);
                let mut bytes: Vec<u8> = words(random).as_flattened().to_vec();
                bytes.extend((0..8).map(|_| random.next() as u8));
                (0..8).for_each(|_| bytes.extend(random.extended()));
                bytes.truncate(size);
                bytes
            }
            MemorySize::FpuEnv28 | MemorySize::FpuState108 => {
                let mut bytes = Vec::new();
                for word in random_x87_words(random) {
                    bytes.extend_from_slice(&word.to_le_bytes());
                    bytes.extend_from_slice(&(random.next() as u16).to_le_bytes());
                }
                bytes.extend((0..16).map(|_| random.next() as u8));
                (0..8).for_each(|_| bytes.extend(random.extended()));
                bytes.truncate(size);
                bytes
            }
            MemorySize::Float80 => random.extended().to_vec(),
            MemorySize::Bcd => (0..10)
                .map(|_| {
                    let bound = if random.one_in(20) { 16 } else { 10 };
                    (random.below(bound) << 4 | random.below(10)) as u8
                })
                .collect(),
            MemorySize::Float32 => random.single().to_le_bytes().to_vec(),
            MemorySize::Float64 => random.double().to_le_bytes().to_vec(),
            _ => match instruction.mnemonic() {
                Mnemonic::Ldmxcsr => random_mxcsr_word(random).to_le_bytes().to_vec(),
                Mnemonic::Fldcw => (random.next() as u16).to_le_bytes().to_vec(),
                Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b
                    if random.one_in(2) =>
                {
                    let (low, high) = (state.general[RAX], state.general[RDX]);
                    if instruction.mnemonic() == Mnemonic::Cmpxchg8b {
                        (low & 0xFFFF_FFFF | high << 32).to_le_bytes().to_vec()
                    } else {
                        [low.to_le_bytes(), high.to_le_bytes()].as_flattened()[..size].to_vec()
                    }
                }
                Mnemonic::Mov
                | Mnemonic::Verr
                | Mnemonic::Verw
                | Mnemonic::Lar
                | Mnemonic::Lsl
                | Mnemonic::Arpl
                    if size == 2 =>
                {
                    selector(random).to_le_bytes().to_vec()
                }
                _ if size <= 8 => random.integer().to_le_bytes()[..size].to_vec(),
                _ => random.vector()[..size.min(16)].to_vec(),
            },
        }
    }
}

/// The address of operand `number`.
pub(crate) fn address(instruction: &Instruction, number: u32, state: &State) -> u64 {
    instruction
        .virtual_address(number, 0, |register, _, _| Some(value(state, register)))
        .unwrap_or(0)
}

/// What a register adds to an address: a segment register its base.
pub(crate) fn value(state: &State, register: Register) -> u64 {
    match register {
        Register::FS => state.fs_base,
        Register::GS => state.gs_base,
        Register::ES | Register::CS | Register::SS | Register::DS => 0,
        _ => get(state, register),
    }
}

fn is_indirect(instruction: &Instruction) -> bool {
    matches!(
        instruction.flow_control(),
        FlowControl::IndirectBranch | FlowControl::IndirectCall
    )
}

/// The value of a general register or a part of it.
fn get(state: &State, register: Register) -> u64 {
    if !register.is_gpr() {
        return 0;
    }
    let value = state.general[register.full_register().number()];
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => {
            state.general[register.number() - 4] >> 8 & 0xFF
        }
        _ if register.size() == 8 => value,
        _ => value & ((1 << (8 * register.size())) - 1),
    }
}

/// Sets a general register, or the part of it that `register` names.
fn set(state: &mut State, register: Register, value: u64) {
    let full = register.full_register();
    if full.is_gpr64() {
        let mask = if register.size() == 8 {
            !0
        } else {
            (1 << (8 * register.size())) - 1
        };
        let to = &mut state.general[full.number()];
        *to = *to & !mask | value & mask;
        if register.size() == 4 {
            *to &= mask;
        }
    }
}

/// Writes into the case's data pages, where they are meant.
fn patch(case: &mut Case, address: u64, bytes: &[u8]) {
    for (offset, byte) in bytes.iter().enumerate() {
        let at = address.wrapping_add(offset as u64).wrapping_sub(DATA);
        if let Some(to) = case.data.get_mut(at as usize) {
            *to = *byte;
        }
    }
}

/// A case with the bytes, segments and nothing else.
pub(crate) fn blank(encoded: &Encoded) -> Case {
    let mut code = [0; CODE_LEN];
    code[..encoded.bytes.len()].copy_from_slice(&encoded.bytes);
    let code_selector = match encoded.mode {
        Mode::Long => USER_CODE,
        Mode::Compatibility => USER_CODE_32,
    };
    let mut fx = Fx([0; 512]);
    fx.0[..2].copy_from_slice(&0x37Fu16.to_le_bytes());
    fx.0[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
    Case {
        state: State {
            general: [0; 16],
            rip: CODE + u64::from(encoded.at),
            rflags: 0x202,
            selectors: [USER_DATA, code_selector, USER_DATA, USER_DATA, 0, 0],
            fs_base: DATA + 0x400,
            gs_base: DATA + 0x1400,
            fx,
        },
        code_at: encoded.at,
        code_len: encoded.bytes.len() as u32,
        code,
        first_in_soft: encoded.first_in_soft,
        data: [0; DATA_BYTES],
    }
}

/// An address for `size` bytes: mostly in the data pages, sometimes where it must fault.
fn target(random: &mut Random, size: u64, alignment: u64) -> u64 {
    let inside = DATA + random.below((DATA_BYTES as u64 - size) / alignment) * alignment;
    match random.below(40) {
        0..3 => inside + random.below(alignment),
        3 => DATA + 0x1000 - 1 - random.below(size),
        4 => READ_ONLY - random.below(size),
        5 => READ_ONLY + random.below(0x1000 - size),
        6 => READ_ONLY + 0x1000 - random.below(size),
        7 => DATA - random.below(size),
        8 => match random.below(8) {
            0 => random.next() | 1 << 55,
            1 => (1 << 47) - random.below(size + 1),
            2 => (0xFFFF << 47) - random.below(size + 1),
            // Not beyond the end: CPUs differ in what an operand is that wraps around.
            3 => 0u64.wrapping_sub(size + random.below(2)),
            4 => 0x1_0000_0000 - random.below(size + 1),
            5 => random.below(0x10000),
            6 => CODE + random.below(0x1000),
            _ => random.next() & 0x7FFF_FFFF,
        },
        _ => inside,
    }
}

fn random_flags(random: &mut Random) -> u64 {
    let status = flags::CF | flags::PF | flags::AF | flags::ZF | flags::SF | flags::OF;
    let mut value = random.next() & status | flags::IF | 2;
    if random.one_in(4) {
        value |= flags::DF;
    }
    if random.one_in(24) {
        value |= flags::AC;
    }
    if random.one_in(24) {
        value |= flags::TF;
    }
    value
}

/// Gives some general registers one value: random ones are seldom equal.
fn equal_values(random: &mut Random, case: &mut Case) {
    let value = random.integer();
    for register in &mut case.state.general {
        if random.one_in(2) {
            *register = value;
        }
    }
}

/// Values that an instruction looks at in registers that it does not name.
fn general_by_mnemonic(random: &mut Random, instruction: &Instruction, case: &mut Case) {
    let general = &mut case.state.general;
    match instruction.mnemonic() {
        Mnemonic::Div | Mnemonic::Idiv if !random.one_in(4) => {
            general[RDX] = match random.below(4) {
                0 => 0,
                1 => (general[RAX] as i64 >> 63) as u64,
                2 => (general[RAX] as i32 >> 31) as u64,
                _ => random.below(100),
            };
        }
        Mnemonic::Mov
        | Mnemonic::Verr
        | Mnemonic::Verw
        | Mnemonic::Lar
        | Mnemonic::Lsl
        | Mnemonic::Arpl
            if instruction.op_count() > 0 =>
        {
            let source = instruction.op_register(instruction.op_count() - 1);
            if source.is_gpr() && instruction.op_register(0).is_segment_register()
                || !matches!(instruction.mnemonic(), Mnemonic::Mov)
            {
                set(&mut case.state, source, u64::from(selector(random)));
            }
        }
        Mnemonic::Cmpxchg if random.one_in(2) => {
            let value = get(&case.state, instruction.op_register(0));
            case.state.general[RAX] = value;
        }
        Mnemonic::Leave | Mnemonic::Enter if !random.one_in(8) => {
            general[RBP] = DATA + 0x800 + random.below(0x100) * 8;
        }
        Mnemonic::Loop
        | Mnemonic::Loope
        | Mnemonic::Loopne
        | Mnemonic::Jrcxz
        | Mnemonic::Jecxz
        | Mnemonic::Jcxz
            if !random.one_in(3) =>
        {
            general[RCX] = random.below(3) | random.pick(&[0, 0, 0x1_0000, 1 << 32]);
        }
        _ => {}
    }
}

/// RSI, RDI and RCX of string instructions.
fn strings(random: &mut Random, instruction: &Instruction, case: &mut Case) {
    let is_string = instruction.is_string_instruction()
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Maskmovq | Mnemonic::Maskmovdqu
        );
    if !is_string {
        return;
    }
    let size = instruction.memory_size().size().max(1) as u64;
    let general = &mut case.state.general;
    general[RSI] = target(random, size, size.min(8));
    general[RDI] = if random.one_in(4) {
        general[RSI].wrapping_add(random.below(16)).wrapping_sub(8)
    } else {
        target(random, size, size.min(8))
    };
    general[RCX] = match random.below(8) {
        0 => 0,
        1 => 0x400 + random.below(0x1000),
        2 => random.integer(),
        _ => random.below(40),
    };
    if random.one_in(3) {
        // Equal neighbours, so that SCAS and CMPS go on for a while.
        let byte = random.next() as u8;
        case.data[..0x1000].fill(byte);
        case.data[0x1000..].fill(if random.one_in(2) { byte } else { byte ^ 1 });
        general[RAX] = u64::from(byte) * 0x0101_0101_0101_0101;
    }
}

/// The stack pointer, and what instructions find on the stack.
fn stack(random: &mut Random, instruction: &Instruction, mode: Mode, case: &mut Case) {
    if !instruction.is_stack_instruction() && !random.one_in(2) {
        return;
    }
    let top = match random.below(12) {
        0 => target(random, 8, 1),
        1 => DATA + random.below(24),
        2 => READ_ONLY - random.below(40),
        3 => DATA + 0x1000 - random.below(40),
        _ => DATA + 0x400 + random.below(0x180) * 8,
    };
    case.state.general[RSP] = top;
    let width = match instruction.code().op_code().operand_size() {
        16 => 2,
        32 => 4,
        64 => 8,
        _ if mode == Mode::Long => 8,
        _ => 4,
    };
    let target = branch_target(random, case.state.rip, false);
    let mut words = vec![];
    match instruction.flow_control() {
        FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => words.push(target),
        FlowControl::Return => {
            let (any_code, any_data) = (selector(random), selector(random));
            let code = random.pick(&[USER_CODE, USER_CODE, USER_CODE_32, any_code]);
            let data = random.pick(&[USER_DATA, USER_DATA, USER_DATA, any_data]);
            words.extend([target, u64::from(code)]);
            if instruction.mnemonic() != Mnemonic::Retf {
                words.push(random_flags(random) | random.next() & random.integer());
            }
            words.extend([DATA + 0x800, u64::from(data)]);
        }
        _ if instruction.mnemonic() == Mnemonic::Pop
            && instruction.op0_register().is_segment_register() =>
        {
            words.push(u64::from(selector(random)) | random.next() << 16);
        }
        _ => return,
    }
    for (number, word) in words.iter().enumerate() {
        patch(
            case,
            top.wrapping_add((number * width) as u64),
            &word.to_le_bytes()[..width],
        );
    }
}
