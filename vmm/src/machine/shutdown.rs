//! What a guest left behind whose CPU shut down: a fault while a double fault was delivered (Intel
//! SDM vol. 3, 6.15, "Interrupt 8"). It is a bug of the guest's; this is what one needs to find it.

use std::fmt::{self, Display};

use ft_logging::types::Position;
use vm_memory::{Bytes as _, GuestAddress};

use super::Machine;
use crate::cpu::{Cpu, CpuState, Executed};
use crate::sys::vm::GuestMemory;

/// Bytes of code and words of stack that are shown.
const CODE_BYTES: u64 = 16;
const STACK_WORDS: u64 = 16;

/// Instructions that are shown.
const INSTRUCTIONS: usize = 20;

/// The machine as the triple fault left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    position: Position,
    cpu: CpuState,
    /// The last instructions, the latest last.
    executed: Vec<Executed>,
    /// From RIP on, as far as it is mapped.
    code: Vec<u8>,
    /// From RSP on, as far as it is mapped.
    stack: Vec<u64>,
}

impl Shutdown {
    /// Looks at a machine that a triple fault switched off. `None` if its CPU keeps nothing.
    pub fn of<C: Cpu>(machine: &mut Machine<C>) -> Option<Self> {
        let cpu = machine.cpu.save().ok()?;
        let byte = |address| read(&machine.ram, &cpu.control, address).map(|[byte]| byte);
        let executed = machine.cpu.executed(INSTRUCTIONS, &byte)?;
        let code = (0..CODE_BYTES)
            .map_while(|offset| byte(cpu.rip.wrapping_add(offset)))
            .collect();
        let rsp = cpu.general[4];
        let stack = (0..STACK_WORDS)
            .map_while(|word| read(&machine.ram, &cpu.control, rsp.wrapping_add(word * 8)))
            .map(u64::from_le_bytes)
            .collect();
        Some(Shutdown {
            position: machine.position(),
            cpu,
            executed,
            code,
            stack,
        })
    }
}

/// The bytes at a virtual address, each where the page tables say it is; nothing is marked as
/// accessed.
fn read<const N: usize>(ram: &GuestMemory, control: &[u64; 5], address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (offset, byte) in bytes.iter_mut().enumerate() {
        let physical = translate(ram, control, address.wrapping_add(offset as u64))?;
        *byte = ram.read_obj(GuestAddress(physical)).ok()?;
    }
    Some(bytes)
}

/// 4-level paging (Intel SDM vol. 3, 4.5), without permissions; by CR0 and CR3.
fn translate(ram: &GuestMemory, control: &[u64; 5], address: u64) -> Option<u64> {
    const PAGING: u64 = 1 << 31;
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    const FRAME: u64 = 0x000F_FFFF_FFFF_F000;
    let [cr0, _, cr3, ..] = *control;
    if cr0 & PAGING == 0 {
        return Some(address);
    }
    let mut table = cr3 & FRAME;
    for shift in [39, 30, 21, 12] {
        let slot = table + (address >> shift) % 512 * 8;
        let entry: u64 = ram.read_obj(GuestAddress(slot)).ok()?;
        if entry & PRESENT == 0 {
            return None;
        }
        let is_page = shift == 12 || (shift < 39 && entry & LARGE != 0);
        if is_page {
            let inside = (1_u64 << shift) - 1;
            return Some((entry & FRAME & !inside) | (address & inside));
        }
        table = entry & FRAME;
    }
    unreachable!("the last level is a page")
}

impl Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GENERAL: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        const CONTROL: [&str; 5] = ["cr0", "cr2", "cr3", "cr4", "cr8"];
        let cpu = &self.cpu;
        writeln!(
            f,
            "the guest's CPU met a triple fault at position {}, at {:#018x}",
            self.position, cpu.rip
        )?;
        let registers = GENERAL.into_iter().zip(cpu.general);
        let control = CONTROL.into_iter().zip(cpu.control);
        let all: Vec<(&str, u64)> = registers
            .chain([("rip", cpu.rip), ("rflags", cpu.rflags)])
            .chain(control)
            .chain([("gdt", cpu.gdt.base), ("idt", cpu.idt.base)])
            .collect();
        for row in all.chunks(4) {
            for (name, value) in row {
                write!(f, "  {name:<6} {value:016x}")?;
            }
            writeln!(f)?;
        }
        write!(f, "  cs {:#06x}", cpu.segments[1].selector)?;
        write!(f, ", ss {:#06x}", cpu.segments[2].selector)?;
        writeln!(f, ", tr {:#06x}", cpu.task.selector)?;
        write!(f, "  code at rip:")?;
        for byte in &self.code {
            write!(f, " {byte:02x}")?;
        }
        if self.code.is_empty() {
            write!(f, " not mapped")?;
        }
        write!(f, "\n  stack:")?;
        for (at, word) in self.stack.iter().enumerate() {
            let gap = if at % 4 == 0 { "\n    " } else { "  " };
            write!(f, "{gap}{word:016x}")?;
        }
        if self.stack.is_empty() {
            write!(f, " not mapped")?;
        }
        write!(f, "\n  executed, the latest last:")?;
        for Executed { rip, text } in &self.executed {
            write!(f, "\n    {rip:016x}  {text}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::vm::allocate_ram;

    const RAM_BYTES: u64 = 1 << 20;
    /// CR0 with and without PG, and CR3: with PWT and PCD, which are no part of the address.
    const PAGED: [u64; 5] = [0x8000_0001, 0, 0x1018, 0x20, 0];
    const UNPAGED: [u64; 5] = [1, 0, 0x1018, 0, 0];
    const PRESENT: u64 = 1;
    const LARGE: u64 = 1 << 7;
    const NO_EXECUTE: u64 = 1 << 63;

    /// RAM with tables at 0x1000 to 0x4000, a level each; these entries of theirs.
    fn tables(entries: &[(u64, u64, u64)]) -> GuestMemory {
        let ram = allocate_ram(RAM_BYTES).expect("memory");
        for (table, index, entry) in entries {
            let slot = GuestAddress(table + index * 8);
            ram.write_obj(*entry, slot).expect("RAM");
        }
        ram
    }

    #[test]
    fn each_size_of_page_is_found_and_what_is_not_mapped_is_not() {
        let ram = tables(&[
            (0x1000, 0, 0x2000 | PRESENT),
            (0x1000, 511, 0x2000 | PRESENT | NO_EXECUTE),
            (0x1000, 2, RAM_BYTES | PRESENT),
            (0x2000, 0, 0x3000 | PRESENT),
            (0x2000, 1, 0xC000_0000 | PRESENT | LARGE),
            (0x3000, 0, 0x4000 | PRESENT),
            (0x3000, 3, 0x00A0_0000 | PRESENT | LARGE | NO_EXECUTE),
            (0x4000, 5, 0x7000 | PRESENT | NO_EXECUTE),
            (0x4000, 6, 0x8000),
            // Bit 7 of the last level is PAT.
            (0x4000, 7, 0x9000 | PRESENT | LARGE),
        ]);
        let cases = [
            (0x5123, Some(0x7123)),
            (0x6123, None),
            (0x7FFF, Some(0x9FFF)),
            (0x0060_0123, Some(0x00A0_0123)),
            (0x007F_FFFF, Some(0x00BF_FFFF)),
            (0x0080_0000, None),
            (0x4123_4567, Some(0xC123_4567)),
            (0x8000_0000, None),
            (0xFFFF_FF80_0000_5001, Some(0x7001)),
            (0x0000_0080_0000_0000, None),
            // The table lies beyond RAM.
            (0x0000_0100_0000_0000, None),
        ];
        for (address, expected) in cases {
            assert_eq!(translate(&ram, &PAGED, address), expected, "{address:#x}");
        }
        assert_eq!(translate(&ram, &UNPAGED, 0x6123), Some(0x6123));
    }

    #[test]
    fn bytes_are_read_across_pages_as_far_as_they_are_mapped() {
        let ram = tables(&[
            (0x1000, 0, 0x2000 | PRESENT),
            (0x2000, 0, 0x3000 | PRESENT),
            (0x3000, 0, 0x4000 | PRESENT),
            (0x4000, 1, 0x8000 | PRESENT),
            (0x4000, 2, 0x6000 | PRESENT),
            (0x4000, 4, RAM_BYTES | PRESENT),
        ]);
        ram.write_obj(0x4433_2211_u32, GuestAddress(0x8FFC))
            .expect("RAM");
        ram.write_obj(0x8877_6655_u32, GuestAddress(0x6000))
            .expect("RAM");
        let at = |address| read(&ram, &PAGED, address).map(u64::from_le_bytes);
        assert_eq!(at(0x1FFC), Some(0x8877_6655_4433_2211));
        assert_eq!(at(0x2FF8), Some(0));
        assert_eq!(at(0x2FF9), None, "its last byte is not mapped");
        assert_eq!(at(0x4000), None, "mapped to where no RAM is");
    }
}
