//! The source that a node's machine runs on: replay first, if it is a backup, and live from the
//! moment that the arbiter has granted it the generation.

use std::time::Duration;

use ft_logging::entry::{BlockStatus, Control, Output};
use ft_logging::message::Batch;
use ft_logging::protocol::{Brake, Record, RequestId};
use ft_logging::types::{EntryIndex, OutputSeq, Position};

use super::live::Live;
use super::replay::{Next, Replay};
use crate::cpu::{Cpu, Limit};
use crate::devices::BlockRequest;
use crate::machine::{Input, Machine, Moment, PowerOff, Shutdown, Source, Stop};

/// How long the vCPU thread waits at most before it shows that it is alive (FAIL-1).
pub(super) const BEAT: Duration = Duration::from_millis(20);

/// What the network side tells the vCPU thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Entries to replay.
    Entries(Batch),
    /// The log ends here, and this node is the VM from here on (FAIL-2).
    GoLive,
    /// The log ends here, and nothing follows.
    End,
    /// A frame for the guest.
    Frame(Vec<u8>),
    /// Bytes typed at the console.
    Console(Vec<u8>),
    /// An operator's command.
    Control(Control, Option<RequestId>),
    /// Stand still.
    Stop,
}

/// What the vCPU thread tells the network side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A live machine's entries to be.
    Records(Vec<Record>),
    /// A replaying machine has come this far, and said this on the way.
    Replayed {
        /// The last entry that is done with.
        through: EntryIndex,
        /// Outputs in their sequence.
        outputs: Vec<(OutputSeq, Output)>,
    },
    /// A triple fault has switched the machine off, live or in replay: what it left.
    Shutdown(Box<Shutdown>),
}

/// What a disk says of a request that it is done with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskDone {
    /// Which.
    pub tag: u64,
    /// How it ended here.
    pub status: BlockStatus,
    /// What was read.
    pub data: Vec<u8>,
}

/// The vCPU thread's end of the queues to the network side, and to the guest's disk.
pub trait Link {
    /// The next order; waits for at most `patience`.
    fn receive(&mut self, patience: Duration) -> Option<Order>;

    /// Hands over a report; waits while the queue is full (LOG-4).
    fn send(&mut self, report: Report);

    /// The thread is alive, and its machine has run this far.
    fn beat(&mut self, position: Position);

    /// How much of its time the machine stands, since replay is behind (LOG-5).
    fn brake(&self) -> Brake;

    /// Hands a request to the guest's disk, which carries them out in this order.
    fn disk_request(&mut self, request: BlockRequest);

    /// The oldest request that the disk is done with and that was not yet asked for.
    /// [`Link::receive`] returns when there is a new one.
    fn disk_done(&mut self) -> Option<DiskDone>;

    /// Waits until the disk is done with this request; `None` if the node goes away meanwhile.
    fn disk_wait(&mut self, tag: u64) -> Option<DiskDone>;
}

/// A source of inputs over a [`Link`].
#[derive(Debug)]
pub struct Inputs<L> {
    link: L,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    Live(Box<Live>),
    Replay(Replay),
}

impl<L: Link> Inputs<L> {
    /// Decides and records, for a machine that starts or goes on at `now`.
    pub fn live(link: L, machine: &Machine<impl Cpu>) -> Self {
        Inputs {
            link,
            mode: Mode::Live(Box::new(Live::from(machine.board().time()))),
        }
    }

    /// Replays what comes.
    pub fn replay(link: L) -> Self {
        Inputs {
            link,
            mode: Mode::Replay(Replay::default()),
        }
    }

    /// The link.
    pub fn link(&self) -> &L {
        &self.link
    }

    /// Whether inputs are decided here.
    pub fn is_live(&self) -> bool {
        matches!(self.mode, Mode::Live(_))
    }

    /// The last entry that is done with, while replaying.
    pub fn replayed(&self) -> Option<EntryIndex> {
        match &self.mode {
            Mode::Replay(replay) => Some(replay.done()),
            Mode::Live(_) => None,
        }
    }

    fn go_live(&mut self, board: &crate::devices::Board) -> &mut Live {
        self.mode = Mode::Live(Box::new(Live::from(board.time())));
        match &mut self.mode {
            Mode::Live(live) => live,
            Mode::Replay(_) => unreachable!("set above"),
        }
    }
}

impl<C: Cpu, L: Link> Source<C> for Inputs<L> {
    fn settle(&mut self, machine: &mut Machine<C>) -> Result<Limit, Stop> {
        self.link.beat(machine.position());
        // Before a replay goes on to the end of the log, where it may wait for good.
        if machine.off() == Some(PowerOff::TripleFault)
            && let Some(shutdown) = Shutdown::of(machine)
        {
            self.link.send(Report::Shutdown(Box::new(shutdown)));
        }
        loop {
            match &mut self.mode {
                Mode::Live(live) => return live.settle(machine, &mut self.link),
                Mode::Replay(replay) => match replay.settle(machine, &mut self.link)? {
                    Next::Here(limit) => return Ok(Limit::At(limit)),
                    Next::GoLive => self.go_live(machine.board()),
                },
            };
        }
    }

    fn next_input(&mut self, moment: Moment<'_>) -> Result<Option<Input>, Stop> {
        loop {
            match &mut self.mode {
                Mode::Live(live) => return Ok(live.next_input(&moment, &mut self.link)),
                Mode::Replay(replay) => match replay.next_input(&moment, &mut self.link)? {
                    Next::Here(input) => return Ok(input),
                    Next::GoLive => self.go_live(moment.board),
                },
            };
        }
    }

    fn wait_input(&mut self, moment: Moment<'_>) -> Result<Option<Input>, Stop> {
        loop {
            match &mut self.mode {
                Mode::Live(live) => return live.wait_input(&moment, &mut self.link),
                Mode::Replay(replay) => match replay.next_input(&moment, &mut self.link)? {
                    Next::Here(input) => return Ok(input),
                    Next::GoLive => self.go_live(moment.board),
                },
            };
        }
    }

    fn interrupted(&mut self, moment: Moment<'_>, vector: u8) -> Result<(), Stop> {
        loop {
            match &mut self.mode {
                Mode::Live(live) => {
                    live.interrupted(moment.position, vector);
                    return Ok(());
                }
                Mode::Replay(replay) => {
                    match replay.interrupted(moment.position, vector, &mut self.link)? {
                        Next::Here(()) => return Ok(()),
                        Next::GoLive => self.go_live(moment.board),
                    }
                }
            };
        }
    }

    fn output(&mut self, moment: Moment<'_>, seq: OutputSeq, output: Output) -> Result<(), Stop> {
        loop {
            match &mut self.mode {
                Mode::Live(live) => {
                    live.output(moment.position, seq, output);
                    return Ok(());
                }
                Mode::Replay(replay) => {
                    match replay.output(moment.position, seq, &output, &mut self.link)? {
                        Next::Here(()) => return Ok(()),
                        Next::GoLive => self.go_live(moment.board),
                    }
                }
            };
        }
    }

    fn block_request(&mut self, request: BlockRequest) {
        self.link.disk_request(request);
    }
}
