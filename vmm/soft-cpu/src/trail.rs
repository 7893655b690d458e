//! Where execution came by lately, for reports.
//!
//! Every run of a block, or of a part of one, is noted at its beginning: three words, at a place that
//! its position gives, so that nothing has to be counted. What it executed is decoded only when
//! somebody asks, by the bytes that memory holds then. A run of a trace is several straight runs, which
//! are noted one by one before the trace is asked for or gone.

use iced_x86::{Decoder, FastFormatter, FlowControl, Instruction};

use crate::core::{CodeSize, Core};
use crate::decode::{DECODER_OPTIONS, NO_BLOCK};

/// Positions that are looked back at, a power of two. Runs that began within them are all there.
const WINDOW: u64 = 128;

/// The longest instruction, in bytes.
const LONGEST: usize = 15;

/// An instruction that was executed, or that faulted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// Where it is: RIP before it.
    pub rip: u64,
    /// In Intel's syntax; `(bad)` if there is no instruction.
    pub text: String,
}

/// A straight run of instructions, or one of a block that may be a trace.
#[derive(Clone, Copy)]
struct Run {
    rip: u64,
    /// The position before it.
    position: u64,
    /// The block, or [`NO_BLOCK`] for a run that is known to be straight.
    block: u32,
}

/// The latest runs, all in one code size.
#[derive(Clone)]
pub(crate) struct Trail([Run; WINDOW as usize]);

impl Trail {
    pub(crate) fn new() -> Trail {
        let nowhere = Run {
            rip: 0,
            position: u64::MAX,
            block: NO_BLOCK,
        };
        Trail([nowhere; WINDOW as usize])
    }

    /// Makes all runs before `end` straight, by the legs of those blocks that are traces.
    pub(crate) fn straighten<'a>(
        &mut self,
        end: u64,
        legs: impl Fn(u32) -> Option<&'a [(i64, u64)]>,
    ) {
        let runs: Vec<(Run, u64)> = self.before(end).collect();
        for run in &mut self.0 {
            run.block = NO_BLOCK;
        }
        for (run, positions) in runs {
            if run.block == NO_BLOCK {
                continue;
            }
            for (at, behind) in legs(run.block).unwrap_or_default() {
                if *behind < positions {
                    self.note(Run {
                        rip: run.rip.wrapping_add_signed(*at),
                        position: run.position + behind,
                        block: NO_BLOCK,
                    });
                }
            }
        }
    }

    #[inline(always)]
    fn note(&mut self, run: Run) {
        self.0[(run.position % WINDOW) as usize] = run;
    }

    /// The runs before `end` that began within the window, with their lengths in positions, the
    /// latest first.
    fn before(&self, end: u64) -> impl Iterator<Item = (Run, u64)> {
        let mut next = end;
        (1..=WINDOW.min(end)).filter_map(move |back| {
            let position = end - back;
            let run = self.0[(position % WINDOW) as usize];
            (run.position == position)
                .then(|| (run, std::mem::replace(&mut next, position) - position))
        })
    }
}

impl Core {
    /// A run begins at RIP: of a block, or [`NO_BLOCK`] for a straight one.
    #[inline(always)]
    pub(crate) fn note_run(&mut self, block: u32) {
        let (rip, position) = (self.rip, self.position);
        self.trail.note(Run {
            rip,
            position,
            block,
        });
    }

    /// The last instructions of a trail whose runs are straight, the latest last: `count` at most, of
    /// those in the window. `read` gives a byte of code, where there is memory.
    pub(crate) fn executed(
        &self,
        trail: &Trail,
        count: usize,
        read: impl Fn(u64) -> Option<u8>,
    ) -> Vec<Executed> {
        let bits = match self.code_size {
            CodeSize::Long => 64,
            CodeSize::Wide => 32,
            CodeSize::Narrow => 16,
        };
        let mut latest: Vec<Instruction> = Vec::new();
        for (run, positions) in trail.before(self.position) {
            for instruction in straight(run.rip, positions, bits, &read).into_iter().rev() {
                // Only a branch follows itself: anything else was left amid, and gone on with.
                let branches = instruction.flow_control() != FlowControl::Next;
                let again = latest
                    .last()
                    .is_some_and(|last| last.ip() == instruction.ip());
                if branches || !again {
                    latest.push(instruction);
                }
            }
        }
        // It may have begun before the window, and is there only if it was left within.
        latest.pop_if(|first| repeats(first));
        latest.truncate(count);
        latest.iter().rev().map(Executed::of).collect()
    }
}

impl Executed {
    fn of(instruction: &Instruction) -> Self {
        let mut text = String::new();
        let mut formatter = FastFormatter::new();
        let options = formatter.options_mut();
        options.set_use_hex_prefix(true);
        options.set_uppercase_hex(false);
        formatter.format(instruction, &mut text);
        Executed {
            rip: instruction.ip(),
            text,
        }
    }
}

/// Decodes a run of so many positions, of which a string instruction that repeats may have taken
/// several: it is a run's last.
fn straight(
    mut rip: u64,
    positions: u64,
    bits: u32,
    read: impl Fn(u64) -> Option<u8>,
) -> Vec<Instruction> {
    let mut instructions = Vec::new();
    for _ in 0..positions {
        let bytes: Vec<u8> = (0..LONGEST)
            .map_while(|byte| read(rip.wrapping_add(byte as u64)))
            .collect();
        let instruction = Decoder::with_ip(bits, &bytes, rip, DECODER_OPTIONS).decode();
        instructions.push(instruction);
        if instruction.flow_control() != FlowControl::Next || repeats(&instruction) {
            break;
        }
        rip = instruction.next_ip();
    }
    instructions
}

fn repeats(instruction: &Instruction) -> bool {
    instruction.is_string_instruction()
        && (instruction.has_rep_prefix() || instruction.has_repne_prefix())
}
