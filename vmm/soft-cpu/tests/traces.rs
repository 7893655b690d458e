//! Blocks and traces make no difference: a CPU that executes instructions singly, one that does so
//! block by block, and one that makes all the traces it can compute and report the same.

mod lab;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lab::{
    CODE, DATA, STUBS, assemble, assemble_at, byte, machine, put, run_about, run_to, set_gate,
};
use proptest::prelude::*;
use soft_cpu::{Access, Exit, SoftCpu, State};

/// Vectors of #DE, #UD and #PF.
const FAULTS: [u8; 3] = [0, 6, 14];

/// Adds RBX to R9, and returns.
const FUNCTION: u64 = CODE + 0x1000 - 64;

/// Registers that programs compute with.
const REGISTERS: [AsmRegister64; 5] = [rax, rbx, rdx, r8, r9];

/// An address where nothing is mapped; it stands in R11.
const UNMAPPED: u64 = 0x7000_0000_0000;

/// An instruction of a random program: which, and two numbers to choose operands with.
type Step = (u8, u8, u8);

/// A random block: its steps, how it ends, and where its branch leads to.
type Piece = (Vec<Step>, u8, usize);

/// One instruction, or a few that belong together.
fn step(a: &mut CodeAssembler, (kind, x, y): Step, number: usize) -> Result<(), IcedError> {
    let (to, from) = (REGISTERS[x as usize % 5], REGISTERS[y as usize % 5]);
    // The last one lies across the end of the page.
    let slot = qword_ptr(rsi + if y == 255 { 0xFFC } else { i32::from(y) * 8 });
    match kind {
        0 => a.add(to, from),
        1 => a.sub(to, from),
        2 => a.xor(to, from),
        3 => a.adc(to, from),
        4 => a.rol(to, u32::from(y % 63) + 1),
        5 => a.inc(to),
        6 => a.lea(to, qword_ptr(to + from * 2 + 5)),
        7 => a.mov(to, slot),
        8 => a.add(slot, to),
        9 => a.mov(slot, to),
        10 => a.cmp(to, from),
        11 => a.cmp(slot, to),
        12 => a.setb(byte_ptr(rsi + 0x900)),
        13 => a.cmovl(to, from),
        14 => {
            a.pushfq()?;
            a.pop(to)
        }
        // With addresses of 32 bits, which are computed ahead.
        15 if y % 2 == 0 => a.mov(to, qword_ptr(esi + i32::from(y) * 4)),
        15 => a.mov(to, qword_ptr(CODE + u64::from(y))),
        16 => {
            a.in_(al, u32::from(y))?;
            a.out(0x41, al)
        }
        17 => a.out(u32::from(y), al),
        18 => a.ud2(),
        19 => {
            a.inc(qword_ptr(r11))?;
            a.mov(to, qword_ptr(r11))?;
            a.mov(qword_ptr(r11), from)
        }
        20 => {
            a.mov(ecx, u32::from(y % 4))?;
            a.rep().stosb()?;
            a.lea(rdi, qword_ptr(rsi + 0xA00))
        }
        // Adds a constant, and changes it.
        21 => {
            let constant = CODE + 0x1000 - 32 - number as u64;
            a.mov(rcx, constant)?;
            a.inc(byte_ptr(rcx))?;
            a.call(constant - 2)
        }
        22 => a.call(FUNCTION),
        23 => joined(a, y / 16, to, from, y),
        24 => a.rdtsc(),
        _ => a.imul_3(to, from, i32::from(y) + 3),
    }
}

/// A MOV, and what it may be joined with.
fn joined(
    a: &mut CodeAssembler,
    kind: u8,
    to: AsmRegister64,
    from: AsmRegister64,
    y: u8,
) -> Result<(), IcedError> {
    let other = REGISTERS[y as usize % 5];
    let number = i32::from(y) - 100;
    a.mov(to, from)?;
    match kind {
        0 => a.add(to, other),
        1 => a.sub(to, number),
        2 => a.xor(to, to),
        3 => a.imul_2(to, other),
        4 => a.sar(to, u32::from(y) % 70),
        5 => a.rol(to, 9),
        6 => a.neg(to),
        7 => a.dec(to),
        8 => a.cmovs(to, other),
        9 => a.cmp(to, other),
        10 => a.imul_3(to, other, number),
        11 => a.sbb(to, other),
        12 => a.not(to),
        13 => {
            // Halves: what is behind is wider than the MOV, and narrower.
            a.db(&[0x89, 0xD8])?; // mov eax, ebx
            a.add(rax, other)?;
            a.mov(rbx, rdx)?;
            a.db(&[0x01, 0xC3]) // add ebx, eax
        }
        14 => {
            a.mov(rdx, rbx)?;
            a.db(&[0x66, 0x01, 0xC2])?; // add dx, ax
            a.mov(rbx, rax)?;
            a.db(&[0x00, 0xE3]) // add bl, ah
        }
        _ => a.shl(to, u32::from(y) % 64),
    }
}

/// How a block ends.
fn end(a: &mut CodeAssembler, kind: u8, to: CodeLabel) -> Result<(), IcedError> {
    let (x, y) = (
        REGISTERS[kind as usize % 5],
        REGISTERS[kind as usize / 5 % 5],
    );
    match kind % 12 {
        0 => a.jmp(to),
        1 => {
            a.cmp(x, y)?;
            a.jb(to)
        }
        2 => {
            a.test(x, i32::from(kind))?;
            a.jne(to)
        }
        3 => {
            a.cmp(dword_ptr(rsi + 24), eax)?;
            a.jle(to)
        }
        4 => {
            a.add(x, y)?;
            a.jc(to)
        }
        5 => {
            a.dec(r10)?;
            a.jne(to)
        }
        6 => {
            a.test(x, x)?;
            a.js(to)
        }
        7 => {
            a.cmp(byte_ptr(rsi + 32), i32::from(kind))?;
            a.jae(to)
        }
        8 => {
            a.and(ecx, 3)?;
            a.loop_(to)
        }
        9 => {
            a.cmp(x, i32::from(kind))?;
            a.jo(to)
        }
        10 => {
            a.bt(x, 3)?;
            a.jae(to)
        }
        _ => a.nop(),
    }
}

/// A program of random blocks, without end: what falls out of the last goes to the first.
fn program(pieces: &[Piece]) -> Vec<u8> {
    let code = assemble(|a| {
        let mut labels: Vec<CodeLabel> = pieces.iter().map(|_| a.create_label()).collect();
        let targets = labels.clone();
        for (number, ((steps, ends, target), label)) in pieces.iter().zip(&mut labels).enumerate() {
            a.set_label(label)?;
            for (i, one) in steps.iter().enumerate() {
                step(a, *one, (number + i) % 4 * 4)?;
            }
            end(a, *ends, targets[target % targets.len()])?;
        }
        a.jmp(targets[0])
    });
    assert!(code.len() < 0x1000 - 64, "{} bytes are a page", code.len());
    code
}

/// A machine with a program that no trace was made of yet.
fn prepared(code: &[u8], slice: u64) -> SoftCpu {
    let mut cpu = machine(4 << 20, code);
    // add al, imm8; ret
    for number in 0..4 {
        let constant = CODE + 0x1000 - 32 - number * 4;
        put(&mut cpu, constant - 2, &[0x90, 0x04, 1, 0xC3]);
    }
    let function = assemble(|a| {
        a.add(r9, rbx)?;
        a.ret()
    });
    put(&mut cpu, FUNCTION, &function);
    for vector in FAULTS {
        set_gate(
            &mut cpu,
            vector,
            STUBS + 0x2000 + u64::from(vector) * 16,
            0x8E,
            0,
        );
        let handler = assemble_at(STUBS + 0x2000 + u64::from(vector) * 16, |a| {
            if vector == 14 {
                a.add(rsp, 8)?;
            }
            // UD2 has two bytes; what accesses [R11] has three.
            a.add(qword_ptr(rsp), if vector == 14 { 3 } else { 2 })?;
            a.iretq()
        });
        put(&mut cpu, STUBS + 0x2000 + u64::from(vector) * 16, &handler);
    }
    let data: Vec<u8> = (0..0x2000u32).map(|at| (at * 37 + 11) as u8).collect();
    put(&mut cpu, DATA, &data);
    let mut state = lab::kernel_state();
    for (i, register) in state.general.iter_mut().enumerate() {
        if i != 4 {
            *register = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
    }
    (state.general[6], state.general[7]) = (DATA, DATA + 0xA00);
    state.general[11] = UNMAPPED;
    cpu.restore(&state, 0);
    cpu.set_slice(slice);
    cpu
}

/// All that can be seen of a CPU.
#[derive(Debug, PartialEq)]
struct Seen {
    state: State,
    data: Vec<u8>,
    executed: Vec<soft_cpu::Executed>,
    log: Vec<(u64, Access)>,
}

/// What it is at some positions, one after the other.
fn at(positions: &[u64], cpu: &mut SoftCpu) -> Vec<Seen> {
    let mut log = Vec::new();
    positions
        .iter()
        .map(|position| {
            while cpu.position() + 300 < *position {
                let near = cpu.position() + 300;
                run_about(cpu, near, &mut log);
                assert!(cpu.position() <= near);
            }
            assert_eq!(run_to(cpu, *position, &mut log), Exit::Limit);
            let mut data = vec![0; 0x1000];
            assert!(cpu.ram().read(DATA, &mut data));
            Seen {
                state: cpu.state(),
                data,
                executed: cpu.executed(20, |at| Some(byte(cpu, at))),
                log: std::mem::take(&mut log),
            }
        })
        .collect()
}

/// A loop through one page of memory by many addresses: it comes back to the same code, but not to
/// where it was.
#[test]
fn code_that_goes_on_in_another_mapping_of_its_page_is_no_loop() {
    const HERE: u64 = 0x4000_0000;
    const PAGES: u64 = 511;
    let (directory, table) = (0xA_0000, 0xA_1000);
    let code = assemble_at(HERE, |a| {
        let mut here = a.create_label();
        a.set_label(&mut here)?;
        a.lea(rbx, qword_ptr(here))?;
        a.add(rax, rbx)?;
        a.inc(rcx)?;
        a.nop()?;
        a.jmp(HERE + 0x1000)
    });
    for slice in [u64::MAX, 1] {
        let mut cpu = machine(4 << 20, &[]);
        lab::put_word(&mut cpu, lab::PAGE_TABLES + 0x1008, directory | 7);
        lab::put_word(&mut cpu, directory, table | 7);
        for page in 0..PAGES {
            lab::put_word(&mut cpu, table + page * 8, DATA | 7);
        }
        lab::put_word(&mut cpu, table + PAGES * 8, (DATA + 0x1000) | 7);
        put(&mut cpu, DATA, &code);
        put(&mut cpu, DATA + 0x1000, &[0xF4]);
        let mut state = lab::kernel_state();
        state.rip = HERE;
        cpu.restore(&state, 0);
        cpu.set_slice(slice);
        assert_eq!(lab::run_to_halt(&mut cpu), None);
        let general = cpu.state().general;
        let sum: u64 = (0..PAGES).map(|page| HERE + page * 0x1000).sum();
        assert_eq!((general[0], general[1]), (sum, PAGES));
    }
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    // Most steps are arithmetic; what ends a trace comes now and then.
    let kind = prop_oneof![9 => 0..16u8, 3 => Just(23u8), 1 => 16..26u8];
    let step = (kind, any::<u8>(), any::<u8>());
    let piece = (
        prop::collection::vec(step, 0..5),
        any::<u8>(),
        any::<usize>(),
    );
    prop::collection::vec(piece, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn det_1_blocks_change_nothing(pieces in pieces(), position in 1..400u64) {
        let code = program(&pieces);
        let every: Vec<u64> = (1..=position).collect();
        let singly = at(&every, &mut prepared(&code, u64::MAX)).pop().expect("positions");
        let at_once = at(&[position], &mut prepared(&code, u64::MAX)).remove(0);
        prop_assert_eq!(singly.state, at_once.state);
        prop_assert_eq!(singly.data, at_once.data);
        prop_assert_eq!(singly.executed, at_once.executed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn det_1_traces_change_nothing(
        pieces in pieces(),
        mut positions in prop::collection::vec(1..12_000u64, 1..12),
    ) {
        positions.sort_unstable();
        positions.dedup();
        let code = program(&pieces);
        let plain = at(&positions, &mut prepared(&code, u64::MAX));
        let traced = at(&positions, &mut prepared(&code, 1));
        for ((position, plain), traced) in positions.iter().zip(&plain).zip(&traced) {
            prop_assert_eq!(plain, traced, "at {}", position);
        }
    }
}
