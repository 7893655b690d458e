//! Looking on while a log is replayed: where to stop, what is said, how far it has come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ft_logging::entry::{Kind, Output, OutputDevice};
use ft_logging::message::Batch;
use ft_logging::store::{Reader, StoreError, TornTail};
use ft_logging::types::{EntryIndex, OutputSeq, Position};

use crate::cpu::{Cpu, Limit};
use crate::determinism::{Inputs, Link};
use crate::devices::BlockRequest;
use crate::machine::{Input, Machine, Moment, Source, Stop};
use crate::net::capture::CaptureWriter;

/// How many entries are read at once.
const BATCH_ENTRIES: usize = 256;

/// How much of the console is shown where a replay stops: the last of it.
const SHOWN_CONSOLE_BYTES: usize = 64 << 10;

/// What was read from the log, and how the log ends.
#[derive(Debug, Default)]
pub(super) struct Fed {
    /// The batch handed out last. Those before it are replayed.
    last: Option<Batch>,
    /// The digests in the batches before it.
    digests: u64,
    /// Why the log could not be read on.
    pub(super) error: Option<StoreError>,
    /// A tail that the log's writer did not finish.
    pub(super) torn: Option<TornTail>,
}

impl Fed {
    /// How many digests there are up to an entry of the last batch, that one included.
    pub(super) fn digests_until(&self, done: EntryIndex) -> u64 {
        let last = self.last.iter().flat_map(|batch| batch.iter());
        let in_last =
            last.filter(|entry| entry.index <= done && entry.payload.kind() == Kind::Digest);
        self.digests + in_last.count() as u64
    }
}

/// A log as batches. Replay asks for the next one when it is done with the last.
pub(super) struct Feed {
    reader: Reader,
    fed: Rc<RefCell<Fed>>,
}

impl Feed {
    pub(super) fn new(reader: Reader, fed: Rc<RefCell<Fed>>) -> Self {
        Feed { reader, fed }
    }
}

impl Iterator for Feed {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let mut entries = Vec::new();
        let mut fed = self.fed.borrow_mut();
        while entries.len() < BATCH_ENTRIES && fed.error.is_none() {
            match self.reader.next() {
                Some(Ok(entry)) => entries.push(entry),
                Some(Err(error)) => fed.error = Some(error),
                None => {
                    fed.torn = self.reader.torn_tail().cloned();
                    break;
                }
            }
        }
        if entries.is_empty() {
            return None;
        }
        let batch = Batch::from(entries);
        fed.digests = fed.digests_until(EntryIndex(u64::MAX));
        fed.last = Some(batch.clone());
        Some(batch)
    }
}

/// Where to stop: at whatever comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StopAt {
    /// At this position, or where the machine can stop next behind it.
    pub(super) position: Option<Position>,
    /// When this entry has taken effect.
    pub(super) entry: Option<EntryIndex>,
}

impl StopAt {
    fn is_reached(self, here: Position, done: EntryIndex) -> bool {
        self.position.is_some_and(|position| here >= position)
            || self.entry.is_some_and(|entry| done >= entry)
    }
}

/// Where the guest's outputs go.
pub(super) struct Sinks {
    console: Option<Box<dyn Write>>,
    frames: Option<CaptureWriter<BufWriter<File>>>,
    /// What the guest's clock said at virtual time 0.
    epoch: Duration,
}

impl Sinks {
    /// Creates the files.
    pub(super) fn create(
        console: Option<&Path>,
        frames: Option<&Path>,
        epoch: Duration,
    ) -> anyhow::Result<Self> {
        let create = |path: &Path| {
            File::create(path)
                .map(BufWriter::new)
                .with_context(|| format!("creating {}", path.display()))
        };
        let console = match console {
            None => None,
            Some(path) if path.as_os_str() == "-" => Some(Box::new(io::stdout()) as Box<dyn Write>),
            Some(path) => Some(Box::new(create(path)?) as Box<dyn Write>),
        };
        let frames = frames
            .map(|path| anyhow::Ok(CaptureWriter::new(create(path)?)?))
            .transpose()?;
        Ok(Sinks {
            console,
            frames,
            epoch,
        })
    }

    fn write(&mut self, moment: &Moment<'_>, output: &Output) -> anyhow::Result<()> {
        match output.device {
            OutputDevice::Console => self
                .console
                .as_mut()
                .map_or(Ok(()), |console| console.write_all(&output.bytes))
                .context("writing the console"),
            OutputDevice::Net => {
                let at = self.epoch + Duration::from_nanos(moment.board.time().0);
                self.frames
                    .as_mut()
                    .map_or(Ok(()), |frames| frames.record(at, &output.bytes))
                    .context("writing the capture")
            }
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if let Some(console) = &mut self.console {
            console.flush().context("writing the console")?;
        }
        if let Some(frames) = &mut self.frames {
            frames.flush().context("writing the capture")?;
        }
        Ok(())
    }
}

/// What came of a replay.
#[derive(Debug)]
pub(super) struct Done {
    /// The last entry that has taken effect.
    pub(super) entry: EntryIndex,
    pub(super) interrupts: u64,
    pub(super) net_outputs: u64,
    pub(super) console_outputs: u64,
    /// The last of the console's output.
    pub(super) console: Vec<u8>,
    /// Whether no access is half done: only then can the CPU be looked at.
    pub(super) is_between_steps: bool,
}

/// A source that replays, looked on.
pub(super) struct Watch<L> {
    inputs: Inputs<L>,
    stop_at: StopAt,
    sinks: Sinks,
    console: VecDeque<u8>,
    interrupts: u64,
    net_outputs: u64,
    console_outputs: u64,
    is_between_steps: bool,
    /// Why a sink failed.
    failed: Option<anyhow::Error>,
    progress: Progress,
}

impl<L: Link> Watch<L> {
    pub(super) fn new(inputs: Inputs<L>, stop_at: StopAt, sinks: Sinks) -> Self {
        Watch {
            inputs,
            stop_at,
            sinks,
            console: VecDeque::new(),
            interrupts: 0,
            net_outputs: 0,
            console_outputs: 0,
            is_between_steps: true,
            failed: None,
            progress: Progress::new(),
        }
    }

    fn done_entry(&self) -> EntryIndex {
        self.inputs.replayed().unwrap_or_default()
    }

    /// What came of it.
    ///
    /// # Errors
    ///
    /// If a file could not be written.
    pub(super) fn finish(mut self) -> anyhow::Result<Done> {
        self.progress.end();
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.sinks.flush()?;
        Ok(Done {
            entry: self.done_entry(),
            interrupts: self.interrupts,
            net_outputs: self.net_outputs,
            console_outputs: self.console_outputs,
            console: self.console.into(),
            is_between_steps: self.is_between_steps,
        })
    }

    fn take(&mut self, moment: &Moment<'_>, output: &Output) -> Result<(), Stop> {
        match output.device {
            OutputDevice::Net => self.net_outputs += 1,
            OutputDevice::Console => {
                self.console_outputs += 1;
                self.console.extend(&output.bytes);
                let surplus = self.console.len().saturating_sub(SHOWN_CONSOLE_BYTES);
                self.console.drain(..surplus);
            }
        }
        self.sinks.write(moment, output).map_err(|error| {
            self.failed = Some(error);
            Stop::Requested
        })
    }
}

impl<C: Cpu, L: Link> Source<C> for Watch<L> {
    fn settle(&mut self, machine: &mut Machine<C>) -> Result<Limit, Stop> {
        self.is_between_steps = true;
        let limit = self.inputs.settle(machine)?;
        let (here, done) = (machine.position(), self.done_entry());
        self.progress.tell(machine, done);
        // Amid a string of accesses the CPU cannot be looked at.
        if machine.at_boundary() && self.stop_at.is_reached(here, done) {
            return Err(Stop::Requested);
        }
        self.is_between_steps = false;
        Ok(match self.stop_at.position {
            Some(position) if here < position => limit.and_at(position),
            _ => limit,
        })
    }

    fn next_input(&mut self, moment: Moment<'_>) -> Result<Option<Input>, Stop> {
        Source::<C>::next_input(&mut self.inputs, moment)
    }

    fn wait_input(&mut self, moment: Moment<'_>) -> Result<Option<Input>, Stop> {
        Source::<C>::wait_input(&mut self.inputs, moment)
    }

    fn interrupted(&mut self, moment: Moment<'_>, vector: u8) -> Result<(), Stop> {
        self.is_between_steps = true;
        Source::<C>::interrupted(&mut self.inputs, moment, vector)?;
        self.interrupts += 1;
        Ok(())
    }

    fn output(&mut self, moment: Moment<'_>, seq: OutputSeq, output: Output) -> Result<(), Stop> {
        self.is_between_steps = true;
        Source::<C>::output(&mut self.inputs, moment, seq, output.clone())?;
        self.take(&moment, &output)
    }

    fn block_request(&mut self, request: BlockRequest) {
        Source::<C>::block_request(&mut self.inputs, request);
    }
}

/// Tells on standard error how far a long replay has come.
struct Progress {
    started: Instant,
    next: Instant,
    is_terminal: bool,
    told: bool,
}

impl Progress {
    /// Shorter replays say nothing.
    const FIRST: Duration = Duration::from_secs(1);

    fn new() -> Self {
        let started = Instant::now();
        Progress {
            started,
            next: started + Self::FIRST,
            is_terminal: io::stderr().is_terminal(),
            told: false,
        }
    }

    fn tell<C: Cpu>(&mut self, machine: &Machine<C>, done: EntryIndex) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        let line = format!(
            "replayed {:.1} s of the guest's time in {:.0} s: entry {done}, position {}",
            machine.board().time().0 as f64 / 1e9,
            (now - self.started).as_secs_f64(),
            machine.position()
        );
        if self.is_terminal {
            eprint!("\r{line}\x1b[K");
            self.next = now + Duration::from_millis(200);
        } else {
            eprintln!("ftvm: {line}");
            self.next = now + Duration::from_secs(10);
        }
        self.told = true;
    }

    fn end(&self) {
        if self.told && self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}
