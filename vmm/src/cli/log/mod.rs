//! `ftvm log`: looking into a recorded log.

mod report;
mod select;
mod stream;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ft_logging::entry::Kind;
use ft_logging::store::Log;

/// Look into a recorded log: a directory of `--log DIR`, or one segment file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm log info /tmp/log
  ftvm log dump /tmp/log --kind output,net-rx --time 1.5..2.0 --hex
  ftvm log diff /tmp/primary-log /tmp/backup-log --ignore released")]
pub(super) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Whose log it is, from where to where it goes, and how it ends.
    Info(WholeArgs),
    /// Its entries, a line each.
    Dump(stream::DumpArgs),
    /// How much of what it holds, and what that costs.
    Stats(WholeArgs),
    /// The first entry where two logs part.
    Diff(DiffArgs),
    /// Every check that can be made without running the machine.
    Verify(WholeArgs),
    /// Its entries, as they are written.
    Follow(stream::FollowArgs),
}

/// For reports over a whole log.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm log info /tmp/log --json

Exit status: 0, or 1 if the log cannot be read; `verify` also exits with 1 if it finds anything.")]
struct WholeArgs {
    /// A log's directory, or one of its segment files.
    log: PathBuf,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ftvm log diff /tmp/primary-log /tmp/backup-log --ignore released,digest,progress

Exit status: 0 if the logs are equal or one is the beginning of the other, 1 if they part.")]
struct DiffArgs {
    /// The first log: `here` in what is printed.
    first: PathBuf,
    /// The second log: `there`.
    second: PathBuf,
    /// Kinds of entries to leave out on both sides; numbers of entries are not compared then.
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_parser = select::parse_kind)]
    ignore: Vec<Kind>,
    /// Answer in JSON.
    #[arg(long)]
    json: bool,
}

/// `ftvm log`.
pub(super) fn log(args: LogArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        LogCommand::Info(args) => report::info(&open(&args.log)?, args.json),
        LogCommand::Stats(args) => report::stats(&open(&args.log)?, args.json),
        LogCommand::Verify(args) => report::verify(&open(&args.log)?, args.json),
        LogCommand::Diff(args) => {
            let (first, second) = (open(&args.first)?, open(&args.second)?);
            report::diff(&first, &second, &args.ignore, args.json)
        }
        LogCommand::Dump(args) => stream::dump(&args),
        LogCommand::Follow(args) => stream::follow(&args),
    }
}

/// Opens a log by the path that a person gave.
pub(super) fn open(path: &Path) -> anyhow::Result<Log> {
    anyhow::ensure!(
        path.exists(),
        "there is no log at {}: name the directory that `ftvm run --log DIR` wrote, or a .ftlog \
         file in it",
        path.display()
    );
    Log::open(path).with_context(|| format!("opening the log {}", path.display()))
}
