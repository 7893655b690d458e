//! Control and debug registers, INVLPG, HLT, CPUID, RDTSC and what else the kernel alone may do.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{CodeSize, Core, cr0, cr4, efer, reg};
use crate::decode::Lowering;
use crate::fault::{Fault, vector};
use crate::memory::paging::PHYSICAL_BITS;
use crate::op::{HAS_MEMORY, Op, handler};

use super::system;

/// The bits that CR0 keeps.
const CR0_BITS: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;

/// The bits of CR4 that go with what CPUID claims.
const CR4_BITS: u64 =
    cr4::TSD | cr4::DE | cr4::PSE | cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT;

/// DR6 as far as it is not writable, and likewise DR7.
const DR6_ONES: u64 = 0xFFFF_0FF0;
const DR6_BITS: u64 = 0xE00F;
const DR7_ONE: u64 = 1 << 10;
const DR7_BITS: u64 = 0xFFFF_2BFF;

impl Core {
    /// Forgets all translations.
    pub(super) fn flush_tlbs(&mut self) {
        self.tlb.flush();
        self.fetch_tlb.flush();
    }

    fn write_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let has = |bit: u64| value & bit != 0;
        if value >> 32 != 0 || has(cr0::PG) && !has(cr0::PE) || has(cr0::NW) && !has(cr0::CD) {
            return Err(Fault::PROTECTION);
        }
        let pages = has(cr0::PG);
        let may_page = self.efer & efer::LME != 0 && self.cr4 & cr4::PAE != 0;
        if pages && !self.paging() && !may_page {
            // Outside long mode this CPU does not page.
            return Err(Fault::PROTECTION);
        }
        if !pages && self.paging() && self.code_size == CodeSize::Long {
            return Err(Fault::PROTECTION);
        }
        let value = value & CR0_BITS | cr0::ET;
        if (value ^ self.cr0) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.flush_tlbs();
        }
        self.cr0 = value;
        if pages {
            self.efer |= efer::LMA;
        } else {
            self.efer &= !efer::LMA;
        }
        self.update_modes();
        Ok(())
    }

    fn write_cr3(&mut self, value: u64) -> Result<(), Fault> {
        if value >> PHYSICAL_BITS != 0 {
            return Err(Fault::PROTECTION);
        }
        self.cr3 = value;
        self.tlb.flush_local();
        self.fetch_tlb.flush_local();
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Fault> {
        if value & !CR4_BITS != 0 || self.long_mode() && value & cr4::PAE == 0 {
            return Err(Fault::PROTECTION);
        }
        if (value ^ self.cr4) & (cr4::PGE | cr4::PAE | cr4::PSE) != 0 {
            self.flush_tlbs();
        }
        self.cr4 = value;
        Ok(())
    }

    /// DR4 and DR5 are other names of DR6 and DR7, unless CR4.DE says that they are none.
    fn debug_register(&self, number: u8) -> Result<usize, Fault> {
        const GENERAL_DETECT: u64 = 1 << 13;
        self.require_kernel()?;
        if self.debug[5] & GENERAL_DETECT != 0 {
            return Err(Fault::Plain(vector::DB));
        }
        match number {
            0..=3 => Ok(usize::from(number)),
            4 | 5 if self.cr4 & cr4::DE != 0 => Err(Fault::UNDEFINED),
            4 | 6 => Ok(4),
            5 | 7 => Ok(5),
            _ => Err(Fault::UNDEFINED),
        }
    }
}

fn mov_to_cr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let mut value = core.get::<3>(op.src);
    if core.code_size != CodeSize::Long {
        value &= 0xFFFF_FFFF;
    }
    match op.dst {
        0 => core.write_cr0(value),
        2 => {
            core.cr2 = value;
            Ok(())
        }
        3 => core.write_cr3(value),
        4 => core.write_cr4(value),
        8 if value < 16 => {
            core.cr8 = value;
            Ok(())
        }
        8 => Err(Fault::PROTECTION),
        _ => Err(Fault::UNDEFINED),
    }
}

fn mov_from_cr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let value = match op.src {
        0 => core.cr0,
        2 => core.cr2,
        3 => core.cr3,
        4 => core.cr4,
        8 => core.cr8,
        _ => return Err(Fault::UNDEFINED),
    };
    core.set::<3>(op.dst, value);
    Ok(())
}

fn mov_to_dr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let number = core.debug_register(op.dst)?;
    let value = core.get::<3>(op.src);
    if number > 3 && value >> 32 != 0 {
        return Err(Fault::PROTECTION);
    }
    core.debug[number] = match number {
        4 => value & DR6_BITS | DR6_ONES,
        5 => value & DR7_BITS | DR7_ONE,
        _ => value,
    };
    core.update_breakpoints();
    Ok(())
}

fn mov_from_dr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let number = core.debug_register(op.src)?;
    core.set::<3>(op.dst, core.debug[number]);
    Ok(())
}

/// LMSW: the low four bits of CR0; PE can be set, not cleared.
fn lmsw(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let value = if op.marks & HAS_MEMORY != 0 {
        core.load::<1>(core.address(op))?
    } else {
        core.get::<1>(op.dst)
    };
    core.write_cr0(core.cr0 & !0xE | value & 0xF)
}

fn smsw(core: &mut Core, op: &Op) -> Result<(), Fault> {
    if op.marks & HAS_MEMORY != 0 {
        return core.store::<1>(core.address(op), core.cr0);
    }
    match op.extra {
        2 => core.set::<1>(op.dst, core.cr0),
        4 => core.set::<2>(op.dst, core.cr0),
        _ => core.set::<3>(op.dst, core.cr0),
    }
    Ok(())
}

fn clts(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    core.cr0 &= !cr0::TS;
    Ok(())
}

fn invlpg(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let address = core.address(op);
    core.tlb.invalidate(address);
    core.fetch_tlb.invalidate(address);
    Ok(())
}

/// INVD and WBINVD: memory has one owner, so caches have nothing to give back.
fn kernel_only(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.require_kernel()
}

fn hlt(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    core.halted = true;
    Ok(())
}

fn cpuid(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let leaf = core.get::<2>(reg::RAX) as u32;
    let subleaf = core.get::<2>(reg::RCX) as u32;
    let [eax, ebx, ecx, edx] = core.cpuid.answer(leaf, subleaf);
    core.set::<2>(reg::RAX, eax.into());
    core.set::<2>(reg::RBX, ebx.into());
    core.set::<2>(reg::RCX, ecx.into());
    core.set::<2>(reg::RDX, edx.into());
    Ok(())
}

fn rdtsc(core: &mut Core, op: &Op) -> Result<(), Fault> {
    if core.cr4 & cr4::TSD != 0 && core.cpl > 0 {
        return Err(Fault::PROTECTION);
    }
    let value = core.time.counter(core.position_of(op));
    core.set::<2>(reg::RAX, value);
    core.set::<2>(reg::RDX, value >> 32);
    Ok(())
}

/// RDPMC: there are no counters.
fn rdpmc(_: &mut Core, _: &Op) -> Result<(), Fault> {
    Err(Fault::PROTECTION)
}

pub(super) fn select(instruction: &Instruction, _: CodeSize, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let (first, second) = (instruction.op0_register(), instruction.op1_register());
    let lowering = match instruction.mnemonic() {
        Mov if first.is_cr() => system!(mov_to_cr),
        Mov if second.is_cr() => Lowering::of(handler!(mov_from_cr)),
        Mov if first.is_dr() => system!(mov_to_dr),
        Mov if second.is_dr() => Lowering::of(handler!(mov_from_dr)),
        Lmsw => system!(lmsw),
        Smsw => {
            op.extra = first.size() as u16;
            Lowering::of(handler!(smsw))
        }
        Clts => Lowering::of(handler!(clts)),
        Invlpg => system!(invlpg),
        Invd | Wbinvd => Lowering::of(handler!(kernel_only)),
        Hlt => system!(hlt),
        Cpuid => Lowering::of(handler!(cpuid)),
        Rdtsc => Lowering::of(handler!(rdtsc)),
        Rdpmc => Lowering::of(handler!(rdpmc)),
        _ => return None,
    };
    Some(lowering)
}
