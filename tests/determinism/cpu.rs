//! The vCPU of KVM: which positions it counts, what it shows at each, and what it keeps.
//!
//! Programs are a few bytes of real-mode code. What they say is asserted exactly, so that every
//! kind of KVM is held to the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ft_logging::types::Position;
use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};
use vmm::cpu::kvm::KvmCpu;
use vmm::cpu::kvm::host::probe_speed;
use vmm::cpu::kvm::probe::{Executed, cpuid_not_honoured, execute};
use vmm::cpu::{Access, Cpu, CpuError, CpuState, Exit, Limit, Target};
use vmm::sys::kick::Kicker;
use vmm::sys::vm::{GuestMemory, allocate_ram};

use super::kvm;

const RAM_BYTES: u64 = 0x4000;
const CODE: u64 = 0x1000;
const HANDLER: u16 = 0x1800;
const STACK: u64 = 0x3000;
const VECTOR: u8 = 0x40;

/// A CPU that is about to execute `code` in real mode, with `rax`. The interrupt [`VECTOR`] leads
/// to `handler`.
fn cpu(kvm: &Kvm, code: &[u8], handler: &[u8], rax: u64) -> (KvmCpu, GuestMemory) {
    prepared(|ram| KvmCpu::new(kvm, ram), code, handler, rax)
}

fn prepared(
    new: impl FnOnce(&GuestMemory) -> Result<KvmCpu, CpuError>,
    code: &[u8],
    handler: &[u8],
    rax: u64,
) -> (KvmCpu, GuestMemory) {
    let ram = allocate_ram(RAM_BYTES).expect("16 KiB");
    ram.write_slice(code, GuestAddress(CODE)).expect("RAM");
    ram.write_slice(handler, GuestAddress(HANDLER.into()))
        .expect("RAM");
    let gate = GuestAddress(u64::from(VECTOR) * 4);
    ram.write_obj(u32::from(HANDLER), gate).expect("RAM");
    let mut cpu = new(&ram).expect("a CPU");
    let mut state = cpu.save().expect("its reset state");
    let cs = &mut state.segments[1];
    (cs.base, cs.selector) = (0, 0);
    (state.rip, state.rflags) = (CODE, 2);
    (state.general[0], state.general[4]) = (rax, STACK);
    cpu.restore(&state, Position(0)).expect("its own state");
    (cpu, ram)
}

/// Runs to the next position.
fn next(cpu: &mut KvmCpu) -> Exit {
    loop {
        match cpu.run(Limit::NONE).expect("it runs") {
            Exit::Interrupted => {}
            exit => return exit,
        }
    }
}

fn port(port: u16, size: u8, write: Option<u64>) -> Exit {
    let target = Target::Port(port);
    Exit::Access(Access {
        target,
        size,
        write,
    })
}

/// DET-1: what is said of a position must not depend on when a signal came.
#[test]
fn det_1_an_interrupted_cpu_is_at_no_position() {
    let Some(kvm) = kvm() else { return };
    // 1: cmp byte [0x2000], 0; je 1b; out 0x80, al
    let code = [0x80, 0x3E, 0x00, 0x20, 0x00, 0x74, 0xF9, 0xE6, 0x80];
    let (mut cpu, ram) = cpu(&kvm, &code, &[], 0);
    let kicker = Kicker::for_this_thread().expect("a signal handler");
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                kicker.kick();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let exit = cpu.run(Limit::NONE);
        stop.store(true, Ordering::Relaxed);
        assert_eq!(exit.expect("it runs"), Exit::Interrupted);
    });
    assert_eq!(cpu.position(), Position(0));
    assert!(!cpu.at_boundary() && !cpu.takes_interrupts());

    ram.write_obj(1u8, GuestAddress(0x2000)).expect("RAM");
    assert_eq!(next(&mut cpu), port(0x80, 1, Some(0)));
    assert_eq!(cpu.position(), Position(1));
    assert!(cpu.at_boundary());
}

/// A guest that only computes, for ever, is stopped by the tick, and interrupted as soon as it lets
/// itself be.
#[test]
fn a_cpu_that_runs_freely_takes_interrupts_between_two_accesses() {
    let Some(kvm) = kvm() else { return };
    // 1: cmp byte [0x2000], 0; je 1b; sti; 2: jmp 2b
    let code = [0x80, 0x3E, 0x00, 0x20, 0x00, 0x74, 0xF9, 0xFB, 0xEB, 0xFE];
    let handler = [0xE6, 0x80]; // out 0x80, al
    let (mut cpu, ram) = prepared(|ram| KvmCpu::free(&kvm, ram), &code, &handler, 7);
    cpu.expect_interrupt(true);
    assert_eq!(cpu.run(Limit::NONE).expect("it runs"), Exit::Limit);
    assert!(!cpu.takes_interrupts(), "they are masked");
    ram.write_obj(1u8, GuestAddress(0x2000)).expect("RAM");
    while !cpu.takes_interrupts() {
        assert_eq!(cpu.run(Limit::NONE).expect("it runs"), Exit::Limit);
    }
    cpu.expect_interrupt(false);
    cpu.interrupt(VECTOR).expect("it takes it");
    loop {
        match cpu.run(Limit::NONE).expect("it runs") {
            Exit::Limit => {}
            exit => break assert_eq!(exit, port(0x80, 1, Some(7))),
        }
    }
}

/// DET-1: however many of them the kernel hands over at once.
#[test]
fn det_1_the_accesses_of_a_rep_string_count_one_by_one() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xFC, // cld
        0xBA, 0x10, 0x00, // mov dx, 0x10
        0xBE, 0x00, 0x10, // mov si, CODE
        0xB9, 0x05, 0x00, // mov cx, 5
        0xF3, 0x6E, // rep outsb
        0xBF, 0x00, 0x20, // mov di, 0x2000
        0xB9, 0x03, 0x00, // mov cx, 3
        0xF3, 0x6D, // rep insw
        0xF4, // hlt
    ];
    let (mut cpu, ram) = cpu(&kvm, &code, &[], 0);
    for (i, byte) in code.iter().take(5).enumerate() {
        assert_eq!(next(&mut cpu), port(0x10, 1, Some((*byte).into())));
        assert_eq!(cpu.position(), Position(i as u64 + 1));
    }
    for (i, word) in [0x1111, 0x2222, 0x3333].into_iter().enumerate() {
        assert_eq!(next(&mut cpu), port(0x10, 2, None));
        cpu.answer(word);
        assert_eq!(cpu.position(), Position(i as u64 + 6));
    }
    assert_eq!(next(&mut cpu), Exit::Halt);
    assert_eq!(cpu.position(), Position(9));
    let words: [u16; 3] = ram.read_obj(GuestAddress(0x2000)).expect("RAM");
    assert_eq!(words, [0x1111, 0x2222, 0x3333]);
}

#[test]
fn det_1_memory_accesses_have_the_width_of_the_guests() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xA2, 0x01, 0x80, // mov [0x8001], al
        0xA3, 0x02, 0x80, // mov [0x8002], ax
        0x66, 0xA3, 0x04, 0x80, // mov [0x8004], eax
        0xA0, 0x01, 0x80, // mov al, [0x8001]
        0xA1, 0x02, 0x80, // mov ax, [0x8002]
        0x66, 0xA1, 0x04, 0x80, // mov eax, [0x8004]
        0xF4, // hlt
    ];
    let (mut cpu, _) = cpu(&kvm, &code, &[], 0x4433_2211);
    let accesses: [(u64, u8, u64); 3] = [
        (0x8001, 1, 0x11),
        (0x8002, 2, 0x2211),
        (0x8004, 4, 0x4433_2211),
    ];
    let memory = |address, size, write| {
        let target = Target::Memory(address);
        Exit::Access(Access {
            target,
            size,
            write,
        })
    };
    for (address, size, value) in accesses {
        assert_eq!(next(&mut cpu), memory(address, size, Some(value)));
    }
    let answers = [0xAA, 0xBBBB, 0xCCCC_CCCC];
    let results = [0x4433_22AA, 0x4433_BBBB, 0xCCCC_CCCC];
    for (((address, size, _), answer), result) in accesses.into_iter().zip(answers).zip(results) {
        assert_eq!(next(&mut cpu), memory(address, size, None));
        cpu.answer(answer);
        let state = cpu.save().expect("behind an access");
        assert_eq!(state.general[0], result, "{size} bytes");
    }
    assert_eq!(next(&mut cpu), Exit::Halt);
    assert_eq!(cpu.position(), Position(7));
}

#[test]
fn det_1_interrupts_are_taken_where_they_are_injected() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xE6, 0x80, // out 0x80, al
        0xFB, 0x90, // sti; nop
        0xE6, 0x81, // out 0x81, al
        0xF4, // hlt
        0xFA, // cli
        0xE6, 0x82, // out 0x82, al
    ];
    let handler = [0xE6, 0x83, 0xCF]; // out 0x83, al; iret
    let (mut cpu, _) = cpu(&kvm, &code, &handler, 0);
    assert_eq!(next(&mut cpu), port(0x80, 1, Some(0)));
    assert!(!cpu.takes_interrupts(), "before STI");
    for exit in [port(0x81, 1, Some(0)), Exit::Halt] {
        assert_eq!(next(&mut cpu), exit);
        assert!(cpu.takes_interrupts(), "{exit:?}");
        cpu.interrupt(VECTOR).expect("it takes interrupts");
        assert_eq!(next(&mut cpu), port(0x83, 1, Some(0)));
        assert!(!cpu.takes_interrupts(), "in the handler");
    }
    assert_eq!(next(&mut cpu), port(0x82, 1, Some(0)));
    assert!(!cpu.takes_interrupts(), "after CLI");
    assert_eq!(cpu.position(), Position(6));
}

/// What is on its way belongs to the state, and so does the place of an access that KVM has yet
/// to complete.
#[test]
fn det_1_a_state_goes_on_in_another_cpu() {
    let Some(kvm) = kvm() else { return };
    let code = [
        0xFB, 0x90, // sti; nop
        0xE4, 0x80, // in al, 0x80
        0xE6, 0x81, // out 0x81, al
        0xF4, // hlt
    ];
    let handler = [0xE6, 0x83, 0xCF]; // out 0x83, al; iret
    let (mut first, _) = cpu(&kvm, &code, &handler, 0);
    assert_eq!(next(&mut first), port(0x80, 1, None));
    first.answer(0x5A);
    first.interrupt(VECTOR).expect("it takes interrupts");
    let state: CpuState = first.save().expect("behind an access");
    assert_eq!(state.general[0] & 0xFF, 0x5A);
    assert_eq!(state.interrupt, Some(VECTOR));

    let (mut second, _) = cpu(&kvm, &code, &handler, 0);
    second.restore(&state, first.position()).expect("as saved");
    assert_eq!(second.save().expect("as restored"), state);
    for cpu in [&mut first, &mut second] {
        assert_eq!(next(cpu), port(0x83, 1, Some(0x5A)));
        assert_eq!(next(cpu), port(0x81, 1, Some(0x5A)));
        assert_eq!(next(cpu), Exit::Halt);
        assert_eq!(cpu.position(), Position(4));
    }
    let ends = [&mut first, &mut second].map(|cpu| cpu.save().expect("halted"));
    assert_eq!(ends[0], ends[1]);
}

/// Where an interpreter runs kernel code, the host's leaves show through.
#[test]
fn det_4_a_guest_sees_the_cpuid_that_it_is_told() {
    let Some(kvm) = kvm() else { return };
    if probe_speed(&kvm).expect("it runs").kind() == "software" {
        return eprintln!("SKIPPED: this kind of KVM does not hide what the host's CPUID says");
    }
    assert_eq!(cpuid_not_honoured(&kvm).expect("it runs"), []);
}

/// A busy host makes hardware slow, but nothing makes an interpreter fast.
#[test]
fn det_4_no_fast_kvm_is_taken_for_an_interpreter() {
    let Some(kvm) = kvm() else { return };
    let speed = probe_speed(&kvm).expect("it runs");
    assert!(speed.kind() == "hardware" || speed.mips < 50.0, "{speed:?}");
}

#[test]
fn det_4_an_instruction_is_executed_or_faults() {
    let Some(kvm) = kvm() else { return };
    // xchg eax, ecx
    match execute(&kvm, &[0x66, 0x91], 1, 2).expect("it runs") {
        Executed::Done(regs) => assert_eq!((regs.rax, regs.rcx), (2, 1)),
        other => panic!("{other:?}"),
    }
    // div cl, by zero
    let divided = execute(&kvm, &[0xF6, 0xF1], 1, 0).expect("it runs");
    assert_eq!(divided, Executed::Faulted);
}
