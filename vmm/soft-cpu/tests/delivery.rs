//! Delivery of events through the IDT, against a model of its own.

mod lab;

use lab::{CODE, GDT, IDT, STUBS, TSS, assemble, frame, machine, put_word};
use proptest::prelude::*;
use soft_cpu::{Exit, SoftCpu};

/// The vector of interrupts here; exceptions are #UD. Neither has an error code, and a fault in
/// their delivery is no double fault (SDM vol. 3, table 7-5).
const VECTOR: u8 = 0x21;
const UNDEFINED: u8 = 6;

const GENERAL_PROTECTION: u8 = 13;
const NOT_PRESENT: u8 = 11;
const STACK_FAULT: u8 = 12;

/// Selectors of descriptors that this test adds, behind the lab's.
const ADDED: u16 = 0x40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    External,
    /// INT n.
    Software,
    /// UD2, a fault.
    Fault,
}

/// A segment descriptor of the handler's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Null,
    BeyondTheTable,
    Data,
    /// 32-bit code.
    Compatibility,
    Code {
        dpl: u8,
        conforming: bool,
        present: bool,
    },
}

#[derive(Clone, Copy, Debug)]
struct Setting {
    source: Source,
    user: bool,
    /// The last byte of the vector's gate is within the limit.
    within_limit: bool,
    gate_type: u8,
    gate_dpl: u8,
    gate_present: bool,
    stack_table: u8,
    /// Whether the stacks of the TSS have addresses.
    stacks_are_canonical: bool,
    target: Target,
    /// The two lowest bits of the selector.
    selector_rpl: u16,
    offset: u64,
    /// What is added to RSP before.
    misalignment: u64,
    nested_task: bool,
}

impl Setting {
    fn vector(&self) -> u8 {
        match self.source {
            Source::Fault => UNDEFINED,
            Source::External | Source::Software => VECTOR,
        }
    }

    fn selector(&self) -> u16 {
        let index = match self.target {
            Target::Null => 0,
            Target::BeyondTheTable => 0x100,
            Target::Data | Target::Compatibility | Target::Code { .. } => ADDED,
        };
        index | self.selector_rpl
    }

    fn descriptor(&self) -> u64 {
        const PRESENT: u64 = 1 << 47;
        const LONG: u64 = 0x00AF_1A00_0000_FFFF;
        match self.target {
            Target::Null | Target::BeyondTheTable => 0,
            Target::Data => PRESENT | 0x00CF_1200_0000_FFFF,
            Target::Compatibility => PRESENT | 0x00CF_1A00_0000_FFFF,
            Target::Code {
                dpl,
                conforming,
                present,
            } => {
                let bits = u64::from(dpl) << 45 | u64::from(conforming) << 42;
                LONG | bits | u64::from(present) << 47
            }
        }
    }

    fn cpl(&self) -> u8 {
        if self.user { 3 } else { 0 }
    }
}

/// How a stack of the TSS is told from another.
fn stack(slot: u8, canonical: bool) -> u64 {
    let top = if canonical { 0 } else { 1 << 60 };
    top + 0x10_0000 + u64::from(slot) * 0x1000 + 7
}

/// SDM vol. 2, INT n, "IA-32e mode": the privilege and the stack pointer of the handler before the
/// frame, or an exception and its error code.
fn model(setting: &Setting, rsp: u64) -> Result<(u8, u64), (u8, u16)> {
    let external = u16::from(setting.source != Source::Software);
    let of_gate = u16::from(setting.vector()) << 3 | 2 | external;
    let of_selector = setting.selector() & !3 | external;
    let is_gate = matches!(setting.gate_type, 0xE | 0xF);
    let forbidden = setting.source == Source::Software && setting.gate_dpl < setting.cpl();
    if !setting.within_limit || !is_gate || forbidden {
        return Err((GENERAL_PROTECTION, of_gate));
    }
    if !setting.gate_present {
        return Err((NOT_PRESENT, of_gate));
    }
    let level = match setting.target {
        Target::Null => return Err((GENERAL_PROTECTION, external)),
        Target::BeyondTheTable | Target::Data | Target::Compatibility => {
            return Err((GENERAL_PROTECTION, of_selector));
        }
        Target::Code { dpl, .. } if dpl > setting.cpl() => {
            return Err((GENERAL_PROTECTION, of_selector));
        }
        Target::Code { present: false, .. } => return Err((NOT_PRESENT, of_selector)),
        Target::Code {
            conforming: true, ..
        } => setting.cpl(),
        Target::Code { dpl, .. } => dpl,
    };
    let changes = level != setting.cpl();
    let top = match setting.stack_table {
        0 if !changes => rsp,
        _ if !setting.stacks_are_canonical => return Err((STACK_FAULT, external)),
        0 => stack(8 + level, true),
        slot => stack(slot, true),
    };
    if setting.offset >> 47 != 0 && setting.offset >> 47 != 0x1_FFFF {
        return Err((GENERAL_PROTECTION, external));
    }
    Ok((level, top & !15))
}

fn setting() -> impl Strategy<Value = Setting> {
    let often = |odds: u32| (0..odds).prop_map(|one| one > 0);
    let source = prop_oneof![
        Just(Source::External),
        Just(Source::Software),
        Just(Source::Fault)
    ];
    let code = (0..4u8, any::<bool>(), often(6)).prop_map(|(dpl, conforming, present)| {
        // Most handlers are the kernel's.
        let dpl = if dpl < 3 { 0 } else { 3 };
        Target::Code {
            dpl,
            conforming,
            present,
        }
    });
    let target = prop_oneof![
        8 => code,
        1 => Just(Target::Null),
        1 => Just(Target::BeyondTheTable),
        1 => Just(Target::Data),
        1 => Just(Target::Compatibility),
    ];
    let gate_type = prop_oneof![6 => Just(0xE), 3 => Just(0xF), 1 => 0..0x20u8];
    let offset = prop_oneof![
        8 => Just(STUBS + 0x1000),
        1 => Just(0xFFFF_8000_1234_5678),
        1 => Just(0x0000_8000_0000_0000),
    ];
    let gate = (gate_type, 0..4u8, often(10), 0..8u8, often(8), offset);
    let rest = (often(12), any::<bool>(), 0..4u16, 0..16u64, any::<bool>());
    (source, target, gate, rest).prop_map(|(source, target, gate, rest)| Setting {
        source,
        user: rest.1,
        within_limit: rest.0,
        gate_type: gate.0,
        gate_dpl: gate.1,
        gate_present: gate.2,
        stack_table: gate.3,
        stacks_are_canonical: gate.4,
        target,
        selector_rpl: rest.2,
        offset: gate.5,
        misalignment: rest.3,
        nested_task: rest.4,
    })
}

/// A CPU that is about to meet the event. Exceptions that come of it go to handlers of the lab's,
/// by a stack that is there.
fn prepared(setting: &Setting) -> SoftCpu {
    let code = assemble(|a| match setting.source {
        Source::External => a.nop(),
        Source::Software => a.int(i32::from(VECTOR)),
        Source::Fault => a.ud2(),
    });
    let mut cpu = machine(4 << 20, &code);
    // RSP0 to RSP2, and the interrupt stacks; the seventh is that of second exceptions.
    for level in 0..3u8 {
        let at = TSS + 4 + 8 * u64::from(level);
        put_word(&mut cpu, at, stack(8 + level, setting.stacks_are_canonical));
    }
    for slot in 1..8u8 {
        let at = TSS + 0x24 + 8 * u64::from(slot - 1);
        put_word(
            &mut cpu,
            at,
            stack(slot, setting.stacks_are_canonical || slot == 7),
        );
    }
    for second in [GENERAL_PROTECTION, NOT_PRESENT, STACK_FAULT] {
        let stub = STUBS + u64::from(second) * 16;
        lab::set_gate(&mut cpu, second, stub, 0x8E, 7);
    }
    let vector = setting.vector();
    let gate = IDT + u64::from(vector) * 16;
    let rights = u64::from(setting.gate_present) << 7
        | u64::from(setting.gate_dpl) << 5
        | u64::from(setting.gate_type);
    let low = setting.offset & 0xFFFF
        | u64::from(setting.selector()) << 16
        | u64::from(setting.stack_table) << 32
        | rights << 40
        | (setting.offset & 0xFFFF_0000) << 32;
    put_word(&mut cpu, gate, low);
    put_word(&mut cpu, gate + 8, setting.offset >> 32);
    put_word(&mut cpu, GDT + u64::from(ADDED), setting.descriptor());
    let mut state = if setting.user {
        lab::user_state()
    } else {
        lab::kernel_state()
    };
    state.gdt.limit = ADDED + 7;
    if !setting.within_limit {
        state.idt.limit = u16::from(vector) * 16 + 14;
    }
    state.general[4] += setting.misalignment;
    state.rflags |= 0x200 | u64::from(setting.nested_task) << 14;
    cpu.restore(&state, 0);
    cpu
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn events_are_delivered_as_the_manual_says(setting in setting()) {
        // A gate of the IDT that a second exception needs lies below the limit, if the first does.
        prop_assume!(setting.within_limit || setting.vector() == VECTOR);
        // The seventh stack always has an address.
        prop_assume!(setting.stacks_are_canonical || setting.stack_table != 7);
        let mut cpu = prepared(&setting);
        let before = cpu.state();
        match setting.source {
            Source::External => cpu.interrupt(VECTOR),
            Source::Software | Source::Fault => prop_assert_eq!(cpu.run(1), Exit::Limit),
        }
        let after = cpu.state();
        let expected = model(&setting, before.general[4]);
        // The flags that were pushed: RF tells a fault, whose instruction will be tried again.
        let is_fault = setting.source == Source::Fault || expected.is_err();
        let pushed_flags = before.rflags | u64::from(is_fault) << 16;
        let behind = match (setting.source, expected) {
            (Source::Software, Ok(_)) => CODE + 2,
            _ => CODE,
        };
        let (level, stack, error) = match expected {
            Ok((level, stack)) => (level, stack, None),
            Err((_, error)) => (0, self::stack(7, true) & !15, Some(u64::from(error))),
        };
        let found = frame(&cpu, error.is_some());
        prop_assert_eq!(found.error, error);
        prop_assert_eq!((found.rip, found.flags), (behind, pushed_flags));
        prop_assert_eq!(found.rsp, before.general[4]);
        prop_assert_eq!(found.cs, u64::from(before.segments[1].selector));
        prop_assert_eq!(found.ss, u64::from(before.segments[2].selector));
        let words = if error.is_some() { 6 } else { 5 };
        prop_assert_eq!(after.general[4], stack - 8 * words);
        let (rip, selector, trap_gate) = match expected {
            Ok(_) => (setting.offset, setting.selector(), setting.gate_type == 0xF),
            Err((vector, _)) => (STUBS + u64::from(vector) * 16, lab::KERNEL_CODE, false),
        };
        prop_assert_eq!(after.rip, rip);
        prop_assert_eq!(after.segments[1].selector, selector & !3 | u16::from(level));
        // NT is cleared, and IF by an interrupt gate.
        prop_assert_eq!(after.rflags, if trap_gate { 0x202 } else { 2 });
        let ss = match level != setting.cpl() {
            true => u16::from(level),
            false => before.segments[2].selector,
        };
        prop_assert_eq!(after.segments[2].selector, ss, "null where the privilege changes");
        if expected.is_ok() {
            let accessed = lab::word(&cpu, GDT + u64::from(ADDED)) >> 40 & 1;
            prop_assert_eq!(accessed, 1);
        }
    }
}
