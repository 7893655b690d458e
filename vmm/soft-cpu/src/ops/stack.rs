//! PUSH, POP, PUSHA, POPA, ENTER, LEAVE.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::core::{CodeSize, Core, reg, seg};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::memory::paging::is_canonical;
use crate::op::{HAS_MEMORY, Handler, Leave, Op, THROUGH_STACK, handler, next, next_on, reach};

// ---- 64-bit operands in 64-bit mode --------------------------------------------------------------

#[inline(always)]
fn push_value<const FAST: bool>(
    core: &mut Core,
    op: &Op,
    rest: &[Op],
    value: u64,
    slow: Handler,
) -> Leave {
    let stack = core.get::<3>(reg::RSP).wrapping_sub(8);
    if !FAST && !is_canonical(stack) {
        return core.stop_before(op, Fault::STACK);
    }
    let stored = core.store_on::<FAST, 3>(stack, value);
    reach!(FAST, core, op, rest, stored, slow);
    core.set::<3>(reg::RSP, stack);
    next_on::<FAST>(core, op, rest)
}

#[inline(never)]
fn push_r<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let value = core.get::<3>(op.dst);
    push_value::<FAST>(core, op, rest, value, push_r::<false>)
}

#[inline(never)]
fn push_i<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    push_value::<FAST>(core, op, rest, op.imm, push_i::<false>)
}

#[inline(never)]
fn push_m<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let loaded = core.load_on::<FAST, 3>(core.address(op));
    let value = reach!(FAST, core, op, rest, loaded, push_m::<false>);
    push_value::<FAST>(core, op, rest, value, push_m::<false>)
}

#[inline(never)]
fn pop_r<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let stack = core.get::<3>(reg::RSP);
    let loaded = core.load_on::<FAST, 3>(stack);
    let value = reach!(FAST, core, op, rest, loaded, pop_r::<false>);
    core.set::<3>(reg::RSP, stack.wrapping_add(8));
    core.set::<3>(op.dst, value);
    next(core, rest)
}

#[inline(never)]
fn leave_64<const FAST: bool>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    let stack = core.get::<3>(reg::RBP);
    let loaded = core.load_on::<FAST, 3>(stack);
    let value = reach!(FAST, core, op, rest, loaded, leave_64::<false>);
    core.set::<3>(reg::RSP, stack.wrapping_add(8));
    core.set::<3>(reg::RBP, value);
    next(core, rest)
}

// ---- all sizes and modes -------------------------------------------------------------------------

impl Core {
    /// RSP, as far as the mode uses it.
    pub(crate) fn stack_pointer(&self) -> u64 {
        self.get::<3>(reg::RSP) & self.stack_mask
    }

    /// Sets the part of RSP that the mode uses.
    pub(crate) fn set_stack_pointer(&mut self, to: u64) {
        match self.stack_mask {
            0xFFFF => self.set::<1>(reg::RSP, to),
            0xFFFF_FFFF => self.set::<2>(reg::RSP, to),
            _ => self.set::<3>(reg::RSP, to),
        }
    }

    /// The linear address of `len` bytes at a stack offset.
    pub(crate) fn stack_address(&self, offset: u64, len: usize) -> Result<u64, Fault> {
        if self.code_size == CodeSize::Long {
            let last = offset.wrapping_add(len as u64 - 1);
            let canonical = is_canonical(offset) && is_canonical(last);
            return if canonical {
                Ok(offset)
            } else {
                Err(Fault::STACK)
            };
        }
        self.segment_address(seg::SS, offset & self.stack_mask, len as u64)
    }

    /// Pushes `bytes` bytes.
    pub(crate) fn push(&mut self, bytes: usize, value: u64) -> Result<(), Fault> {
        let to = self.stack_pointer().wrapping_sub(bytes as u64);
        let address = self.stack_address(to, bytes)?;
        self.store_bytes(address, &value.to_le_bytes()[..bytes])?;
        self.set_stack_pointer(to);
        Ok(())
    }

    /// The value `at` bytes above the stack pointer.
    pub(crate) fn peek(&mut self, at: u64, bytes: usize) -> Result<u64, Fault> {
        let offset = self.stack_pointer().wrapping_add(at);
        let address = self.stack_address(offset, bytes)?;
        let mut value = [0; 8];
        self.load_bytes(address, &mut value[..bytes])?;
        Ok(u64::from_le_bytes(value))
    }

    /// Pops `bytes` bytes.
    pub(crate) fn pop(&mut self, bytes: usize) -> Result<u64, Fault> {
        let value = self.peek(0, bytes)?;
        let to = self.stack_pointer().wrapping_add(bytes as u64);
        self.set_stack_pointer(to);
        Ok(value)
    }

    /// Reads the register or memory operand of an instruction whose size stands in `extra`.
    fn stack_operand(&mut self, op: &Op) -> Result<u64, Fault> {
        if op.marks & HAS_MEMORY == 0 {
            return Ok(self.get::<3>(op.dst));
        }
        let mut value = [0; 8];
        let address = self.address(op);
        self.load_bytes(address, &mut value[..usize::from(op.extra)])?;
        Ok(u64::from_le_bytes(value))
    }
}

fn push_operand(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let value = core.stack_operand(op)?;
    core.push(usize::from(op.extra), value)
}

fn push_immediate(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.push(usize::from(op.extra), op.imm)
}

fn pop_operand(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let value = core.peek(0, bytes)?;
    let before = core.stack_pointer();
    // A memory operand with RSP as base is addressed with the pointer behind the pop.
    core.set_stack_pointer(before.wrapping_add(bytes as u64));
    if op.marks & HAS_MEMORY == 0 {
        match bytes {
            2 => core.set::<1>(op.dst, value),
            4 => core.set::<2>(op.dst, value),
            _ => core.set::<3>(op.dst, value),
        }
        return Ok(());
    }
    let stored = store_popped(core, op, bytes, value);
    if stored.is_err() {
        core.set_stack_pointer(before);
    }
    stored
}

fn store_popped(core: &mut Core, op: &Op, bytes: usize, value: u64) -> Result<(), Fault> {
    let mut address = core.address(op);
    if op.base == crate::op::ADDRESS && op.src == reg::RSP {
        // The address was computed before the pop.
        address = address.wrapping_add(bytes as u64);
    }
    core.store_bytes(address, &value.to_le_bytes()[..bytes])
}

fn pusha(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let before = core.get::<3>(reg::RSP);
    let registers: [u64; 8] = core.regs[..8].try_into().expect("eight");
    // One after the other: where one faults, those before it stand in memory all the same.
    let pushed = registers
        .into_iter()
        .try_for_each(|value| core.push(bytes, value));
    if pushed.is_err() {
        core.set::<3>(reg::RSP, before);
    }
    pushed
}

fn popa(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let mut values = [0; 8];
    for (i, value) in values.iter_mut().enumerate() {
        *value = core.peek((i * bytes) as u64, bytes)?;
    }
    let top = core.stack_pointer().wrapping_add(8 * bytes as u64);
    for (register, value) in (0..8).rev().zip(values) {
        match bytes {
            _ if register == reg::RSP => {}
            2 => core.set::<1>(register, value),
            _ => core.set::<2>(register, value),
        }
    }
    core.set_stack_pointer(top);
    Ok(())
}

fn leave(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let frame = core.get::<3>(reg::RBP) & core.stack_mask;
    let address = core.stack_address(frame, bytes)?;
    let mut value = [0; 8];
    core.load_bytes(address, &mut value[..bytes])?;
    core.set_stack_pointer(frame.wrapping_add(bytes as u64));
    set_frame_pointer(core, bytes, u64::from_le_bytes(value));
    Ok(())
}

fn set_frame_pointer(core: &mut Core, bytes: usize, value: u64) {
    match bytes {
        2 => core.set::<1>(reg::RBP, value),
        4 => core.set::<2>(reg::RBP, value),
        _ => core.set::<3>(reg::RBP, value),
    }
}

/// ENTER: `imm` bytes of locals, nesting level in `src` (SDM vol. 2A, ENTER).
fn enter(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let bytes = usize::from(op.extra);
    let level = u64::from(op.src & 31);
    let before = core.stack_pointer();
    let result = enter_from(core, bytes, level, op.imm & 0xFFFF);
    if result.is_err() {
        core.set_stack_pointer(before);
    }
    result
}

fn enter_from(core: &mut Core, bytes: usize, level: u64, locals: u64) -> Result<(), Fault> {
    let old = core.get::<3>(reg::RBP);
    core.push(bytes, old)?;
    let frame = core.stack_pointer();
    for i in 1..level {
        let outer = old.wrapping_sub(i * bytes as u64) & core.stack_mask;
        let address = core.stack_address(outer, bytes)?;
        let mut value = [0; 8];
        core.load_bytes(address, &mut value[..bytes])?;
        core.push(bytes, u64::from_le_bytes(value))?;
    }
    if level > 0 {
        core.push(bytes, frame)?;
    }
    let top = core.stack_pointer().wrapping_sub(locals);
    // The new top must be writable, or the instruction faults.
    let address = core.stack_address(top, bytes)?;
    core.probe_write(address, bytes)?;
    core.set_stack_pointer(top);
    set_frame_pointer(core, bytes, frame);
    Ok(())
}

pub(super) fn select(instruction: &Instruction, size: CodeSize, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let mnemonic = instruction.mnemonic();
    if !matches!(
        mnemonic,
        Push | Pop | Pusha | Pushad | Popa | Popad | Enter | Leave
    ) || instruction.op0_register().is_segment_register()
    {
        return None;
    }
    let bytes = instruction.stack_pointer_increment().unsigned_abs() as u16;
    let kind = instruction.op0_kind();
    if !op.has_memory() {
        op.marks |= THROUGH_STACK;
    }
    op.extra = bytes;
    let long = size == CodeSize::Long && bytes == 8;
    let run: Handler = match mnemonic {
        Push if long && kind == OpKind::Register => push_r::<true>,
        Push if long && kind == OpKind::Memory => push_m::<true>,
        Push if long => push_i::<true>,
        Push if matches!(kind, OpKind::Register | OpKind::Memory) => handler!(push_operand),
        Push => handler!(push_immediate),
        Pop if long && kind == OpKind::Register => pop_r::<true>,
        Pop => {
            // Remembered for an address that is computed ahead.
            op.src = crate::decode::number(instruction.memory_base());
            handler!(pop_operand)
        }
        Pusha | Pushad => {
            op.extra = bytes / 8;
            handler!(pusha)
        }
        Popa | Popad => {
            op.extra = bytes / 8;
            handler!(popa)
        }
        Leave => match instruction.code() {
            Code::Leaveq => leave_64::<true>,
            code => {
                op.extra = if code == Code::Leavew { 2 } else { 4 };
                handler!(leave)
            }
        },
        Enter => {
            op.src = instruction.immediate8_2nd();
            op.extra = match instruction.code() {
                Code::Enterw_imm16_imm8 => 2,
                Code::Enterd_imm16_imm8 => 4,
                _ => 8,
            };
            handler!(enter)
        }
        _ => return None,
    };
    Some(Lowering::of(run))
}
