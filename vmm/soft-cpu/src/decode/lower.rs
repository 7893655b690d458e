//! Builds blocks: decodes, selects handlers, fuses comparisons with their branches, and finds out
//! which flags nobody will look at.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction};

use crate::core::CodeSize;
use crate::flags;
use crate::op::{Handler, Op, handler};
use crate::ops::{self, Kind};
use crate::{simd, system, x87};

use super::operands::{Lowering, operands};
use super::{BLOCK_LIMIT, Block};

/// The bytes to translate.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// From the first instruction on: to the end of the page, or beyond it for an instruction that
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
    kind: Option<Kind>,
    quiet_kind: Option<Kind>,
    /// It sets all arithmetic flags without a look at them.
    overwrites: bool,
    /// Somebody may look at the flags as they are before it.
    looks: bool,
}

/// Translates up to `limit` instructions, which begin at the first byte.
///
/// `None` if the first instruction does not end within the bytes.
pub(crate) fn translate(source: Source<'_>, limit: u64) -> Option<Block> {
    let mut lowered = Lowered::default();
    let bytes = lowered.add(source, 0, limit.min(BLOCK_LIMIT), false);
    (lowered.instructions > 0).then(|| lowered.block(bytes))
}

/// What a block is made of, while it grows.
#[derive(Default)]
pub(super) struct Lowered {
    ops: Vec<Op>,
    uses: Vec<FlagUse>,
    instructions: u64,
    /// The last instruction is a call.
    calls: bool,
}

impl Lowered {
    /// Adds a straight run of up to `limit` instructions, which begins `at` bytes from the block's
    /// first, and says where it ends. `branches`: what comes next is where the direct branch at its
    /// end leads to, so the block is left where that is not taken.
    pub(super) fn add(&mut self, source: Source<'_>, at: i64, limit: u64, branches: bool) -> i64 {
        let bits = match source.size {
            CodeSize::Long => 64,
            CodeSize::Wide => 32,
            CodeSize::Narrow => 16,
        };
        let ip = START_AT.wrapping_add_signed(at);
        let mut decoder = Decoder::with_ip(bits, source.bytes, ip, DECODER_OPTIONS);
        let last = self.instructions + limit;
        let mut end = ip;
        let mut previous: Option<Instruction> = None;
        let mut instruction = Instruction::default();
        while self.instructions < last && decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            if decoder.last_error() == DecoderError::NoMoreBytes {
                break;
            }
            if instruction.code() == Code::Pause {
                let at = (instruction.ip() - ip) as usize;
                let bytes = &source.bytes[at..at + instruction.len()];
                instruction = pause_or_exchange(bytes, instruction);
            }
            end = instruction.next_ip();
            let number = self.instructions as u8;
            self.instructions += 1;
            if branches && self.instructions == last {
                if instruction.is_jmp_short_or_near() {
                    break;
                }
                instruction.negate_condition_code();
                instruction.set_near_branch64(end);
            }
            let operands = operands(&instruction, START_AT, source.size);
            let (mut op, address) = (operands.op, operands.address);
            op.number = number;

            if let Some(comparison) = &previous
                && let Some(last) = self.ops.last_mut()
                && ops::fuse(comparison, last, &instruction, &op)
            {
                // Where the branch leads to, somebody may look.
                if let Some(flag_use) = self.uses.last_mut() {
                    flag_use.quiet = None;
                    flag_use.kind = None;
                }
                break;
            }
            if let Some(address) = address {
                self.ops.push(Op {
                    number: op.number,
                    ..address
                });
            }
            let lowering = select(&instruction, source.size, &mut op);
            op.run = lowering.run;
            if let Some(last) = self.ops.last()
                && lowering.takes_base
                && previous.is_some_and(|previous| ops::moves_whole(&previous, &instruction))
                && last.dst == op.dst
            {
                // What MOV copies is overwritten at once: only where it comes from matters.
                op.base = last.src;
                if op.src == op.dst {
                    op.src = last.src;
                }
                self.ops.pop();
                self.uses.pop();
            }
            self.uses
                .push(flag_use(&instruction, &lowering, self.ops.len()));
            self.ops.push(op);
            if lowering.ends {
                break;
            }
            previous = Some(instruction);
        }
        self.calls = instruction.flow_control() == FlowControl::Call;
        end.wrapping_sub(START_AT) as i64
    }

    /// The block, behind which memory goes on so many bytes from its first.
    pub(super) fn block(mut self, bytes: i64) -> Block {
        silence(&mut self.ops, &mut self.uses);
        pair_up(&mut self.ops, &self.uses);
        let mut block = Block::new(self.ops, self.instructions, bytes);
        block.calls = self.calls;
        block
    }
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
        kind: lowering.kind,
        quiet_kind: lowering.quiet_kind,
        overwrites: instruction.rflags_modified() & ALL == ALL,
        looks: !lowering.pure || !straight || instruction.rflags_read() & ALL != 0,
    }
}

/// Replaces handlers whose flags are overwritten before anybody can look. Whatever may fault looks:
/// at a fault the flags are as precise as everything else.
fn silence(ops: &mut [Op], uses: &mut [FlagUse]) {
    let mut overwritten = false;
    for flag_use in uses.iter_mut().rev() {
        if overwritten && let Some(quiet) = flag_use.quiet {
            ops[flag_use.op].run = quiet;
            flag_use.kind = flag_use.quiet_kind;
        }
        overwritten = !flag_use.looks && (overwritten || flag_use.overwrites);
    }
}

/// Gives the first of two operations that are paired the handler for both.
fn pair_up(ops: &mut [Op], uses: &[FlagUse]) {
    let mut uses = uses.iter().peekable();
    while let Some(first) = uses.next() {
        if let (Some(kind), Some(second)) = (first.kind, uses.peek())
            && let Some(behind) = second.kind
            && second.op == first.op + 1
        {
            ops[first.op].run = ops::pair(kind, behind);
            uses.next();
        }
    }
}

// [`silence`] speaks of these six.
const _: () = assert!(flags::ARITHMETIC == 0x8D5);
