//! x87 instructions as micro-operations: checks, memory operands, and effects outside the FPU.
//!
//! With CR0.NE clear a pending exception would be an external interrupt; the machine has no such
//! wire, so it is #MF in both cases.

use iced_x86::{Code, Instruction, Mnemonic, Register};

use super::exec::Effect;
use super::state::{Fpu, Pointers};
use crate::core::{CodeSize, Core, cr0, reg, seg};
use crate::decode::segment_number;
use crate::fault::Fault;
use crate::flags::ARITHMETIC;
use crate::op::{Handler, Op, handler};

/// The handler of an x87 instruction, if it is one.
pub(crate) fn select(instruction: &Instruction, op: &mut Op) -> Option<Handler> {
    let code = instruction.code();
    if code == Code::Wait {
        return Some(handler!(wait));
    }
    let info = code.op_code();
    let opcode = info.op_code();
    let first = if info.op_code_len() == 2 {
        opcode >> 8
    } else {
        opcode
    };
    if !(0xd8..=0xdf).contains(&first) || !matches!(info.table(), iced_x86::OpCodeTableKind::Normal)
    {
        return None;
    }
    let escape = (first as u16 & 7) << 8;
    if info.op_code_len() == 2 {
        op.extra = escape | opcode as u16 & 0xff | stack_operand(instruction);
        // Whether it is defined does not depend on the state.
        Fpu::default().register(op.extra, 0).ok()?;
        return Some(handler!(register));
    }
    op.extra = escape | (info.group_index() as u16 & 7) << 3;
    op.imm = instruction.memory_size().size() as u64;
    op.src = segment_number(instruction.memory_segment()) as u8;
    Some(match instruction.mnemonic() {
        Mnemonic::Fnstenv => handler!(store_environment),
        Mnemonic::Fldenv => handler!(load_environment),
        Mnemonic::Fnsave => handler!(save),
        Mnemonic::Frstor => handler!(restore),
        _ if Fpu::reads(op.extra).is_some() => handler!(load),
        _ if Fpu::writes(op.extra).is_some() => handler!(store),
        _ => return None,
    })
}

/// The `i` of the operand `ST(i)` that is not fixed.
fn stack_operand(instruction: &Instruction) -> u16 {
    let number = |at: u32| {
        let register = instruction.op_register(at);
        if register.is_st() {
            register.number() as u16
        } else {
            0
        }
    };
    match instruction.op_count() {
        0 => 0,
        2 if instruction.op_register(0) == Register::ST0 => number(1),
        _ => number(0),
    }
}

/// What every waiting instruction begins with.
fn begin(core: &Core) -> Result<(), Fault> {
    core.require_fpu()?;
    if core.fpu.pending() {
        return Err(Fault::X87);
    }
    Ok(())
}

/// Notes opcode and addresses, as every instruction does that is not one of control. Of the ModRM
/// byte of a memory form, the opcode holds the middle three bits: how the operand was addressed is
/// not known any more.
fn note(core: &mut Core, op: &Op, data: Option<u64>) {
    let before = core.fpu.pointers;
    let (data, data_selector) = match data {
        Some(linear) => {
            let segment = usize::from(op.src);
            let base = match core.code_size {
                CodeSize::Long if segment < seg::FS => 0,
                _ => core.segment_base(segment),
            };
            (linear.wrapping_sub(base), core.segments[segment].selector)
        }
        None => (before.data, before.data_selector),
    };
    core.fpu.pointers = Pointers {
        opcode: op.extra,
        instruction: core.address_of(op),
        data,
        instruction_selector: core.segments[seg::CS].selector,
        data_selector,
    };
}

/// FWAIT.
fn wait(core: &mut Core, _: &Op) -> Result<(), Fault> {
    if core.cr0 & cr0::MP != 0 && core.cr0 & cr0::TS != 0 {
        return Err(Fault::NO_FPU);
    }
    if core.fpu.pending() {
        return Err(Fault::X87);
    }
    Ok(())
}

/// FNENI, FNDISI, FNCLEX, FNINIT, FNSETPM, FNSTSW AX: no #MF, and no note of their address.
fn is_control(fop: u16) -> bool {
    matches!(fop, 0x3e0..=0x3e4 | 0x7e0)
}

fn register(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let control = is_control(op.extra);
    if control {
        core.require_fpu()?;
    } else {
        begin(core)?;
        note(core, op, None);
    }
    let rflags = core.flags.bits();
    match core.fpu.register(op.extra, rflags) {
        Ok(Effect::None) => {}
        Ok(Effect::Flags(bits)) => core.flags.change(ARITHMETIC, bits),
        Ok(Effect::Ax(value)) => core.set::<1>(reg::RAX, u64::from(value)),
        Err(_) => return Err(Fault::UNDEFINED),
    }
    Ok(())
}

/// The two memory forms that are control instructions.
const FLDCW: u16 = 0x128;
const FNSTCW: u16 = 0x138;
const FNSTSW: u16 = 0x538;

fn load(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    let address = core.address(op);
    let mut bytes = [0; 16];
    core.load_bytes(address, &mut bytes[..op.imm as usize])?;
    if op.extra != FLDCW {
        note(core, op, Some(address));
    }
    core.fpu.memory_load(op.extra, u128::from_le_bytes(bytes));
    Ok(())
}

fn store(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let control = matches!(op.extra, FNSTCW | FNSTSW);
    if control {
        core.require_fpu()?;
    } else {
        begin(core)?;
    }
    let address = core.address(op);
    let store = core.fpu.memory_store(op.extra);
    if let Some(value) = store.bytes {
        core.store_bytes(address, &value.to_le_bytes()[..op.imm as usize])?;
    } else {
        // An unmasked exception keeps the store from happening, but not from faulting.
        core.probe_write(address, op.imm as usize)?;
    }
    if !control {
        note(core, op, Some(address));
        core.fpu.stored(op.extra, &store);
    }
    Ok(())
}

fn store_environment(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_fpu()?;
    let mut fpu = core.fpu.clone();
    let mut image = [0; 28];
    let image = &mut image[..op.imm as usize];
    fpu.save_environment(image);
    core.store_bytes(core.address(op), image)?;
    core.fpu = fpu;
    Ok(())
}

fn load_environment(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    let mut image = [0; 28];
    let image = &mut image[..op.imm as usize];
    core.load_bytes(core.address(op), image)?;
    core.fpu.load_environment(image);
    Ok(())
}

fn save(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_fpu()?;
    let mut fpu = core.fpu.clone();
    let mut image = [0; 108];
    let image = &mut image[..op.imm as usize];
    fpu.save(image);
    core.store_bytes(core.address(op), image)?;
    core.fpu = fpu;
    Ok(())
}

fn restore(core: &mut Core, op: &Op) -> Result<(), Fault> {
    begin(core)?;
    let mut image = [0; 108];
    let image = &mut image[..op.imm as usize];
    core.load_bytes(core.address(op), image)?;
    core.fpu.restore(image);
    Ok(())
}
