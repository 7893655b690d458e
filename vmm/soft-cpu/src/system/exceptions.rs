//! Exceptions and interrupts: through the IDT to a handler (SDM vol. 3, chapter 7).
//!
//! Only long mode has an IDT here: the few instructions that a guest executes before it enters
//! long mode must not fault, or the machine stops as by a triple fault.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{CodeSize, Core, reg, seg};
use crate::decode::Lowering;
use crate::fault::{Fault, vector};
use crate::flags::{IF, NT, RF, TF};
use crate::memory::paging::is_canonical;
use crate::op::Op;
use crate::state::Segment;

use super::segments::{access, dpl, is_code, is_null, is_present, null_segment};
use super::system;

/// Error code bits: the event came from outside the program; the selector is an IDT vector.
const EXTERNAL: u16 = 1;
const IN_IDT: u16 = 2;

/// What is delivered.
#[derive(Clone, Copy)]
struct Event {
    vector: u8,
    error: Option<u16>,
    /// INT n and its relatives: the gate's privilege level counts.
    software: bool,
    /// A fault, as opposed to a trap or an interrupt: RF is set in the flags that it saves.
    fault: bool,
}

/// A gate of the IDT.
struct Gate {
    offset: u64,
    selector: u16,
    stack_table: u8,
    /// Interrupts stay enabled.
    trap: bool,
}

/// Vectors whose second occurrence amid the delivery of a first makes a double fault.
fn contributory(vector: u8) -> bool {
    matches!(
        vector,
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP
    )
}

impl Core {
    /// Whether interrupts are enabled.
    pub(crate) fn interrupts_enabled(&self) -> bool {
        self.system_flags & IF != 0
    }

    /// Whether an interrupt would be taken before the next instruction.
    pub(crate) fn interrupts_open(&self) -> bool {
        self.interrupts_enabled() && self.shadow_at != Some(self.position)
    }

    /// Delivers the exception behind a fault of the instruction at RIP.
    pub(crate) fn raise(&mut self, fault: Fault) {
        let (vector, error) = self.exception(fault);
        self.deliver_or_escalate(Event {
            vector,
            error,
            software: false,
            fault: true,
        });
    }

    /// Takes an interrupt from the interrupt controller.
    pub(crate) fn external_interrupt(&mut self, vector: u8) {
        self.deliver_or_escalate(Event {
            vector,
            error: None,
            software: false,
            fault: false,
        });
    }

    /// Delivers #DB as a trap.
    pub(super) fn debug_trap(&mut self) {
        self.deliver_or_escalate(Event {
            vector: vector::DB,
            error: None,
            software: false,
            fault: false,
        });
    }

    /// Vector and error code of a fault. A page fault's address goes to CR2.
    fn exception(&mut self, fault: Fault) -> (u8, Option<u16>) {
        match fault {
            Fault::Plain(vector) => (vector, None),
            Fault::Coded(vector, code) => (vector, Some(code)),
            Fault::Page(code) => {
                self.cr2 = self.fault_address;
                (vector::PF, Some(code.into()))
            }
            Fault::NonCanonical if self.fault_through_stack => (vector::SS, Some(0)),
            Fault::NonCanonical => (vector::GP, Some(0)),
            Fault::Device => unreachable!("a device is no exception"),
        }
    }

    /// Delivers an event, and what comes of it if that faults (SDM vol. 3, table 7-5).
    fn deliver_or_escalate(&mut self, mut event: Event) {
        loop {
            let Err(fault) = self.deliver(event) else {
                return;
            };
            self.devices.posted.clear();
            if fault == Fault::Device || event.vector == vector::DF {
                // An IDT or a stack in a device's memory has no answer in time.
                self.triple_fault = true;
                return;
            }
            self.fault_through_stack = false;
            let first = event.vector;
            let (second, error) = self.exception(fault);
            let double = contributory(first) && contributory(second)
                || first == vector::PF && (contributory(second) || second == vector::PF);
            event = Event {
                vector: if double { vector::DF } else { second },
                error: if double { Some(0) } else { error },
                software: false,
                fault: true,
            };
        }
    }

    /// Delivers an event, or fails with nothing changed but memory below the handler's stack.
    fn deliver(&mut self, event: Event) -> Result<(), Fault> {
        if !self.long_mode() {
            self.triple_fault = true;
            return Ok(());
        }
        let external = if event.software { 0 } else { EXTERNAL };
        let gate = self.gate(event, external)?;
        let wrong = |selector: u16| Fault::Coded(vector::GP, selector & !3 | external);
        if is_null(gate.selector) {
            return Err(wrong(0));
        }
        let mut code = self
            .read_descriptor(gate.selector)
            .map_err(|fault| with_external(fault, external))?;
        let long = code.access & (access::LONG | access::WIDE) == access::LONG;
        if !is_code(&code) || dpl(&code) > self.cpl || !long {
            return Err(wrong(gate.selector));
        }
        if !is_present(&code) {
            return Err(Fault::Coded(vector::NP, gate.selector & !3 | external));
        }
        let conforming = code.access & access::CONFORMING != 0;
        let level = if conforming { self.cpl } else { dpl(&code) };
        let stack = self.handler_stack(gate.stack_table, level, external)?;
        if !is_canonical(gate.offset) {
            return Err(wrong(0));
        }
        self.mark_accessed(&mut code)?;
        let stack = self.push_frame(event, stack, level)?;
        self.enter_handler(gate, code, level, stack);
        Ok(())
    }

    fn gate(&mut self, event: Event, external: u16) -> Result<Gate, Fault> {
        let code = u16::from(event.vector) << 3 | IN_IDT | external;
        let wrong = Fault::Coded(vector::GP, code);
        let offset = u64::from(event.vector) * 16;
        if offset + 15 > u64::from(self.idt.limit) {
            return Err(wrong);
        }
        let at = self.idt.base.wrapping_add(offset);
        let (low, high) = self.as_supervisor(|core| {
            let low = core.load::<3>(at)?;
            Ok((low, core.load::<3>(at.wrapping_add(8))?))
        })?;
        let rights = (low >> 40) as u8;
        let trap = match rights & 0x1F {
            0xE => false,
            0xF => true,
            _ => return Err(wrong),
        };
        if event.software && rights >> 5 & 3 < self.cpl {
            return Err(wrong);
        }
        if rights & 0x80 == 0 {
            return Err(Fault::Coded(vector::NP, code));
        }
        Ok(Gate {
            offset: low & 0xFFFF | low >> 32 & 0xFFFF_0000 | high << 32,
            selector: (low >> 16) as u16,
            stack_table: (low >> 32) as u8 & 7,
            trap,
        })
    }

    /// RSP that the handler begins with: out of the TSS if the gate or a change of privilege says
    /// so.
    fn handler_stack(&mut self, table: u8, level: u8, external: u16) -> Result<u64, Fault> {
        let offset = match table {
            0 if level == self.cpl => return Ok(self.get::<3>(reg::RSP) & !15),
            0 => 4 + 8 * u64::from(level),
            _ => 0x24 + 8 * u64::from(table - 1),
        };
        let at = self
            .task_address(offset, 8)
            .ok_or(Fault::Coded(vector::TS, self.task.selector & !3 | external))?;
        let stack = self.as_supervisor(|core| core.load::<3>(at))?;
        if !is_canonical(stack) {
            return Err(Fault::Coded(vector::SS, external));
        }
        Ok(stack & !15)
    }

    /// Writes what the handler returns to, and returns where.
    fn push_frame(&mut self, event: Event, stack: u64, level: u8) -> Result<u64, Fault> {
        let mut flags = self.rflags();
        if event.fault {
            flags |= RF;
        }
        let frame = [
            event.error.unwrap_or(0).into(),
            self.rip,
            self.segments[seg::CS].selector.into(),
            flags,
            self.get::<3>(reg::RSP),
            self.segments[seg::SS].selector.into(),
        ];
        let frame = if event.error.is_some() {
            &frame[..]
        } else {
            &frame[1..]
        };
        let stack = stack.wrapping_sub(8 * frame.len() as u64);
        let mut bytes = [0; 48];
        for (bytes, word) in bytes.chunks_mut(8).zip(frame) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        // The handler's rights count, not those of the program that it interrupts.
        let user = self.tlb.select(level == 3);
        let aligned = std::mem::replace(&mut self.checks_alignment, false);
        let stored = self.store_bytes(stack, &bytes[..8 * frame.len()]);
        self.tlb.select(user);
        self.checks_alignment = aligned;
        match stored {
            Err(Fault::NonCanonical) => Err(Fault::STACK),
            stored => stored.map(|()| stack),
        }
    }

    fn enter_handler(&mut self, gate: Gate, code: Segment, level: u8, stack: u64) {
        if level != self.cpl {
            self.set_segment(seg::SS, null_segment(u16::from(level), level));
        }
        let mut cleared = TF | NT | RF;
        if !gate.trap {
            cleared |= IF;
        }
        self.system_flags &= !cleared;
        self.set_code_segment(code, level);
        self.set::<3>(reg::RSP, stack);
        self.rip = gate.offset;
        self.shadow_at = None;
        self.entered_kernel = true;
    }
}

/// A fault of a table, with the bit that says what it was read for.
fn with_external(fault: Fault, external: u16) -> Fault {
    match fault {
        Fault::Coded(vector, code) => Fault::Coded(vector, code | external),
        other => other,
    }
}

/// INT n, INT3, INTO, INT1: RIP stands behind the instruction already.
fn software(core: &mut Core, vector: u8) -> Result<(), Fault> {
    core.deliver(Event {
        vector,
        error: None,
        software: true,
        fault: false,
    })
}

fn int(core: &mut Core, op: &Op) -> Result<(), Fault> {
    software(core, op.imm as u8)
}

fn int3(core: &mut Core, _: &Op) -> Result<(), Fault> {
    software(core, vector::BP)
}

fn into(core: &mut Core, _: &Op) -> Result<(), Fault> {
    if core.flags.holds::<0>() {
        software(core, vector::OF)
    } else {
        Ok(())
    }
}

/// INT1 is delivered like a hardware event: the gate's privilege level does not count.
/// Data breakpoints that a load of SS before it has met are told with it.
fn int1(core: &mut Core, _: &Op) -> Result<(), Fault> {
    core.tell_breakpoints();
    core.deliver(Event {
        vector: vector::DB,
        error: None,
        software: false,
        fault: false,
    })
}

pub(super) fn select(instruction: &Instruction, size: CodeSize, _: &mut Op) -> Option<Lowering> {
    Some(match instruction.mnemonic() {
        Mnemonic::Int => system!(int),
        Mnemonic::Int3 => system!(int3),
        Mnemonic::Int1 => system!(int1),
        Mnemonic::Into if size != CodeSize::Long => system!(into),
        _ => return None,
    })
}
