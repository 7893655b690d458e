//! The node that runs the guest: records, sends, waits for acknowledgements, speaks.

use std::collections::VecDeque;

use super::gate::{Gate, Held};
use super::lag::Lag;
use super::takeover::{Outcome, Takeover, judge};
use super::watch::Watch;
use super::{
    Answer, Effect, Finish, Halt, Histogram, Limits, Now, Probe, Question, Record, Timing,
};
use crate::entry::{Digest, Entry, Payload};
use crate::initial::InitialState;
use crate::message::{
    BATCH_TARGET_BYTES, Batch, Hello, MAX_BATCH_ENTRIES, Message, PROTOCOL_VERSION, Rejection,
    Resume, Signal, Welcome,
};
use crate::types::{EntryIndex, Generation, Incarnation, OutputSeq, Position, Token};

/// What an entry costs in a buffer beside its payload.
const ENTRY_BYTES: usize = 64;

/// How many detection times a backup gets to take over what was handed to it.
const HAND_OVER_PATIENCE: u64 = 4;

/// Where a primary stands, for people and for the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrimaryState {
    /// No backup has come yet.
    Waiting,
    /// A backup builds its machine.
    Greeting,
    /// The arbiter is asked to open the generation.
    Opening,
    /// A backup is in step.
    Protected,
    /// The backup may be gone: outputs are held.
    Suspecting,
    /// The generation was claimed: outputs are held until the answer.
    Claiming,
    /// The generation is ours, and there is no backup.
    Alone,
    /// The guest has ended; the arbiter is being told.
    Stopping,
    /// The backup was asked to take over.
    Yielding,
    /// Over: halted or finished.
    Ended,
}

/// How the operator, or the guest, wants this node to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Run,
    /// End the VM (FAIL-10).
    Stop,
    /// Let the backup take over.
    HandOver,
}

#[derive(Clone, Debug)]
enum State {
    Waiting,
    Greeting,
    Opening { retry: Option<Now> },
    Protected,
    Suspecting(Takeover),
    Alone,
    Stopping { retry: Option<Now> },
    Yielding(Takeover),
    Ended,
}

/// The primary's side of the protocol; also a backup that went live.
#[derive(Clone, Debug)]
pub struct Primary {
    me: Incarnation,
    node: String,
    peer: Option<Incarnation>,
    /// Where the backup listens, as it says.
    peer_probe: String,
    initial: InitialState,
    initial_digest: Option<Digest>,
    /// The state that the backup's machine starts from, once it is built.
    ready: Option<Digest>,
    token: Token,
    state: State,
    timing: Timing,
    limits: Limits,
    watch: Watch,

    /// A handshake was done on a channel that is still open.
    linked: bool,
    /// A question to the arbiter is open.
    asking: bool,
    /// The guest has been let run.
    running: bool,
    /// What the last tick said of the vCPU thread.
    vcpu_alive: bool,
    /// No backup counts any more: the generation is won.
    alone: bool,
    wish: Wish,
    /// The machine stands still for good: no record will come.
    quiesced: bool,

    last: EntryIndex,
    position: Position,
    unacked: VecDeque<Batch>,
    unacked_bytes: usize,
    acked: EntryIndex,
    replayed: EntryIndex,

    gate: Gate,
    /// The last output that passed the gate, and the last that was written.
    passed: OutputSeq,
    released: OutputSeq,

    lag: Lag,
    slowed: bool,
    nonce: u64,
    peer_nonce: u64,
    /// FAIL-9: nothing leaves until the peer has echoed this nonce.
    proof: Option<u64>,

    effects: VecDeque<Effect>,
}

impl Primary {
    /// A primary that waits for its backup before the guest runs.
    #[must_use]
    pub fn new(
        now: Now,
        me: Incarnation,
        node: String,
        initial: InitialState,
        timing: Timing,
        limits: Limits,
    ) -> Self {
        Primary {
            me,
            node,
            peer: None,
            peer_probe: String::new(),
            initial,
            initial_digest: None,
            ready: None,
            token: Token {
                generation: Generation(1),
                won: false,
            },
            state: State::Waiting,
            timing,
            limits,
            watch: Watch::new(now, timing),
            linked: false,
            asking: false,
            running: false,
            vcpu_alive: true,
            alone: false,
            wish: Wish::Run,
            quiesced: false,
            last: EntryIndex(0),
            position: Position(0),
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            acked: EntryIndex(0),
            replayed: EntryIndex(0),
            gate: Gate::default(),
            passed: OutputSeq(0),
            released: OutputSeq(0),
            lag: Lag::default(),
            slowed: false,
            nonce: 0,
            peer_nonce: 0,
            proof: None,
            effects: VecDeque::new(),
        }
    }

    /// What a backup becomes that has won its generation (FAIL-7): it goes on from `last`.
    pub(super) fn from_winner(winner: Winner) -> Self {
        let mut primary = Primary::new(
            winner.now,
            winner.me,
            winner.node,
            winner.initial,
            winner.timing,
            winner.limits,
        );
        primary.token = winner.token;
        primary.state = State::Alone;
        primary.alone = true;
        primary.running = true;
        primary.last = winner.last;
        primary.position = winner.position;
        primary.effects.push_back(Effect::GoLive(winner.token));
        // OUT-4: before anything new.
        for (seq, output) in winner.kept {
            primary.passed = seq;
            primary.effects.push_back(Effect::Release { seq, output });
        }
        primary
    }

    // ---- what the node does with it ------------------------------------------------------------

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Where this node stands.
    #[must_use]
    pub fn state(&self) -> PrimaryState {
        match &self.state {
            State::Waiting => PrimaryState::Waiting,
            State::Greeting => PrimaryState::Greeting,
            State::Opening { .. } => PrimaryState::Opening,
            State::Protected => PrimaryState::Protected,
            State::Suspecting(takeover) if takeover.claim_sent() => PrimaryState::Claiming,
            State::Suspecting(_) => PrimaryState::Suspecting,
            State::Alone => PrimaryState::Alone,
            State::Stopping { .. } => PrimaryState::Stopping,
            State::Yielding(_) => PrimaryState::Yielding,
            State::Ended => PrimaryState::Ended,
        }
    }

    /// The fencing token of everything that this node says.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The incarnation of the backup, once there was one.
    #[must_use]
    pub fn peer(&self) -> Option<Incarnation> {
        self.peer
    }

    /// Last entry, last acknowledged, last replayed.
    #[must_use]
    pub fn indexes(&self) -> (EntryIndex, EntryIndex, EntryIndex) {
        (self.last, self.acked, self.replayed)
    }

    /// How many outputs wait at the gate, and their size in bytes.
    #[must_use]
    pub fn gate_fill(&self) -> (usize, usize) {
        (self.gate.len(), self.gate.bytes())
    }

    /// How far replay is behind now, in nanoseconds, and all lags so far (LOG-5).
    #[must_use]
    pub fn lag(&self, now: Now) -> (u64, &Histogram) {
        (self.lag.current_ns(now), self.lag.histogram())
    }

    /// Whether the node may take more records from the vCPU thread; if not, the thread waits
    /// (LOG-4).
    #[must_use]
    pub fn wants_records(&self) -> bool {
        self.gate.bytes() < self.limits.gate_bytes
            && self.unacked_bytes < self.limits.log_bytes
            && self.lag.bytes() < self.limits.log_bytes
    }

    /// Runs without a backup from the start (`--alone`): opens a generation of one and claims it.
    pub fn start_alone(&mut self, now: Now) {
        assert!(
            matches!(self.state, State::Waiting),
            "only a fresh primary starts alone"
        );
        self.state = State::Opening { retry: Some(now) };
        self.advance(now);
    }

    /// The primary's own machine is built, in the state that `digest` names.
    pub fn handle_built(&mut self, now: Now, digest: Digest) {
        self.observe(now);
        self.initial_digest = Some(digest);
        self.compare_machines(now);
        self.advance(now);
    }

    /// Time has passed. `vcpu_alive` says that the vCPU thread came round since the last tick
    /// (FAIL-1: a heartbeat of a node whose guest hangs would be a lie).
    pub fn handle_tick(&mut self, now: Now, vcpu_alive: bool) {
        self.observe(now);
        let silent = self.watch.tick(now);
        if self.linked && silent {
            match self.state {
                State::Protected => self.suspect(now, self.timing.detect_ns),
                // It died while it built its machine: there is room for another.
                State::Greeting => self.drop_channel(now),
                _ => {}
            }
        }
        self.vcpu_alive = vcpu_alive;
        if self.linked && vcpu_alive {
            self.heartbeat();
        }
        self.pace(now);
        self.advance(now);
    }

    /// Somebody dialled and said hello. If the answer is `Ok`, that connection is the channel from
    /// now on and any earlier one is closed.
    ///
    /// # Errors
    ///
    /// What to tell the caller before closing the connection.
    pub fn handle_hello(&mut self, now: Now, hello: &Hello) -> Result<(), Rejection> {
        self.observe(now);
        if hello.protocol != PROTOCOL_VERSION {
            return Err(Rejection::Protocol {
                theirs: PROTOCOL_VERSION,
            });
        }
        if let Some(difference) = hello.configuration.difference(&self.initial.configuration) {
            return Err(Rejection::Configuration(difference));
        }
        match hello.resume {
            Some(resume) => self.resume(now, hello.incarnation, resume),
            None => self.greet(hello),
        }
    }

    fn greet(&mut self, hello: &Hello) -> Result<(), Rejection> {
        // Whoever listens at the same place is the successor of one that is gone, even if the end
        // of that one's channel was never heard of.
        let succeeds = hello.probe == self.peer_probe;
        match self.state {
            State::Waiting | State::Greeting if !self.linked || succeeds => {
                self.peer = Some(hello.incarnation);
                self.peer_probe.clone_from(&hello.probe);
                self.linked = true;
                self.watch.heard();
                self.state = State::Greeting;
                self.ready = None;
                self.send(Signal::Welcome(Box::new(Welcome {
                    incarnation: self.me,
                    node: self.node.clone(),
                    initial: self.initial.clone(),
                })));
                Ok(())
            }
            State::Alone | State::Stopping { .. } | State::Ended => Err(Rejection::Busy(
                "runs alone: a running guest takes no new backup in this version".to_owned(),
            )),
            _ => Err(Rejection::Busy("has a backup".to_owned())),
        }
    }

    fn resume(
        &mut self,
        now: Now,
        incarnation: Incarnation,
        resume: Resume,
    ) -> Result<(), Rejection> {
        let refuse = |why: &str| Err(Rejection::Resume(why.to_owned()));
        if resume.life != self.initial.life || Some(incarnation) != self.peer {
            return refuse("it is of another life or another incarnation");
        }
        if resume.received < self.acked || resume.received > self.last {
            return refuse("it holds another log");
        }
        if !self.vcpu_alive {
            // FAIL-1: the backup is right to suspect, and would only do so again and again.
            return refuse("the primary's vCPU stands still");
        }
        match &self.state {
            State::Protected => {}
            // FAIL-8: until the claim is sent the pair may resume; once it is sent, never.
            State::Suspecting(takeover) if !takeover.claim_sent() => {}
            _ => return refuse("the primary goes on without it"),
        }
        self.linked = true;
        self.watch.heard();
        self.state = State::Protected;
        // What it holds is not yet acknowledged: it may lack the credit to keep the outputs (OUT-3).
        self.send(Signal::Opened { token: self.token });
        self.send(Signal::Resumed {
            next: resume.received.next(),
        });
        let missing: Vec<Batch> = self
            .unacked
            .iter()
            .map(|batch| {
                batch
                    .iter()
                    .filter(|e| e.index > resume.received)
                    .cloned()
                    .collect()
            })
            .filter(|batch: &Batch| !batch.is_empty())
            .collect();
        for batch in missing {
            self.effects
                .push_back(Effect::Send(Message::Entries(batch)));
        }
        // The hello may be old: nothing leaves before a word that was said after this one.
        self.demand_proof();
        self.advance(now);
        Ok(())
    }

    /// A message came on the channel.
    pub fn handle_message(&mut self, now: Now, token: Token, message: Message) {
        self.observe(now);
        if !self.linked {
            return;
        }
        if token != self.token {
            // FAIL-6. A higher one means that others have gone on: the arbiter knows more.
            if token < self.token {
                let rejection = Rejection::Fenced {
                    stale: token,
                    highest: self.token,
                };
                self.send(Signal::Rejected(rejection));
            }
            return self.drop_channel(now);
        }
        let Message::Signal(signal) = message else {
            return self.drop_channel(now);
        };
        match signal {
            Signal::Ack { received, replayed } => self.handle_ack(now, received, replayed),
            Signal::Heartbeat { nonce, echo } => {
                // Nothing else says that the backup replays: it acknowledges what it only holds.
                self.watch.heard();
                self.peer_nonce = nonce;
                if self.proof.is_some_and(|proof| echo >= proof) {
                    self.proof = None;
                }
                if let State::Suspecting(takeover) = &self.state
                    && !takeover.claim_sent()
                {
                    // It was only silent.
                    self.state = State::Protected;
                }
            }
            Signal::Ready { digest } if matches!(self.state, State::Greeting) => {
                self.ready = Some(digest);
                self.compare_machines(now);
            }
            Signal::Diverged { .. } => {
                // It says that it will never go live: waiting for it would bring nothing.
                self.drop_channel(now);
                if let State::Suspecting(takeover) = &mut self.state {
                    takeover.confirm();
                }
            }
            _ => self.drop_channel(now),
        }
        self.advance(now);
    }

    /// Opens the generation once both machines are built, whichever is first, if they are equal.
    fn compare_machines(&mut self, now: Now) {
        let (Some(ours), Some(theirs)) = (self.initial_digest, self.ready) else {
            return;
        };
        if !matches!(self.state, State::Greeting) {
            return;
        }
        if ours == theirs {
            self.state = State::Opening { retry: Some(now) };
        } else {
            let why = format!("{ours:x?} here, {theirs:x?} there");
            self.send(Signal::Rejected(Rejection::InitialState(why)));
            self.drop_channel(now);
        }
    }

    fn handle_ack(&mut self, now: Now, received: EntryIndex, replayed: EntryIndex) {
        if received < self.acked || received > self.last || replayed > received {
            return self.drop_channel(now);
        }
        self.acknowledge(received);
        self.replayed = self.replayed.max(replayed);
        self.lag.replayed(now, self.replayed);
        self.pace(now);
    }

    /// The channel is gone.
    pub fn handle_channel_closed(&mut self, now: Now) {
        self.observe(now);
        self.unlink(now);
        self.advance(now);
    }

    /// The peer's port was probed.
    pub fn handle_probe(&mut self, now: Now, probe: Probe) {
        self.observe(now);
        if let State::Suspecting(takeover) = &mut self.state
            && !self.linked
        {
            takeover.probed(probe);
        }
        self.advance(now);
    }

    /// The vCPU thread has records.
    pub fn handle_records(&mut self, now: Now, records: Vec<Record>) {
        self.observe(now);
        if matches!(self.state, State::Ended) {
            return;
        }
        self.append(now, records);
        self.advance(now);
    }

    /// Outputs up to `through` were written to where they go.
    pub fn handle_released(&mut self, now: Now, through: OutputSeq) {
        self.observe(now);
        assert!(
            through <= self.passed,
            "OUT-3: released what never passed the gate"
        );
        self.released = self.released.max(through);
        if !self.alone && !matches!(self.state, State::Ended) {
            let payload = Payload::Released { through };
            let record = Record {
                position: self.position,
                payload,
                output: None,
                request: None,
            };
            self.append(now, vec![record]);
        }
        self.advance(now);
    }

    /// The arbiter has answered.
    pub fn handle_answer(&mut self, now: Now, answer: Answer) {
        self.observe(now);
        assert!(self.asking, "an answer without a question");
        self.asking = false;
        let retry = Some(Now(now.0 + self.timing.retry_ns));
        let generation = self.token.generation;
        match &mut self.state {
            State::Opening { retry: again } => match answer {
                Answer::Opened => self.opened(now),
                Answer::Unknown(_) => *again = retry,
                // The backup took over before this node knew that it could, and was stopped.
                Answer::Stopped => self.finish(Finish::Stopped),
                Answer::Deleted => self.halt(Halt::Deleted),
                Answer::Refused(why) => self.halt(Halt::Refused(why)),
                other => self.halt(Halt::Refused(format!("{other:?}"))),
            },
            State::Suspecting(takeover) => {
                let outcome = takeover.answered(now, &self.timing, self.me, generation, &answer);
                self.concluded(outcome);
            }
            State::Yielding(takeover) => {
                let outcome = takeover.answered(now, &self.timing, self.me, generation, &answer);
                match outcome {
                    // Until its patience ends it only watches; then it claims what it gave away.
                    Outcome::Wait
                        if matches!(answer, Answer::Record(_)) && !takeover.is_confirmed(now) =>
                    {
                        takeover.read_again(Now(now.0 + self.timing.retry_ns));
                    }
                    Outcome::Halt(Halt::Lost { .. } | Halt::Outdated(_)) => {
                        self.finish(Finish::HandedOver);
                    }
                    outcome => self.concluded(outcome),
                }
            }
            State::Stopping { retry: again } => match answer {
                Answer::Stopped | Answer::Deleted => {
                    self.send(Signal::Stopped);
                    self.finish(Finish::Stopped);
                }
                Answer::Lost { to } => self.halt(Halt::Lost { to }),
                Answer::Refused(why) => self.halt(Halt::Refused(why)),
                _ => *again = retry,
            },
            // The answer to a read that was asked before the pair resumed: only bad news counts.
            State::Protected => {
                if let Answer::Record(Some(record)) = &answer {
                    let outcome = judge(record, self.me, generation);
                    if outcome != Outcome::Wait {
                        self.concluded(outcome);
                    }
                }
            }
            State::Waiting | State::Greeting | State::Alone | State::Ended => {}
        }
        self.advance(now);
    }

    /// How the operator or the guest wants to go on. [`Wish::Stop`] and [`Wish::HandOver`] take
    /// effect once the machine stands still (`handle_quiesced`) and everything it said has left.
    pub fn handle_wish(&mut self, now: Now, wish: Wish) {
        self.observe(now);
        self.wish = wish;
        self.advance(now);
    }

    /// The machine stands still for good: there will be no further record.
    pub fn handle_quiesced(&mut self, now: Now) {
        self.observe(now);
        self.quiesced = true;
        self.advance(now);
    }

    /// The machine cannot go on here; the backup will notice and take over.
    pub fn handle_machine_failed(&mut self, why: String) {
        self.halt(Halt::Machine(why));
    }

    /// A person has decided that the VM goes on here, whatever was lost: `token` is of a
    /// generation that the arbiter opened for this node alone, which has won it.
    ///
    /// # Panics
    ///
    /// If this node is not halted, or the token is none of a later generation.
    pub fn recover(&mut self, now: Now, token: Token) {
        assert!(
            matches!(self.state, State::Ended),
            "only a halted node is recovered"
        );
        assert!(
            token.won && token > self.token,
            "FAIL-6: {token} after {}",
            self.token
        );
        self.token = token;
        self.wish = Wish::Run;
        self.quiesced = false;
        self.running = false;
        self.won();
        self.advance(now);
    }

    // ---- inside --------------------------------------------------------------------------------

    /// Every event passes here first (FAIL-9).
    fn observe(&mut self, now: Now) {
        if self.watch.was_away(now) && !self.alone && self.running {
            self.demand_proof();
        }
    }

    fn demand_proof(&mut self) {
        self.proof = Some(self.nonce + 1);
        if self.linked {
            self.heartbeat();
        }
    }

    fn heartbeat(&mut self) {
        self.nonce += 1;
        self.send(Signal::Heartbeat {
            nonce: self.nonce,
            echo: self.peer_nonce,
        });
    }

    fn send(&mut self, signal: Signal) {
        if self.linked {
            self.effects.push_back(Effect::Send(signal.into()));
        }
    }

    fn drop_channel(&mut self, now: Now) {
        if self.linked {
            self.effects.push_back(Effect::CloseChannel);
            self.unlink(now);
        }
    }

    fn unlink(&mut self, now: Now) {
        self.linked = false;
        match self.state {
            State::Greeting => {
                self.peer = None;
                self.state = State::Waiting;
            }
            State::Protected => {
                // FAIL-2: it first tries for one detection time to get the backup back.
                self.suspect(now, self.timing.detect_ns);
                self.effects.push_back(Effect::Probe);
            }
            _ => {}
        }
    }

    fn suspect(&mut self, now: Now, patience_ns: u64) {
        self.state = State::Suspecting(Takeover::new(now, patience_ns));
    }

    fn opened(&mut self, now: Now) {
        if self.peer.is_none() {
            self.suspect(now, 0); // alone from the start: nobody to wait for
            return;
        }
        self.running = true;
        self.effects.push_back(Effect::Run);
        self.watch.heard();
        if self.linked {
            self.state = State::Protected;
            self.send(Signal::Opened { token: self.token });
        } else {
            self.suspect(now, self.timing.detect_ns);
            self.effects.push_back(Effect::Probe);
        }
    }

    fn concluded(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Wait => {}
            Outcome::Won => self.won(),
            Outcome::Halt(halt) => self.halt(halt),
            Outcome::Stopped => self.finish(Finish::Stopped),
            Outcome::NotOpen => self.halt(Halt::Deleted),
        }
    }

    fn won(&mut self) {
        if self.linked {
            self.effects.push_back(Effect::CloseChannel);
            self.linked = false;
        }
        self.state = State::Alone;
        self.alone = true;
        self.token.won = true;
        self.proof = None;
        self.unacked.clear();
        self.unacked_bytes = 0;
        self.lag.clear();
        self.set_slowed(false);
        self.effects.push_back(Effect::GoLive(self.token));
        let handing_over = self.wish == Wish::HandOver;
        if handing_over {
            // Whoever was to take over is gone: the guest runs on here.
            self.wish = Wish::Run;
            self.quiesced = false;
        }
        if handing_over || !self.running {
            self.running = true;
            self.effects.push_back(Effect::Run);
        }
    }

    fn halt(&mut self, halt: Halt) {
        self.end(Effect::Halt(halt));
    }

    fn finish(&mut self, finish: Finish) {
        self.end(Effect::Finish(finish));
    }

    /// FAIL-3: whatever was about to leave stays.
    fn end(&mut self, effect: Effect) {
        if matches!(self.state, State::Ended) {
            return;
        }
        self.effects
            .retain(|e| !matches!(e, Effect::Release { .. } | Effect::Answer(_)));
        self.effects.push_back(effect);
        if self.linked {
            self.effects.push_back(Effect::CloseChannel);
            self.linked = false;
        }
        self.lag.clear();
        self.state = State::Ended;
    }

    fn append(&mut self, now: Now, records: Vec<Record>) {
        let mut entries = Vec::with_capacity(records.len());
        let mut bytes = 0;
        for record in records {
            assert!(record.position >= self.position, "positions never go back");
            self.position = record.position;
            self.last = self.last.next();
            if let Some(output) = record.output {
                let Payload::Output(mark) = &record.payload else {
                    panic!("an output without its mark");
                };
                self.gate.hold(
                    self.last,
                    Held::Output {
                        seq: mark.seq,
                        output,
                    },
                );
            }
            if let Some(request) = record.request {
                self.gate.hold(self.last, Held::Answer(request));
            }
            bytes += ENTRY_BYTES + record.payload.held_bytes();
            let (position, payload) = (record.position, record.payload);
            entries.push(Entry {
                index: self.last,
                position,
                payload,
            });
            if bytes >= BATCH_TARGET_BYTES || entries.len() == MAX_BATCH_ENTRIES {
                self.append_batch(
                    now,
                    std::mem::take(&mut entries),
                    std::mem::take(&mut bytes),
                );
            }
        }
        if !entries.is_empty() {
            self.append_batch(now, entries, bytes);
        }
    }

    fn append_batch(&mut self, now: Now, entries: Vec<Entry>, bytes: usize) {
        let batch = Batch::from(entries);
        self.effects.push_back(Effect::Append(batch.clone()));
        if self.alone {
            return;
        }
        self.unacked.push_back(batch.clone());
        self.unacked_bytes += bytes;
        self.lag.sent(now, self.last, bytes);
        if self.linked {
            self.effects
                .push_back(Effect::Send(Message::Entries(batch)));
        }
    }

    fn acknowledge(&mut self, through: EntryIndex) {
        self.acked = through;
        let held = |batch: &mut Batch| batch.last().is_some_and(|last| last.index <= through);
        while let Some(batch) = self.unacked.pop_front_if(held) {
            self.unacked_bytes -= batch
                .iter()
                .map(|entry| ENTRY_BYTES + entry.payload.held_bytes())
                .sum::<usize>();
        }
    }

    /// LOG-5.
    fn pace(&mut self, now: Now) {
        let lag = self.lag.current_ns(now);
        if self.alone {
            self.set_slowed(false);
        } else if lag > self.timing.max_lag_ns {
            self.set_slowed(true);
        } else if lag < self.timing.max_lag_ns / 2 {
            self.set_slowed(false);
        }
    }

    fn set_slowed(&mut self, slowed: bool) {
        if self.slowed != slowed {
            self.slowed = slowed;
            self.effects.push_back(Effect::SlowDown(slowed));
        }
    }

    /// What has become possible: after every event.
    fn advance(&mut self, now: Now) {
        self.pass_gate();
        self.fulfil_wish(now);
        if self.asking {
            return;
        }
        let question = match &mut self.state {
            State::Opening { retry } => retry.take_if(|at| *at <= now).map(|_| Question::Open {
                members: [Some(self.me), self.peer].into_iter().flatten().collect(),
            }),
            // A node whose vCPU hangs must not win what it cannot carry on.
            State::Suspecting(takeover) | State::Yielding(takeover) => {
                takeover.question(now, self.vcpu_alive)
            }
            State::Stopping { retry } => retry.take_if(|at| *at <= now).map(|_| Question::Stop),
            _ => None,
        };
        if let Some(question) = question {
            self.asking = true;
            self.effects.push_back(Effect::Ask(question));
        }
    }

    /// OUT-1: what is acknowledged may leave, while protected and beyond doubt; alone, everything.
    fn pass_gate(&mut self) {
        let through = match self.state {
            _ if self.alone && !matches!(self.state, State::Ended) => self.last,
            State::Protected if self.linked && self.proof.is_none() => self.acked,
            _ => return,
        };
        while let Some(item) = self.gate.pass(through) {
            self.effects.push_back(match item {
                Held::Answer(request) => Effect::Answer(request),
                Held::Output { seq, output } => {
                    self.passed = seq;
                    Effect::Release { seq, output }
                }
            });
        }
    }

    fn fulfil_wish(&mut self, now: Now) {
        let everything_left = self.gate.is_empty()
            && self.released == self.passed
            && (self.alone || self.acked == self.last);
        if self.wish == Wish::Run || !self.quiesced || !everything_left {
            return;
        }
        match (&self.state, self.wish) {
            (State::Protected, Wish::HandOver) if self.linked && self.proof.is_none() => {
                self.send(Signal::HandOver);
                let patience_ns = HAND_OVER_PATIENCE * self.timing.detect_ns;
                self.state = State::Yielding(Takeover::new(now, patience_ns));
            }
            // FAIL-10. Alone there is nobody to hand over to.
            (State::Protected, Wish::Stop) if self.linked && self.proof.is_none() => {
                self.state = State::Stopping { retry: Some(now) };
            }
            (State::Alone, _) => self.state = State::Stopping { retry: Some(now) },
            _ => {}
        }
    }
}

/// What a backup brings along when it goes live.
pub(super) struct Winner {
    pub(super) now: Now,
    pub(super) me: Incarnation,
    pub(super) node: String,
    pub(super) initial: InitialState,
    pub(super) timing: Timing,
    pub(super) limits: Limits,
    pub(super) token: Token,
    pub(super) last: EntryIndex,
    pub(super) position: Position,
    pub(super) kept: VecDeque<(OutputSeq, crate::entry::Output)>,
}

#[cfg(test)]
mod tests;
