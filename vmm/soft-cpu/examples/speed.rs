//! How fast the CPU is: small programs, in millions of guest instructions per second.
//!
//! ```text
//! cargo run --release -p soft-cpu --example speed
//! ```

#[path = "../tests/lab/mod.rs"]
mod lab;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use lab::{DATA, assemble, machine, run_to_halt};

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

fn main() {
    let programs: [(&str, Program); 7] = [
        ("rounds: rotates and adds in registers, a table", rounds),
        ("hash table: 4 MiB, random places", hash_table),
        ("quicksort: 64 Ki words, recursive", quicksort),
        ("strings: bytes, one by one", strings),
        ("calls: fib, recursive", calls),
        ("copies: REP MOVSQ of 1 KiB", copies),
        ("cold: 14,000 blocks one after the other", cold),
    ];
    for (name, program) in programs {
        let code = assemble(program);
        let mut cpu = machine(64 << 20, &code);
        let begin = cpu_seconds();
        assert_eq!(run_to_halt(&mut cpu), None, "{name} faults");
        let seconds = cpu_seconds() - begin;
        let rate = cpu.position() as f64 / seconds / 1e6;
        println!("{rate:8.0} M/s  {:5.2} s  {name}", seconds);
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

/// The inner loop of SHA-256 in form: 64 rounds over a table, again and again.
fn rounds(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut outer, mut inner) = (a.create_label(), a.create_label());
    a.mov(rsi, DATA)?;
    a.mov(ebp, 150_000)?;
    a.set_label(&mut outer)?;
    a.xor(ecx, ecx)?;
    a.set_label(&mut inner)?;
    for _ in 0..4 {
        a.mov(r10d, r8d)?;
        a.ror(r10d, 6)?;
        a.mov(r11d, r8d)?;
        a.ror(r11d, 11)?;
        a.xor(r10d, r11d)?;
        a.ror(r11d, 14)?;
        a.xor(r10d, r11d)?;
        a.add(r10d, dword_ptr(rsi + rcx * 4))?;
        a.mov(r11d, r8d)?;
        a.and(r11d, r9d)?;
        a.add(r10d, r11d)?;
        a.add(eax, r10d)?;
        a.mov(r9d, r8d)?;
        a.lea(r8d, dword_ptr(rax + r10))?;
        a.inc(ecx)?;
    }
    a.cmp(ecx, 64)?;
    a.jb(inner)?;
    a.dec(ebp)?;
    a.jne(outer)?;
    a.hlt()
}

fn hash_table(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut free, mut next) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(rsi, DATA)?;
    a.mov(r8, 0x9E37_79B9_7F4A_7C15u64)?;
    a.mov(ebp, 6_000_000)?;
    a.mov(eax, 1)?;
    a.set_label(&mut again)?;
    a.imul_2(rax, r8)?;
    a.add(rax, rbp)?;
    a.mov(rbx, rax)?;
    a.shr(rbx, 46)?;
    a.mov(rdx, rax)?;
    a.and(edx, 0x3_FFFF)?;
    a.shl(rbx, 4)?;
    a.mov(rcx, qword_ptr(rsi + rbx))?;
    a.test(rcx, rcx)?;
    a.je(free)?;
    a.cmp(rcx, rdx)?;
    a.je(next)?;
    a.mov(qword_ptr(rsi + rbx + 8), rax)?;
    a.set_label(&mut free)?;
    a.mov(qword_ptr(rsi + rbx), rdx)?;
    a.set_label(&mut next)?;
    a.inc(qword_ptr(rsi + rbx + 8))?;
    a.dec(ebp)?;
    a.jne(again)?;
    a.hlt()
}

/// Fills 64 Ki words with noise and sorts them, a few times.
fn quicksort(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut fill, mut sort, mut done) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.mov(r12d, 20)?;
    a.set_label(&mut again)?;
    a.mov(rdi, DATA)?;
    a.mov(ecx, 65536)?;
    a.set_label(&mut fill)?;
    a.imul_3(eax, eax, 1_103_515_245)?;
    a.add(eax, 12345)?;
    a.mov(edx, eax)?;
    a.shr(edx, 8)?;
    a.mov(dword_ptr(rdi), edx)?;
    a.add(rdi, 4)?;
    a.dec(ecx)?;
    a.jne(fill)?;
    a.mov(rdi, DATA)?;
    a.mov(rsi, DATA + 65535 * 4)?;
    a.call(sort)?;
    a.dec(r12d)?;
    a.jne(again)?;
    a.jmp(done)?;

    // sort(rdi: first, rsi: last): Hoare's partition.
    let (mut up, mut down, mut split, mut leave) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.set_label(&mut sort)?;
    a.cmp(rdi, rsi)?;
    a.jae(leave)?;
    a.push(rsi)?;
    a.push(rdi)?;
    a.mov(rax, rdi)?;
    a.add(rax, rsi)?;
    a.shr(rax, 1)?;
    a.and(rax, -4)?;
    a.mov(edx, dword_ptr(rax))?;
    a.lea(r8, qword_ptr(rdi - 4))?;
    a.lea(r9, qword_ptr(rsi + 4))?;
    a.set_label(&mut up)?;
    a.add(r8, 4)?;
    a.cmp(dword_ptr(r8), edx)?;
    a.jb(up)?;
    a.set_label(&mut down)?;
    a.sub(r9, 4)?;
    a.cmp(dword_ptr(r9), edx)?;
    a.ja(down)?;
    a.cmp(r8, r9)?;
    a.jae(split)?;
    a.mov(r10d, dword_ptr(r8))?;
    a.mov(r11d, dword_ptr(r9))?;
    a.mov(dword_ptr(r8), r11d)?;
    a.mov(dword_ptr(r9), r10d)?;
    a.jmp(up)?;
    a.set_label(&mut split)?;
    a.pop(rdi)?;
    a.mov(rsi, r9)?;
    a.push(r9)?;
    a.call(sort)?;
    a.pop(rdi)?;
    a.add(rdi, 4)?;
    a.pop(rsi)?;
    a.call(sort)?;
    a.set_label(&mut leave)?;
    a.ret()?;
    a.set_label(&mut done)?;
    a.hlt()
}

/// The length of a string and a comparison with its copy, byte by byte.
fn strings(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut again, mut len, mut compare, mut differ) = (
        a.create_label(),
        a.create_label(),
        a.create_label(),
        a.create_label(),
    );
    a.mov(rdi, DATA)?;
    a.mov(eax, 0x41)?;
    a.mov(ecx, 8192)?;
    a.rep().stosb()?;
    a.mov(byte_ptr(DATA + 4000), 0)?;
    a.mov(byte_ptr(DATA + 8050), 0)?;
    a.mov(ebp, 20_000)?;
    a.set_label(&mut again)?;
    a.mov(rdi, DATA)?;
    a.set_label(&mut len)?;
    a.movzx(eax, byte_ptr(rdi))?;
    a.inc(rdi)?;
    a.test(al, al)?;
    a.jne(len)?;
    a.mov(rsi, DATA)?;
    a.mov(rdi, DATA + 4050)?;
    a.set_label(&mut compare)?;
    a.mov(al, byte_ptr(rsi))?;
    a.cmp(al, byte_ptr(rdi))?;
    a.jne(differ)?;
    a.add(rsi, 1)?;
    a.add(rdi, 1)?;
    a.test(al, al)?;
    a.jne(compare)?;
    a.set_label(&mut differ)?;
    a.dec(ebp)?;
    a.jne(again)?;
    a.hlt()
}

fn calls(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let (mut fib, mut small, mut done) = (a.create_label(), a.create_label(), a.create_label());
    a.mov(edi, 33)?;
    a.call(fib)?;
    a.jmp(done)?;
    a.set_label(&mut fib)?;
    a.cmp(edi, 2)?;
    a.jb(small)?;
    a.push(rbx)?;
    a.push(rdi)?;
    a.dec(edi)?;
    a.call(fib)?;
    a.mov(ebx, eax)?;
    a.pop(rdi)?;
    a.sub(edi, 2)?;
    a.call(fib)?;
    a.add(eax, ebx)?;
    a.pop(rbx)?;
    a.ret()?;
    a.set_label(&mut small)?;
    a.mov(eax, edi)?;
    a.ret()?;
    a.set_label(&mut done)?;
    a.hlt()
}

fn copies(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(ebp, 3_000_000)?;
    a.set_label(&mut again)?;
    a.mov(rsi, DATA)?;
    a.mov(rdi, DATA + 0x10_0080)?;
    a.mov(ecx, 128)?;
    a.rep().movsq()?;
    a.dec(ebp)?;
    a.jne(again)?;
    a.hlt()
}

/// Many blocks that each run seldom, as a kernel's do.
fn cold(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(rsi, DATA)?;
    a.mov(ebp, 1000)?;
    a.set_label(&mut again)?;
    for i in 0..14_000u32 {
        let mut over = a.create_label();
        a.mov(rax, qword_ptr(rsi + i64::from(i * 8)))?;
        a.lea(rbx, qword_ptr(rax + 5))?;
        a.and(ebx, 0xFFFF)?;
        a.add(qword_ptr(rsi + i64::from(i % 64 * 8)), rbx)?;
        a.test(al, 3)?;
        if i % 3 == 0 {
            a.je(over)?;
        } else {
            a.jne(over)?;
        }
        a.xor(ecx, eax)?;
        a.set_label(&mut over)?;
        a.nop()?;
    }
    a.dec(ebp)?;
    a.jne(again)?;
    a.hlt()
}
