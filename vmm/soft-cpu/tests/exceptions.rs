//! Exceptions, interrupts, privilege: what reaches which handler with what.

mod lab;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lab::{
    CODE, DATA, STACK, STUBS, assemble, machine, put, put_word, run_to_halt, set_gate, word,
};
use soft_cpu::{Exit, SoftCpu};

/// What an exception handler finds on its stack.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    error: Option<u64>,
    rip: u64,
    cs: u64,
    flags: u64,
    rsp: u64,
    ss: u64,
}

fn frame(cpu: &SoftCpu, has_error: bool) -> Frame {
    let mut at = cpu.state().general[4];
    let mut pop = || {
        at += 8;
        word(cpu, at - 8)
    };
    Frame {
        error: has_error.then(&mut pop),
        rip: pop(),
        cs: pop(),
        flags: pop(),
        rsp: pop(),
        ss: pop(),
    }
}

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

#[test]
fn a_single_step_traps_behind_each_instruction() {
    let code = assemble(|a| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    set_gate(&mut cpu, 1, STUBS + 0x1000, 0x8E, 0);
    let handler = lab::assemble_at(STUBS + 0x1000, |a| {
        a.inc(ebx)?;
        a.mov(rcx, qword_ptr(rsp))?;
        a.cmp(ebx, 2)?;
        let mut more = a.create_label();
        a.jb(more)?;
        a.and(dword_ptr(rsp + 16), !0x100)?;
        a.set_label(&mut more)?;
        a.iretq()
    });
    put(&mut cpu, STUBS + 0x1000, &handler);
    cpu.restore(&lab::kernel_state(), 0);
    assert_eq!(run_to_halt(&mut cpu), None);
    let state = cpu.state();
    assert_eq!(state.general[3], 2);
    assert_eq!(state.general[1], state.rip - 1, "behind the second NOP");
    assert_ne!(state.debug[4] & 1 << 14, 0);
}

#[test]
fn syscall_and_sysret_go_there_and_back() {
    let code = assemble(|a| {
        a.mov(eax, 7)?;
        a.syscall()?;
        a.mov(ebx, eax)?;
        a.ud2()
    });
    let mut cpu = machine(4 << 20, &code);
    let entry = STUBS + 0x1000;
    let handler = lab::assemble_at(entry, |a| {
        a.swapgs()?;
        a.mov(rax, qword_ptr(8).gs())?;
        a.swapgs()?;
        a.sysretq()
    });
    put(&mut cpu, entry, &handler);
    put_word(&mut cpu, DATA + 8, 1234);
    let mut state = lab::user_state();
    state.lstar = entry;
    state.kernel_gs_base = DATA;
    state.rflags = 0x202 | 1;
    cpu.restore(&state, 0);
    assert_eq!(run_to_halt(&mut cpu), Some(6));
    let frame = frame(&cpu, false);
    assert_eq!(frame.cs, u64::from(lab::USER_CODE));
    assert_eq!(frame.ss, u64::from(lab::USER_DATA));
    assert_eq!(frame.flags & 0x201, 0x201, "flags come back from R11");
    assert_eq!(cpu.state().general[3], 1234);
    assert_eq!(cpu.state().kernel_gs_base, DATA);
}

#[test]
fn a_32_bit_program_runs_in_compatibility_mode() {
    let mut assembler = CodeAssembler::new(32).expect("32 is a bitness");
    let a = &mut assembler;
    let run = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let (mut again, mut function) = (a.create_label(), a.create_label());
        a.mov(esp, DATA as u32 + 0x1000)?;
        a.mov(ecx, 10)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.call(function)?;
        a.loop_(again)?;
        a.mov(esi, 0xFFFF_FFF0u32)?;
        a.mov(ebx, dword_ptr(esi + 0x20_0110))?; // wraps around to DATA + 0x100
        a.pushad()?;
        a.popad()?;
        a.int(0x80)?;
        a.set_label(&mut function)?;
        a.push(ebp)?;
        a.mov(ebp, esp)?;
        a.add(eax, ecx)?;
        a.leave()?;
        a.ret()
    };
    run(a).expect("the code is well-formed");
    let code = a.assemble(CODE).expect("it encodes");
    let mut cpu = machine(4 << 20, &code);
    put_word(&mut cpu, DATA + 0x100, 0xABCD);
    let mut state = lab::user_state();
    state.segments[1] = lab::flat(lab::USER_CODE_32, 0xC0FB);
    cpu.restore(&state, 0);
    assert_eq!(run_to_halt(&mut cpu), Some(0x80));
    assert_eq!(cpu.state().general[3], 0xABCD);
    let frame = frame(&cpu, false);
    assert_eq!(frame.cs, u64::from(lab::USER_CODE_32));
    assert_eq!(frame.rsp, DATA + 0x1000);
    // AL holds the vector by now; the sum was 55, and the upper bits are zero.
    assert_eq!(cpu.state().general[0] & !0xFF, 0);
}

#[test]
fn protected_mode_without_paging_enters_long_mode() {
    let mut assembler = CodeAssembler::new(32).expect("32 is a bitness");
    let a = &mut assembler;
    let enter = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.mov(eax, cr4)?;
        a.or(eax, 0x20)?;
        a.mov(cr4, eax)?;
        a.mov(eax, lab::PAGE_TABLES as u32)?;
        a.mov(cr3, eax)?;
        a.mov(ecx, 0xC000_0080u32)?;
        a.rdmsr()?;
        a.or(eax, 0x100)?;
        a.wrmsr()?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32)?;
        a.mov(cr0, eax)?;
        // jmp far KERNEL_CODE:CODE + 0x100
        a.db(&[0xEA])?;
        a.dd(&[CODE as u32 + 0x100])?;
        a.dw(&[lab::KERNEL_CODE])
    };
    enter(a).expect("the code is well-formed");
    let code = a.assemble(CODE).expect("it encodes");
    let mut cpu = machine(4 << 20, &code);
    let long = lab::assemble_at(CODE + 0x100, |a| {
        a.mov(rax, 0x1122_3344_5566_7788u64)?;
        a.hlt()
    });
    put(&mut cpu, CODE + 0x100, &long);
    let mut state = lab::kernel_state();
    state.cr0 = 0x11;
    state.cr3 = 0;
    state.cr4 = 0;
    state.efer = 0;
    state.segments[1] = lab::flat(lab::KERNEL_CODE, 0xC09B);
    cpu.restore(&state, 0);
    assert_eq!(run_to_halt(&mut cpu), None);
    let state = cpu.state();
    assert_eq!(state.general[0], 0x1122_3344_5566_7788);
    assert_eq!(state.efer, 0x500);
    assert_eq!(state.segments[1].access, 0xA09B);
}

/// Runs code with DR0 and DR7 set, and a #DB handler that notes RIP in R8 and counts in R9.
fn run_with_breakpoint(address: u64, control: u64, code: &[u8]) -> SoftCpu {
    let mut cpu = machine(4 << 20, code);
    set_gate(&mut cpu, 1, STUBS + 0x1000, 0x8E, 0);
    let handler = lab::assemble_at(STUBS + 0x1000, |a| {
        a.mov(r8, qword_ptr(rsp))?;
        a.inc(r9)?;
        a.iretq()
    });
    put(&mut cpu, STUBS + 0x1000, &handler);
    let mut state = lab::kernel_state();
    state.debug[0] = address;
    state.debug[5] = 0x400 | control;
    cpu.restore(&state, 0);
    assert_eq!(run_to_halt(&mut cpu), None);
    cpu
}

#[test]
fn breakpoints_on_data_trap_behind_the_access() {
    let code = assemble(|a| {
        a.mov(rbx, DATA)?;
        a.mov(al, byte_ptr(rbx + 7))?;
        a.mov(byte_ptr(rbx + 8), al)?;
        a.mov(qword_ptr(rbx + 4), rax)?;
        a.mov(byte_ptr(rbx + 3), al)?;
        a.hlt()
    });
    // Writes to the four bytes at DATA + 4.
    let cpu = run_with_breakpoint(DATA + 4, 0xD_0001, &code);
    let state = cpu.state();
    assert_eq!(state.general[9], 1);
    assert_eq!(state.general[8], CODE + 10 + 3 + 3 + 4);
    assert_eq!(state.debug[4], 0xFFFF_0FF1);
    // Reads and writes.
    let cpu = run_with_breakpoint(DATA + 4, 0xF_0001, &code);
    assert_eq!(cpu.state().general[9], 2);
    // Not enabled.
    let cpu = run_with_breakpoint(DATA + 4, 0xF_0000, &code);
    assert_eq!(cpu.state().general[9], 0);
}

#[test]
fn a_breakpoint_on_an_instruction_faults_once_before_it() {
    let code = assemble(|a| {
        a.nop()?;
        a.inc(rcx)?;
        a.nop()?;
        a.hlt()
    });
    let cpu = run_with_breakpoint(CODE + 1, 1, &code);
    let state = cpu.state();
    assert_eq!((state.general[8], state.general[9]), (CODE + 1, 1));
    assert_eq!(
        state.general[1], 1,
        "the instruction ran when the handler returned"
    );
    assert_eq!(state.rflags & 1 << 16, 0);
}
