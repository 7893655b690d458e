//! A machine where a replay stands: registers, memory, console.

use std::fmt::{self, Display};
use std::str::FromStr;

use anyhow::Context as _;
use serde::Serialize;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _};

use super::super::text::{Table, text};
use crate::cpu::{Cpu, CpuState, DescriptorTable, Segment};
use crate::machine::Machine;
use crate::sys::vm::GuestMemory;

/// The most memory that one `--memory` shows.
const MAX_SHOWN_BYTES: u64 = 1 << 20;

/// A range of guest-physical memory, as a person asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryRange {
    address: u64,
    len: u64,
}

impl FromStr for MemoryRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => part.parse().ok(),
        };
        let range = text.split_once(':').and_then(|(address, len)| {
            Some(MemoryRange {
                address: number(address)?,
                len: number(len)?,
            })
        });
        match range {
            None => Err(format!("{text:?} is not of the form 0x100000:64")),
            Some(MemoryRange { len, .. }) if !(1..=MAX_SHOWN_BYTES).contains(&len) => {
                Err(format!("{len} bytes: 1 to {MAX_SHOWN_BYTES} can be shown"))
            }
            Some(range) => Ok(range),
        }
    }
}

impl MemoryRange {
    /// Checks that the machine has it.
    pub(super) fn check(self, ram: &GuestMemory) -> anyhow::Result<()> {
        let end = ram.last_addr().0 + 1;
        let inside = self
            .address
            .checked_add(self.len)
            .is_some_and(|last| last <= end);
        anyhow::ensure!(
            inside,
            "{} bytes at {:#x} are not all RAM: the machine's ends before {end:#x}",
            self.len,
            self.address
        );
        Ok(())
    }
}

/// A machine's state, as people look at it.
#[derive(Debug, Serialize)]
pub(super) struct State {
    /// `running`, `halted`, `paused` or `off`.
    vcpu: &'static str,
    /// None amid an access, and when the machine is off.
    registers: Option<Registers>,
    memory: Vec<Memory>,
    /// The end of what the guest said on its console.
    console: String,
}

#[derive(Debug, Serialize)]
struct Memory {
    address: u64,
    hex: String,
}

impl State {
    /// Reads it from a machine that stands.
    pub(super) fn read<C: Cpu>(
        machine: &mut Machine<C>,
        is_between_steps: bool,
        ranges: &[MemoryRange],
        console: Vec<u8>,
    ) -> anyhow::Result<Self> {
        let vcpu = match (
            machine.off().is_some(),
            machine.is_paused(),
            machine.is_halted(),
        ) {
            (true, ..) => "off",
            (_, true, _) => "paused",
            (_, _, true) => "halted",
            _ => "running",
        };
        let readable = is_between_steps && machine.at_boundary() && vcpu != "off";
        let registers = match readable {
            true => Some(Registers::of(
                &machine.cpu().save().context("reading the registers")?,
            )),
            false => None,
        };
        let mut memory = Vec::new();
        for range in ranges {
            let mut bytes = vec![0; range.len as usize];
            machine
                .ram()
                .read_slice(&mut bytes, GuestAddress(range.address))
                .with_context(|| format!("reading guest memory at {:#x}", range.address))?;
            memory.push(Memory {
                address: range.address,
                hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            });
        }
        Ok(State {
            vcpu,
            registers,
            memory,
            console: String::from_utf8_lossy(&console).into_owned(),
        })
    }
}

impl Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "The vCPU is {}.", self.vcpu)?;
        match &self.registers {
            Some(registers) => write!(f, "{registers}")?,
            None => writeln!(f, "Its registers cannot be read here.")?,
        }
        for memory in &self.memory {
            writeln!(f)?;
            memory.fmt(f)?;
        }
        if self.console.is_empty() {
            return Ok(());
        }
        // A guest must not steer the reader's terminal.
        let visible = |c: char| if c.is_control() && c != '\n' { '·' } else { c };
        let console: String = self
            .console
            .replace('\r', "")
            .chars()
            .map(visible)
            .collect();
        writeln!(
            f,
            "\nThe console so far:\n{}",
            console.trim_end_matches('\n')
        )
    }
}

impl Display for Memory {
    /// Sixteen bytes a row, with the printable ones as text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (row, digits) in self.hex.as_bytes().chunks(32).enumerate() {
            let bytes: Vec<u8> = digits
                .chunks(2)
                .filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
                .collect();
            let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
            let text: String = bytes
                .iter()
                .map(|byte| {
                    if printable(byte) {
                        char::from(*byte)
                    } else {
                        '.'
                    }
                })
                .collect();
            let address = self.address + row as u64 * 16;
            writeln!(f, "{address:012x}  {:<47}  {text}", hex.join(" "))?;
        }
        Ok(())
    }
}

/// Registers by name, in hexadecimal: JSON has no exact 64-bit numbers.
#[derive(Debug, Serialize)]
struct Registers {
    #[serde(serialize_with = "as_map")]
    general: Vec<Register>,
    #[serde(serialize_with = "as_map")]
    system: Vec<Register>,
    segments: Vec<SegmentRow>,
    #[serde(serialize_with = "as_map")]
    msrs: Vec<Register>,
    /// What stands in the way of an interrupt, or is on its way to the guest.
    pending: Vec<String>,
}

#[derive(Debug)]
struct Register {
    name: String,
    value: String,
}

fn as_map<S: serde::Serializer>(registers: &[Register], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(
        registers
            .iter()
            .map(|register| (&register.name, &register.value)),
    )
}

#[derive(Debug, Serialize)]
struct SegmentRow {
    name: &'static str,
    selector: String,
    base: String,
    limit: String,
    access: String,
}

fn register(name: impl Into<String>, value: u64) -> Register {
    Register {
        name: name.into(),
        value: format!("{value:016x}"),
    }
}

/// In the order of [`CpuState::general`].
const GENERAL: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

impl Registers {
    fn of(cpu: &CpuState) -> Self {
        let mut general: Vec<Register> = GENERAL
            .into_iter()
            .zip(cpu.general)
            .map(|(name, value)| register(name, value))
            .collect();
        general.push(register("rip", cpu.rip));
        general.push(register("rflags", cpu.rflags));

        let control = ["cr0", "cr2", "cr3", "cr4", "cr8"]
            .into_iter()
            .zip(cpu.control);
        let debug = ["dr0", "dr1", "dr2", "dr3", "dr6", "dr7"]
            .into_iter()
            .zip(cpu.debug);
        let mut system: Vec<Register> = control
            .chain(debug)
            .map(|(name, value)| register(name, value))
            .collect();
        system.push(register("xcr0", cpu.xcr0));

        let names = ["es", "cs", "ss", "ds", "fs", "gs"].into_iter();
        let mut segments: Vec<SegmentRow> = names
            .zip(&cpu.segments)
            .chain([("tr", &cpu.task), ("ldt", &cpu.ldt)])
            .map(|(name, segment)| segment_row(name, segment))
            .collect();
        segments.extend([table_row("gdt", cpu.gdt), table_row("idt", cpu.idt)]);

        let mut pending = Vec::new();
        if let Some((vector, code)) = cpu.exception {
            let code = code.map_or(String::new(), |code| format!(" with error code {code:#x}"));
            pending.push(format!("exception {vector}{code}"));
        }
        if let Some(vector) = cpu.interrupt {
            pending.push(format!("interrupt vector {vector:#x}"));
        }
        if cpu.interrupt_shadow {
            pending.push("interrupts wait for one instruction".to_owned());
        }
        let msrs = cpu.msrs.iter();
        Registers {
            general,
            system,
            segments,
            msrs: msrs
                .map(|(number, value)| register(format!("{number:#x}"), *value))
                .collect(),
            pending,
        }
    }
}

fn segment_row(name: &'static str, segment: &Segment) -> SegmentRow {
    SegmentRow {
        name,
        selector: format!("{:04x}", segment.selector),
        base: format!("{:016x}", segment.base),
        limit: format!("{:08x}", segment.limit),
        access: format!("{:05x}", segment.access),
    }
}

fn table_row(name: &'static str, table: DescriptorTable) -> SegmentRow {
    SegmentRow {
        name,
        selector: String::new(),
        base: format!("{:016x}", table.base),
        limit: format!("{:08x}", table.limit),
        access: String::new(),
    }
}

impl Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values = Table::default();
        for row in self.general.chunks(4).chain(self.system.chunks(4)) {
            values.row(
                row.iter()
                    .flat_map(|register| [text(&register.name), text(&register.value)]),
            );
        }
        let mut segments = Table::default();
        segments.row(["", "sel.", "base", "limit", "access"].map(text));
        for row in &self.segments {
            let SegmentRow {
                name,
                selector,
                base,
                limit,
                access,
            } = row;
            segments.row([
                text(name),
                text(selector),
                text(base),
                text(limit),
                text(access),
            ]);
        }
        let mut msrs = Table::default();
        for row in self.msrs.chunks(3) {
            let cells = |msr: &Register| [text(format!("msr {}", msr.name)), text(&msr.value)];
            msrs.row(row.iter().flat_map(cells));
        }
        write!(f, "{values}\n{segments}\n{msrs}")?;
        for pending in &self.pending {
            writeln!(f, "pending: {pending}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::vm::allocate_ram;

    #[test]
    fn a_range_of_memory_is_checked_before_anything_runs() {
        let range = |text: &str| text.parse::<MemoryRange>();
        let (address, len) = (0x10_0000, 64);
        assert_eq!(range("0x100000:64"), Ok(MemoryRange { address, len }));
        assert_eq!(range("1048576:0x40"), Ok(MemoryRange { address, len }));
        for wrong in ["", "1", "x:1", "1:0", "0:0x100001", "-1:4", "1:2:3"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
        let ram = allocate_ram(1 << 20).expect("1 MiB");
        let fits = |text: &str| range(text).expect("a range").check(&ram).is_ok();
        assert!(fits("0xffff0:16"));
        assert!(!fits("0xffff1:16"));
        assert!(!fits("0xffffffffffffffff:2"));
    }

    #[test]
    fn memory_is_shown_with_address_hexadecimal_and_text() {
        let memory = Memory {
            address: 0x1000,
            hex: "48690a".to_owned() + &"00".repeat(14),
        };
        let shown = memory.to_string();
        let mut lines = shown.lines();
        assert_eq!(
            lines.next(),
            Some("000000001000  48 69 0a 00 00 00 00 00 00 00 00 00 00 00 00 00  Hi..............")
        );
        assert_eq!(lines.next().map(|line| line.trim_end().len()), Some(64));
    }

    #[test]
    fn a_guest_does_not_steer_the_terminal() {
        let state = State {
            vcpu: "halted",
            registers: None,
            memory: Vec::new(),
            console: "red \x1b[31m\r\nnext\n".to_owned(),
        };
        let shown = state.to_string();
        assert!(shown.ends_with("red ·[31m\nnext\n"), "{shown:?}");
    }
}
