//! Replay: inputs are read from the log, and everything that the machine does is held against it.

use std::collections::VecDeque;

use ft_logging::entry::{BlockStatus, Entry, Output, Payload};
use ft_logging::types::{EntryIndex, OutputSeq, Position};

use super::inputs::{BEAT, Link, Order, Report};
use crate::cpu::Cpu;
use crate::devices::MAX_TIME;
use crate::machine::{Input, Machine, Moment, Stop};

/// How many entries are done between two reports, at most.
const REPORT_ENTRIES: u64 = 256;

/// What replay has at hand.
#[derive(Debug)]
pub(super) enum Next<T> {
    Here(T),
    /// The log has ended, and the machine goes on live.
    GoLive,
}

/// The log as far as it was heard of, and how far it is done with.
#[derive(Debug, Default)]
pub(super) struct Replay {
    ahead: VecDeque<Entry>,
    done: EntryIndex,
    reported: EntryIndex,
    outputs: Vec<(OutputSeq, Output)>,
    /// The last entry that proved that machine and log agree.
    agreed: EntryIndex,
}

impl Replay {
    pub(super) fn done(&self) -> EntryIndex {
        self.done
    }

    /// The next entry that is not only bookkeeping between the nodes; waits for it.
    fn front(&mut self, here: Position, link: &mut impl Link) -> Result<Next<&Entry>, Stop> {
        loop {
            while let Some(Entry {
                payload: Payload::Released { .. },
                ..
            }) = self.ahead.front()
            {
                self.advance(link);
            }
            if !self.ahead.is_empty() {
                return Ok(Next::Here(&self.ahead[0]));
            }
            self.report(link);
            match link.receive(BEAT) {
                Some(Order::Entries(batch)) => self.ahead.extend(batch.iter().cloned()),
                Some(Order::GoLive) => return Ok(Next::GoLive),
                Some(Order::End) => return Err(Stop::EndOfLog),
                Some(Order::Stop) => return Err(Stop::Requested),
                // Whatever else reaches a machine that only replays reaches it through the log.
                Some(Order::Frame(_) | Order::Console(_) | Order::Control(..)) | None => {}
            }
            link.beat(here);
        }
    }

    fn advance(&mut self, link: &mut impl Link) -> Entry {
        let entry = self.ahead.pop_front().expect("an entry at the front");
        self.done = entry.index;
        if self.done.since(self.reported) >= REPORT_ENTRIES {
            self.report(link);
        }
        entry
    }

    fn report(&mut self, link: &mut impl Link) {
        if self.done > self.reported || !self.outputs.is_empty() {
            self.reported = self.done;
            let outputs = std::mem::take(&mut self.outputs);
            link.send(Report::Replayed {
                through: self.done,
                outputs,
            });
        }
    }

    fn diverged<T>(&self, at: EntryIndex, what: impl std::fmt::Display) -> Result<T, Stop> {
        let what = format!("{what} (in step up to entry {})", self.agreed);
        Err(Stop::Diverged { at, what })
    }

    /// LOG-3: waits until the log says more about what lies ahead.
    pub(super) fn settle<C: Cpu>(
        &mut self,
        machine: &mut Machine<C>,
        link: &mut impl Link,
    ) -> Result<Next<Position>, Stop> {
        loop {
            let Next::Here(entry) = self.front(machine.position(), link)? else {
                return Ok(Next::GoLive);
            };
            let (index, at, here) = (entry.index, entry.position, machine.position());
            let stands = machine.stands() || machine.off().is_some();
            match &entry.payload {
                Payload::Progress if at <= here => {
                    self.advance(link);
                }
                Payload::Digest(digest) if at == here => {
                    let (theirs, ours) = (*digest, machine.digest(digest.ram.is_some())?);
                    if ours.machine != theirs.machine {
                        return self.diverged(index, "the state of CPU and devices differs");
                    }
                    if ours.ram != theirs.ram {
                        return self.diverged(index, "the contents of RAM differ");
                    }
                    self.agreed = index;
                    self.advance(link);
                }
                _ if at > here && !stands => return Ok(Next::Here(at)),
                payload if at == here && stands && payload.is_input() => {
                    return Ok(Next::Here(at));
                }
                payload => {
                    let state = if stands { "stands" } else { "runs" };
                    let what = format!(
                        "the log has {} at position {at}, the machine {state} at {here}",
                        describe(payload)
                    );
                    return self.diverged(index, what);
                }
            }
        }
    }

    /// The next input of this position.
    pub(super) fn next_input(
        &mut self,
        moment: &Moment<'_>,
        link: &mut impl Link,
    ) -> Result<Next<Option<Input>>, Stop> {
        let Next::Here(entry) = self.front(moment.position, link)? else {
            return Ok(Next::GoLive);
        };
        if entry.position != moment.position || !entry.payload.is_input() {
            return Ok(Next::Here(None));
        }
        let entry = self.advance(link);
        let input = match entry.payload {
            Payload::Clock { now } if now < moment.board.time() || now > MAX_TIME => {
                return self.diverged(entry.index, format!("virtual time cannot go to {now} ns"));
            }
            Payload::Clock { now } => Input::Clock(now),
            Payload::NetRx { frame } => Input::NetRx(frame),
            Payload::ConsoleRx { bytes } => Input::ConsoleRx(bytes),
            Payload::Entropy { bytes } => Input::Entropy(bytes),
            Payload::Control(control) => Input::Control(control),
            Payload::BlockDone { tag, status } => {
                if !moment.board.block_in_flight(tag) {
                    let what = format!("the machine has made no request {tag} to its disk");
                    return self.diverged(entry.index, what);
                }
                let done = link.disk_wait(tag).ok_or(Stop::Requested)?;
                if (status, done.status) == (BlockStatus::Ok, BlockStatus::IoError) {
                    let what = format!("request {tag} failed here, and was carried out there");
                    return Err(Stop::Disk(what));
                }
                let data = done.data;
                Input::BlockDone { tag, status, data }
            }
            _ => unreachable!("an input"),
        };
        Ok(Next::Here(Some(input)))
    }

    /// The machine injected `vector` here: so did the primary's?
    pub(super) fn interrupted(
        &mut self,
        position: Position,
        vector: u8,
        link: &mut impl Link,
    ) -> Result<Next<()>, Stop> {
        let Next::Here(entry) = self.front(position, link)? else {
            return Ok(Next::GoLive);
        };
        if entry.position != position || entry.payload != (Payload::Interrupt { vector }) {
            return self.unexpected(position, &format!("took interrupt vector {vector:#x}"));
        }
        self.agreed = self.advance(link).index;
        Ok(Next::Here(()))
    }

    /// The machine said `output` here: so did the primary's?
    pub(super) fn output(
        &mut self,
        position: Position,
        seq: OutputSeq,
        output: &Output,
        link: &mut impl Link,
    ) -> Result<Next<()>, Stop> {
        let Next::Here(entry) = self.front(position, link)? else {
            return Ok(Next::GoLive);
        };
        let mark = output.mark(seq);
        if entry.position != position || entry.payload != Payload::Output(mark) {
            return self.unexpected(
                position,
                &format!("made {}", describe(&Payload::Output(mark))),
            );
        }
        self.agreed = self.advance(link).index;
        self.outputs.push((seq, output.clone()));
        Ok(Next::Here(()))
    }

    fn unexpected<T>(&self, position: Position, did: &str) -> Result<T, Stop> {
        let entry = &self.ahead[0];
        let what = format!(
            "the machine {did} at position {position}, the log has {} at {}",
            describe(&entry.payload),
            entry.position
        );
        self.diverged(entry.index, what)
    }
}

fn describe(payload: &Payload) -> String {
    match payload {
        Payload::Interrupt { vector } => format!("interrupt vector {vector:#x}"),
        Payload::Output(mark) => format!(
            "{:?} output {} of {} bytes with CRC {:08x}",
            mark.device, mark.seq, mark.len, mark.crc
        ),
        other => format!("an entry {}", other.kind().name()),
    }
}
