//! Handlers around pure operations: which registers, which memory, which checks. Each macro makes
//! a function of its own for each operation and each kind of source operand, so that the core's
//! threaded code jumps straight into it; those with memory have a fast and a slow twin, see
//! [`crate::op::reach`].

use crate::core::Core;
use crate::fault::Fault;
use crate::op::Op;

impl Core {
    /// Reads `1 << S` bytes for an SSE instruction: sixteen with `S` 4, of which `ALIGNED` ones
    /// must be. With `FAST` only on the fast way.
    #[inline(always)]
    pub(super) fn load_packed<const FAST: bool, const S: usize, const ALIGNED: bool>(
        &mut self,
        address: u64,
    ) -> Result<u128, Fault> {
        if S < 4 {
            return self.load_on::<FAST, S>(address).map(u128::from);
        }
        if ALIGNED && !address.is_multiple_of(16) {
            return Err(Fault::PROTECTION);
        }
        if FAST {
            return self.tlb.load_16(address).ok_or(Fault::Device);
        }
        self.load_16(address)
    }

    /// Writes the low `1 << S` bytes likewise.
    #[inline(always)]
    pub(super) fn store_packed<const FAST: bool, const S: usize, const ALIGNED: bool>(
        &mut self,
        address: u64,
        value: u128,
    ) -> Result<(), Fault> {
        if S < 4 {
            return self.store_on::<FAST, S>(address, value as u64);
        }
        if ALIGNED && !address.is_multiple_of(16) {
            return Err(Fault::PROTECTION);
        }
        if !FAST {
            return self.store_16(address, value);
        }
        if self.tlb.store_16(address, value) {
            Ok(())
        } else {
            Err(Fault::Device)
        }
    }
}

/// The source operand: a register, or `1 << S` bytes of memory, aligned if sixteen.
#[inline(always)]
pub(super) fn source<const FAST: bool, const S: usize>(
    core: &mut Core,
    op: &Op,
) -> Result<u128, Fault> {
    if !op.has_memory() {
        return Ok(core.xmm[usize::from(op.src & 15)]);
    }
    core.load_packed::<FAST, S, true>(core.address(op))
}

/// `xmm = f(xmm, xmm, op)`.
macro_rules! register {
    ($f:expr) => {{
        fn run(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let (to, from) = (usize::from(op.dst & 15), usize::from(op.src & 15));
            core.xmm[to] = $f(core.xmm[to], core.xmm[from], op);
            next(core, rest)
        }
        run as Handler
    }};
}
pub(super) use register;

/// `xmm = f(xmm, memory, op)`, the memory `1 << $size` bytes.
macro_rules! load {
    ($size:literal, $aligned:literal, $f:expr) => {{
        #[inline(never)]
        fn run<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let loaded = core.load_packed::<FAST, $size, $aligned>(core.address(op));
            let loaded = reach!(FAST, core, op, rest, loaded, run::<false>);
            let to = usize::from(op.dst & 15);
            core.xmm[to] = $f(core.xmm[to], loaded, op);
            next(core, rest)
        }
        run::<true> as Handler
    }};
}
pub(super) use load;

/// `memory = f(xmm)`, the memory `1 << $size` bytes.
macro_rules! store {
    ($size:literal, $aligned:literal, $f:expr) => {{
        #[inline(never)]
        fn run<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let value = $f(core.xmm[usize::from(op.src & 15)]);
            let done = core.store_packed::<FAST, $size, $aligned>(core.address(op), value);
            reach!(FAST, core, op, rest, done, run::<false>);
            next_on::<FAST>(core, op, rest)
        }
        run::<true> as Handler
    }};
}
pub(super) use store;

/// `xmm = f(xmm, source)`, the source a register or 16 aligned bytes of memory.
macro_rules! binary {
    ($op:expr, $f:path) => {
        if $op.has_memory() {
            load!(4, true, |a, b, _: &Op| $f(a, b))
        } else {
            register!(|a, b, _: &Op| $f(a, b))
        }
    };
}
pub(super) use binary;

/// [`binary!`] with the immediate as third argument.
macro_rules! with_immediate {
    ($op:expr, $f:path) => {
        if $op.has_memory() {
            load!(4, true, |a, b, op: &Op| $f(a, b, op.imm as u8))
        } else {
            register!(|a, b, op: &Op| $f(a, b, op.imm as u8))
        }
    };
}
pub(super) use with_immediate;

/// `xmm = f(xmm, imm8)`: shifts.
macro_rules! by_immediate {
    ($f:path) => {
        register!(|a, _, op: &Op| $f(a, u128::from(op.imm as u8)))
    };
}
pub(super) use by_immediate;
