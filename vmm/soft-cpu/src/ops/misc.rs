//! Flags by instruction (CLC, STC, CMC, CLD, STD, LAHF, SAHF), XLAT, CLFLUSH, MOVNTI, UD.

use iced_x86::{Code, Instruction, Mnemonic};

use crate::core::{CodeSize, Core, reg, seg};
use crate::decode::{Lowering, segment_number};
use crate::fault::Fault;
use crate::flags::{AF, CF, DF, PF, SF, ZF};
use crate::op::{Op, handler};

use super::undefined;

const AH: u8 = 0x20;
/// The flags that LAHF and SAHF move.
const LOW_FLAGS: u64 = CF | PF | AF | ZF | SF;

fn clc(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.flags.change(CF, 0);
    Ok(())
}

fn stc(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.flags.change(CF, CF);
    Ok(())
}

fn cmc(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.flags.change(CF, !core.flags.bits());
    Ok(())
}

fn cld(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.system_flags &= !DF;
    Ok(())
}

fn std(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.system_flags |= DF;
    Ok(())
}

fn lahf(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let low = core.rflags() & 0xFF;
    core.set::<0>(AH, low);
    Ok(())
}

fn sahf(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.flags.change(LOW_FLAGS, core.get::<0>(AH));
    Ok(())
}

/// XLAT: AL is replaced by the byte that it indexes, at RBX in the segment of number `src`. The
/// size of addresses stands in `extra`.
fn xlat(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let offset = core
        .get::<3>(reg::RBX)
        .wrapping_add(core.get::<0>(reg::RAX));
    let offset = offset & (!0 >> (64 - 8 * u32::from(op.extra)));
    let address = core.string_address(usize::from(op.src), offset, 1, false)?;
    let value = core.load::<0>(address)?;
    core.set::<0>(reg::RAX, value);
    Ok(())
}

impl Core {
    /// The linear address of `len` bytes at an offset in a segment, in every mode.
    pub(crate) fn string_address(
        &self,
        segment: usize,
        offset: u64,
        len: u64,
        write: bool,
    ) -> Result<u64, Fault> {
        match self.code_size {
            CodeSize::Long if segment >= seg::FS => {
                Ok(self.segment_base(segment).wrapping_add(offset))
            }
            CodeSize::Long => Ok(offset),
            _ => self.segment_address_for(segment, offset, len, write),
        }
    }
}

/// CLFLUSH: memory has one owner, so nothing to write back; a bad address faults like a load.
fn clflush(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.probe_read(core.address(op))
}

fn movnti_32(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.store::<2>(core.address(op), core.get::<2>(op.src))
}

fn movnti_64(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.store::<3>(core.address(op), core.get::<3>(op.src))
}

pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let run = match instruction.mnemonic() {
        Clc => handler!(clc),
        Stc => handler!(stc),
        Cmc => handler!(cmc),
        Cld => handler!(cld),
        Std => handler!(std),
        Lahf => handler!(lahf),
        Sahf => handler!(sahf),
        Xlatb => {
            op.src = segment_number(instruction.memory_segment()) as u8;
            op.extra = instruction.memory_base().size() as u16;
            handler!(xlat)
        }
        Clflush => handler!(clflush),
        Movnti if instruction.code() == Code::Movnti_m64_r64 => handler!(movnti_64),
        Movnti => handler!(movnti_32),
        Ud0 | Ud1 | Ud2 => return Some(Lowering::last(handler!(undefined))),
        _ => return None,
    };
    Some(Lowering::of(run))
}
