//! DET-1 for the CPU: where it is stopped makes no difference, and every position can be stopped
//! at.

mod lab;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lab::{DATA, assemble, byte, machine, run_about, run_to, set_gate, word};
use proptest::prelude::*;
use soft_cpu::{Access, Exit, SoftCpu, State};

/// Something of everything: loops, calls, strings, devices, faults, time.
fn program(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut sum, mut function, mut over) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.mov(rbx, DATA)?;
    a.mov(ebp, 3)?;
    a.set_label(&mut outer)?;
    a.mov(rdi, rbx)?;
    a.mov(eax, ebp)?;
    a.mov(ecx, 40)?;
    a.rep().stosd()?;
    a.mov(rsi, rbx)?;
    a.lea(rdi, qword_ptr(rbx + 0x1FF0))?;
    a.mov(ecx, 9)?;
    a.rep().movsq()?;
    a.xor(edx, edx)?;
    a.mov(ecx, 7)?;
    a.set_label(&mut sum)?;
    a.add(edx, dword_ptr(rbx + rcx * 4))?;
    a.adc(r8, rdx)?;
    a.ror(r8, 7)?;
    a.dec(ecx)?;
    a.jne(sum)?;
    a.call(function)?;
    a.mov(dx, 0x40)?;
    a.in_(al, dx)?;
    a.out(0x41, al)?;
    a.mov(edx, dword_ptr(0x3000_0000))?;
    a.add(dword_ptr(0x3000_0010), edx)?;
    a.mov(dx, 0x42)?;
    a.mov(rdi, rbx)?;
    a.mov(ecx, 3)?;
    a.rep().insb()?;
    a.mov(rsi, rbx)?;
    a.mov(ecx, 3)?;
    a.rep().outsw()?;
    a.rdtsc()?;
    a.add(r9, rax)?;
    a.ud2()?;
    a.dec(ebp)?;
    a.jne(outer)?;
    a.jmp(over)?;
    a.set_label(&mut function)?;
    a.push(rbx)?;
    a.push(qword_ptr(rbx))?;
    a.pop(rax)?;
    a.mov(ecx, 5)?;
    a.mov(rsi, rbx)?;
    a.mov(rdi, rbx)?;
    a.repe().cmpsb()?;
    a.pushfq()?;
    a.pop(r10)?;
    a.pop(rbx)?;
    a.ret()?;
    a.set_label(&mut over)?;
    a.hlt()
}

/// The machine with the program, and a handler for #UD that steps over it.
fn prepared() -> SoftCpu {
    let mut cpu = machine(4 << 20, &assemble(program));
    set_gate(&mut cpu, 6, lab::STUBS + 0x100, 0x8E, 0);
    let handler = lab::assemble_at(lab::STUBS + 0x100, |a| {
        a.add(qword_ptr(rsp), 2)?;
        a.inc(r11)?;
        a.iretq()
    });
    lab::put(&mut cpu, lab::STUBS + 0x100, &handler);
    cpu.restore(&lab::kernel_state(), 0);
    cpu
}

/// All states of the program, by position, found by the smallest of steps.
fn all_states() -> (Vec<State>, Vec<(u64, Access)>) {
    let mut cpu = prepared();
    let (mut states, mut log) = (vec![cpu.state()], Vec::new());
    loop {
        let next = cpu.position() + 1;
        if run_to(&mut cpu, next, &mut log) == Exit::Halt {
            return (states, log);
        }
        assert_eq!(cpu.position(), next, "every position can be stopped at");
        states.push(cpu.state());
    }
}

#[test]
fn det_1_every_position_is_reached_alike_in_one_go_and_step_by_step() {
    let (states, log) = all_states();
    assert!(states.len() > 300, "{} positions", states.len());
    for (position, expected) in states.iter().enumerate() {
        let mut cpu = prepared();
        let mut one_go = Vec::new();
        assert_eq!(run_to(&mut cpu, position as u64, &mut one_go), Exit::Limit);
        assert_eq!(cpu.state(), *expected, "at {position}");
        assert_eq!(one_go[..], log[..one_go.len()], "at {position}");
    }
}

#[test]
fn det_1_a_run_may_end_where_a_block_does() {
    let (states, _) = all_states();
    let last = states.len() as u64 - 1;
    for (limit, slice) in (1..last).flat_map(|limit| [(limit, u64::MAX), (limit, 1)]) {
        let mut cpu = prepared();
        cpu.set_slice(slice);
        run_about(&mut cpu, limit, &mut Vec::new());
        let position = cpu.position();
        assert!((limit.saturating_sub(64)..=limit).contains(&position));
        assert_eq!(cpu.state(), states[position as usize], "at {position}");
    }
}

/// What a report shows, against the states that lie between the smallest of steps. An instruction
/// has several positions if it repeats or accesses devices twice.
#[test]
fn the_last_instructions_are_told_wherever_the_cpu_was_stopped() {
    let (states, _) = all_states();
    let mut executed: Vec<u64> = Vec::new();
    for (position, state) in states.iter().enumerate() {
        for goes_by in [1, 7, u64::MAX] {
            let mut cpu = prepared();
            let end = position as u64;
            while cpu.position() < end {
                let next = cpu.position().saturating_add(goes_by).min(end);
                run_to(&mut cpu, next, &mut Vec::new());
            }
            let told = cpu.executed(20, |at| Some(byte(&cpu, at)));
            let told: Vec<u64> = told.iter().map(|executed| executed.rip).collect();
            let last = executed.len().saturating_sub(20);
            assert_eq!(told, executed[last..], "at {position}, by {goes_by}");
        }
        // Where a write is on its way to a device, its instruction has been counted.
        if state.posted.is_empty() && executed.last() != Some(&state.rip) {
            executed.push(state.rip);
        }
    }
}

#[test]
fn the_last_instructions_are_told_by_name_and_those_that_are_gone_too() {
    let mut cpu = machine(
        4 << 20,
        &assemble(|a| {
            a.mov(rax, DATA)?;
            a.add(qword_ptr(rax + 8), 5)?;
            a.jmp(rax)
        }),
    );
    lab::put(&mut cpu, DATA, &[0x0F, 0x0B]);
    let mut state = lab::kernel_state();
    state.idt.limit = 0;
    cpu.restore(&state, 0);
    assert_eq!(cpu.run(u64::MAX), Exit::TripleFault);
    let told = cpu.executed(20, |at| (at < DATA).then(|| byte(&cpu, at)));
    let told: Vec<&str> = told.iter().map(|executed| &*executed.text).collect();
    let expected = [
        "mov rax,0x200000",
        "add qword ptr [rax+0x8],0x5",
        "jmp rax",
        "(bad)",
    ];
    assert_eq!(told, expected);
}

#[test]
fn the_program_does_what_it_says() {
    let mut cpu = prepared();
    let mut log = Vec::new();
    assert_eq!(run_to(&mut cpu, u64::MAX, &mut log), Exit::Halt);
    assert_eq!(cpu.state().general[11], 3, "three undefined instructions");
    assert_eq!(word(&cpu, DATA + 0x1FF0 + 64), 0x1_0000_0001);
    // For each round: IN, OUT, a read, a read and a write, three INS, three OUTS.
    assert_eq!(log.len(), 3 * (2 + 1 + 2 + 3 + 3));
    let positions: Vec<u64> = log.iter().map(|(position, _)| *position).collect();
    assert!(
        positions.is_sorted_by(|a, b| a < b),
        "one position an access"
    );
}

#[test]
fn det_1_a_saved_and_restored_machine_goes_on_as_the_saved_one() {
    let (states, _) = all_states();
    let last = states.len() as u64 - 1;
    for position in (0..last).step_by(3) {
        let mut cpu = prepared();
        run_to(&mut cpu, position, &mut Vec::new());
        let state = cpu.save();
        let mut ram = vec![0; cpu.ram().len() as usize];
        assert!(cpu.ram().read(0, &mut ram));
        let mut other = SoftCpu::new(soft_cpu::Ram::anonymous(4 << 20), Default::default());
        lab::put(&mut other, 0, &ram);
        other.restore(&state, position);
        for cpu in [&mut cpu, &mut other] {
            run_to(cpu, last, &mut Vec::new());
            assert_eq!(cpu.state(), states[last as usize], "saved at {position}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn det_1_stops_kicks_and_saves_at_random_positions_change_nothing(
        stops in prop::collection::vec((0..1500u64, any::<bool>(), any::<bool>()), 1..20)
    ) {
        let mut plain = prepared();
        let mut log = Vec::new();
        prop_assert_eq!(run_to(&mut plain, u64::MAX, &mut log), Exit::Halt);

        let mut cpu = prepared();
        let mut stopped_log = Vec::new();
        let mut stops = stops;
        stops.sort_unstable();
        for (stop, kick, save) in stops {
            if kick {
                cpu.kick_handle().kick();
            }
            let exit = run_to(&mut cpu, stop, &mut stopped_log);
            prop_assert!(cpu.position() <= stop || exit == Exit::Limit);
            if save {
                let _ = cpu.save();
            }
            if exit == Exit::Halt {
                break;
            }
        }
        if cpu.position() < plain.position() {
            prop_assert_eq!(run_to(&mut cpu, u64::MAX, &mut stopped_log), Exit::Halt);
        }
        prop_assert_eq!(cpu.state(), plain.state());
        prop_assert_eq!(stopped_log, log);
    }
}

#[test]
fn a_kick_from_another_thread_stops_an_endless_loop() {
    let mut cpu = machine(4 << 20, &[0xEB, 0xFE]);
    let kick = cpu.kick_handle();
    let (started, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        wait.recv().expect("the loop starts");
        kick.kick();
    });
    started.send(()).expect("the thread waits");
    assert_eq!(cpu.run(u64::MAX), Exit::Interrupted);
    thread.join().expect("it kicked");
    let position = cpu.position();
    assert_eq!(cpu.run(position + 17), Exit::Limit);
    assert_eq!(cpu.position(), position + 17);
}

#[test]
fn the_counter_follows_positions_and_never_goes_back() {
    let code = assemble(|a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.rdtsc()?;
        a.shl(rdx, 32)?;
        a.or(rax, rdx)?;
        a.jmp(again)
    });
    let mut cpu = machine(4 << 20, &code);
    let read = |cpu: &mut SoftCpu| {
        cpu.run(cpu.position() + 4);
        cpu.state().general[0]
    };
    assert_eq!(read(&mut cpu), 0);
    assert_eq!(read(&mut cpu), 4);
    cpu.set_tsc(1_000_000);
    assert_eq!(read(&mut cpu), 1_000_000);
    cpu.set_tsc(500);
    assert_eq!(read(&mut cpu), 1_000_004, "an earlier time changes nothing");
}
