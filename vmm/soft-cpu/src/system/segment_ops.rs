//! MOV, PUSH and POP of segment registers, LES and relatives, LAR, LSL, VERR, VERW.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::core::{Core, cr0, seg};
use crate::decode::{Lowering, segment_number, size_of};
use crate::fault::Fault;
use crate::flags::{ZF, flag};
use crate::op::{HAS_MEMORY, Op, THROUGH_STACK, handler};
use crate::state::Segment;

use super::segments::{access, dpl, is_code, is_null, is_writable_data, rpl};
use super::system;

/// The 16-bit operand `src`, or memory.
fn selector_operand(core: &mut Core, op: &Op, register: u8) -> Result<u16, Fault> {
    Ok(if op.marks & HAS_MEMORY != 0 {
        core.load::<1>(core.address(op))? as u16
    } else {
        core.get::<1>(register) as u16
    })
}

fn mov_to_segment(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let selector = selector_operand(core, op, op.src)?;
    core.load_segment(usize::from(op.dst), selector)
}

/// Behind a load of SS no interrupt and no single-step trap is taken, so that RSP can be loaded next
/// (SDM vol. 3, 7.8.3).
fn hold_off_events(core: &mut Core, op: &Op) {
    core.shadow_at = Some(core.position_of(op) + 1);
    core.loaded_ss = true;
}

fn mov_to_ss(core: &mut Core, op: &Op) -> Result<(), Fault> {
    mov_to_segment(core, op)?;
    hold_off_events(core, op);
    Ok(())
}

fn mov_from_segment(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let selector = u64::from(core.segments[usize::from(op.src)].selector);
    if op.marks & HAS_MEMORY != 0 {
        return core.store::<1>(core.address(op), selector);
    }
    match op.extra {
        2 => core.set::<1>(op.dst, selector),
        _ => core.set::<3>(op.dst, selector),
    }
    Ok(())
}

fn push_segment(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let selector = u64::from(core.segments[usize::from(op.dst)].selector);
    core.push(usize::from(op.extra), selector)
}

fn pop_segment(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let selector = core.peek(0, bytes)? as u16;
    let behind = core.stack_pointer().wrapping_add(bytes as u64);
    core.load_segment(usize::from(op.dst), selector)?;
    core.set_stack_pointer(behind);
    Ok(())
}

fn pop_ss(core: &mut Core, op: &Op) -> Result<(), Fault> {
    pop_segment(core, op)?;
    hold_off_events(core, op);
    Ok(())
}

/// LES and relatives: the segment of number `src`, and a register of `extra` bytes.
fn load_far_pointer(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let (selector, offset) = core.load_far_pointer(core.address(op), bytes)?;
    core.load_segment(usize::from(op.src), selector)?;
    match bytes {
        2 => core.set::<1>(op.dst, offset),
        4 => core.set::<2>(op.dst, offset),
        _ => core.set::<3>(op.dst, offset),
    }
    Ok(())
}

/// The segment of a selector if this privilege level may see it.
fn visible(core: &mut Core, selector: u16) -> Result<Option<Segment>, Fault> {
    if is_null(selector) || core.descriptor_address(selector, 8).is_err() {
        return Ok(None);
    }
    let segment = core.read_descriptor(selector)?;
    let conforming = is_code(&segment) && segment.access & access::CONFORMING != 0;
    let level = dpl(&segment);
    let allowed = conforming || core.cpl <= level && rpl(selector) <= level;
    Ok(allowed.then_some(segment))
}

fn note_zero(core: &mut Core, on: bool) {
    core.flags.change(ZF, flag(ZF, on));
}

fn set_sized(core: &mut Core, op: &Op, value: u32) {
    match op.extra {
        2 => core.set::<1>(op.dst, value.into()),
        _ => core.set::<3>(op.dst, value.into()),
    }
}

/// System types that LAR (in long mode: LDT, TSS, call gate) and LSL know.
fn known_system_type(segment: &Segment, gates: bool) -> bool {
    matches!(segment.access & 0x1F, 2 | 9 | 11) || gates && segment.access & 0x1F == 12
}

fn lar(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let selector = selector_operand(core, op, op.src)?;
    let found = visible(core, selector)?.filter(|segment| {
        segment.access & access::CODE_OR_DATA != 0 || known_system_type(segment, true)
    });
    if found.is_some() {
        // The second word of the descriptor, but for base and limit; bits 16 to 19 are undefined
        // in the manual, and the limit's in fact.
        let address = core.descriptor_address(selector, 8)?.wrapping_add(4);
        let word = core.as_supervisor(|core| core.load::<2>(address))? as u32;
        set_sized(core, op, word & 0x00FF_FF00);
    }
    note_zero(core, found.is_some());
    Ok(())
}

fn lsl(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let selector = selector_operand(core, op, op.src)?;
    let found = visible(core, selector)?.filter(|segment| {
        segment.access & access::CODE_OR_DATA != 0 || known_system_type(segment, false)
    });
    if let Some(segment) = &found {
        set_sized(core, op, segment.limit);
    }
    note_zero(core, found.is_some());
    Ok(())
}

fn verr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let selector = selector_operand(core, op, op.dst)?;
    let readable = visible(core, selector)?.is_some_and(|segment| {
        let kind = segment.access & (access::CODE_OR_DATA | access::CODE | access::READABLE);
        kind & access::CODE_OR_DATA != 0
            && (kind & access::CODE == 0 || kind & access::READABLE != 0)
    });
    note_zero(core, readable);
    Ok(())
}

fn verw(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let selector = selector_operand(core, op, op.dst)?;
    let writable = visible(core, selector)?.is_some_and(|segment| is_writable_data(&segment));
    note_zero(core, writable);
    Ok(())
}

/// The requested privilege level of the first selector becomes no more privileged than that of the
/// second. Undefined in real mode, which this CPU enters only with 16-bit code.
fn arpl(core: &mut Core, op: &Op) -> Result<(), Fault> {
    if core.cr0 & cr0::PE == 0 {
        return Err(Fault::UNDEFINED);
    }
    let selector = selector_operand(core, op, op.dst)?;
    let level = rpl(core.get::<1>(op.src) as u16);
    let raised = rpl(selector) < level;
    if raised {
        let selector = u64::from(selector & !3 | u16::from(level));
        if op.has_memory() {
            core.store::<1>(core.address(op), selector)?;
        } else {
            core.set::<1>(op.dst, selector);
        }
    }
    note_zero(core, raised);
    Ok(())
}

pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let first = instruction.op0_register();
    let into_segment = instruction.op0_kind() == OpKind::Register && first.is_segment_register();
    let from_segment = instruction.op_count() > 1
        && instruction.op1_kind() == OpKind::Register
        && instruction.op1_register().is_segment_register();
    let to_ss = first == Register::SS;
    let stack_bytes = instruction.stack_pointer_increment().unsigned_abs() as u16;
    if into_segment {
        op.dst = segment_number(first) as u8;
    }
    let lowering = match instruction.mnemonic() {
        // A load of CS is undefined.
        Mov if first == Register::CS => return None,
        Mov if into_segment && to_ss => system!(mov_to_ss),
        Mov if into_segment => Lowering::of(handler!(mov_to_segment)),
        Mov if from_segment => {
            op.src = segment_number(instruction.op1_register()) as u8;
            op.extra = first.size() as u16;
            Lowering::of(handler!(mov_from_segment))
        }
        Push if into_segment => {
            op.marks |= THROUGH_STACK;
            op.extra = stack_bytes;
            Lowering::of(handler!(push_segment))
        }
        Pop if into_segment => {
            op.marks |= THROUGH_STACK;
            op.extra = stack_bytes;
            if to_ss {
                system!(pop_ss)
            } else {
                Lowering::of(handler!(pop_segment))
            }
        }
        mnemonic @ (Les | Lds | Lss | Lfs | Lgs) => {
            op.extra = 1 << size_of(first.size());
            op.src = match mnemonic {
                Les => seg::ES,
                Lds => seg::DS,
                Lss => seg::SS,
                Lfs => seg::FS,
                _ => seg::GS,
            } as u8;
            system!(load_far_pointer)
        }
        mnemonic @ (Lar | Lsl) => {
            op.extra = first.size() as u16;
            Lowering::of(if mnemonic == Lar {
                handler!(lar)
            } else {
                handler!(lsl)
            })
        }
        Arpl => Lowering::of(handler!(arpl)),
        Verr => Lowering::of(handler!(verr)),
        Verw => Lowering::of(handler!(verw)),
        _ => return None,
    };
    Some(lowering)
}
