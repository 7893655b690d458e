//! The software CPU's state to and from [`CpuState`].

use soft_cpu::{STORED_MSRS, State, Table};

use super::CpuError;
use crate::cpu::{CPU_STATE_VERSION, CpuState, DescriptorTable, Segment};

// The registers with fields of their own (SDM vol. 4, table 2-2).
const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3B;
const SYSENTER: [u32; 3] = [0x174, 0x175, 0x176];
const PAT: u32 = 0x277;
const EFER: u32 = 0xC000_0080;
const STAR: u32 = 0xC000_0081;
const LSTAR: u32 = 0xC000_0082;
const CSTAR: u32 = 0xC000_0083;
const FMASK: u32 = 0xC000_0084;
const FS_BASE: u32 = 0xC000_0100;
const GS_BASE: u32 = 0xC000_0101;
const KERNEL_GS_BASE: u32 = 0xC000_0102;

/// What a PAT register holds after reset (SDM vol. 3, 13.12.4).
const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

/// Bytes of the FXSAVE image, with which an XSAVE image begins.
const FXSAVE_BYTES: usize = 512;

/// Bytes of an XSAVE image's header.
const HEADER_BYTES: usize = 64;

/// Both components of the image are in use: x87 and SSE.
const X87_AND_SSE: u8 = 3;

pub(super) fn to_neutral(state: &State) -> CpuState {
    assert!(
        state.answers.is_empty() && state.posted.is_empty(),
        "amid an access"
    );
    let [_, _, _, _, fs, gs] = state.segments;
    let mut msrs = vec![
        (TSC, state.tsc),
        (TSC_ADJUST, state.tsc_adjust),
        (EFER, state.efer),
        (STAR, state.star),
        (LSTAR, state.lstar),
        (CSTAR, state.cstar),
        (FMASK, state.fmask),
        (FS_BASE, fs.base),
        (GS_BASE, gs.base),
        (KERNEL_GS_BASE, state.kernel_gs_base),
    ];
    msrs.extend(SYSENTER.into_iter().zip(state.sysenter));
    msrs.extend(STORED_MSRS.into_iter().zip(state.stored_msrs));
    let mut xsave = state.fxsave.to_vec();
    xsave.resize(FXSAVE_BYTES + HEADER_BYTES, 0);
    xsave[FXSAVE_BYTES] = X87_AND_SSE;
    CpuState {
        version: CPU_STATE_VERSION,
        general: state.general,
        rip: state.rip,
        rflags: state.rflags,
        segments: state.segments.map(segment),
        task: segment(state.task),
        ldt: segment(state.ldt),
        gdt: table(state.gdt),
        idt: table(state.idt),
        control: [state.cr0, state.cr2, state.cr3, state.cr4, state.cr8],
        debug: state.debug,
        xcr0: 1,
        msrs,
        xsave,
        exception: None,
        interrupt: None,
        interrupt_shadow: state.interrupt_shadow,
    }
}

pub(super) fn from_neutral(state: &CpuState) -> Result<State, CpuError> {
    let refuse = |what: String| Err(CpuError::Unsupported(what));
    if state.version != CPU_STATE_VERSION {
        return refuse(format!(
            "a CPU state of version {} was saved by another release; this one has version \
             {CPU_STATE_VERSION}",
            state.version
        ));
    }
    if state.exception.is_some() || state.interrupt.is_some() {
        return refuse("the state was saved amid an interrupt, which only kvm knows".to_owned());
    }
    let Some(fxsave) = state.xsave.first_chunk::<FXSAVE_BYTES>() else {
        return refuse(format!("an XSAVE image of {} bytes", state.xsave.len()));
    };
    let msr = |number: u32| {
        let found = state.msrs.iter().find(|(other, _)| *other == number);
        found.map(|(_, value)| *value)
    };
    let or_zero = |number| msr(number).unwrap_or(0);
    let mut stored_msrs = STORED_MSRS.map(or_zero);
    for (number, value) in STORED_MSRS.iter().zip(&mut stored_msrs) {
        if *number == PAT {
            *value = msr(PAT).unwrap_or(PAT_AT_RESET);
        }
    }
    let mut segments = state.segments.map(engine_segment);
    // Where both say it, the register's hidden part and the MSR are the same thing.
    for (index, number) in [(4, FS_BASE), (5, GS_BASE)] {
        if let Some(base) = msr(number).filter(|base| *base != 0) {
            segments[index].base = base;
        }
    }
    let [cr0, cr2, cr3, cr4, cr8] = state.control;
    Ok(State {
        general: state.general,
        rip: state.rip,
        rflags: state.rflags,
        segments,
        task: engine_segment(state.task),
        ldt: engine_segment(state.ldt),
        gdt: engine_table(state.gdt),
        idt: engine_table(state.idt),
        cr0,
        cr2,
        cr3,
        cr4,
        cr8,
        debug: state.debug,
        efer: or_zero(EFER),
        star: or_zero(STAR),
        lstar: or_zero(LSTAR),
        cstar: or_zero(CSTAR),
        fmask: or_zero(FMASK),
        kernel_gs_base: or_zero(KERNEL_GS_BASE),
        sysenter: SYSENTER.map(or_zero),
        stored_msrs,
        tsc: or_zero(TSC),
        tsc_adjust: or_zero(TSC_ADJUST),
        fxsave: *fxsave,
        interrupt_shadow: state.interrupt_shadow,
        answers: Vec::new(),
        posted: Vec::new(),
    })
}

fn segment(from: soft_cpu::Segment) -> Segment {
    Segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        access: from.access,
    }
}

fn engine_segment(from: Segment) -> soft_cpu::Segment {
    soft_cpu::Segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        access: from.access,
    }
}

fn table(from: Table) -> DescriptorTable {
    DescriptorTable {
        base: from.base,
        limit: from.limit,
    }
}

fn engine_table(from: DescriptorTable) -> Table {
    Table {
        base: from.base,
        limit: from.limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state in which every field differs from every other.
    fn example() -> CpuState {
        let mut fxsave = [0; FXSAVE_BYTES];
        for (i, byte) in fxsave.iter_mut().enumerate().take(416) {
            *byte = i as u8;
        }
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        let mut segment = || soft_cpu::Segment {
            base: next(),
            limit: next() as u32,
            selector: next() as u16,
            access: next() as u32,
        };
        let segments = [(); 6].map(|()| segment());
        let (task, ldt) = (segment(), segment());
        to_neutral(&State {
            general: [(); 16].map(|()| next()),
            rip: next(),
            rflags: next(),
            segments,
            task,
            ldt,
            gdt: Table {
                base: next(),
                limit: next() as u16,
            },
            idt: Table {
                base: next(),
                limit: next() as u16,
            },
            cr0: next(),
            cr2: next(),
            cr3: next(),
            cr4: next(),
            cr8: next(),
            debug: [(); 6].map(|()| next()),
            efer: next(),
            star: next(),
            lstar: next(),
            cstar: next(),
            fmask: next(),
            kernel_gs_base: next(),
            sysenter: [(); 3].map(|()| next()),
            stored_msrs: [(); STORED_MSRS.len()].map(|()| next()),
            tsc: next(),
            tsc_adjust: next(),
            fxsave,
            interrupt_shadow: true,
            answers: Vec::new(),
            posted: Vec::new(),
        })
    }

    #[test]
    fn nothing_is_lost_on_the_way_there_and_back() {
        let neutral = example();
        let back = to_neutral(&from_neutral(&neutral).expect("it fits"));
        assert_eq!(back, neutral);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        type Change = fn(&mut CpuState);
        let changes: [(&str, Change); 4] = [
            ("version", |state| state.version += 1),
            ("interrupt", |state| state.interrupt = Some(32)),
            ("interrupt", |state| state.exception = Some((14, Some(0)))),
            ("XSAVE", |state| state.xsave.truncate(511)),
        ];
        for (word, change) in changes {
            let mut state = example();
            change(&mut state);
            let error = from_neutral(&state).expect_err(word).to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
