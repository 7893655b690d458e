//! The `ftvm` program: one file per command.
//!
//! Data goes to standard output, everything said to a person on the way to standard error. Exit
//! status 0 means success, 2 a command line that makes no sense, anything else a failure.

mod amount;
mod arbiter;
mod bench;
mod config;
mod console;
mod control;
mod cpu;
mod demo;
mod doctor;
mod gateway;
mod guest;
mod image;
mod log;
mod node;
mod nodes;
mod output;
mod replay;
mod stage;
mod status;
mod text;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Keeps a virtual machine running when the host under it dies.
#[derive(Debug, Parser)]
#[command(
    name = "ftvm",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  ftvm run --alone                 a guest without protection
  ftvm run --net gateway=127.0.0.1:7500 --arbiter 127.0.0.1:7301
                                   the primary of a protected guest; its backup:
  ftvm backup --primary 127.0.0.1:7400 --net gateway=127.0.0.1:7500 --arbiter 127.0.0.1:7301"
)]
struct Ftvm {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a guest: the primary of a pair, or alone.
    Run(node::RunArgs),
    /// Replay a running guest, and go on with it when its primary dies.
    Backup(node::BackupArgs),
    /// The test-and-set service that decides who goes on.
    Arbiter(arbiter::ArbiterArgs),
    /// The guest's user-mode network: a switch with host port forwards.
    Gateway(gateway::GatewayArgs),
    /// Linux guests from Debian's packages: build, list, show, remove.
    Image(image::ImageArgs),
    /// How this host's nodes are: protected or not, why, and what to do.
    Status(status::StatusArgs),
    /// Ask something of a running VM: pause, power button, failover, ...
    Control(control::ControlArgs),
    /// The guest's serial console, here: attach, type, detach with Ctrl-].
    Console(console::ConsoleArgs),
    /// Go on with a halted node after two failures: a person's decision.
    Recover(control::RecoverArgs),
    /// Look into a recorded log.
    Log(log::LogArgs),
    /// Kill one half of a protected guest in mid-load, and check that nobody noticed.
    Demo(demo::DemoArgs),
    /// What protection costs, and how fast a failover is.
    Bench(bench::BenchArgs),
    /// Run a recorded log again, and check every digest, interrupt and output.
    Replay(replay::ReplayArgs),
    /// What this host can do, what it cannot hide from a guest, and what to do about it.
    Doctor(doctor::DoctorArgs),
}

/// Runs the program and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    let ftvm = match config::expand(&Ftvm::command(), std::env::args_os().collect()) {
        Ok(words) => Ftvm::parse_from(words),
        Err(error) => {
            eprintln!("ftvm: {error:#}");
            return ExitCode::from(SENSELESS);
        }
    };
    output::init_tracing();
    let result = match ftvm.command {
        Command::Run(args) => node::run(args),
        Command::Backup(args) => node::backup(args),
        Command::Arbiter(args) => arbiter::arbiter(args),
        Command::Gateway(args) => gateway::gateway(args),
        Command::Image(args) => image::image(args),
        Command::Status(args) => status::status(args),
        Command::Control(args) => control::control(args),
        Command::Console(args) => console::console(args),
        Command::Recover(args) => control::recover(args),
        Command::Log(args) => log::log(args),
        Command::Demo(args) => demo::demo(args),
        Command::Bench(args) => bench::bench(args),
        Command::Replay(args) => replay::replay(args),
        Command::Doctor(args) => doctor::doctor(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ftvm: {}", explain(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line. Many say their cause themselves: it is not said again.
fn explain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Runs a command's future on one thread: the vCPU and the disk have threads of their own.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// The exit status after a command line that makes no sense, as clap has it.
const SENSELESS: u8 = 2;

/// The exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Waits for Ctrl-C, or to be asked to end in another way.
async fn interrupted() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::explain;

    #[test]
    fn each_cause_is_said_once() {
        let cause = || anyhow!("no such file");
        assert_eq!(explain(&cause()), "no such file");
        let told = cause().context("cannot create x: no such file");
        assert_eq!(explain(&told), "cannot create x: no such file");
        let silent = Err::<(), _>(cause()).context("cannot create x");
        let error = silent.context("starting").expect_err("an error");
        assert_eq!(explain(&error), "starting: cannot create x: no such file");
    }
}
