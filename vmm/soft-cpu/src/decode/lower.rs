//! Builds blocks: decodes, selects handlers, fuses comparisons with their branches, and finds out
//! which flags nobody will look at.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction};

use crate::core::CodeSize;
use crate::flags;
use crate::op::{Handler, Op, handler};
use crate::ops;
use crate::{simd, system, x87};

use super::operands::{Lowering, operands};
use super::{BLOCK_LIMIT, Block};

/// The bytes to translate.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// From the block's first byte on: to the end of the page, or beyond it for an instruction that
    /// lies across.
    pub(crate) bytes: &'a [u8],
    /// How code is decoded.
    pub(crate) size: CodeSize,
}

/// Where blocks are decoded at, instead of at their addresses. Far from both ends, so that nothing
/// relative wraps around.
const START_AT: u64 = 0x4000_0000;

/// Encodings that CPUID does not claim are what they were before: TZCNT is BSF, LZCNT is BSR,
/// WBNOINVD is WBINVD, and hints are NOPs. PAUSE is one of these, but not where REX.B makes it XCHG.
pub(crate) const DECODER_OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP
    | DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD
    | DecoderOptions::NO_WBNOINVD
    | DecoderOptions::NO_PAUSE;

/// What the pass over flags wants to know of an operation.
struct FlagUse {
    /// Where it stands among the operations, and what may take its handler's place.
    op: usize,
    quiet: Option<Handler>,
    /// It sets all arithmetic flags without a look at them.
    overwrites: bool,
    /// Somebody may look at the flags as they are before it.
    looks: bool,
}

/// Translates up to `limit` instructions.
///
/// `None` if the first instruction does not end within the bytes.
pub(crate) fn translate(source: Source<'_>, limit: u64) -> Option<Block> {
    let bits = match source.size {
        CodeSize::Long => 64,
        CodeSize::Wide => 32,
        CodeSize::Narrow => 16,
    };
    let mut decoder = Decoder::with_ip(bits, source.bytes, START_AT, DECODER_OPTIONS);
    let mut ops = Vec::with_capacity(16);
    let mut uses: Vec<FlagUse> = Vec::with_capacity(16);
    let mut instructions = 0;
    let mut end = START_AT;
    let mut previous: Option<Instruction> = None;
    let mut instruction = Instruction::default();
    while instructions < limit.min(BLOCK_LIMIT) && decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == DecoderError::NoMoreBytes {
            break;
        }
        if instruction.code() == Code::Pause {
            let at = (instruction.ip() - START_AT) as usize;
            instruction = pause_or_exchange(&source.bytes[at..at + instruction.len()], instruction);
        }
        let lowered = operands(&instruction, START_AT, source.size);
        let (mut op, address) = (lowered.op, lowered.address);
        op.number = instructions as u8;
        end = instruction.next_ip();
        instructions += 1;

        if let Some(comparison) = previous.take()
            && let Some(last) = ops.last_mut()
            && ops::fuse(&comparison, last, &instruction, &op)
        {
            break;
        }
        if let Some(address) = address {
            ops.push(Op {
                number: op.number,
                ..address
            });
        }
        let lowering = select(&instruction, source.size, &mut op);
        op.run = lowering.run;
        uses.push(flag_use(&instruction, &lowering, ops.len()));
        ops.push(op);
        if lowering.ends {
            break;
        }
        previous = Some(instruction);
    }
    if instructions == 0 {
        return None;
    }
    silence(&mut ops, &uses);
    Some(Block::new(ops, instructions, end - START_AT))
}

/// iced takes REP with REX.B in front of 0x90 for PAUSE. Processors exchange RAX with R8.
fn pause_or_exchange(bytes: &[u8], pause: Instruction) -> Instruction {
    const DS: u8 = 0x3E;
    const REP: u8 = 0xF3;
    const REX_B: u8 = 0x41;
    if pause.code_size() != iced_x86::CodeSize::Code64 || bytes[bytes.len() - 2] & 0xF1 != REX_B {
        return pause;
    }
    let plain: Vec<u8> = bytes
        .iter()
        .map(|byte| if *byte == REP { DS } else { *byte })
        .collect();
    Decoder::with_ip(64, &plain, pause.ip(), DECODER_OPTIONS).decode()
}

fn select(instruction: &Instruction, size: CodeSize, op: &mut Op) -> Lowering {
    let undefined = Lowering::last(handler!(ops::undefined));
    if instruction.code() == Code::INVALID {
        return undefined;
    }
    ops::select(instruction, size, op)
        .or_else(|| system::select(instruction, size, op))
        .or_else(|| simd::select(instruction, op).map(Lowering::of))
        .or_else(|| x87::select(instruction, op).map(Lowering::of))
        .unwrap_or(undefined)
}

fn flag_use(instruction: &Instruction, lowering: &Lowering, op: usize) -> FlagUse {
    use iced_x86::RflagsBits;
    const ALL: u32 = RflagsBits::CF
        | RflagsBits::PF
        | RflagsBits::AF
        | RflagsBits::ZF
        | RflagsBits::SF
        | RflagsBits::OF;
    let straight = instruction.flow_control() == FlowControl::Next;
    FlagUse {
        op,
        quiet: lowering.quiet,
        overwrites: instruction.rflags_modified() & ALL == ALL,
        looks: !lowering.pure || !straight || instruction.rflags_read() & ALL != 0,
    }
}

/// Replaces handlers whose flags are overwritten before anybody can look. Whatever may fault looks:
/// at a fault the flags are as precise as everything else.
fn silence(ops: &mut [Op], uses: &[FlagUse]) {
    let mut overwritten = false;
    for flag_use in uses.iter().rev() {
        if overwritten && let Some(quiet) = flag_use.quiet {
            ops[flag_use.op].run = quiet;
        }
        overwritten = !flag_use.looks && (overwritten || flag_use.overwrites);
    }
}

// The pass above speaks of these six.
const _: () = assert!(flags::ARITHMETIC == 0x8D5);
