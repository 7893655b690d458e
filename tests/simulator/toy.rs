//! The toy machine: a deterministic guest that counts.
//!
//! It has what matters of a real one: positions, a halted state in which the position stands still,
//! an access at each position that is carried out after the inputs of that position, interrupts as
//! a function of its own state, several outputs at one position, and a hash over everything.
//! [`Live`] runs it and makes records, [`Replayer`] runs it from entries and checks their marks.
//!
//! The guest serves requests, each exactly once however often it is repeated: a counter that only
//! goes up, so that a client can tell a lost or a doubled write from the numbers alone.

use std::collections::VecDeque;

use ft_logging::entry::{Control, Digest, Entry, Output, OutputDevice, Payload};
use ft_logging::protocol::{Record, RequestId};
use ft_logging::types::{EntryIndex, OutputSeq, Position, VirtualTime};

use crate::rng::mix;

/// How many clients the guest remembers.
pub(crate) const CLIENTS: usize = 3;

/// A digest is taken at every position that this divides.
const DIGEST_EVERY: u64 = 16;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Increment,
    PowerOff,
}

/// A client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) client: u8,
    pub(crate) number: u32,
    pub(crate) operation: Operation,
}

impl Request {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![self.client, u8::from(self.operation == Operation::PowerOff)];
        frame.extend(self.number.to_le_bytes());
        frame
    }

    fn parse(frame: &[u8]) -> Self {
        let (head, number) = frame.split_at(2);
        Request {
            client: head[0],
            number: u32::from_le_bytes(number.try_into().expect("four bytes")),
            operation: match head[1] {
                0 => Operation::Increment,
                _ => Operation::PowerOff,
            },
        }
    }
}

/// The guest's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) client: u8,
    pub(crate) number: u32,
    pub(crate) count: u64,
    /// The machine's state when it replied: what two histories cannot share by chance.
    pub(crate) state: u64,
}

impl Reply {
    fn frame(&self) -> Vec<u8> {
        let mut frame = vec![self.client];
        frame.extend(self.number.to_le_bytes());
        frame.extend(self.count.to_le_bytes());
        frame.extend(self.state.to_le_bytes());
        frame
    }

    pub(crate) fn parse(frame: &[u8]) -> Self {
        let word = |at: usize| u64::from_le_bytes(frame[at..at + 8].try_into().expect("8 bytes"));
        Reply {
            client: frame[0],
            number: u32::from_le_bytes(frame[1..5].try_into().expect("four bytes")),
            count: word(5),
            state: word(13),
        }
    }
}

/// What the machine itself does at a position: the log has a mark for each.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Deed {
    Interrupt(u8),
    Say(OutputSeq, Output),
}

/// The machine.
#[derive(Clone, Debug)]
pub(crate) struct Toy {
    position: Position,
    /// Something at this position is still to be carried out.
    open: bool,
    /// The access that ended this position is still to be carried out.
    access: bool,
    halted: bool,
    off: bool,
    interrupt: Option<u8>,
    clock: VirtualTime,
    pending: VecDeque<Request>,
    work: u64,
    counter: u64,
    answered: [(u32, u64); CLIENTS],
    said: OutputSeq,
    state: u64,
    /// What was done and is not in the log yet.
    unlogged: VecDeque<Deed>,
}

impl Toy {
    pub(crate) fn new(seed: u64) -> Self {
        Toy {
            position: Position(0),
            open: false,
            access: false,
            halted: false,
            off: false,
            interrupt: None,
            clock: VirtualTime(0),
            pending: VecDeque::new(),
            work: 8,
            counter: 0,
            answered: [(0, 0); CLIENTS],
            said: OutputSeq(0),
            state: mix(seed),
            unlogged: VecDeque::new(),
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Flips a bit that no mark shows directly: a fault of the host's memory.
    pub(crate) fn corrupt(&mut self) {
        self.state ^= 1 << 17;
    }

    pub(crate) fn digest(&self) -> Digest {
        let words = [
            self.position.0,
            self.clock.0,
            self.counter,
            self.said.0,
            self.pending.len() as u64,
            u64::from(self.halted),
        ];
        Digest {
            machine: words
                .into_iter()
                .fold(self.state, |hash, word| mix(hash ^ word)),
            ram: None,
        }
    }

    /// Whether it stands still until an input comes.
    fn is_idle(&self) -> bool {
        self.off || (self.halted && !self.open)
    }

    /// Runs to the next position.
    fn run(&mut self) {
        assert!(
            !self.open && !self.halted && !self.off,
            "the machine cannot run on"
        );
        self.position = self.position.next();
        self.open = true;
        self.access = true;
    }

    fn apply(&mut self, input: &Payload) {
        self.open = true;
        match input {
            Payload::Clock { now } => {
                assert!(*now >= self.clock, "DET-2: virtual time never goes back");
                self.clock = *now;
                self.state = mix(self.state ^ now.0);
                self.interrupt = self.interrupt.or(Some(0x20));
            }
            Payload::NetRx { frame } => {
                self.pending.push_back(Request::parse(frame));
                self.interrupt = Some(0x2b);
            }
            Payload::Control(Control::PowerOff) => self.off = true,
            Payload::Control(_) => self.interrupt = Some(0x29),
            other => panic!("{other:?} is no input of the toy machine"),
        }
    }

    /// Carries out the access of this position, and then lets an interrupt in.
    fn carry_out(&mut self) {
        self.open = false;
        if let Some(vector) = self.interrupt.take() {
            self.state = mix(self.state ^ u64::from(vector));
            self.unlogged.push_back(Deed::Interrupt(vector));
            self.halted = false;
        }
        if std::mem::take(&mut self.access) && !self.off {
            self.state = mix(self.state ^ self.position.0);
            match self.pending.pop_front() {
                Some(request) => self.serve(request),
                None if self.work > 0 => self.compute(),
                None => self.halted = true,
            }
        }
    }

    fn serve(&mut self, request: Request) {
        let answered = &mut self.answered[usize::from(request.client)];
        if request.number > answered.0 {
            self.counter += 1;
            *answered = (request.number, self.counter);
            self.work = 1 + self.state % 4;
        }
        if request.number == answered.0 {
            let reply = Reply {
                client: request.client,
                number: request.number,
                count: answered.1,
                state: self.state,
            };
            self.say(OutputDevice::Net, reply.frame());
        }
        self.off |= request.operation == Operation::PowerOff;
    }

    fn compute(&mut self) {
        self.work -= 1;
        if self.state.is_multiple_of(5) {
            let line = vec![b'.'; 1 + (self.state >> 8) as usize % 120];
            self.say(OutputDevice::Console, line);
        }
        if self.state.is_multiple_of(7) {
            self.say(OutputDevice::Console, self.state.to_le_bytes().to_vec());
        }
    }

    fn say(&mut self, device: OutputDevice, bytes: Vec<u8>) {
        self.said = self.said.next();
        let output = Output { device, bytes };
        self.unlogged.push_back(Deed::Say(self.said, output));
    }
}

/// Runs the machine on inputs as they come, and reports what happened.
pub(crate) struct Live(pub(crate) Toy);

impl Live {
    /// Whether nothing happens until an input comes.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.is_idle() && self.0.unlogged.is_empty()
    }

    /// Whether it is switched off and everything it did is in the log.
    pub(crate) fn is_over(&self) -> bool {
        self.0.off && self.0.unlogged.is_empty()
    }

    /// Whether an input can take effect now: not if the node went live between two marks of one
    /// position.
    pub(crate) fn takes_inputs(&self) -> bool {
        !self.0.off && self.0.unlogged.is_empty()
    }

    /// The clock input that moves virtual time to `now`, at most one second ahead.
    pub(crate) fn clock_input(&self, now: u64) -> Payload {
        const STEP_NS: u64 = 1_000_000_000;
        let ahead = now.saturating_sub(self.0.clock.0).min(STEP_NS);
        Payload::Clock {
            now: self.0.clock.plus_ns(ahead),
        }
    }

    /// One turn of the machine loop.
    pub(crate) fn step(&mut self, inputs: Vec<(Payload, Option<RequestId>)>) -> Vec<Record> {
        let takes_inputs = self.takes_inputs();
        assert!(
            takes_inputs || inputs.is_empty(),
            "an input at the wrong moment"
        );
        let toy = &mut self.0;
        let mut records = Vec::new();
        if takes_inputs {
            if !toy.open && !toy.halted {
                toy.run();
            }
            for (payload, request) in inputs {
                toy.apply(&payload);
                records.push(Record {
                    position: toy.position,
                    payload,
                    output: None,
                    request,
                });
            }
            if toy.open {
                toy.carry_out();
            }
        }
        let mark = |payload, output| Record {
            position: toy.position,
            payload,
            output,
            request: None,
        };
        for deed in toy.unlogged.drain(..) {
            records.push(match deed {
                Deed::Interrupt(vector) => mark(Payload::Interrupt { vector }, None),
                Deed::Say(seq, output) => mark(Payload::Output(output.mark(seq)), Some(output)),
            });
        }
        if toy.position.0.is_multiple_of(DIGEST_EVERY) {
            records.push(mark(Payload::Digest(toy.digest()), None));
        }
        // An input that comes while the position stands still comes after this access.
        if !records.is_empty() || toy.halted {
            records.push(mark(Payload::Progress, None));
        }
        records
    }
}

/// An output and its place among all of them.
pub(crate) type Said = (OutputSeq, Output);

/// Where a replayed machine parted from the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Divergence(pub(crate) String);

/// Runs the machine from the entries of a log (DET-1).
pub(crate) struct Replayer {
    pub(crate) toy: Toy,
    queue: VecDeque<Entry>,
}

impl Replayer {
    pub(crate) fn new(toy: Toy) -> Self {
        let queue = VecDeque::new();
        Replayer { toy, queue }
    }

    pub(crate) fn push(&mut self, entries: &[Entry]) {
        self.queue.extend(entries.iter().cloned());
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Replays the next entry: which one, and what the machine said there.
    pub(crate) fn step(&mut self) -> (EntryIndex, Result<Option<Said>, Divergence>) {
        let entry = self.queue.pop_front().expect("an entry to replay");
        (entry.index, self.replay(&entry))
    }

    fn replay(&mut self, entry: &Entry) -> Result<Option<Said>, Divergence> {
        let diverged = |what: String| Err(Divergence(what));
        if matches!(entry.payload, Payload::Released { .. }) {
            return Ok(None);
        }
        self.run_to(entry.position)?;
        if entry.payload.is_input() {
            if !self.toy.open && !self.toy.halted {
                return diverged(format!("an input after the access: {entry:?}"));
            }
            self.toy.apply(&entry.payload);
            return Ok(None);
        }
        if self.toy.open {
            self.toy.carry_out();
        }
        if let Payload::Interrupt { .. } | Payload::Output(_) = entry.payload {
            return match (self.toy.unlogged.pop_front(), &entry.payload) {
                (Some(Deed::Interrupt(ours)), Payload::Interrupt { vector }) if ours == *vector => {
                    Ok(None)
                }
                (Some(Deed::Say(seq, output)), Payload::Output(mark))
                    if output.mark(seq) == *mark =>
                {
                    Ok(Some((seq, output)))
                }
                (ours, theirs) => diverged(format!("{ours:?} here, {theirs:?} in the log")),
            };
        }
        match (&self.toy.unlogged.front(), &entry.payload) {
            (Some(deed), _) => diverged(format!("{deed:?} here, not in the log")),
            (None, Payload::Digest(theirs)) if self.toy.digest() != *theirs => diverged(format!(
                "{:?} here, {theirs:?} in the log",
                self.toy.digest()
            )),
            (None, _) => Ok(None),
        }
    }

    fn run_to(&mut self, position: Position) -> Result<(), Divergence> {
        while self.toy.position < position {
            if self.toy.open {
                self.toy.carry_out();
            }
            if let Some(deed) = self.toy.unlogged.front() {
                return Err(Divergence(format!("{deed:?} here, not in the log")));
            }
            if self.toy.halted || self.toy.off {
                return Err(Divergence("stands still where the log goes on".to_owned()));
            }
            self.toy.run();
        }
        Ok(())
    }
}
