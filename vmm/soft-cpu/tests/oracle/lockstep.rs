//! A real program beside the software CPU, compared after every stride: one instruction, or several.
//!
//! ```text
//!            process (ptrace)                     soft
//!            executes instructions singly         executes as many in one go
//!            └────────────► all registers equal? ◄──────┘
//!   SYSCALL: executes it ── registers, memory ──► takes them over
//!   CPUID:   takes its results over ◄──────────── executes it
//! ```
//!
//! Long strides are quicker, and they run whole blocks and traces: fused comparisons, silenced flags,
//! links from one block to the next. Strides of one name the instruction.
//!
//! Soft gets the program's pages as it touches them. Before a system call all of them are compared
//! with the program's, and behind it they are forgotten, since the kernel may have changed them.
//! CPUID is answered by soft alone, so that the program uses no instruction that soft does not have.

use super::case::*;
use super::compare::differences;
use super::fill::value;
use super::kernel::{Interrupted, Kernel, NO_EXECUTE, PAGE, USER, WRITABLE};
use super::process::{Process, Region, Step};
use super::sequence::undefined_after;
use super::undefined::{Tolerance, Undefined, undefined};
use iced_x86::{
    Decoder, DecoderOptions, FastFormatter, Instruction, InstructionInfoFactory, Mnemonic,
};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Stdio;

/// RAM for the program's pages between two system calls.
const RAM_BYTES: u64 = 256 << 20;

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Summary {
    pub(crate) steps: u64,
    pub(crate) system_calls: u64,
    /// Pages compared before system calls and at the end.
    pub(crate) pages: u64,
    /// The program's exit status, if it came to its end.
    pub(crate) status: Option<i32>,
}

/// Both sides.
struct Lockstep {
    process: Process,
    kernel: Kernel,
    empty: u64,
    /// Pages that soft has: virtual address and physical.
    pages: BTreeMap<u64, u64>,
    summary: Summary,
}

/// Runs `program` on both sides until it ends, for about `limit` steps, and compares after every
/// `stride` at the latest.
///
/// # Errors
///
/// What could not be done, or the first difference.
pub(crate) fn run(
    program: &Path,
    arguments: &[String],
    output: Stdio,
    limit: u64,
    stride: u64,
) -> io::Result<Summary> {
    let process = Process::start(program, arguments, output)?;
    let mut kernel = Kernel::new(RAM_BYTES);
    kernel.enter(&process.state()?);
    let empty = kernel.mark();
    let summary = Summary {
        steps: 0,
        system_calls: 0,
        pages: 0,
        status: None,
    };
    let mut both = Lockstep {
        process,
        kernel,
        empty,
        pages: BTreeMap::new(),
        summary,
    };
    while both.summary.steps < limit && both.summary.status.is_none() {
        both.advance(stride)?;
    }
    if both.summary.status.is_none() {
        both.compare_memory()?;
    }
    Ok(both.summary)
}

impl Lockstep {
    /// Executes up to `stride` instructions on both sides.
    fn advance(&mut self, stride: u64) -> io::Result<()> {
        let before = self.kernel.user_state();
        let first = self.instruction(before.rip);
        match first.mnemonic() {
            Mnemonic::Syscall => return self.system_call(),
            Mnemonic::Cpuid | Mnemonic::Rdtsc => {
                self.summary.steps += 1;
                if self.soft_run(1)?.is_some() {
                    return Err(self.problem(&first, "soft faults"));
                }
                return self.process.set(&self.kernel.user_state());
            }
            _ => {}
        }
        let mut undefined = undefined(&first, &before);
        let (mut last, mut next, mut done) = (first, first, 0);
        let mut end = Step::Done;
        self.bring_operands(&first, &before)?;
        while done < stride && (done == 0 || is_simple(&last) && is_simple(&next)) {
            end = self.process.step()?;
            if end != Step::Done {
                break;
            }
            if done > 0 {
                undefined.flags = undefined_after(undefined.flags, &next);
            }
            done += 1;
            last = next;
            let state = self.process.integer_state()?;
            next = self.instruction(state.rip);
            self.bring_operands(&next, &state)?;
        }
        self.summary.steps += done;
        if let Some(fault) = self.soft_run(done)? {
            let text = format!("soft raises exception {} alone", fault.vector);
            return Err(self.problem(&last, &text));
        }
        let status = match end {
            Step::Done => return self.compare(&last, &undefined),
            // The program's handlers, if any, are not followed.
            Step::Signal(signal) => 128 + signal as i32,
            Step::Ended(status) => status,
        };
        self.summary.steps += 1;
        if self.soft_run(1)?.is_none() {
            return Err(self.problem(&next, &format!("native: {end:?}")));
        }
        self.summary.status = Some(status);
        Ok(())
    }

    /// Compares all registers behind `last`. What is undefined has soft's value from here on.
    fn compare(&self, last: &Instruction, undefined: &Undefined) -> io::Result<()> {
        let (native, soft) = (self.process.state()?, self.kernel.user_state());
        let outcome = |state: &State| Outcome {
            state: state.clone(),
            vector: 3,
            error: 0,
            cr2: 0,
            data: [0; DATA_BYTES],
        };
        let mut shown = outcome(&native);
        // The kernel's own: it steps by TF, and says RF in a stop.
        shown.state.rflags &= !(flags::TF | flags::RF);
        let lines = differences(&shown, &outcome(&soft), undefined, last.ip());
        if !lines.is_empty() {
            return Err(self.problem(last, &lines.join("\n  ")));
        }
        if native.rflags != soft.rflags {
            self.process.set(&soft)?;
        }
        if native.fx.0[2..4] != soft.fx.0[2..4]
            || native.fx.0[32..FX_USED] != soft.fx.0[32..FX_USED]
        {
            self.process.set_floating(&soft.fx)?;
        }
        for at in undefined.memory.iter().cloned().flatten() {
            if let Some(physical) = self.pages.get(&(at & !(PAGE - 1))) {
                let byte = self.kernel.get::<1>(physical + at % PAGE);
                self.process.write(at, &byte)?;
            }
        }
        Ok(())
    }

    /// Runs soft for `count` positions, with the pages that it takes. A fault is returned, if the
    /// program's address space is the reason.
    fn soft_run(&mut self, mut count: u64) -> io::Result<Option<Interrupted>> {
        while count > 0 {
            let Some(mut fault) = self.kernel.run(count) else {
                break;
            };
            if fault.vector != 14 || !self.bring(&fault)? {
                return Ok(Some(fault));
            }
            count -= fault.retired;
            fault.state.rflags &= !flags::RF;
            self.kernel.enter(&fault.state);
        }
        Ok(None)
    }

    /// Gives soft the pages of an instruction's operands as they are before the program executes it.
    fn bring_operands(&mut self, instruction: &Instruction, state: &State) -> io::Result<()> {
        let mut factory = InstructionInfoFactory::new();
        for memory in factory.info(instruction).used_memory() {
            let address = memory.virtual_address(0, |register, _, _| Some(value(state, register)));
            let first = address.unwrap_or(0);
            let last = first.wrapping_add(memory.memory_size().size().max(1) as u64 - 1);
            self.bring_page(first & !(PAGE - 1), |region| region.readable)?;
            self.bring_page(last & !(PAGE - 1), |region| region.readable)?;
        }
        Ok(())
    }

    /// Gives soft the page that it misses. False if the program may not do that to it.
    fn bring(&mut self, fault: &Interrupted) -> io::Result<bool> {
        let (writes, fetches) = (fault.error & 2 != 0, fault.error & 16 != 0);
        self.bring_page(fault.cr2 & !(PAGE - 1), |region| {
            region.readable && (!writes || region.writable) && (!fetches || region.executable)
        })
    }

    /// Gives soft a page of the program, if its region is fit. False if soft gets nothing new.
    fn bring_page(&mut self, page: u64, fit: impl Fn(Region) -> bool) -> io::Result<bool> {
        if self.pages.contains_key(&page) {
            return Ok(false);
        }
        let Some(region) = self.process.region(page)?.filter(|region| fit(*region)) else {
            return Ok(false);
        };
        let Some(bytes) = self.process.page(page) else {
            return Ok(false);
        };
        let physical = self.kernel.allot();
        self.kernel.put(physical, &bytes);
        let mut bits = USER;
        if region.writable {
            bits |= WRITABLE;
        }
        if !region.executable {
            bits |= NO_EXECUTE;
        }
        self.kernel.map(page, physical, bits);
        self.pages.insert(page, physical);
        Ok(true)
    }

    /// The real process carries out a system call; soft takes over what it did.
    fn system_call(&mut self) -> io::Result<()> {
        self.compare_memory()?;
        self.summary.steps += 1;
        self.summary.system_calls += 1;
        match self.process.step()? {
            Step::Done => {}
            Step::Ended(status) => {
                self.summary.status = Some(status);
                return Ok(());
            }
            Step::Signal(signal) => return Err(io::Error::other(format!("native: {signal}"))),
        }
        self.kernel.unmap_user(self.empty);
        self.pages.clear();
        let mut state = self.process.state()?;
        state.rflags &= !(flags::TF | flags::RF);
        // The kernel steps by TF, which SYSCALL copies with the other flags.
        state.general[11] &= !flags::TF;
        self.process.set(&state)?;
        self.kernel.enter(&state);
        Ok(())
    }

    /// Compares all pages that soft has.
    fn compare_memory(&mut self) -> io::Result<()> {
        for (page, physical) in &self.pages {
            let soft = self.kernel.get::<{ PAGE as usize }>(*physical);
            let native = self.process.page(*page).unwrap_or([0; PAGE as usize]);
            if let Some(at) = (0..PAGE as usize).find(|at| native[*at] != soft[*at]) {
                let end = (at + 16).min(PAGE as usize);
                return Err(io::Error::other(format!(
                    "step {}: memory at {:#x} differs: native {:02x?}, soft {:02x?}",
                    self.summary.steps,
                    page + at as u64,
                    &native[at..end],
                    &soft[at..end],
                )));
            }
        }
        self.summary.pages += self.pages.len() as u64;
        Ok(())
    }

    /// The instruction at `rip` in the program's memory.
    fn instruction(&self, rip: u64) -> Instruction {
        let mut bytes = [0; 15];
        let mut length = bytes.len();
        while length > 0 && self.process.read(rip, &mut bytes[..length]).is_err() {
            length -= 1;
        }
        Decoder::with_ip(64, &bytes[..length], rip, DecoderOptions::NONE).decode()
    }

    fn problem(&self, instruction: &Instruction, what: &str) -> io::Error {
        let mut text = String::new();
        FastFormatter::new().format(instruction, &mut text);
        let steps = self.summary.steps;
        io::Error::other(format!(
            "up to step {steps}, {:#x}: {text}\n  {what}",
            instruction.ip()
        ))
    }
}

/// Whether an instruction can be amid a stride: what it leaves undefined is flags only, and it does
/// not show them to memory or to a register.
fn is_simple(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    let outside = matches!(
        instruction.mnemonic(),
        Syscall | Cpuid | Rdtsc | Pushf | Pushfq | Lahf
    );
    let undefined = undefined(instruction, &State::default());
    !outside
        && undefined.tolerance == Tolerance::Exact
        && undefined.status == 0
        && undefined.memory.is_empty()
}
