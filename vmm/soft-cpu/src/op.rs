//! Micro-operations: what instructions become, and how they run one after the other.
//!
//! A block is a slice of [`Op`]s. Each holds the function that carries it out, and that function
//! ends by calling the next one's, which the compiler turns into a jump (a block's length bounds
//! the depth where it does not). The rest of the slice travels along, so no index is checked
//! and nothing is unsafe:
//!
//! ```text
//!   run(core, op, rest) ── next(core, rest) ──► rest[0].run(core, &rest[0], &rest[1..]) ── …
//!          │ fault, system instruction, branch                                rest is empty
//!          ▼                                                                        ▼
//!        Leave::…                                                             Leave::Through
//! ```

use crate::core::Core;
use crate::fault::Fault;

/// The function behind a micro-operation.
pub(crate) type Handler = fn(&mut Core, &Op, &[Op]) -> Leave;

/// How a block was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Leave {
    /// At its end, into what follows in memory.
    Through,
    /// By a direct branch: RIP is set, and is the same at each visit. [`Core::retired`] tells which
    /// of the block's branches it was.
    Branch,
    /// By an indirect branch: RIP is set.
    Indirect,
    /// By an instruction after which everything must be looked at afresh: RIP is set.
    Recheck,
    /// Amid, behind the instruction that [`Core::retired`] tells of: it is complete.
    After,
    /// Amid, before the instruction that [`Core::retired`] tells of: it faulted.
    Fault,
}

/// A register number that reads as zero and is never written.
pub(crate) const ZERO: u8 = 16;
/// The linear offset of the block's first instruction; with it, blocks know no addresses.
pub(crate) const START: u8 = 17;
/// Takes the address of operands that are not `base + index * scale + displacement`.
pub(crate) const ADDRESS: u8 = 18;
/// The bases of ES, CS, SS, DS, FS, GS stand here and in the five after it.
pub(crate) const SEGMENT_BASES: u8 = 20;

/// The memory operand goes through SS.
pub(crate) const THROUGH_STACK: u8 = 1;
/// The instruction has a memory operand (for handlers that serve both forms).
pub(crate) const HAS_MEMORY: u8 = 2;
/// A REX.W or 64-bit form of an instruction whose handler serves several sizes.
pub(crate) const WIDE: u8 = 4;
/// Has a REPE or REP prefix.
pub(crate) const REP: u8 = 8;
/// Has a REPNE prefix.
pub(crate) const REPNE: u8 = 16;
/// The memory operand is written (in the operation that computes its address).
pub(crate) const WRITES: u8 = 32;

/// One micro-operation: an instruction, two fused ones, or the address of a complicated operand
/// in front of its instruction.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Op {
    /// Carries it out.
    pub(crate) run: Handler,
    /// The immediate operand, sign-extended; for direct branches the target less [`START`].
    pub(crate) imm: u64,
    /// The displacement of the memory operand.
    pub(crate) displacement: i32,
    /// The destination register: 0–15, for bytes see [`Core::get`]; XMM, MMX, x87 numbers too.
    pub(crate) dst: u8,
    /// The source register.
    pub(crate) src: u8,
    /// Register of the memory operand's base, [`ZERO`] for none. Without a memory operand, the
    /// register that the first operand is taken from.
    pub(crate) base: u8,
    /// Register of the memory operand's index, [`ZERO`] for none.
    pub(crate) index: u8,
    /// How far the index is shifted: 0–3.
    pub(crate) scale: u8,
    /// [`THROUGH_STACK`], [`HAS_MEMORY`] and so on.
    pub(crate) marks: u8,
    /// Which instruction of the block this is.
    pub(crate) number: u8,
    /// Bytes of the instruction.
    pub(crate) len: u8,
    /// Where the instruction begins, in bytes from the block's first.
    pub(crate) at: i16,
    /// Free for the handler: a condition, a second immediate.
    pub(crate) extra: u16,
}

impl Op {
    /// Whether the instruction has a memory operand.
    pub(crate) fn has_memory(&self) -> bool {
        self.marks & HAS_MEMORY != 0
    }
}

/// Goes on with the rest of the block.
#[inline(always)]
pub(crate) fn next(core: &mut Core, rest: &[Op]) -> Leave {
    match rest {
        [op, rest @ ..] => (op.run)(core, op, rest),
        [] => Leave::Through,
    }
}

/// Goes on after an instruction that may have written memory: leaves the block if the write asks
/// for it (it went to a device, or into translated code).
#[inline(always)]
pub(crate) fn next_after_write(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    if core.attention {
        return core.stop_after(op);
    }
    next(core, rest)
}

/// [`next_after_write`], but for a write on the fast way nothing asks to leave.
#[inline(always)]
pub(crate) fn next_on<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    if FAST {
        next(core, rest)
    } else {
        next_after_write(core, op, rest)
    }
}

/// The value of a `Result<_, Fault>`, or the way out of a handler.
macro_rules! attempt {
    ($core:ident, $op:ident, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(fault) => return $core.stop_before($op, fault),
        }
    };
}
pub(crate) use attempt;

/// What an access to memory gives, in a handler that exists twice: with `FAST` it knows nothing but
/// the fast way of the TLB and calls nothing, so it needs no stack frame; where that way is closed,
/// its slow twin does the work from the beginning. Nothing may have changed until then. Such handlers
/// are `inline(never)`, or the compiler would put both into one.
macro_rules! reach {
    ($fast:ident, $core:ident, $op:ident, $rest:ident, $access:expr, $slow:expr) => {
        match $access {
            Ok(value) => value,
            Err(_) if $fast => return $slow($core, $op, $rest),
            Err(fault) => return $core.stop_before($op, fault),
        }
    };
}
pub(crate) use reach;

/// Makes a [`Handler`] of a `fn(&mut Core, &Op) -> Result<(), Fault>`: the way to add instructions
/// that need no speed of their own.
macro_rules! handler {
    ($carry_out:expr) => {{
        fn run(
            core: &mut $crate::core::Core,
            op: &$crate::op::Op,
            rest: &[$crate::op::Op],
        ) -> $crate::op::Leave {
            $crate::op::attempt!(core, op, $crate::op::checked($carry_out)(core, op));
            $crate::op::next_after_write(core, op, rest)
        }
        run as $crate::op::Handler
    }};
}
pub(crate) use handler;

/// Pins down the type of what [`handler!`] is given.
#[inline(always)]
pub(crate) fn checked<F: Fn(&mut Core, &Op) -> Result<(), Fault>>(carry_out: F) -> F {
    carry_out
}
