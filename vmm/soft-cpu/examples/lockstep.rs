//! Runs a program on the CPU of this machine and on the software CPU at once, and compares.
//!
//! `cargo run --release -p soft-cpu --example lockstep -- [--stride N] [--steps N] PROGRAM [ARGUMENT …]`
//!
//! Registers are compared every 400 instructions, or as `--stride` says. The program has one thread.
//! Exit status 0 if nothing differed.

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
    let (mut steps, mut stride) = (u64::MAX, 400);
    while words.len() > 2 {
        let option = match words[0].as_str() {
            "--steps" => &mut steps,
            "--stride" => &mut stride,
            _ => break,
        };
        match words[1].parse() {
            Ok(number) if number > 0 => *option = number,
            _ => words.clear(),
        }
        words.drain(..words.len().min(2));
    }
    let [program, arguments @ ..] = words.as_slice() else {
        eprintln!("usage: lockstep [--stride N] [--steps N] PROGRAM [ARGUMENT …]");
        return ExitCode::from(2);
    };
    match oracle::lockstep::run(program.as_ref(), arguments, Stdio::inherit(), steps, stride) {
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
