//! The one loop: recording, live replay, offline replay and life after failover are the same code
//! with another [`Source`].

use ft_logging::entry::Output;
use ft_logging::types::{OutputSeq, Position};

use super::{Input, Machine, PowerOff};
use crate::cpu::{Cpu, CpuError, Exit, Limit};
use crate::devices::{BlockRequest, Board};
use crate::sys::vm::GuestMemory;

/// Where a machine stands while its source decides.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// How far it has run.
    pub position: Position,
    /// What it stopped for; `None` while it stands halted or paused.
    pub exit: Option<&'a Exit>,
    /// The devices.
    pub board: &'a Board,
    /// RAM, for devices that look into their queues.
    pub ram: &'a GuestMemory,
    /// The operator stopped the vCPU: only control commands enter.
    pub paused: bool,
}

/// Where inputs come from and where marks go: a recorder of a live machine, or a log.
pub trait Source<C> {
    /// Between two steps: marks, digests and the wait for what allows the next step. Returns how
    /// far the CPU may run where it could go further (LOG-3).
    ///
    /// # Errors
    ///
    /// [`Stop`] when the run ends here.
    fn settle(&mut self, machine: &mut Machine<C>) -> Result<Limit, Stop>;

    /// The next input that takes effect at this exit, before what the exit is for; `None` when
    /// there is no further one.
    ///
    /// # Errors
    ///
    /// [`Stop`] when the run ends here.
    fn next_input(&mut self, moment: Moment<'_>) -> Result<Option<Input>, Stop>;

    /// Waits for an input to a machine that stands; `None` if there is something to settle first.
    ///
    /// # Errors
    ///
    /// [`Stop`] when the run ends here.
    fn wait_input(&mut self, moment: Moment<'_>) -> Result<Option<Input>, Stop>;

    /// The machine injected an interrupt.
    ///
    /// # Errors
    ///
    /// [`Stop::Diverged`] if the log says otherwise.
    fn interrupted(&mut self, moment: Moment<'_>, vector: u8) -> Result<(), Stop>;

    /// The machine said something.
    ///
    /// # Errors
    ///
    /// [`Stop::Diverged`] if the log says otherwise.
    fn output(&mut self, moment: Moment<'_>, seq: OutputSeq, output: Output) -> Result<(), Stop>;

    /// The machine wants something of its disk. Requests are carried out in the order of these
    /// calls, live and in replay.
    fn block_request(&mut self, request: BlockRequest);
}

/// Why a run has ended.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    /// The machine is off.
    #[error("the machine is off: {0:?}")]
    Off(PowerOff),
    /// Whoever drives the source wants the machine to stand still here.
    #[error("stopped on request")]
    Requested,
    /// The log ends here.
    #[error("the log ends here")]
    EndOfLog,
    /// The machine and the log are not in the same state (DET-5).
    #[error("divergence at entry {at}: {what}")]
    Diverged {
        /// The entry at which it showed.
        at: ft_logging::types::EntryIndex,
        /// What differed.
        what: String,
    },
    /// This host's disk failed in what the log says was done.
    #[error("this node's disk failed: {0}")]
    Disk(String),
    /// The host cannot run the guest any further.
    #[error(transparent)]
    Cpu(#[from] CpuError),
}

/// Runs `machine` until its source, its guest or its host ends it.
pub fn run<C: Cpu>(machine: &mut Machine<C>, source: &mut impl Source<C>) -> Stop {
    loop {
        if let Err(stop) = step(machine, source) {
            return stop;
        }
    }
}

fn step<C: Cpu>(machine: &mut Machine<C>, source: &mut impl Source<C>) -> Result<(), Stop> {
    let limit = source.settle(machine)?;
    if let Some(why) = machine.off() {
        return Err(Stop::Off(why));
    }
    if machine.stands() {
        let Some(input) = source.wait_input(machine.moment(None))? else {
            return Ok(());
        };
        machine.apply(input)?;
    } else {
        let pending = machine.board.interrupt_pending();
        machine.cpu.expect_interrupt(pending);
        let exit = machine.cpu.run(limit)?;
        if exit == Exit::Interrupted {
            return Ok(());
        }
        while let Some(input) = source.next_input(machine.moment(Some(&exit)))? {
            machine.apply(input)?;
        }
        machine.handle(exit)?;
    }
    if let Some(vector) = machine.deliver_interrupt()? {
        source.interrupted(machine.moment(None), vector)?;
    }
    for (seq, output) in machine.take_outputs() {
        source.output(machine.moment(None), seq, output)?;
    }
    for request in machine.board.take_block_requests() {
        source.block_request(request);
    }
    Ok(())
}

impl<C: Cpu> Machine<C> {
    fn moment<'a>(&'a self, exit: Option<&'a Exit>) -> Moment<'a> {
        Moment {
            position: self.position(),
            exit,
            board: &self.board,
            ram: &self.ram,
            paused: self.paused,
        }
    }
}
