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

/// A machine whose #DB handler notes RIP in R8 and counts in R9.
fn noting(code: &[u8]) -> SoftCpu {
    let mut cpu = machine(4 << 20, code);
    set_gate(&mut cpu, 1, STUBS + 0x1000, 0x8E, 0);
    let handler = lab::assemble_at(STUBS + 0x1000, |a| {
        a.mov(r8, qword_ptr(rsp))?;
        a.inc(r9)?;
        a.iretq()
    });
    put(&mut cpu, STUBS + 0x1000, &handler);
    cpu
}

/// Runs such a machine to its HLT with DR0 and DR7 set.
fn watch(cpu: &mut SoftCpu, address: u64, control: u64) {
    let mut state = lab::kernel_state();
    state.debug[0] = address;
    state.debug[5] = 0x400 | control;
    cpu.restore(&state, 0);
    assert_eq!(run_to_halt(cpu), None);
}

fn run_with_breakpoint(address: u64, control: u64, code: &[u8]) -> SoftCpu {
    let mut cpu = noting(code);
    watch(&mut cpu, address, control);
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

/// SDM vol. 3, 6.8.3 and 18.3.1.1: what a load of SS meets is told behind the next instruction, and
/// a breakpoint on that one is not.
#[test]
fn no_breakpoint_traps_between_a_load_of_ss_and_the_next_instruction() {
    let code = assemble(|a| {
        a.mov(rbx, DATA)?;
        a.mov(eax, ss)?;
        a.mov(dword_ptr(rbx), eax)?;
        a.mov(ss, word_ptr(rbx))?;
        a.nop()?;
        a.nop()?;
        a.hlt()
    });
    let behind_load = CODE + 10 + 2 + 2 + 2;
    // Reads and writes of the two bytes at DATA: by the store, and by the load of SS.
    let cpu = run_with_breakpoint(DATA, 0x7_0001, &code);
    let state = cpu.state();
    assert_eq!((state.general[8], state.general[9]), (behind_load + 1, 2));
    assert_eq!(state.debug[4], 0xFFFF_0FF1);
    // On the NOP behind the load, and on the one behind that.
    let cpu = run_with_breakpoint(behind_load, 1, &code);
    assert_eq!(cpu.state().general[9], 0);
    let cpu = run_with_breakpoint(behind_load + 1, 1, &code);
    assert_eq!(cpu.state().general[9], 1);
}

/// Runs `MOV SS, [DATA]`, watched by DR0, and what follows it. The handler of `vector`, of which the
/// address is returned, steps over `skips` bytes.
fn run_behind_watched_load(
    vector: u8,
    skips: i32,
    rest: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> (soft_cpu::State, u64) {
    let code = assemble(|a| {
        a.mov(rbx, DATA)?;
        a.mov(ss, word_ptr(rbx))?;
        rest(a)?;
        a.hlt()
    });
    let mut cpu = noting(&code);
    let handler = STUBS + 0x2000;
    set_gate(&mut cpu, vector, handler, 0x8E, 0);
    let step_over = lab::assemble_at(handler, |a| {
        a.add(qword_ptr(rsp), skips)?;
        a.iretq()
    });
    put(&mut cpu, handler, &step_over);
    put(&mut cpu, DATA, &lab::KERNEL_DATA.to_le_bytes());
    watch(&mut cpu, DATA, 0x7_0001);
    (cpu.state(), handler)
}

/// The kernel then meets it at the first instruction of its handler.
#[test]
fn what_a_load_of_ss_meets_is_told_in_the_kernel_if_the_next_instruction_leads_there() {
    let (state, handler) = run_behind_watched_load(3, 0, |a| a.int3());
    assert_eq!((state.general[8], state.general[9]), (handler, 1));
    assert_eq!(state.debug[4], 0xFFFF_0FF1);
    let (state, handler) = run_behind_watched_load(6, 2, |a| a.ud2());
    assert_eq!((state.general[8], state.general[9]), (handler, 1));
}

/// INT1 behind it is a debug exception itself: there is one, which tells both.
#[test]
fn what_a_load_of_ss_meets_is_told_with_int1() {
    let (state, _) = run_behind_watched_load(3, 0, |a| a.int1());
    assert_eq!((state.general[8], state.general[9]), (state.rip - 1, 1));
    assert_eq!(state.debug[4], 0xFFFF_0FF1);
}
