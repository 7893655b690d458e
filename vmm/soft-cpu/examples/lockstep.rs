//! Runs a program on the CPU of this machine and on the software CPU at once, and compares after
//! every instruction.
//!
//! `cargo run --release -p soft-cpu --example lockstep -- [--steps N] PROGRAM [ARGUMENT …]`
//!
//! The program has one thread and is best linked statically. Exit status 0 if nothing differed.

#[cfg(target_arch = "x86_64")]
#[path = "../tests/oracle/mod.rs"]
mod oracle;

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    eprintln!("SKIPPED: lockstep needs an x86-64 host");
}

#[cfg(target_arch = "x86_64")]
fn main() -> std::process::ExitCode {
    use std::process::{ExitCode, Stdio};

    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut steps = u64::MAX;
    if words.len() > 2 && words[0] == "--steps" {
        match words[1].parse() {
            Ok(number) => steps = number,
            Err(_) => words.clear(),
        }
        words.drain(..words.len().min(2));
    }
    let [program, arguments @ ..] = words.as_slice() else {
        eprintln!("usage: lockstep [--steps N] PROGRAM [ARGUMENT …]");
        return ExitCode::from(2);
    };
    match oracle::lockstep::run(program.as_ref(), arguments, Stdio::inherit(), steps) {
        Ok(summary) => {
            println!(
                "{} steps, {} system calls, {} pages compared, exit status {:?}: no difference",
                summary.steps, summary.system_calls, summary.pages, summary.status
            );
            ExitCode::SUCCESS
        }
        Err(difference) => {
            eprintln!("lockstep: {difference}");
            ExitCode::FAILURE
        }
    }
}
