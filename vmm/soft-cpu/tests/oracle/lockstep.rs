//! A real program beside the software CPU, compared after every instruction.
//!
//! ```text
//!            process (ptrace)                     soft
//!   step ──► executes one instruction             executes one instruction ◄── step
//!            └────────────► all registers equal? ◄──────┘
//!   SYSCALL: executes it ── registers, memory ──► takes them over
//!   CPUID:   takes its results over ◄──────────── executes it
//! ```
//!
//! Soft gets the program's pages as it touches them. Before a system call all of them are compared
//! with the program's, and behind it they are forgotten, since the kernel may have changed them.
//! CPUID is answered by soft alone, so that the program uses no instruction that soft does not have.

use super::case::*;
use super::compare::differences;
use super::kernel::{Interrupted, Kernel, NO_EXECUTE, PAGE, USER, WRITABLE};
use super::process::{Process, Step};
use super::undefined::{Undefined, undefined};
use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, Mnemonic};
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

/// Runs `program` on both sides until it ends, for at most `limit` steps.
///
/// # Errors
///
/// What could not be done, or the first difference.
pub(crate) fn run(
    program: &Path,
    arguments: &[String],
    output: Stdio,
    limit: u64,
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
        both.step()?;
    }
    if both.summary.status.is_none() {
        both.compare_memory()?;
    }
    Ok(both.summary)
}

impl Lockstep {
    /// Executes one instruction on both sides.
    fn step(&mut self) -> io::Result<()> {
        let before = self.kernel.user_state();
        let instruction = self.instruction(before.rip);
        self.summary.steps += 1;
        match instruction.mnemonic() {
            Mnemonic::Syscall => return self.system_call(),
            Mnemonic::Cpuid | Mnemonic::Rdtsc => {
                if self.soft_step()?.is_some() {
                    return Err(self.problem(&instruction, "soft faults"));
                }
                return self.process.set(&self.kernel.user_state());
            }
            _ => {}
        }
        let fault = self.soft_step()?;
        let step = self.process.step()?;
        match (fault, step) {
            (None, Step::Done) => {}
            (Some(fault), Step::Done) => {
                let text = format!("soft raises exception {} alone", fault.vector);
                return Err(self.problem(&instruction, &text));
            }
            (None, step) => return Err(self.problem(&instruction, &format!("native: {step:?}"))),
            // Both fault. The program's handlers, if any, are not followed.
            (Some(_), Step::Ended(status)) => {
                self.summary.status = Some(status);
                return Ok(());
            }
            (Some(_), Step::Signal(signal)) => {
                self.summary.status = Some(128 + signal as i32);
                return Ok(());
            }
        }
        let undefined = undefined(&instruction, &before);
        let (native, soft) = (self.process.state()?, self.kernel.user_state());
        self.compare(&instruction, &native, &soft, &undefined)?;
        // What is undefined has soft's value from here on.
        if native.rflags != soft.rflags {
            self.process.set(&soft)?;
        }
        if native.fx.0[2..4] != soft.fx.0[2..4]
            || native.fx.0[32..FX_USED] != soft.fx.0[32..FX_USED]
        {
            self.process.set_floating(&soft.fx)?;
        }
        for at in undefined.memory.into_iter().flatten() {
            if let Some(physical) = self.pages.get(&(at & !(PAGE - 1))) {
                let byte = self.kernel.get::<1>(physical + at % PAGE);
                self.process.write(at, &byte)?;
            }
        }
        Ok(())
    }

    fn compare(
        &self,
        instruction: &Instruction,
        native: &State,
        soft: &State,
        undefined: &Undefined,
    ) -> io::Result<()> {
        let outcome = |state: &State| Outcome {
            state: state.clone(),
            vector: 3,
            error: 0,
            cr2: 0,
            data: [0; DATA_BYTES],
        };
        let mut native = outcome(native);
        // The kernel's own: it steps by TF, and says RF in a stop.
        native.state.rflags &= !(flags::TF | flags::RF);
        let lines = differences(&native, &outcome(soft), undefined, instruction.ip());
        if lines.is_empty() {
            Ok(())
        } else {
            Err(self.problem(instruction, &lines.join("\n  ")))
        }
    }

    /// One instruction of soft, with the pages that it takes. A fault is returned, if the program's
    /// address space is the reason.
    fn soft_step(&mut self) -> io::Result<Option<Interrupted>> {
        loop {
            let Some(mut fault) = self.kernel.run(1) else {
                return Ok(None);
            };
            if fault.vector != 14 || !self.bring(&fault)? {
                return Ok(Some(fault));
            }
            fault.state.rflags &= !flags::RF;
            self.kernel.enter(&fault.state);
        }
    }

    /// Gives soft the page that it misses. False if the program may not do that to it.
    fn bring(&mut self, fault: &Interrupted) -> io::Result<bool> {
        let (writes, fetches) = (fault.error & 2 != 0, fault.error & 16 != 0);
        let page = fault.cr2 & !(PAGE - 1);
        let Some(region) = self.process.region(page)? else {
            return Ok(false);
        };
        let allowed =
            region.readable && (!writes || region.writable) && (!fetches || region.executable);
        let Some(bytes) = self.process.page(page).filter(|_| allowed) else {
            return Ok(false);
        };
        if self.pages.contains_key(&page) {
            return Ok(false);
        }
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
        IntelFormatter::new().format(instruction, &mut text);
        let steps = self.summary.steps;
        io::Error::other(format!(
            "step {steps}, {:#x}: {text}\n  {what}",
            instruction.ip()
        ))
    }
}
