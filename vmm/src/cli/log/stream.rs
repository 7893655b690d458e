//! `ftvm log dump` and `ftvm log follow`: entries, a line each.

use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use ft_logging::inspect::{EntryLine, Timed};
use ft_logging::store::{Reader, StoreError, Target};
use ft_logging::types::EntryIndex;

use super::super::text::ignore_gone_reader;
use super::select::SelectArgs;

/// How often a log is looked at while nothing new is in it.
const POLL: Duration = Duration::from_millis(20);

/// What both commands are told.
#[derive(Debug, Args)]
struct StreamArgs {
    /// A log's directory, or one of its segment files.
    log: PathBuf,
    #[command(flatten)]
    select: SelectArgs,
    /// Stop after so many entries.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Show the bytes that entries carry.
    #[arg(long)]
    hex: bool,
    /// A line of JSON for each entry.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm log dump /tmp/log --kind net-rx,output --limit 20
  ftvm log dump /tmp/log --time 1.5..2.0 --hex
  ftvm log dump /tmp/log --json | jq 'select(.kind == \"interrupt\")'

The columns: number, position, virtual time in seconds, kind, content.")]
pub(super) struct DumpArgs {
    #[command(flatten)]
    stream: StreamArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm log follow /tmp/log --kind output
  ftvm log follow /tmp/log --index 1.. --until-idle 2000     from the start, until 2 s are silent

It begins at the log's end, unless --index, --position or --time says where, and stops on Ctrl-C.")]
pub(super) struct FollowArgs {
    #[command(flatten)]
    stream: StreamArgs,
    /// End when nothing new came for so many milliseconds.
    #[arg(long, value_name = "MS")]
    until_idle: Option<u64>,
}

/// Why the stream ends early.
#[derive(Debug)]
enum Cut {
    Log(StoreError),
    Output(io::Error),
}

impl From<StoreError> for Cut {
    fn from(error: StoreError) -> Self {
        Cut::Log(error)
    }
}

impl From<io::Error> for Cut {
    fn from(error: io::Error) -> Self {
        Cut::Output(error)
    }
}

/// Where the lines go.
struct Lines {
    out: BufWriter<StdoutLock<'static>>,
    hex: bool,
    json: bool,
    left: u64,
}

impl Lines {
    fn new(args: &StreamArgs) -> Self {
        Lines {
            out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
            hex: args.hex,
            json: args.json,
            left: args.limit.unwrap_or(u64::MAX),
        }
    }

    fn write(&mut self, timed: &Timed) -> io::Result<()> {
        self.left -= 1;
        let line = EntryLine::new(timed, self.hex);
        if self.json {
            serde_json::to_writer(&mut self.out, &line)?;
            self.out.write_all(b"\n")
        } else {
            writeln!(self.out, "{line}")
        }
    }
}

/// Writes out what is buffered, and tells what ended the stream.
fn finish(mut lines: Lines, result: Result<(), Cut>) -> anyhow::Result<ExitCode> {
    // Entries before the damage are shown before it is told.
    let flushed = lines.out.flush();
    match result {
        Err(Cut::Log(error)) => {
            ignore_gone_reader(flushed)?;
            Err(error.into())
        }
        Err(Cut::Output(error)) => {
            ignore_gone_reader(Err(error))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok(()) => {
            ignore_gone_reader(flushed)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `ftvm log dump`.
pub(super) fn dump(args: &DumpArgs) -> anyhow::Result<ExitCode> {
    let args = &args.stream;
    let mut reader = super::open(&args.log)?.reader()?;
    let mut lines = Lines::new(args);
    let result = dump_to(&mut lines, &mut reader, args);
    let ended = result.is_ok() && lines.left > 0;
    let code = finish(lines, result)?;
    if let Some(tail) = reader.torn_tail().filter(|_| ended) {
        eprintln!("ftvm: the log ends in {tail}: its writer is at it, or was killed");
    }
    Ok(code)
}

fn dump_to(lines: &mut Lines, reader: &mut Reader, args: &StreamArgs) -> Result<(), Cut> {
    let filter = args.select.filter();
    for timed in filter.read(reader)? {
        if lines.left == 0 {
            break;
        }
        lines.write(&timed?)?;
    }
    Ok(())
}

/// `ftvm log follow`.
pub(super) fn follow(args: &FollowArgs) -> anyhow::Result<ExitCode> {
    let reader = super::open(&args.stream.log)?.reader()?;
    let mut lines = Lines::new(&args.stream);
    let result = follow_to(&mut lines, reader, args);
    finish(lines, result)
}

fn follow_to(lines: &mut Lines, mut reader: Reader, args: &FollowArgs) -> Result<(), Cut> {
    let select = &args.stream.select;
    let filter = select.filter();
    if !select.has_beginning() {
        reader.seek(Target::Index(EntryIndex(u64::MAX)))?;
    }
    let patience = args.until_idle.map(Duration::from_millis);
    let mut heard = Instant::now();
    while lines.left > 0 {
        match reader.poll_next()? {
            Some(entry) => {
                let time = reader.place().time;
                let timed = Timed { entry, time };
                if filter.is_over(&timed) {
                    break;
                }
                if filter.admits(&timed) {
                    lines.write(&timed)?;
                }
                heard = Instant::now();
            }
            None => {
                lines.out.flush()?;
                if patience.is_some_and(|patience| heard.elapsed() >= patience) {
                    break;
                }
                std::thread::sleep(POLL);
            }
        }
    }
    Ok(())
}
