//! Handlers around pure operations: which registers, which memory, which checks. Each macro makes
//! a function of its own for each operation and each kind of source operand, so that the core's
//! threaded code jumps straight into it.

/// `xmm = f(xmm, xmm)`, or with 16 aligned bytes of memory.
macro_rules! binary {
    ($op:expr, $f:expr) => {{
        fn register(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let (to, from) = (usize::from(op.dst & 15), usize::from(op.src & 15));
            core.xmm[to] = $f(core.xmm[to], core.xmm[from]);
            next(core, rest)
        }
        fn memory(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let source = attempt!(core, op, core.load_16_aligned(core.address(op)));
            let to = usize::from(op.dst & 15);
            core.xmm[to] = $f(core.xmm[to], source);
            next(core, rest)
        }
        if $op.has_memory() { memory as Handler } else { register as Handler }
    }};
}
pub(super) use binary;

/// [`binary!`] with the immediate as third argument.
macro_rules! with_immediate {
    ($op:expr, $f:expr) => {{
        fn register(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let (to, from) = (usize::from(op.dst & 15), usize::from(op.src & 15));
            core.xmm[to] = $f(core.xmm[to], core.xmm[from], op.imm as u8);
            next(core, rest)
        }
        fn memory(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let source = attempt!(core, op, core.load_16_aligned(core.address(op)));
            let to = usize::from(op.dst & 15);
            core.xmm[to] = $f(core.xmm[to], source, op.imm as u8);
            next(core, rest)
        }
        if $op.has_memory() { memory as Handler } else { register as Handler }
    }};
}
pub(super) use with_immediate;

/// `xmm = f(xmm, imm8)`: shifts.
macro_rules! by_immediate {
    ($f:expr) => {{
        fn register(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
            attempt!(core, op, core.require_sse());
            let to = usize::from(op.dst & 15);
            core.xmm[to] = $f(core.xmm[to], u128::from(op.imm as u8));
            next(core, rest)
        }
        register as Handler
    }};
}
pub(super) use by_immediate;

/// The source operand of `1 << S` bytes (`S` up to 4, aligned if 4): a register, or memory.
#[inline(always)]
pub(super) fn source<const S: usize>(core: &mut Core, op: &Op) -> Result<u128, Fault> {
    if !op.has_memory() {
        return Ok(core.xmm[usize::from(op.src & 15)]);
    }
    let address = core.address(op);
    if S == 4 {
        return core.load_16_aligned(address);
    }
    core.load::<S>(address).map(u128::from)
}

use crate::core::Core;
use crate::fault::Fault;
use crate::op::Op;
