//! Exceptions, interrupts, privilege: what reaches which handler with what.

mod lab;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lab::{
    CODE, DATA, STACK, STUBS, assemble, frame, machine, put, put_word, run_to_halt, set_gate,
};
use soft_cpu::Exit;

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Instructions that fault: program, whether in user mode, vector, error code, length of what
/// comes before the faulting instruction.
#[test]
fn instructions_fault_with_their_vectors_and_codes() {
    let cases: &[(&str, Program, bool, u8, Option<u64>)] = &[
        (
            "div by zero",
            |a| {
                a.xor(ecx, ecx)?;
                a.div(ecx)
            },
            true,
            0,
            None,
        ),
        (
            "div overflow",
            |a| {
                a.mov(edx, 2)?;
                a.mov(ecx, 2)?;
                a.div(ecx)
            },
            false,
            0,
            None,
        ),
        (
            "idiv overflow",
            |a| {
                a.mov(rax, i64::MIN)?;
                a.cqo()?;
                a.mov(rcx, -1i64)?;
                a.idiv(rcx)
            },
            true,
            0,
            None,
        ),
        ("ud2", |a| a.ud2(), true, 6, None),
        ("popcnt", |a| a.popcnt(eax, ecx), true, 6, None),
        ("xgetbv", |a| a.xgetbv(), false, 6, None),
        ("rdtscp", |a| a.rdtscp(), false, 6, None),
        ("avx", |a| a.vzeroupper(), false, 6, None),
        ("user hlt", |a| a.hlt(), true, 13, Some(0)),
        ("user cli", |a| a.cli(), true, 13, Some(0)),
        ("user in", |a| a.in_(al, 0x60), true, 13, Some(0)),
        (
            "user out",
            |a| {
                a.mov(dx, 0x60)?;
                a.out(dx, eax)
            },
            true,
            13,
            Some(0),
        ),
        ("user wrmsr", |a| a.wrmsr(), true, 13, Some(0)),
        ("user mov cr", |a| a.mov(cr3, rax), true, 13, Some(0)),
        (
            "unknown msr",
            |a| {
                a.mov(ecx, 0x1234)?;
                a.rdmsr()
            },
            false,
            13,
            Some(0),
        ),
        (
            "bad efer",
            |a| {
                a.mov(ecx, 0xC000_0080u32)?;
                a.mov(eax, -1)?;
                a.wrmsr()
            },
            false,
            13,
            Some(0),
        ),
        (
            "cr4 of what CPUID lacks",
            |a| {
                a.mov(rax, 0x100_0A0u64)?;
                a.mov(cr4, rax)
            },
            false,
            13,
            Some(0),
        ),
        (
            "non-canonical read",
            |a| {
                a.mov(rbx, 0x8000_0000_0000u64)?;
                a.mov(rax, qword_ptr(rbx))
            },
            true,
            13,
            Some(0),
        ),
        (
            "non-canonical stack",
            |a| {
                a.mov(rbp, 0x8000_0000_0000u64)?;
                a.mov(rax, qword_ptr(rbp))
            },
            true,
            12,
            Some(0),
        ),
        (
            "non-canonical jump",
            |a| {
                a.mov(rax, 0x8000_0000_0000u64)?;
                a.jmp(rax)
            },
            true,
            13,
            Some(0),
        ),
        (
            "unmapped read",
            |a| a.mov(rax, qword_ptr(0x4000_0000)),
            true,
            14,
            Some(4),
        ),
        (
            "unmapped write",
            |a| a.mov(qword_ptr(0x4000_0000), rax),
            true,
            14,
            Some(6),
        ),
        (
            "unmapped rmw is a write",
            |a| a.add(qword_ptr(0x4000_0000), rax),
            true,
            14,
            Some(6),
        ),
        (
            "kernel unmapped write",
            |a| a.mov(qword_ptr(0x4000_0000), rax),
            false,
            14,
            Some(2),
        ),
        (
            "cmpxchg16b misaligned",
            |a| {
                a.mov(rbx, DATA + 8)?;
                a.cmpxchg16b(xmmword_ptr(rbx))
            },
            true,
            13,
            Some(0),
        ),
        (
            "selector beyond the GDT",
            |a| {
                a.mov(eax, 0x100)?;
                a.mov(ds, eax)
            },
            false,
            13,
            Some(0x100),
        ),
        (
            "int of a kernel gate",
            |a| a.int(0x90),
            true,
            13,
            Some(0x90 * 8 + 2),
        ),
        (
            "int of a missing gate",
            |a| a.int(0x91),
            true,
            11,
            Some(0x91 * 8 + 2),
        ),
        (
            "user iretq to more privilege",
            |a| {
                a.push(lab::KERNEL_DATA as i32)?;
                a.push(0)?;
                a.pushfq()?;
                a.push(lab::KERNEL_CODE as i32)?;
                a.push(0)?;
                a.iretq()
            },
            true,
            13,
            Some(8),
        ),
    ];
    for (name, program, user, vector, error) in cases {
        let code = assemble(program);
        let mut cpu = machine(4 << 20, &code);
        set_gate(&mut cpu, 0x90, STUBS + 0x900, 0x8E, 0);
        set_gate(&mut cpu, 0x91, STUBS + 0x910, 0x6E, 0);
        let state = if *user {
            lab::user_state()
        } else {
            lab::kernel_state()
        };
        cpu.restore(&state, 0);
        assert_eq!(run_to_halt(&mut cpu), Some(*vector), "{name}");
        let frame = frame(&cpu, error.is_some());
        assert_eq!(frame.error, *error, "{name}");
        let faulting = iced_x86::Decoder::with_ip(64, &code, CODE, 0)
            .into_iter()
            .last()
            .expect("there is an instruction");
        assert_eq!(frame.rip, faulting.ip(), "{name}");
        assert_eq!(frame.cs & 3 == 3, *user, "{name}");
        assert_ne!(frame.flags & 1 << 16, 0, "{name}: RF");
        if *vector == 14 {
            assert_eq!(cpu.state().cr2, 0x4000_0000, "{name}");
        }
        let new = cpu.state();
        assert_eq!(new.segments[1].selector, lab::KERNEL_CODE);
        if *user {
            assert_eq!(new.segments[2].selector, 0, "SS is null in the handler");
            assert_eq!(
                new.general[4],
                lab::IST_STACK - 40 - 8 * u64::from(error.is_some())
            );
        }
    }
}

#[test]
fn flags_that_are_overwritten_later_are_there_at_a_fault_between() {
    let code = assemble(|a| {
        a.mov(eax, -1)?;
        a.add(eax, 1)?; // CF, ZF, AF, PF
        a.mov(rbx, qword_ptr(0x4000_0000))?;
        a.xor(ecx, ecx)?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    assert_eq!(run_to_halt(&mut cpu), Some(14));
    assert_eq!(frame(&cpu, true).flags, 1 << 16 | 0x57);
}

#[test]
fn a_fault_in_the_delivery_of_a_fault_is_a_double_fault() {
    let mut cpu = machine(4 << 20, &assemble(|a| a.ud2()));
    // #UD's gate leads to a selector that is none: #GP, and #GP's is absent.
    put_word(&mut cpu, lab::IDT + 6 * 16, 0x0000_8E00_0100_0000);
    assert_eq!(run_to_halt(&mut cpu), Some(13));
    assert_eq!(frame(&cpu, true).error, Some(0x101));

    let mut cpu = machine(
        4 << 20,
        &assemble(|a| {
            a.xor(ecx, ecx)?;
            a.div(ecx)
        }),
    );
    put_word(&mut cpu, lab::IDT, 0x0000_8E00_0100_0000);
    cpu.restore(&lab::kernel_state(), 0);
    assert_eq!(run_to_halt(&mut cpu), Some(8), "#GP in #DE");
    assert_eq!(frame(&cpu, true).error, Some(0));
    assert_eq!(frame(&cpu, true).rip, CODE + 2);
}

#[test]
fn a_stack_that_is_nowhere_ends_in_a_triple_fault() {
    let mut cpu = machine(
        4 << 20,
        &assemble(|a| {
            a.mov(rsp, 0x5000_0000u64)?;
            a.push(rax)
        }),
    );
    assert_eq!(cpu.run(u64::MAX), Exit::TripleFault);
    assert_eq!(cpu.run(u64::MAX), Exit::TripleFault);
    assert!(!cpu.takes_interrupts());
}

#[test]
fn a_stack_table_saves_the_double_fault_handler() {
    let mut cpu = machine(
        4 << 20,
        &assemble(|a| {
            a.mov(rsp, 0x5000_0000u64)?;
            a.push(rax)
        }),
    );
    set_gate(&mut cpu, 8, STUBS + 8 * 16, 0x8E, 1);
    cpu.restore(&lab::kernel_state(), 0);
    assert_eq!(run_to_halt(&mut cpu), Some(8));
    assert_eq!(cpu.state().general[4], lab::IST_STACK - 48);
    assert_eq!(frame(&cpu, true).rsp, 0x5000_0000);
}

#[test]
fn an_endless_chain_of_faults_still_counts_positions() {
    // The handler of #UD begins with what is undefined, on a stack of its own each time.
    let mut cpu = machine(4 << 20, &assemble(|a| a.ud2()));
    set_gate(&mut cpu, 6, CODE, 0x8E, 1);
    cpu.restore(&lab::kernel_state(), 0);
    assert_eq!(cpu.run(1000), Exit::Limit);
    assert_eq!(cpu.position(), 1000);
}

#[test]
fn interrupts_wait_for_if_and_behind_the_shadow_of_sti() {
    let code = assemble(|a| {
        a.nop()?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    cpu.want_interrupt(true);
    assert_eq!(cpu.run(u64::MAX), Exit::Window);
    assert_eq!(cpu.position(), 3, "one instruction behind STI");
    assert!(cpu.takes_interrupts());
    cpu.interrupt(0x77);
    assert_eq!(cpu.position(), 3);
    assert!(!cpu.takes_interrupts(), "an interrupt gate clears IF");
    cpu.want_interrupt(false);
    assert_eq!(run_to_halt(&mut cpu), Some(0x77));
    let frame = frame(&cpu, false);
    assert_eq!(frame.rip, CODE + 3);
    assert_eq!(frame.flags, 0x202);
    assert_eq!(frame.rsp, STACK);
}

#[test]
fn the_window_is_where_stepping_finds_it() {
    let code = assemble(|a| {
        a.sti()?;
        a.mov(eax, lab::KERNEL_DATA as u32)?;
        a.mov(ss, eax)?;
        a.nop()?;
        a.cli()?;
        a.nop()?;
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x200)?;
        a.popfq()?;
        a.nop()?;
        a.hlt()
    });
    let mut open = Vec::new();
    let mut cpu = machine(4 << 20, &code);
    for position in 0..11 {
        cpu.run(position);
        assert_eq!(cpu.position(), position);
        open.push(cpu.takes_interrupts());
    }
    let expected = [
        false, false, true, false, true, false, false, false, false, true, true,
    ];
    assert_eq!(open, expected);
    for from in 0..10u64 {
        let mut cpu = machine(4 << 20, &code);
        cpu.run(from);
        cpu.want_interrupt(true);
        let first = (from..)
            .find(|at| open[*at as usize])
            .expect("there is one");
        assert_eq!(cpu.run(u64::MAX), Exit::Window, "from {from}");
        assert_eq!(cpu.position(), first, "from {from}");
    }
}

#[test]
fn hlt_waits_and_an_interrupt_goes_on_behind_it() {
    let code = assemble(|a| {
        a.sti()?;
        a.hlt()?;
        a.mov(ebx, 1)?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    set_gate(&mut cpu, 0x30, STUBS + 0x1000, 0x8E, 0);
    put(&mut cpu, STUBS + 0x1000, &[0x48, 0xCF]); // iretq
    cpu.restore(&lab::kernel_state(), 0);
    assert_eq!(cpu.run(u64::MAX), Exit::Halt);
    assert_eq!(cpu.position(), 2);
    cpu.interrupt(0x30);
    assert_eq!(cpu.run(u64::MAX), Exit::Halt);
    assert_eq!(cpu.state().general[3], 1);
    assert_eq!(cpu.position(), 5);
}
