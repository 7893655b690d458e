//! Near branches of 16 and 32 bits, and LOOPcc and JrCXZ in every mode.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::core::{CodeSize, Core, reg};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::flags::ZF;
use crate::memory::paging::is_canonical;
use crate::op::{HAS_MEMORY, Handler, Op, START, attempt};

use super::condition_number;

/// A `fn(&mut Core, &Op) -> Result<u64, Fault>` that says where to go, as a handler.
macro_rules! going {
    ($decide:expr) => {{
        fn run(core: &mut Core, op: &Op, _: &[Op]) -> $crate::op::Leave {
            let before = core.stack_pointer();
            let to = attempt!(core, op, $decide(core, op));
            if !is_canonical(to) {
                core.set_stack_pointer(before);
                return core.stop_before(op, Fault::PROTECTION);
            }
            core.rip = to;
            if core.attention {
                return core.stop_at(op, to);
            }
            $crate::op::Leave::Indirect
        }
        run as Handler
    }};
}

/// What RIP is cut to after a branch with operands of so many bytes: stands in `extra`.
fn cut(op: &Op, to: u64) -> u64 {
    match op.extra & 15 {
        2 => to & 0xFFFF,
        4 => to & 0xFFFF_FFFF,
        _ => to,
    }
}

fn direct(core: &Core, op: &Op) -> u64 {
    cut(op, core.regs[usize::from(START)].wrapping_add(op.imm))
}

/// The operand of an indirect branch.
fn operand(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    let value = if op.marks & HAS_MEMORY != 0 {
        let address = core.address(op);
        match op.extra & 15 {
            2 => core.load::<1>(address)?,
            4 => core.load::<2>(address)?,
            _ => core.load::<3>(address)?,
        }
    } else {
        core.get::<3>(op.dst)
    };
    Ok(cut(op, value))
}

fn jmp_direct(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    Ok(direct(core, op))
}

fn jmp_indirect(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    operand(core, op)
}

fn call(core: &mut Core, op: &Op, to: u64) -> Result<u64, Fault> {
    let back = core.address_behind(op);
    core.push(usize::from(op.extra & 15), back)?;
    Ok(to)
}

fn call_direct(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    let to = direct(core, op);
    call(core, op, to)
}

fn call_indirect(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    let to = operand(core, op)?;
    call(core, op, to)
}

fn ret(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    let to = core.pop(usize::from(op.extra & 15))?;
    let stack = core.stack_pointer().wrapping_add(op.imm);
    core.set_stack_pointer(stack);
    Ok(to)
}

/// A branch on a condition whose number stands in bits 4 to 7 of `extra`.
fn jcc(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    Ok(if core.flags.holds_number((op.extra >> 4) as u8) {
        direct(core, op)
    } else {
        core.address_behind(op)
    })
}

/// The mask of the counter register, by the size of addresses in `src`.
fn counter_mask(op: &Op) -> u64 {
    !0 >> (64 - 8 * u32::from(op.src))
}

/// JCXZ, JECXZ, JRCXZ.
fn jrcxz(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    Ok(if core.get::<3>(reg::RCX) & counter_mask(op) == 0 {
        direct(core, op)
    } else {
        core.address_behind(op)
    })
}

/// LOOP, LOOPE, LOOPNE: `dst` says which.
fn loop_while(core: &mut Core, op: &Op) -> Result<u64, Fault> {
    let counter = core.get::<3>(reg::RCX).wrapping_sub(1);
    core.set_counter(counter, op.src);
    let zero = core.flags.bits() & ZF != 0;
    let goes_on = match op.dst {
        LOOPE => zero,
        LOOPNE => !zero,
        _ => true,
    };
    Ok(if counter & counter_mask(op) != 0 && goes_on {
        direct(core, op)
    } else {
        core.address_behind(op)
    })
}

const LOOPE: u8 = 1;
const LOOPNE: u8 = 2;

impl Core {
    /// Sets CX, ECX or RCX, by the size of addresses.
    pub(super) fn set_counter(&mut self, value: u64, address_bytes: u8) {
        match address_bytes {
            2 => self.set::<1>(reg::RCX, value),
            4 => self.set::<2>(reg::RCX, value),
            _ => self.set::<3>(reg::RCX, value),
        }
    }
}

/// The size of the counter of LOOP and JrCXZ, in bytes.
fn counter_bytes(code: Code) -> u8 {
    use Code::*;
    match code {
        Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX
        | Loopne_rel8_16_CX | Loopne_rel8_32_CX | Jcxz_rel8_16 | Jcxz_rel8_32 => 2,
        Loop_rel8_64_RCX | Loope_rel8_64_RCX | Loopne_rel8_64_RCX | Loop_rel8_16_RCX
        | Loope_rel8_16_RCX | Loopne_rel8_16_RCX | Jrcxz_rel8_64 | Jrcxz_rel8_16 => 8,
        _ => 4,
    }
}

pub(super) fn select(instruction: &Instruction, size: CodeSize, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    let branches = matches!(
        mnemonic,
        Jmp | Call | Ret | Jcxz | Jecxz | Jrcxz | Loop | Loope | Loopne
    );
    if !branches && !instruction.is_jcc_short_or_near() {
        return None;
    }
    let kind = instruction.op0_kind();
    op.extra = match kind {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        OpKind::Register => instruction.op0_register().size() as u16,
        OpKind::Memory => instruction.memory_size().size() as u16,
        OpKind::FarBranch16 | OpKind::FarBranch32 => return None,
        _ => 0,
    };
    let indirect = matches!(kind, OpKind::Register | OpKind::Memory);
    let far = instruction.is_call_far_indirect() || instruction.is_jmp_far_indirect();
    if far || size == CodeSize::Long && op.extra == 4 {
        return None;
    }
    let run = match mnemonic {
        Jmp if indirect => going!(jmp_indirect),
        Jmp => going!(jmp_direct),
        Call if indirect => going!(call_indirect),
        Call => going!(call_direct),
        Ret => {
            op.extra = match instruction.code() {
                Code::Retnw | Code::Retnw_imm16 => 2,
                Code::Retnd | Code::Retnd_imm16 => 4,
                _ => 8,
            };
            going!(ret)
        }
        Jcxz | Jecxz | Jrcxz => {
            op.src = counter_bytes(instruction.code());
            going!(jrcxz)
        }
        Loop | Loope | Loopne => {
            op.src = counter_bytes(instruction.code());
            op.dst = match mnemonic {
                Loope => LOOPE,
                Loopne => LOOPNE,
                _ => 0,
            };
            going!(loop_while)
        }
        _ if instruction.is_jcc_short_or_near() => {
            op.extra |= u16::from(condition_number(instruction)?) << 4;
            going!(jcc)
        }
        _ => return None,
    };
    Some(Lowering::last(run))
}
