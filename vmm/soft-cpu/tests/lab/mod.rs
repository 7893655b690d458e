//! A small machine around the CPU: page tables, descriptor tables, code.
//!
//! ```text
//!   0x0_1000  page tables: the first GiB to itself, in pages of 2 MiB
//!   0x0_4000  GDT   0x0_5000  IDT   0x0_6000  TSS   0x0_7000  IST stack's end
//!   0x0_8000  exception stubs, 16 bytes each
//!   0x1_0000  code  0xF_0000  stack's end  0x20_0000  data
//! ```

#![allow(dead_code)]

use iced_x86::code_asm::CodeAssembler;
use soft_cpu::{
    Access, CpuidTable, Exit, Ram, STORED_MSRS, Segment, SoftCpu, State, Table, Target, UNUSABLE,
};

pub(crate) const PAGE_TABLES: u64 = 0x1000;
pub(crate) const GDT: u64 = 0x4000;
pub(crate) const IDT: u64 = 0x5000;
pub(crate) const TSS: u64 = 0x6000;
pub(crate) const IST_STACK: u64 = 0x8000;
pub(crate) const STUBS: u64 = 0x8000;
pub(crate) const CODE: u64 = 0x1_0000;
pub(crate) const STACK: u64 = 0xF_0000;
pub(crate) const DATA: u64 = 0x20_0000;

/// The port that exception stubs write their vector to.
pub(crate) const STUB_PORT: u16 = 0xE0;

pub(crate) const KERNEL_CODE: u16 = 0x08;
pub(crate) const KERNEL_DATA: u16 = 0x10;
pub(crate) const USER_CODE_32: u16 = 0x1B;
pub(crate) const USER_DATA: u16 = 0x23;
pub(crate) const USER_CODE: u16 = 0x2B;
pub(crate) const TASK: u16 = 0x30;

/// Machine code from an assembler's closure, as if at `at`.
pub(crate) fn assemble_at(
    at: u64,
    code: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).expect("64 is a bitness");
    code(&mut assembler).expect("the code is well-formed");
    assembler.assemble(at).expect("it encodes")
}

/// Machine code at [`CODE`].
pub(crate) fn assemble(
    code: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> Vec<u8> {
    assemble_at(CODE, code)
}

/// A flat segment.
pub(crate) fn flat(selector: u16, access: u32) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        selector,
        access,
    }
}

/// The state of a 64-bit kernel at [`CODE`].
pub(crate) fn kernel_state() -> State {
    let data = flat(KERNEL_DATA, 0xC093);
    let mut fxsave = [0; 512];
    fxsave[..2].copy_from_slice(&0x037Fu16.to_le_bytes());
    fxsave[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
    fxsave[28..32].copy_from_slice(&0xFFFFu32.to_le_bytes());
    let mut general = [0; 16];
    general[4] = STACK;
    State {
        general,
        rip: CODE,
        rflags: 2,
        segments: [data, flat(KERNEL_CODE, 0xA09B), data, data, data, data],
        task: Segment {
            base: TSS,
            limit: 0x67,
            selector: TASK,
            access: 0x8B,
        },
        ldt: Segment {
            access: UNUSABLE,
            ..Segment::default()
        },
        gdt: Table {
            base: GDT,
            limit: 0x3F,
        },
        idt: Table {
            base: IDT,
            limit: 0xFFF,
        },
        cr0: 0x8001_0033,
        cr2: 0,
        cr3: PAGE_TABLES,
        cr4: 0x6A0,
        cr8: 0,
        debug: [0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
        efer: 0xD01,
        star: u64::from(USER_CODE_32) << 48 | u64::from(KERNEL_CODE) << 32,
        lstar: 0,
        cstar: 0,
        fmask: 0x4_7700,
        kernel_gs_base: 0,
        sysenter: [0; 3],
        stored_msrs: [0; STORED_MSRS.len()],
        tsc: 0,
        tsc_adjust: 0,
        fxsave,
        interrupt_shadow: false,
        answers: Vec::new(),
        posted: Vec::new(),
    }
}

/// The same machine with its program at privilege level 3.
pub(crate) fn user_state() -> State {
    let mut state = kernel_state();
    let data = flat(USER_DATA, 0xC0F3);
    state.segments = [data, flat(USER_CODE, 0xA0FB), data, data, data, data];
    state.rflags = 0x202;
    state
}

pub(crate) fn put(cpu: &mut SoftCpu, at: u64, bytes: &[u8]) {
    assert!(cpu.write_ram(at, bytes), "{at:#x} is RAM");
}

pub(crate) fn put_word(cpu: &mut SoftCpu, at: u64, value: u64) {
    put(cpu, at, &value.to_le_bytes());
}

pub(crate) fn word(cpu: &SoftCpu, at: u64) -> u64 {
    let mut bytes = [0; 8];
    assert!(cpu.ram().read(at, &mut bytes), "{at:#x} is RAM");
    u64::from_le_bytes(bytes)
}

/// A CPU with `code` at [`CODE`], tables, and stubs that report exceptions at [`STUB_PORT`].
pub(crate) fn machine(ram_bytes: u64, code: &[u8]) -> SoftCpu {
    let mut cpu = SoftCpu::new(Ram::anonymous(ram_bytes), CpuidTable::default());
    put_word(&mut cpu, PAGE_TABLES, (PAGE_TABLES + 0x1000) | 7);
    put_word(&mut cpu, PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | 7);
    for page in 0..512 {
        put_word(&mut cpu, PAGE_TABLES + 0x2000 + page * 8, page << 21 | 0x87);
    }
    let descriptors = [
        0,
        0x00AF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        0x00CF_FB00_0000_FFFF,
        0x00CF_F300_0000_FFFF,
        0x00AF_FB00_0000_FFFF,
        0x0000_8B00_6000_0067,
        0,
    ];
    for (i, descriptor) in (0..).zip(descriptors) {
        put_word(&mut cpu, GDT + i * 8, descriptor);
    }
    put_word(&mut cpu, TSS + 4, IST_STACK);
    put_word(&mut cpu, TSS + 0x24, IST_STACK);
    // The I/O bitmap begins behind the TSS: no port is allowed.
    put_word(&mut cpu, TSS + 0x60, 0x68 << 48);
    for vector in 0..256u64 {
        let stub = STUBS + vector * 16;
        set_gate(&mut cpu, vector as u8, stub, 0xEE, 0);
        // mov al, vector; out STUB_PORT, al; hlt; jmp to the hlt
        let code = [0xB0, vector as u8, 0xE6, STUB_PORT as u8, 0xF4, 0xEB, 0xFD];
        put(&mut cpu, stub, &code);
    }
    put(&mut cpu, CODE, code);
    cpu.restore(&kernel_state(), 0);
    cpu
}

/// Points a vector at a handler. `kind` is the gate's byte of present bit, DPL and type.
pub(crate) fn set_gate(cpu: &mut SoftCpu, vector: u8, handler: u64, kind: u8, stack_table: u8) {
    let at = IDT + u64::from(vector) * 16;
    let low = handler & 0xFFFF
        | u64::from(KERNEL_CODE) << 16
        | u64::from(stack_table) << 32
        | u64::from(kind) << 40
        | (handler & 0xFFFF_0000) << 32;
    put_word(cpu, at, low);
    put_word(cpu, at + 8, handler >> 32);
}

/// Runs to HLT, and says which exception stub was reached, if any. Other accesses fail.
pub(crate) fn run_to_halt(cpu: &mut SoftCpu) -> Option<u8> {
    let mut vector = None;
    loop {
        match cpu.run(u64::MAX) {
            Exit::Halt => return vector,
            Exit::Access(access) if access.target == soft_cpu::Target::Port(STUB_PORT) => {
                vector = access.write.map(|value| value as u8);
            }
            other => panic!("{other:?} at {:#x}", cpu.state().rip),
        }
    }
}

/// What an exception handler finds on its stack.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) error: Option<u64>,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) flags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

pub(crate) fn frame(cpu: &SoftCpu, has_error: bool) -> Frame {
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

/// A byte of RAM.
pub(crate) fn byte(cpu: &SoftCpu, at: u64) -> u8 {
    let mut byte = [0];
    assert!(cpu.ram().read(at, &mut byte));
    byte[0]
}

/// What a device answers at a position.
fn device(access: &Access, position: u64) -> u64 {
    let target = match access.target {
        Target::Port(port) => u64::from(port),
        Target::Memory(address) => address,
    };
    (position ^ target).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Runs to a position exactly, or to HLT if that comes first. Every access goes into the log.
pub(crate) fn run_to(cpu: &mut SoftCpu, limit: u64, log: &mut Vec<(u64, Access)>) -> Exit {
    drive(cpu, |cpu| cpu.run(limit), log)
}

/// Likewise, to a position or a little before it.
pub(crate) fn run_about(cpu: &mut SoftCpu, limit: u64, log: &mut Vec<(u64, Access)>) -> Exit {
    drive(cpu, |cpu| cpu.run_about(limit), log)
}

fn drive(
    cpu: &mut SoftCpu,
    mut run: impl FnMut(&mut SoftCpu) -> Exit,
    log: &mut Vec<(u64, Access)>,
) -> Exit {
    loop {
        match run(cpu) {
            Exit::Access(access) => {
                log.push((cpu.position(), access));
                if access.write.is_none() {
                    cpu.answer(device(&access, cpu.position()));
                }
            }
            Exit::Interrupted => {}
            exit => return exit,
        }
    }
}
