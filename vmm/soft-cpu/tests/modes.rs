//! From one mode or privilege level to another: system calls, 32-bit programs, the way into long
//! mode.

mod lab;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lab::{CODE, DATA, STUBS, assemble, frame, machine, put, put_word, run_to_halt};

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
fn a_16_bit_code_segment_has_16_bit_operands_addresses_and_branches() {
    let mut assembler = CodeAssembler::new(16).expect("16 is a bitness");
    let a = &mut assembler;
    let run = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        let (mut function, mut over) = (a.create_label(), a.create_label());
        a.mov(bx, 0xFFF0)?;
        a.mov(si, 0x130)?;
        a.mov(ax, word_ptr(bx + si))?; // wraps around to 0x120
        a.add(ax, 1)?;
        a.adc(dx, 0)?;
        a.call(function)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.movzx(ecx, sp)?;
        a.mov(edi, dword_ptr(esp))?; // an address-size prefix
        a.ret()?;
        a.set_label(&mut over)?;
        a.int(0x80)
    };
    run(a).expect("the code is well-formed");
    let code = a.assemble(0).expect("it encodes");
    let mut cpu = machine(4 << 20, &code);
    put_word(&mut cpu, DATA + 0x120, 0xFFFF);
    let mut state = lab::user_state();
    let mut segment = lab::flat(lab::USER_CODE_32, 0x00FB);
    (segment.base, segment.limit) = (CODE, 0xFFFF);
    state.segments[1] = segment;
    state.segments[3].base = DATA;
    state.rip = 0;
    state.general[0] = 0xAAAA_0000;
    state.general[4] = DATA + 0x1000;
    cpu.restore(&state, 0);
    assert_eq!(run_to_halt(&mut cpu), Some(0x80));
    let state = cpu.state();
    // AL holds the vector by now.
    assert_eq!(state.general[0], 0xAAAA_0080, "the upper half stays");
    assert_eq!(state.general[2], 1, "the carry out of 16 bits");
    assert_eq!(state.general[1], 0x0FFE, "the call pushed two bytes");
    let call_returns_to = state.general[7] & 0xFFFF;
    let jump_over_the_function = code[call_returns_to as usize];
    assert_eq!(jump_over_the_function, 0xEB);
    let frame = frame(&cpu, false);
    assert_eq!(frame.rip, code.len() as u64);
    assert_eq!(frame.rsp, DATA + 0x1000);
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

/// SDM vol. 3, 6.3: the limit of an expand-down segment is below its offsets, and its B flag says
/// where they end.
#[test]
fn offsets_outside_a_segment_fault_in_compatibility_mode() {
    const UP: u32 = 0x40F3;
    const DOWN_32: u32 = 0x40F7;
    const DOWN_16: u32 = 0x00F7;
    let cases = [
        (UP, 0, true),
        (UP, 0xFFC, true),
        (UP, 0xFFD, false),
        (UP, 0xFFFF_FFFF, false),
        (DOWN_32, 0xFFF, false),
        (DOWN_32, 0x1000, true),
        (DOWN_32, 0xFFFF_FFFC, true),
        (DOWN_32, 0xFFFF_FFFD, false),
        (DOWN_16, 0xFFF, false),
        (DOWN_16, 0x1000, true),
        (DOWN_16, 0xFFFC, true),
        (DOWN_16, 0xFFFD, false),
        (DOWN_16, 0x1_0000, false),
    ];
    // mov eax, [ebx]; int 0x80
    let code = [0x8B, 0x03, 0xCD, 0x80];
    for (access, offset, inside) in cases {
        let mut cpu = machine(4 << 20, &code);
        let mut state = lab::user_state();
        state.segments[1] = lab::flat(lab::USER_CODE_32, 0xC0FB);
        let segment = &mut state.segments[3];
        (segment.base, segment.limit, segment.access) = (DATA, 0xFFF, access);
        state.general[3] = offset;
        cpu.restore(&state, 0);
        let expected = if inside { 0x80 } else { 13 };
        assert_eq!(
            run_to_halt(&mut cpu),
            Some(expected),
            "{access:#x} {offset:#x}"
        );
    }
}
