//! How fast SSE is: small programs, in millions of guest instructions per second.
//!
//! ```text
//! cargo run --release -p soft-cpu --example speed_sse
//! ```

#[path = "../tests/lab/mod.rs"]
mod lab;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lab::{DATA, assemble, machine, run_to_halt};

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn main() {
    let programs: [(&str, Program); 4] = [
        ("strlen: 16 bytes at a time", string_length),
        ("copies: 64 bytes at a time, through four registers", copies),
        ("doubles: a polynomial, scalar, nothing exact", polynomial),
        (
            "doubles: sums of whole numbers, converted to and fro",
            whole_numbers,
        ),
    ];
    for (name, program) in programs {
        let code = assemble(program);
        let mut cpu = machine(64 << 20, &code);
        let begin = cpu_seconds();
        assert_eq!(run_to_halt(&mut cpu), None, "{name} faults");
        let seconds = cpu_seconds() - begin;
        let rate = cpu.position() as f64 / seconds / 1e6;
        println!("{rate:8.0} M/s  {seconds:5.2} s  {name}");
    }
}

/// Time that this thread was on a processor, so that others on the machine do not count.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this is Linux");
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|word| word.parse::<u64>().ok());
    nanoseconds.expect("the first word is the time") as f64 / 1e9
}

/// The loop of glibc's strlen for SSE2, over 4 KiB.
fn string_length(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut inner, mut found) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(rdi, DATA)?;
    a.mov(ecx, 0x1000)?;
    a.mov(al, 0x61)?;
    a.rep().stosb()?;
    a.mov(byte_ptr(rdi), 0)?;
    a.mov(ebp, 100_000)?;
    a.set_label(&mut outer)?;
    a.mov(rsi, DATA)?;
    a.pxor(xmm0, xmm0)?;
    a.set_label(&mut inner)?;
    a.movdqa(xmm1, xmmword_ptr(rsi))?;
    a.movdqa(xmm2, xmmword_ptr(rsi + 16))?;
    a.pminub(xmm1, xmm2)?;
    a.pminub(xmm1, xmmword_ptr(rsi + 32))?;
    a.pminub(xmm1, xmmword_ptr(rsi + 48))?;
    a.pcmpeqb(xmm1, xmm0)?;
    a.pmovmskb(edx, xmm1)?;
    a.add(rsi, 64)?;
    a.test(edx, edx)?;
    a.jnz(found)?;
    a.jmp(inner)?;
    a.set_label(&mut found)?;
    a.dec(ebp)?;
    a.jnz(outer)?;
    a.hlt()
}

/// The loop of glibc's memcpy for SSE2, over 4 KiB.
fn copies(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut inner) = (a.create_label(), a.create_label());
    a.mov(ebp, 100_000)?;
    a.set_label(&mut outer)?;
    a.mov(rsi, DATA)?;
    a.mov(rdi, DATA + 0x10_0008)?;
    a.mov(ecx, 64)?;
    a.set_label(&mut inner)?;
    for (i, register) in [xmm0, xmm1, xmm2, xmm3].into_iter().enumerate() {
        a.movups(register, xmmword_ptr(rsi + 16 * i))?;
    }
    for (i, register) in [xmm0, xmm1, xmm2, xmm3].into_iter().enumerate() {
        a.movups(xmmword_ptr(rdi + 16 * i), register)?;
    }
    a.add(rsi, 64)?;
    a.add(rdi, 64)?;
    a.dec(ecx)?;
    a.jnz(inner)?;
    a.dec(ebp)?;
    a.jnz(outer)?;
    a.hlt()
}

/// Horner's rule.
fn polynomial(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut inner = a.create_label();
    a.mov(rsi, DATA)?;
    for i in 0..8u64 {
        a.mov(rax, (1.0 / (3.0 + i as f64)).to_bits())?;
        a.mov(qword_ptr(rsi + 8 * i), rax)?;
    }
    a.mov(ecx, 5_000_000)?;
    a.set_label(&mut inner)?;
    a.cvtsi2sd(xmm1, ecx)?;
    a.divsd(xmm1, qword_ptr(rsi))?;
    a.movsd_2(xmm0, qword_ptr(rsi))?;
    for i in 1..8 {
        a.mulsd(xmm0, xmm1)?;
        a.addsd(xmm0, qword_ptr(rsi + 8 * i))?;
    }
    a.comisd(xmm0, xmm1)?;
    a.dec(ecx)?;
    a.jnz(inner)?;
    a.hlt()
}

/// What counters do that are kept as doubles.
fn whole_numbers(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut inner = a.create_label();
    a.xorps(xmm0, xmm0)?;
    a.mov(ecx, 20_000_000)?;
    a.set_label(&mut inner)?;
    a.cvtsi2sd(xmm1, ecx)?;
    a.addsd(xmm0, xmm1)?;
    a.cvttsd2si(rax, xmm0)?;
    a.dec(ecx)?;
    a.jnz(inner)?;
    a.hlt()
}
