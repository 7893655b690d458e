//! IRET, and far jumps, calls and returns.
//!
//! Far branches go to code segments. Call gates and task gates, which no 64-bit system uses, are
//! refused with #GP.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::core::{CodeSize, Core, reg, seg};
use crate::decode::Lowering;
use crate::fault::{Fault, vector};
use crate::flags::{NT, RF, TF};
use crate::memory::paging::is_canonical;
use crate::op::{HAS_MEMORY, Op, THROUGH_STACK};
use crate::state::Segment;

use super::segments::{access, dpl, is_code, is_null, is_present, rpl};
use super::system;

impl Core {
    /// The code segment of a far branch, for the privilege level that it leads to. `level` is the
    /// selector's for a return, and the current one for jumps and calls.
    fn far_code_segment(&mut self, selector: u16, level: u8) -> Result<Segment, Fault> {
        if is_null(selector) {
            return Err(Fault::PROTECTION);
        }
        let mut segment = self.read_descriptor(selector)?;
        let both_sizes = access::LONG | access::WIDE;
        let conforming = segment.access & access::CONFORMING != 0;
        let allowed = if conforming {
            dpl(&segment) <= level
        } else {
            dpl(&segment) == level
        };
        let sizes_clash = self.long_mode() && segment.access & both_sizes == both_sizes;
        if !is_code(&segment) || !allowed || sizes_clash {
            return Err(Fault::protection(selector));
        }
        if !is_present(&segment) {
            return Err(Fault::Coded(vector::NP, selector & !3));
        }
        self.mark_accessed(&mut segment)?;
        Ok(segment)
    }

    /// Fails unless `rip` can be gone to in a code segment.
    fn require_target(&self, segment: &Segment, rip: u64) -> Result<(), Fault> {
        let long = self.long_mode() && segment.access & access::LONG != 0;
        let fits = if long {
            is_canonical(rip)
        } else {
            rip <= u64::from(segment.limit)
        };
        if fits { Ok(()) } else { Err(Fault::PROTECTION) }
    }

    /// Returns to another privilege level: the stack comes from `at` bytes above the pointer.
    fn outer_stack(
        &mut self,
        at: u64,
        bytes: usize,
        level: u8,
        code: &Segment,
    ) -> Result<(u64, Segment), Fault> {
        let pointer = self.peek(at, bytes)?;
        let selector = self.peek(at + bytes as u64, bytes)? as u16;
        let to_long = self.long_mode() && code.access & access::LONG != 0;
        let segment = if is_null(selector) && to_long && level < 3 && rpl(selector) == level {
            super::segments::null_segment(selector, level)
        } else if is_null(selector) {
            return Err(Fault::PROTECTION);
        } else {
            self.checked_stack_segment(selector, level, Fault::protection)?
        };
        Ok((pointer, segment))
    }

    fn leave_to(&mut self, rip: u64, code: Segment, level: u8, stack: Option<(u64, Segment)>) {
        let outwards = level > self.cpl;
        if let Some((_, segment)) = &stack {
            self.set_segment(seg::SS, *segment);
        }
        self.set_code_segment(code, level);
        if self.code_size != CodeSize::Long {
            // Outside 64-bit mode, the upper half of RSP is lost.
            self.regs[usize::from(reg::RSP)] &= 0xFFFF_FFFF;
        }
        if let Some((pointer, _)) = stack {
            self.set_stack_pointer(pointer);
        }
        self.rip = rip;
        if outwards {
            self.drop_privileged_segments();
        }
    }
}

fn iret(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let step = bytes as u64;
    if core.system_flags & NT != 0 {
        // A nested task: long mode has none.
        return Err(Fault::PROTECTION);
    }
    let rip = core.peek(0, bytes)?;
    let selector = core.peek(step, bytes)? as u16;
    let flags = core.peek(2 * step, bytes)?;
    let level = rpl(selector);
    if level < core.cpl {
        return Err(Fault::protection(selector));
    }
    let code = core.far_code_segment(selector, level)?;
    core.require_target(&code, rip)?;
    // In 64-bit mode the stack is always part of the frame.
    let stack = if core.code_size == CodeSize::Long || level > core.cpl {
        Some(core.outer_stack(3 * step, bytes, level, &code)?)
    } else {
        None
    };
    let popped = core.stack_pointer().wrapping_add(3 * step);
    let from_level = core.cpl;
    if stack.is_none() {
        core.set_stack_pointer(popped);
    }
    core.leave_to(rip, code, level, stack);
    let stepped = core.system_flags & TF != 0;
    core.set_flags_as(from_level, flags, bytes);
    // Nobody else can see it.
    if (core.has_breakpoints || stepped) && bytes > 2 {
        core.system_flags = core.system_flags & !RF | flags & RF;
    }
    Ok(())
}

fn ret_far(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let step = bytes as u64;
    // In this order, as the faults of processors show.
    let selector = core.peek(step, bytes)? as u16;
    let rip = core.peek(0, bytes)?;
    let level = rpl(selector);
    if level < core.cpl {
        return Err(Fault::protection(selector));
    }
    let code = core.far_code_segment(selector, level)?;
    core.require_target(&code, rip)?;
    if level > core.cpl {
        let (pointer, segment) = core.outer_stack(2 * step + op.imm, bytes, level, &code)?;
        let pointer = pointer.wrapping_add(op.imm);
        core.leave_to(rip, code, level, Some((pointer, segment)));
    } else {
        let popped = core.stack_pointer().wrapping_add(2 * step + op.imm);
        core.set_stack_pointer(popped);
        core.leave_to(rip, code, level, None);
    }
    Ok(())
}

/// Selector and offset of a far jump or call; the offset's size in bytes stands in `src`.
fn far_operand(core: &mut Core, op: &Op) -> Result<(u16, u64), Fault> {
    if op.marks & HAS_MEMORY == 0 {
        return Ok((op.extra, op.imm));
    }
    core.load_far_pointer(core.address(op), usize::from(op.src))
}

fn far_target(core: &mut Core, op: &Op) -> Result<(u64, Segment), Fault> {
    let (selector, rip) = far_operand(core, op)?;
    let code = core.far_code_segment(selector, core.cpl)?;
    let conforming = code.access & access::CONFORMING != 0;
    if !conforming && rpl(selector) > core.cpl {
        return Err(Fault::protection(selector));
    }
    core.require_target(&code, rip)?;
    Ok((rip, code))
}

fn jmp_far(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let (rip, code) = far_target(core, op)?;
    core.leave_to(rip, code, core.cpl, None);
    Ok(())
}

fn call_far(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let (rip, code) = far_target(core, op)?;
    let bytes = usize::from(op.src);
    let (back, selector) = (core.rip, core.segments[seg::CS].selector);
    let before = core.get::<3>(reg::RSP);
    core.push(bytes, selector.into())?;
    if let Err(fault) = core.push(bytes, back) {
        core.set::<3>(reg::RSP, before);
        return Err(fault);
    }
    core.leave_to(rip, code, core.cpl, None);
    Ok(())
}

pub(super) fn select(instruction: &Instruction, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let far = matches!(
        instruction.op0_kind(),
        OpKind::FarBranch16 | OpKind::FarBranch32
    ) || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect();
    if far {
        op.src = match (instruction.op0_kind(), instruction.memory_size().size()) {
            (OpKind::FarBranch16, _) | (OpKind::Memory, 4) => 2,
            (OpKind::FarBranch32, _) | (OpKind::Memory, 6) => 4,
            _ => 8,
        };
    }
    let lowering = match instruction.mnemonic() {
        Iret => {
            op.extra = 2;
            system!(iret)
        }
        Iretd => {
            op.extra = 4;
            system!(iret)
        }
        Iretq => {
            op.extra = 8;
            system!(iret)
        }
        Retf => {
            op.extra = match instruction.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            };
            system!(ret_far)
        }
        Jmp if far => return Some(system!(jmp_far)),
        Call if far => return Some(system!(call_far)),
        _ => return None,
    };
    if !op.has_memory() {
        op.marks |= THROUGH_STACK;
    }
    Some(lowering)
}
