//! A live machine: what enters is decided here, and recorded before it takes effect.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ft_logging::entry::{
    Control, MAX_CONSOLE_BYTES, MAX_ENTROPY_BYTES, MAX_FRAME_BYTES, Output, Payload,
};
use ft_logging::protocol::{Brake, Record, RequestId};
use ft_logging::types::{OutputSeq, Position, VirtualTime};

use super::clock::VirtualClock;
use super::inputs::{BEAT, DiskDone, Link, Order, Report};
use crate::cpu::{Access, Cpu, Exit, Limit, Target};
use crate::devices::{Board, PortAccess};
use crate::machine::{Input, Machine, Moment, Stop};

/// Frames that wait for the guest to post buffers; more are dropped, as a network does.
const MAX_WAITING_FRAMES: usize = 1024;

/// Console bytes that wait for room in the UART; more are dropped.
const MAX_WAITING_CONSOLE_BYTES: usize = 64 << 10;

/// How long entries may wait for company. Outputs do not wait.
const FLUSH_AFTER: Duration = Duration::from_millis(1);

/// How often the state of CPU and devices is hashed, while the machine runs. Once more, with RAM,
/// when it is off: a log that comes to its end is checked to its end.
const DIGEST_EVERY: Duration = Duration::from_millis(250);

/// RAM is hashed with every so many of these digests.
const RAM_DIGEST_EVERY: u64 = 4;

/// How old the guest's time may get on a CPU that runs it on from the last `Clock` by counting
/// instructions.
const CLOCK_EVERY_NS: u64 = 1_000_000;

/// The naps of a machine whose replay is behind (LOG-5).
const NAP: Duration = Duration::from_millis(1);

/// The longest that it owes, for a guest that has run for long without a stop.
const MOST_OWED: Duration = Duration::from_millis(10);

/// What waits to enter, and what was recorded and not yet handed over.
#[derive(Debug)]
pub(super) struct Live {
    clock: VirtualClock,
    frames: VecDeque<Vec<u8>>,
    console: VecDeque<u8>,
    controls: VecDeque<(Control, Option<RequestId>)>,
    /// At most as many as requests are in flight.
    disk: VecDeque<DiskDone>,
    stop: bool,

    /// The CPU has a time stamp counter, which goes on from the last `Clock`.
    counts_time: bool,
    /// The exit at which the guest was last told the time.
    clocked: Option<Position>,
    records: Vec<Record>,
    /// The position of the last record, handed over or not.
    recorded: Position,
    flushed: Instant,
    /// An output is among the records: they go at once.
    urgent: bool,
    /// `Progress` was recorded for the machine standing at this position.
    stood: Option<Position>,

    /// Since when the machine runs under the brake, and how long it has yet to stand for that.
    braked: Option<Instant>,
    owed: Duration,

    digests: u64,
    digest_due: Instant,
    digested: Position,
}

impl Live {
    pub(super) fn from(now: VirtualTime) -> Self {
        Live {
            clock: VirtualClock::from(now),
            frames: VecDeque::new(),
            console: VecDeque::new(),
            controls: VecDeque::new(),
            disk: VecDeque::new(),
            stop: false,
            counts_time: false,
            clocked: None,
            records: Vec::new(),
            recorded: Position(0),
            flushed: Instant::now(),
            urgent: false,
            stood: None,
            braked: None,
            owed: Duration::ZERO,
            digests: 0,
            digest_due: Instant::now() + DIGEST_EVERY,
            digested: Position(0),
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Frame(frame) => {
                if self.frames.len() < MAX_WAITING_FRAMES && frame.len() <= MAX_FRAME_BYTES {
                    self.frames.push_back(frame);
                }
            }
            Order::Console(bytes) => {
                let room = MAX_WAITING_CONSOLE_BYTES - self.console.len();
                self.console.extend(bytes.into_iter().take(room));
            }
            Order::Control(control, request) => self.controls.push_back((control, request)),
            Order::Stop => self.stop = true,
            // A second grant changes nothing, and a live machine's log is its own.
            Order::GoLive | Order::End | Order::Entries(_) => {}
        }
    }

    fn take_orders(&mut self, link: &mut impl Link) {
        while let Some(order) = link.receive(Duration::ZERO) {
            self.take(order);
        }
        while let Some(done) = link.disk_done() {
            self.disk.push_back(done);
        }
    }

    fn record(&mut self, position: Position, payload: Payload) {
        self.recorded = position;
        self.records.push(Record {
            position,
            payload,
            output: None,
            request: None,
        });
    }

    fn flush(&mut self, link: &mut impl Link) {
        self.urgent = false;
        self.flushed = Instant::now();
        if !self.records.is_empty() {
            link.send(Report::Records(std::mem::take(&mut self.records)));
        }
    }

    pub(super) fn settle<C: Cpu>(
        &mut self,
        machine: &mut Machine<C>,
        link: &mut impl Link,
    ) -> Result<Limit, Stop> {
        let here = machine.position();
        let now = Instant::now();
        let off = machine.off().is_some();
        let digest_due = off || now >= self.digest_due;
        if digest_due && here > self.digested && machine.at_boundary() {
            let with_ram = off || self.digests.is_multiple_of(RAM_DIGEST_EVERY);
            let digest = machine.digest(with_ram)?;
            self.record(here, Payload::Digest(digest));
            self.digests += 1;
            self.digested = here;
            self.digest_due = now + DIGEST_EVERY;
        }
        let stands = off || machine.stands();
        if stands && self.stood != Some(here) {
            self.stood = Some(here);
            self.record(here, Payload::Progress);
        }
        let moved = !self.records.is_empty() || here > self.recorded;
        if !stands && !self.urgent && moved && now - self.flushed >= FLUSH_AFTER {
            self.record(here, Payload::Progress);
            self.urgent = true;
        }
        if self.urgent || off {
            self.flush(link);
        }
        self.brake(here, now, link);
        if stands {
            // It waits of itself.
            self.braked = None;
        }
        if self.stop {
            self.stop = false;
            // The log reaches to where the machine stands: behind the exit at which the last input
            // entered, too.
            self.record(here, Payload::Progress);
            self.flush(link);
            return Err(Stop::Requested);
        }
        let slice = machine.slice();
        self.counts_time = slice.is_some();
        Ok(slice.map_or(Limit::NONE, |slice| Limit::About(Position(here.0 + slice))))
    }

    /// LOG-5: stands for as much of its time as it is told to.
    fn brake(&mut self, here: Position, now: Instant, link: &mut impl Link) {
        if link.brake() == Brake::OFF {
            self.braked = None;
            self.owed = Duration::ZERO;
            return;
        }
        let stands = u32::from(link.brake().percent());
        if let Some(since) = self.braked {
            let owed = self.owed + (now - since) * stands / (100 - stands).max(1);
            self.owed = owed.min(MOST_OWED);
        }
        while !self.stop && (link.brake() == Brake::FULL || self.owed >= NAP) {
            self.flush(link);
            let asleep = Instant::now();
            if let Some(order) = link.receive(NAP) {
                self.take(order);
            }
            self.owed = self.owed.saturating_sub(asleep.elapsed());
            link.beat(here);
            self.clock.look();
        }
        self.braked = Some(Instant::now());
    }

    /// What enters at this exit.
    pub(super) fn next_input(
        &mut self,
        moment: &Moment<'_>,
        link: &mut impl Link,
    ) -> Option<Input> {
        self.take_orders(link);
        self.clock.look();
        self.choose(moment)
    }

    /// Waits for something to enter a machine that stands.
    pub(super) fn wait_input(
        &mut self,
        moment: &Moment<'_>,
        link: &mut impl Link,
    ) -> Result<Option<Input>, Stop> {
        self.take_orders(link);
        loop {
            self.clock.look();
            if let Some(input) = self.choose(moment) {
                return Ok(Some(input));
            }
            if self.stop {
                return Ok(None);
            }
            self.flush(link);
            let patience = if moment.paused {
                BEAT
            } else {
                BEAT.min(self.clock.until(moment.board.next_timer()))
            };
            if let Some(order) = link.receive(patience) {
                self.take(order);
            }
            self.take_orders(link);
            link.beat(moment.position);
        }
    }

    /// The one input that is next in turn, recorded.
    fn choose(&mut self, moment: &Moment<'_>) -> Option<Input> {
        let position = moment.position;
        if let Some((control, request)) = self.controls.pop_front() {
            self.record(position, Payload::Control(control));
            self.records.last_mut().expect("just recorded").request = request;
            self.urgent |= request.is_some();
            return Some(Input::Control(control));
        }
        if moment.paused {
            return None;
        }
        if self.clock_is_due(moment)
            && let Some(now) = self.clock.step()
        {
            if !self.clock.is_behind() {
                self.clocked = Some(position);
            }
            self.record(position, Payload::Clock { now });
            return Some(Input::Clock(now));
        }
        if !self.frames.is_empty() && moment.board.net_can_receive(moment.ram) {
            let frame = self.frames.pop_front().expect("not empty");
            self.record(
                position,
                Payload::NetRx {
                    frame: frame.clone(),
                },
            );
            return Some(Input::NetRx(frame));
        }
        while let Some(DiskDone { tag, status, data }) = self.disk.pop_front() {
            // Of a request that the guest has forgotten, by a reset, nobody need hear.
            if moment.board.block_in_flight(tag) {
                self.record(position, Payload::BlockDone { tag, status });
                return Some(Input::BlockDone { tag, status, data });
            }
        }
        let room = moment
            .board
            .console_room()
            .min(self.console.len())
            .min(MAX_CONSOLE_BYTES);
        if room > 0 {
            let bytes: Vec<u8> = self.console.drain(..room).collect();
            self.record(
                position,
                Payload::ConsoleRx {
                    bytes: bytes.clone(),
                },
            );
            return Some(Input::ConsoleRx(bytes));
        }
        if let Some(wanted) = moment.board.entropy_wanted() {
            let mut bytes = vec![0; wanted.min(MAX_ENTROPY_BYTES)];
            getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
            self.record(
                position,
                Payload::Entropy {
                    bytes: bytes.clone(),
                },
            );
            return Some(Input::Entropy(bytes));
        }
        None
    }

    /// The guest asks for the time, a timer is due, a full step has piled up, or the guest's own
    /// count has gone on for long enough.
    fn clock_is_due(&mut self, moment: &Moment<'_>) -> bool {
        let due = self.clock.until(moment.board.next_timer()).is_zero()
            || (self.counts_time && self.clock.untold_ns() >= CLOCK_EVERY_NS);
        let asked = self.clocked != Some(moment.position)
            && matches!(moment.exit, Some(Exit::Access(access)) if needs_clock(moment.board, access));
        due || asked
    }

    pub(super) fn interrupted(&mut self, position: Position, vector: u8) {
        self.record(position, Payload::Interrupt { vector });
    }

    pub(super) fn output(&mut self, position: Position, seq: OutputSeq, output: Output) {
        self.record(position, Payload::Output(output.mark(seq)));
        self.records.last_mut().expect("just recorded").output = Some(output);
        self.urgent = true;
    }
}

/// Whether what the guest reads or sets depends on the time.
fn needs_clock(board: &Board, access: &Access) -> bool {
    let Target::Port(port) = access.target else {
        return false;
    };
    board.needs_clock(&match access.write {
        None => PortAccess::Read {
            port,
            size: access.size,
        },
        Some(value) => PortAccess::Write {
            port,
            size: access.size,
            value: value as u32,
        },
    })
}
