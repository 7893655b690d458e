//! Two outcomes of one case, side by side.

use super::case::*;
use super::undefined::{Tolerance, Undefined};

const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];
const SELECTORS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// The stack pointer's number.
const RSP: usize = 4;

/// The end of what Linux gives to programs, with 4-level paging.
const TASK_SIZE: u64 = 0x7FFF_FFFF_F000;

/// Where the outcomes differ, one line for each place: native value, then soft's. The case, or the
/// last instruction of it that began, began at `begin`.
pub(crate) fn differences(
    native: &Outcome,
    soft: &Outcome,
    undefined: &Undefined,
    begin: u64,
) -> Vec<String> {
    let mut lines = Vec::new();
    let access = |vector| [12, 13, 14, 17].contains(&vector);
    let both_access = access(native.vector) && access(soft.vector);
    let one = |fault| (native.vector == fault) != (soft.vector == fault);
    let another_fault = (native.vector, native.cr2) != (soft.vector, soft.cr2);
    let faults = |outcome: &Outcome| access(outcome.vector) && outcome.state.rip == begin;
    if both_access && undefined.fault_order && another_fault
        || both_access && undefined.misaligned_order && one(17)
        || undefined.unaligned_check && one(17)
        || undefined.masked_store && faults(native) != faults(soft)
    {
        return lines;
    }
    let mut word = |name: &str, native: u64, soft: u64| {
        if native != soft {
            lines.push(format!("{name}: native {native:#x}, soft {soft:#x}"));
        }
    };
    // Not by a breakpoint, a single-step trap or a fault of what comes next.
    let faulted = ![1, 3].contains(&native.vector) && native.state.rip == begin;
    word("vector", native.vector.into(), soft.vector.into());
    if native.vector == soft.vector {
        // Linux says "present" of every address that is not a program's.
        let hidden = u64::from(native.vector == 14 && native.cr2 >= TASK_SIZE);
        word("error code", native.error & !hidden, soft.error & !hidden);
        if native.vector == 14 {
            word("cr2", native.cr2, soft.cr2);
        }
    }
    word("rip", native.state.rip, soft.state.rip);
    let mask = if faulted && !undefined.flags_after_fault {
        0
    } else {
        undefined.flags
    };
    word(
        "rflags",
        native.state.rflags & !mask,
        soft.state.rflags & !mask,
    );
    for (number, name) in NAMES.iter().enumerate() {
        if faulted && undefined.registers_after_fault && number != RSP {
            continue;
        }
        word(
            name,
            native.state.general[number],
            soft.state.general[number],
        );
    }
    for (number, name) in SELECTORS.iter().enumerate() {
        // A kernel's IRET to CPL 3 makes zeros of all null selectors.
        let shown = |selector: u16| if selector < 4 { 0 } else { u64::from(selector) };
        word(
            name,
            shown(native.state.selectors[number]),
            shown(soft.state.selectors[number]),
        );
    }
    word("fs base", native.state.fs_base, soft.state.fs_base);
    word("gs base", native.state.gs_base, soft.state.gs_base);
    if !(faulted && undefined.x87_after_fault) {
        x87(&native.state.fx, &soft.state.fx, undefined, &mut lines);
    }
    sse(&native.state.fx, &soft.state.fx, undefined, &mut lines);
    if !(faulted && undefined.piecewise) {
        memory(native, soft, undefined, &mut lines);
    }
    lines
}

fn field<const N: usize>(fx: &Fx, at: usize) -> [u8; N] {
    fx.0[at..at + N].try_into().expect("inside the image")
}

/// x87 registers. The pointers to the last x87 instruction and operand are not compared:
/// when they are kept is the model's (SDM vol. 1, 8.1.8; CPUID.7.EBX bits 6 and 13).
fn x87(native: &Fx, soft: &Fx, undefined: &Undefined, lines: &mut Vec<String>) {
    let mut word = |name: &str, at: usize, mask: u16| {
        let n = u16::from_le_bytes(field(native, at)) & mask;
        let s = u16::from_le_bytes(field(soft, at)) & mask;
        if n != s {
            lines.push(format!("{name}: native {n:#06x}, soft {s:#06x}"));
        }
    };
    word("fcw", 0, !0);
    word("fsw", 2, !undefined.status);
    word("ftw", 4, 0xFF);
    for number in 0..8 {
        let at = 32 + 16 * number;
        let (n, s) = (field::<10>(native, at), field::<10>(soft, at));
        let near = undefined.tolerance == Tolerance::Transcendental && neighbours(n, s);
        if n != s && !near {
            lines.push(format!("st{number}: native {}, soft {}", hex(&n), hex(&s)));
        }
    }
}

/// MXCSR and XMM registers.
fn sse(native: &Fx, soft: &Fx, undefined: &Undefined, lines: &mut Vec<String>) {
    let mxcsr = |fx| u32::from_le_bytes(field(fx, 24));
    if mxcsr(native) != mxcsr(soft) {
        lines.push(format!(
            "mxcsr: native {:#x}, soft {:#x}",
            mxcsr(native),
            mxcsr(soft)
        ));
    }
    for number in 0..16 {
        let at = 160 + 16 * number;
        let (n, s) = (field::<16>(native, at), field::<16>(soft, at));
        let near = undefined.tolerance == Tolerance::Approximation && approximate(n, s);
        if n != s && !near {
            lines.push(format!("xmm{number}: native {}, soft {}", hex(&n), hex(&s)));
        }
    }
}

/// Most significant byte first.
fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .rev()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Whether two double-extended numbers are at most two units in the last place apart: each may be
/// one off the true value.
fn neighbours(a: [u8; 10], b: [u8; 10]) -> bool {
    let ordered = |x: [u8; 10]| {
        let magnitude = u128::from_le_bytes({
            let mut bytes = [0; 16];
            bytes[..10].copy_from_slice(&x);
            bytes
        });
        let exponent = (magnitude >> 64) as i128 & 0x7FFF;
        let significand = magnitude as u64 as i128;
        // The integer bit is implied by the exponent here, so that neighbours differ by one.
        let value = (exponent << 63) + (significand & i128::from(i64::MAX));
        if x[9] & 0x80 == 0 { value } else { -value }
    };
    (ordered(a) - ordered(b)).abs() <= 2
}

/// Whether singles are within twice the error that the architecture allows to each.
fn approximate(a: [u8; 16], b: [u8; 16]) -> bool {
    let lanes = |x: [u8; 16]| -> [f32; 4] {
        std::array::from_fn(|n| f32::from_le_bytes(x[4 * n..][..4].try_into().expect("4 bytes")))
    };
    lanes(a).into_iter().zip(lanes(b)).all(|(a, b)| {
        let bound = 2.0 * 1.5 / 4096.0 * a.abs();
        a.to_bits() == b.to_bits() || (a.is_finite() && (a - b).abs() <= bound)
    })
}

/// The first byte of memory that differs, with its neighbours.
fn memory(native: &Outcome, soft: &Outcome, undefined: &Undefined, lines: &mut Vec<String>) {
    if native.data == soft.data {
        return;
    }
    let differs = |at: &usize| {
        let address = DATA + *at as u64;
        native.data[*at] != soft.data[*at]
            && !undefined
                .memory
                .iter()
                .any(|range| range.contains(&address))
    };
    let Some(at) = (0..DATA_BYTES).find(differs) else {
        return;
    };
    let end = (at + 16).min(DATA_BYTES);
    lines.push(format!(
        "memory at {:#x} ({} bytes): native {}, soft {}",
        DATA + at as u64,
        (0..DATA_BYTES).filter(differs).count(),
        hex(&native.data[at..end]),
        hex(&soft.data[at..end])
    ));
}
