//! PUSHF, POPF, CLI, STI.

use iced_x86::{Instruction, Mnemonic};

use crate::core::Core;
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::flags::{AC, ARITHMETIC, DF, FIXED, Flags, ID, IF, IOPL, NT, TF};
use crate::op::{Op, THROUGH_STACK, handler};

use super::system;

impl Core {
    /// The I/O privilege level.
    pub(super) fn iopl(&self) -> u8 {
        ((self.system_flags & IOPL) >> 12) as u8
    }

    /// Sets RFLAGS as far as the privilege level `level` may, in `bytes` bytes. RF, which lets an
    /// instruction with a breakpoint pass, is IRET's to set.
    pub(super) fn set_flags_as(&mut self, level: u8, bits: u64, bytes: usize) {
        let mut may = TF | DF | NT | AC | ID;
        if level <= self.iopl() {
            may |= IF;
        }
        if level == 0 {
            may |= IOPL;
        }
        if bytes == 2 {
            may &= 0xFFFF;
        }
        self.flags = Flags::from_bits(bits & ARITHMETIC);
        self.system_flags = self.system_flags & !may | bits & may | FIXED;
        self.update_modes();
    }
}

fn pushf(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.push(usize::from(op.extra), core.rflags())
}

fn popf(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let bits = core.pop(bytes)?;
    core.set_flags_as(core.cpl, bits, bytes);
    Ok(())
}

fn cli(core: &mut Core, _: &Op) -> Result<(), Fault> {
    if core.cpl > core.iopl() {
        return Err(Fault::PROTECTION);
    }
    core.system_flags &= !IF;
    Ok(())
}

/// Behind STI no interrupt is taken, so that HLT or RET can follow.
fn sti(core: &mut Core, op: &Op) -> Result<(), Fault> {
    if core.cpl > core.iopl() {
        return Err(Fault::PROTECTION);
    }
    if core.system_flags & IF == 0 {
        core.system_flags |= IF;
        core.shadow_at = Some(core.position_of(op) + 1);
        core.loaded_ss = false;
    }
    Ok(())
}

pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let lowering = match instruction.mnemonic() {
        Pushf | Pushfd | Pushfq => Lowering::of(handler!(pushf)),
        Popf | Popfd | Popfq => system!(popf),
        Cli => return Some(Lowering::of(handler!(cli))),
        Sti => return Some(system!(sti)),
        _ => return None,
    };
    op.marks |= THROUGH_STACK;
    op.extra = instruction.stack_pointer_increment().unsigned_abs() as u16;
    Some(lowering)
}
