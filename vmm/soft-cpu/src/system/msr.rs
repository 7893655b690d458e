//! RDMSR and WRMSR.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{Core, efer, reg, seg};
use crate::decode::Lowering;
use crate::fault::Fault;
use crate::memory::paging::is_canonical;
use crate::op::{Op, SEGMENT_BASES, handler};
use crate::state::STORED_MSRS;

use super::system;

const TIME_STAMP_COUNTER: u32 = 0x10;
const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1B;
const TSC_ADJUST: u32 = 0x3B;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const PAT: u32 = 0x277;
const EFER: u32 = 0xC000_0080;
const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
const CSTAR: u32 = 0xC000_0083;
const FMASK: u32 = 0xC000_0084;
const FS_BASE: u32 = 0xC000_0100;
const GS_BASE: u32 = 0xC000_0101;
const KERNEL_GS_BASE: u32 = 0xC000_0102;

/// The APIC's address after reset, with the bit clear that enables it: there is none.
const APIC_DISABLED: u64 = 0xFEE0_0000;

const EFER_BITS: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;

fn stored(number: u32) -> Option<usize> {
    STORED_MSRS.iter().position(|msr| *msr == number)
}

impl Core {
    fn read_msr(&self, number: u32, position: u64) -> Result<u64, Fault> {
        Ok(match number {
            TIME_STAMP_COUNTER => self.time.counter(position),
            PLATFORM_ID => 0,
            APIC_BASE => APIC_DISABLED,
            TSC_ADJUST => self.time.adjust,
            SYSENTER_CS..=SYSENTER_EIP => self.sysenter[(number - SYSENTER_CS) as usize],
            EFER => self.efer,
            STAR => self.star,
            LSTAR => self.lstar,
            CSTAR => self.cstar,
            FMASK => self.fmask,
            FS_BASE => self.segment_base(seg::FS),
            GS_BASE => self.segment_base(seg::GS),
            KERNEL_GS_BASE => self.kernel_gs_base,
            _ => self.stored_msrs[stored(number).ok_or(Fault::PROTECTION)?],
        })
    }

    fn write_msr(&mut self, number: u32, value: u64, position: u64) -> Result<(), Fault> {
        let holds_address = matches!(
            number,
            SYSENTER_ESP | SYSENTER_EIP | LSTAR | CSTAR | FS_BASE | GS_BASE | KERNEL_GS_BASE
        );
        if holds_address && !is_canonical(value) {
            return Err(Fault::PROTECTION);
        }
        let bases = usize::from(SEGMENT_BASES);
        match number {
            TIME_STAMP_COUNTER => self.time.write_counter(value, position),
            TSC_ADJUST => self.time.adjust = value,
            SYSENTER_CS..=SYSENTER_EIP => {
                self.sysenter[(number - SYSENTER_CS) as usize] = value;
            }
            EFER => self.write_efer(value)?,
            STAR => self.star = value,
            LSTAR => self.lstar = value,
            CSTAR => self.cstar = value,
            FMASK => self.fmask = value & 0xFFFF_FFFF,
            FS_BASE => self.regs[bases + seg::FS] = value,
            GS_BASE => self.regs[bases + seg::GS] = value,
            KERNEL_GS_BASE => self.kernel_gs_base = value,
            PAT if value
                .to_le_bytes()
                .iter()
                .any(|kind| !matches!(kind, 0 | 1 | 4..=7)) =>
            {
                return Err(Fault::PROTECTION);
            }
            _ => self.stored_msrs[stored(number).ok_or(Fault::PROTECTION)?] = value,
        }
        Ok(())
    }

    fn write_efer(&mut self, value: u64) -> Result<(), Fault> {
        let changes_mode = (value ^ self.efer) & efer::LME != 0;
        if value & !EFER_BITS != 0 || changes_mode && self.paging() {
            return Err(Fault::PROTECTION);
        }
        // LMA follows CR0.PG alone.
        let value = value & !efer::LMA | self.efer & efer::LMA;
        if (value ^ self.efer) & efer::NXE != 0 {
            self.flush_tlbs();
        }
        self.efer = value;
        Ok(())
    }
}

fn rdmsr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let value = core.read_msr(core.get::<2>(reg::RCX) as u32, core.position_of(op))?;
    core.set::<2>(reg::RAX, value);
    core.set::<2>(reg::RDX, value >> 32);
    Ok(())
}

fn wrmsr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_kernel()?;
    let value = core.get::<2>(reg::RDX) << 32 | core.get::<2>(reg::RAX);
    core.write_msr(core.get::<2>(reg::RCX) as u32, value, core.position_of(op))
}

pub(super) fn select(instruction: &Instruction) -> Option<Lowering> {
    Some(match instruction.mnemonic() {
        Mnemonic::Rdmsr => Lowering::of(handler!(rdmsr)),
        Mnemonic::Wrmsr => system!(wrmsr),
        _ => return None,
    })
}
