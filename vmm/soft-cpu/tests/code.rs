//! Translated code follows what is written: by the program itself, by devices, through any mapping.

mod lab;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lab::{CODE, DATA, assemble, assemble_at, machine, put, put_word, run_to_halt};
use soft_cpu::Exit;

#[test]
fn a_store_into_the_next_instruction_takes_effect_at_once() {
    // mov byte [rip+1], 42; mov al, 7 (the 7 becomes 42); hlt
    let code = [0xC6, 0x05, 0x01, 0x00, 0x00, 0x00, 42, 0xB0, 7, 0xF4];
    let mut cpu = machine(4 << 20, &code);
    assert_eq!(run_to_halt(&mut cpu), None);
    assert_eq!(cpu.state().general[0], 42);
    assert_eq!(cpu.position(), 3);
}

#[test]
fn a_loop_that_rewrites_itself_counts_what_it_wrote() {
    let code = assemble(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 100)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.inc(byte_ptr(CODE + 20))?;
        a.db(&[0x04, 0])?; // add al, imm8
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    // The immediate that is incremented.
    let at = code
        .windows(2)
        .position(|w| w == [0x04, 0])
        .expect("it is there")
        + 1;
    let mut code = code;
    let operand = code
        .windows(4)
        .position(|w| w == (CODE as u32 + 20).to_le_bytes());
    let operand = operand.expect("it is there");
    code[operand..operand + 4].copy_from_slice(&(CODE as u32 + at as u32).to_le_bytes());
    let mut cpu = machine(4 << 20, &code);
    assert_eq!(run_to_halt(&mut cpu), None);
    let expected = (1..=100u32).fold(0u8, |sum, n| sum.wrapping_add(n as u8));
    assert_eq!(cpu.state().general[0] as u8, expected);
}

#[test]
fn a_page_that_becomes_code_is_watched_from_then_on() {
    // The page is written before it holds code, so the way for writes to it is open.
    let function = DATA + 0x100;
    let code = assemble(|a| {
        a.mov(rdi, function)?;
        a.mov(dword_ptr(rdi), 0xC3_05B0)?; // mov al, 5; ret
        a.mov(byte_ptr(rdi + 0x40), al)?;
        a.call(rdi)?;
        a.mov(ebx, eax)?;
        a.mov(byte_ptr(rdi + 1), 9)?;
        a.call(rdi)?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    assert_eq!(run_to_halt(&mut cpu), None);
    assert_eq!(cpu.state().general[3] as u8, 5);
    assert_eq!(cpu.state().general[0] as u8, 9);
}

#[test]
fn code_is_found_again_through_another_mapping() {
    // 0x4000_0000 maps the code's page too, writable.
    let alias = 0x4000_0000u64;
    let code = assemble(|a| {
        let mut function = a.create_label();
        let mut over = a.create_label();
        a.call(function)?;
        a.mov(rbx, rax)?;
        a.mov(rdi, alias + 0x800)?;
        a.mov(byte_ptr(rdi + 1), 9)?;
        a.call(function)?;
        a.jmp(over)?;
        a.set_label(&mut function)?;
        a.mov(rdx, CODE + 0x800)?;
        a.jmp(rdx)?;
        a.set_label(&mut over)?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    put(&mut cpu, CODE + 0x800, &[0xB0, 5, 0xC3]);
    map_page(&mut cpu, alias, CODE);
    assert_eq!(run_to_halt(&mut cpu), None);
    assert_eq!(cpu.state().general[3] as u8, 5);
    assert_eq!(cpu.state().general[0] as u8, 9);
}

/// Where code is that goes to the next page, and at 0x800 it comes back.
const HERE: u64 = 0x4000_0000;

/// What EBX has summed up after six rounds of a `way` from [`HERE`] to the next page, which changes
/// between two pages each time.
fn sum_of_two_pages(
    way: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    pages: [&[u8]; 2],
) -> u64 {
    let mut cpu = machine(4 << 20, &[]);
    map_page(&mut cpu, HERE, DATA);
    map_page(&mut cpu, HERE + 0x1000, DATA + 0x2000);
    let entry = PAGE_TABLE + 8;
    put(&mut cpu, DATA, &assemble_at(HERE, way));
    let back = assemble_at(HERE + 0x800, |a| {
        a.xor(qword_ptr(entry), 0x1000)?;
        a.mov(rdi, HERE + 0x1000)?;
        a.invlpg(byte_ptr(rdi))?;
        a.dec(ecx)?;
        a.jne(HERE)?;
        a.hlt()
    });
    put(&mut cpu, DATA + 0x800, &back);
    // mov eax, imm32 begins 2 bytes before the page's end.
    put(&mut cpu, DATA + 0xFFE, &[0xB8, 0]);
    put(&mut cpu, DATA + 0x2000, pages[0]);
    put(&mut cpu, DATA + 0x3000, pages[1]);
    let mut state = lab::kernel_state();
    state.rip = HERE;
    state.general[1] = 6;
    state.general[3] = 0;
    cpu.restore(&state, 0);
    assert_eq!(run_to_halt(&mut cpu), None);
    cpu.state().general[3]
}

#[test]
fn branches_to_another_page_follow_the_page_tables() {
    let [one, many] = [1, 0x100].map(|number| {
        assemble_at(HERE + 0x1000, |a| {
            a.add(ebx, number)?;
            a.jmp(HERE + 0x800)
        })
    });
    let direct = |a: &mut CodeAssembler| a.jmp(HERE + 0x1000);
    assert_eq!(sum_of_two_pages(direct, [&one, &many]), 0x303);
    let indirect = |a: &mut CodeAssembler| {
        a.mov(rax, HERE + 0x1000)?;
        a.jmp(rax)
    };
    assert_eq!(sum_of_two_pages(indirect, [&one, &many]), 0x303);
}

#[test]
fn an_instruction_across_pages_follows_the_page_tables() {
    let [one, many] = [1, 3].map(|number| {
        let rest = assemble_at(HERE + 0x1003, |a| {
            a.add(ebx, eax)?;
            a.jmp(HERE + 0x800)
        });
        [&[number, 0, 0], rest.as_slice()].concat()
    });
    let way = |a: &mut CodeAssembler| a.jmp(HERE + 0xFFE);
    assert_eq!(sum_of_two_pages(way, [&one, &many]), 0xC00);
}

/// The page table of the first pages above the first GiB.
const PAGE_TABLE: u64 = 0xA_1000;

/// Maps one page above the first GiB.
fn map_page(cpu: &mut soft_cpu::SoftCpu, linear: u64, physical: u64) {
    let (directory, table) = (0xA_0000, PAGE_TABLE);
    put_word(
        cpu,
        lab::PAGE_TABLES + 0x1000 + (linear >> 30) * 8,
        directory | 7,
    );
    put_word(cpu, directory + (linear >> 21 & 511) * 8, table | 7);
    put_word(cpu, table + (linear >> 12 & 511) * 8, physical | 7);
}

#[test]
fn a_device_that_writes_code_is_heard() {
    let code = assemble(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(al, 1)?;
        a.jmp(again)
    });
    let mut cpu = machine(4 << 20, &code);
    assert_eq!(cpu.run(1001), Exit::Limit);
    assert_eq!(cpu.state().general[0], 1);
    put(&mut cpu, CODE + 1, &[77]);
    assert_eq!(cpu.run(2001), Exit::Limit);
    assert_eq!(cpu.state().general[0], 77);
}

#[test]
fn an_instruction_across_pages_follows_both() {
    // mov eax, imm32 begins 2 bytes before the page's end.
    let start = CODE + 0xFFE;
    let code = assemble(|a| {
        a.mov(rsi, start)?;
        a.mov(rdi, CODE + 0x1000)?;
        a.call(rsi)?;
        a.mov(ebx, eax)?;
        a.mov(byte_ptr(rdi), 0x66)?;
        a.call(rsi)?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    put(&mut cpu, start, &[0xB8, 0x11, 0x22, 0x33, 0x44, 0xC3]);
    assert_eq!(run_to_halt(&mut cpu), None);
    assert_eq!(cpu.state().general[3], 0x4433_2211);
    assert_eq!(cpu.state().general[0], 0x4433_6611);
}

#[test]
fn an_instruction_across_pages_faults_on_the_second() {
    let last = 0x4000_0FFFu64;
    let code = assemble(|a| {
        a.mov(rax, last)?;
        a.jmp(rax)
    });
    let mut cpu = machine(4 << 20, &code);
    put(&mut cpu, 0x9_0FFF, &[0xB8]);
    map_page(&mut cpu, 0x4000_0000, 0x9_0000);
    assert_eq!(run_to_halt(&mut cpu), Some(14));
    assert_eq!(cpu.state().cr2, 0x4000_1000);
    // The frame: error code (a fetch of a page that is not there), RIP.
    let stack = cpu.state().general[4];
    assert_eq!(lab::word(&cpu, stack), 16);
    assert_eq!(lab::word(&cpu, stack + 8), last);
}

#[test]
fn writes_near_code_do_not_disturb_it() {
    // Data in the same page as the loop, 64 bytes and more away.
    let code = assemble(|a| {
        let mut again = a.create_label();
        a.mov(ecx, 100_000)?;
        a.set_label(&mut again)?;
        a.inc(qword_ptr(CODE + 0x800))?;
        a.dec(ecx)?;
        a.jne(again)?;
        a.hlt()
    });
    let mut cpu = machine(4 << 20, &code);
    assert_eq!(run_to_halt(&mut cpu), None);
    assert_eq!(lab::word(&cpu, CODE + 0x800), 100_000);
}

#[test]
fn pages_are_dirty_once_written_and_clean_once_told() {
    let code = assemble(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(qword_ptr(DATA), rax)?;
        a.hlt()?;
        a.jmp(again)
    });
    let mut cpu = machine(4 << 20, &code);
    let page = (DATA / 4096) as usize;
    let is_dirty = |dirty: &[u64]| dirty[page / 64] >> (page % 64) & 1 != 0;
    for _ in 0..3 {
        assert_eq!(run_to_halt(&mut cpu), None);
        let mut dirty = Vec::new();
        cpu.take_dirty(&mut dirty);
        assert!(is_dirty(&dirty));
        let mut clean = Vec::new();
        cpu.take_dirty(&mut clean);
        assert!(clean.iter().all(|word| *word == 0));
    }
}

#[test]
fn blocks_of_many_pages_are_linked_and_found() {
    // 33,000 blocks; restoring drops all of them.
    let code = assemble_at(DATA, |a| {
        for _ in 0..33_000 {
            let mut next = a.create_label();
            a.inc(ebx)?;
            a.jmp(next)?;
            a.set_label(&mut next)?;
            a.nop()?;
        }
        a.hlt()
    });
    let mut cpu = machine(8 << 20, &[]);
    put(&mut cpu, DATA, &code);
    for _ in 0..3 {
        let mut state = lab::kernel_state();
        state.rip = DATA;
        let position = cpu.position();
        cpu.restore(&state, position);
        assert_eq!(run_to_halt(&mut cpu), None);
        assert_eq!(cpu.state().general[3], 33_000);
        assert_eq!(cpu.position() - position, 3 * 33_000 + 1);
    }
}

#[test]
fn encodings_that_cpuid_does_not_claim_are_what_they_were() {
    // Each on RCX = 0x50, with RAX, R8 and RBX as they come out.
    let cases: &[(&str, &[u8], [u64; 3])] = &[
        ("rep bsf eax, ecx", &[0xF3, 0x0F, 0xBC, 0xC1], [4, 8, 3]),
        ("rep bsr eax, ecx", &[0xF3, 0x0F, 0xBD, 0xC1], [6, 8, 3]),
        ("pause", &[0xF3, 0x90], [1, 8, 3]),
        ("xchg r8, rax", &[0xF3, 0x49, 0x90], [8, 1, 3]),
        ("endbr64", &[0xF3, 0x0F, 0x1E, 0xFA], [1, 8, 3]),
        ("rdsspq rbx", &[0xF3, 0x48, 0x0F, 0x1E, 0xCB], [1, 8, 3]),
        ("prefetchw [rcx]", &[0x0F, 0x0D, 0x09], [1, 8, 3]),
        ("multi-byte nop", &[0x0F, 0x1F, 0x44, 0x00, 0x00], [1, 8, 3]),
        ("wbnoinvd", &[0xF3, 0x0F, 0x09], [1, 8, 3]),
    ];
    for (name, bytes, expected) in cases {
        let mut cpu = machine(4 << 20, &[bytes, &[0xF4][..]].concat());
        let mut state = lab::kernel_state();
        (state.general[0], state.general[1]) = (1, 0x50);
        (state.general[8], state.general[3]) = (8, 3);
        cpu.restore(&state, 0);
        assert_eq!(run_to_halt(&mut cpu), None, "{name}");
        let general = cpu.state().general;
        assert_eq!([general[0], general[8], general[3]], *expected, "{name}");
    }
}
