//! Single steps and breakpoints.

mod lab;

use iced_x86::code_asm::*;
use lab::{CODE, DATA, STUBS, assemble, machine, put, run_to_halt, set_gate};
use soft_cpu::SoftCpu;

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
fn no_single_step_traps_between_a_load_of_ss_and_the_next_instruction() {
    let code = assemble(|a| {
        a.mov(eax, ss)?;
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x100)?;
        a.popfq()?;
        a.mov(ss, eax)?;
        a.nop()?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    set_gate(&mut cpu, 1, STUBS + 0x1000, 0x8E, 0);
    let handler = lab::assemble_at(STUBS + 0x1000, |a| {
        a.inc(r9)?;
        a.mov(r8, qword_ptr(rsp))?;
        a.and(dword_ptr(rsp + 16), !0x100)?;
        a.iretq()
    });
    put(&mut cpu, STUBS + 0x1000, &handler);
    cpu.restore(&lab::kernel_state(), 0);
    assert_eq!(run_to_halt(&mut cpu), None);
    let state = cpu.state();
    assert_eq!((state.general[8], state.general[9]), (state.rip - 1, 1));
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
