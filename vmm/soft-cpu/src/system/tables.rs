//! LGDT, LIDT, SGDT, SIDT, LLDT, SLDT, LTR, STR.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{CodeSize, Core};
use crate::decode::Lowering;
use crate::fault::{Fault, vector};
use crate::memory::paging::is_canonical;
use crate::op::{HAS_MEMORY, Op, WIDE, handler};
use crate::state::{Segment, Table, UNUSABLE};

use super::segments::{from_descriptor, is_null, is_present, null_segment, system_type};

/// The operand of LGDT and LIDT: a limit, and a base of eight bytes in 64-bit mode, else four.
fn load_table(core: &mut Core, op: &Op) -> Result<Table, Fault> {
    core.require_kernel()?;
    let mut bytes = [0; 10];
    let len = if op.marks & WIDE != 0 { 10 } else { 6 };
    let address = core.address(op);
    core.load_bytes(address, &mut bytes[..len])?;
    let base = u64::from_le_bytes(bytes[2..].try_into().expect("eight bytes"));
    if !is_canonical(base) {
        return Err(Fault::PROTECTION);
    }
    Ok(Table {
        limit: u16::from_le_bytes([bytes[0], bytes[1]]),
        base,
    })
}

fn lgdt(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.gdt = load_table(core, op)?;
    Ok(())
}

fn lidt(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.idt = load_table(core, op)?;
    Ok(())
}

fn store_table(core: &mut Core, op: &Op, table: Table) -> Result<(), Fault> {
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    let len = if op.marks & WIDE != 0 { 10 } else { 6 };
    core.store_bytes(core.address(op), &bytes[..len])
}

fn sgdt(core: &mut Core, op: &Op) -> Result<(), Fault> {
    store_table(core, op, core.gdt)
}

fn sidt(core: &mut Core, op: &Op) -> Result<(), Fault> {
    store_table(core, op, core.idt)
}

fn selector_operand(core: &mut Core, op: &Op) -> Result<u16, Fault> {
    Ok(if op.marks & HAS_MEMORY != 0 {
        core.load::<1>(core.address(op))? as u16
    } else {
        core.get::<1>(op.dst) as u16
    })
}

/// A system segment out of the GDT: in long mode its descriptor has 16 bytes, and a 64-bit base.
fn system_segment(core: &mut Core, selector: u16) -> Result<Segment, Fault> {
    if selector & 4 != 0 {
        return Err(Fault::protection(selector));
    }
    let len = if core.long_mode() { 16 } else { 8 };
    let address = core.descriptor_address(selector, len)?;
    let mut bytes = [0; 16];
    core.as_supervisor(|core| core.load_bytes(address, &mut bytes[..len as usize]))?;
    let low = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let high = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    let mut segment = from_descriptor(selector, low);
    segment.base |= u64::from(high) << 32;
    if !is_canonical(segment.base) {
        return Err(Fault::protection(selector));
    }
    Ok(segment)
}

fn lldt(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let selector = selector_operand(core, op)?;
    if is_null(selector) {
        core.ldt = null_segment(selector, 0);
        return Ok(());
    }
    let segment = system_segment(core, selector)?;
    if segment.access & 0x1F != system_type::LDT {
        return Err(Fault::protection(selector));
    }
    if !is_present(&segment) {
        return Err(Fault::Coded(vector::NP, selector & !3));
    }
    core.ldt = segment;
    Ok(())
}

fn ltr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let selector = selector_operand(core, op)?;
    if is_null(selector) {
        return Err(Fault::PROTECTION);
    }
    let mut segment = system_segment(core, selector)?;
    if segment.access & 0x1F != system_type::TASK {
        return Err(Fault::protection(selector));
    }
    if !is_present(&segment) {
        return Err(Fault::Coded(vector::NP, selector & !3));
    }
    segment.access = segment.access & !0x1F | system_type::TASK_BUSY;
    let at = core.descriptor_address(selector, 8)?.wrapping_add(5);
    let byte = u64::from(segment.access as u8);
    core.as_supervisor(|core| core.store::<0>(at, byte))?;
    core.task = segment;
    Ok(())
}

fn store_selector(core: &mut Core, op: &Op, segment: Segment) -> Result<(), Fault> {
    let selector = u64::from(segment.selector);
    if op.marks & HAS_MEMORY != 0 {
        return core.store::<1>(core.address(op), selector);
    }
    match op.extra {
        2 => core.set::<1>(op.dst, selector),
        _ => core.set::<3>(op.dst, selector),
    }
    Ok(())
}

fn sldt(core: &mut Core, op: &Op) -> Result<(), Fault> {
    store_selector(core, op, core.ldt)
}

fn str(core: &mut Core, op: &Op) -> Result<(), Fault> {
    store_selector(core, op, core.task)
}

impl Core {
    /// `len` bytes at an offset in the TSS, or `None` beyond its limit.
    pub(super) fn task_address(&self, offset: u64, len: u64) -> Option<u64> {
        let fits = self.task.access & UNUSABLE == 0 && offset + len - 1 <= self.task.limit.into();
        fits.then(|| self.task.base.wrapping_add(offset))
    }
}

pub(super) fn select(instruction: &Instruction, size: CodeSize, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let run = match instruction.mnemonic() {
        Lgdt => handler!(lgdt),
        Lidt => handler!(lidt),
        Sgdt => handler!(sgdt),
        Sidt => handler!(sidt),
        Lldt => handler!(lldt),
        Ltr => handler!(ltr),
        Sldt => handler!(sldt),
        Str => handler!(str),
        _ => return None,
    };
    if size == CodeSize::Long {
        op.marks |= WIDE;
    }
    op.extra = instruction.op0_register().size() as u16;
    Some(Lowering::of(run))
}
