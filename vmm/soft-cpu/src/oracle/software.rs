//! This crate's CPU on the same state as the processor: 64-bit mode, paging off.

use super::Machine;
use crate::core::{CodeSize, Core, cr4, reg, seg};
use crate::cpuid::CpuidTable;
use crate::decode::{Block, Source, translate};
use crate::fault::Fault;
use crate::flags::{ARITHMETIC, Flags};
use crate::memory::ram::Ram;
use crate::op::{Leave, START, next};

/// Where the memory operand is.
pub(crate) const OPERAND: u64 = 0x2000;

/// Where code of 64-bit user programs is on Linux.
const CS: u16 = 0x33;

/// A CPU with one instruction.
pub(crate) struct Software {
    pub(crate) core: Core,
    /// RSI: where the memory operand is.
    pub(crate) operand: u64,
    block: Block,
}

impl Software {
    /// A CPU with this instruction.
    pub(crate) fn new(instruction: &[u8]) -> Software {
        let mut core = Core::new(Ram::anonymous(0x4000), CpuidTable::default());
        core.code_size = CodeSize::Long;
        core.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT;
        core.segments[seg::CS].selector = CS;
        let source = Source {
            bytes: instruction,
            size: CodeSize::Long,
        };
        let block = translate(source, 1).expect("a whole instruction");
        Software {
            core,
            operand: OPERAND,
            block,
        }
    }

    /// Runs it at `address`.
    pub(crate) fn run(&mut self, machine: &mut Machine, address: u64) -> Result<(), Fault> {
        let core = &mut self.core;
        core.fpu.restore(&machine.saved[..108]);
        assert!(core.ram.write(OPERAND, &machine.memory));
        core.regs[usize::from(START)] = address;
        core.regs[usize::from(reg::RSI)] = self.operand;
        core.regs[usize::from(reg::RAX)] = machine.rax;
        core.flags = Flags::from_bits(machine.flags);
        core.xmm[..2].copy_from_slice(&machine.xmm);
        core.mxcsr = machine.mxcsr;
        let leave = next(core, &self.block.ops);

        core.fpu.save(&mut machine.saved[..108]);
        assert!(core.ram.read(OPERAND, &mut machine.memory));
        machine.flags = machine.flags & !ARITHMETIC | core.flags.bits();
        machine.rax = core.regs[usize::from(reg::RAX)];
        machine.xmm.copy_from_slice(&core.xmm[..2]);
        machine.mxcsr = core.mxcsr;
        match leave {
            Leave::Fault => Err(core.fault),
            _ => Ok(()),
        }
    }
}
