//! The node that replays: holds, acknowledges, keeps what was said, and takes over.

use std::collections::VecDeque;

use super::primary::Winner;
use super::tail::Tail;
use super::takeover::{Outcome, Takeover};
use super::watch::Watch;
use super::{Answer, Effect, Finish, Halt, Limits, Now, Primary, Probe, Timing};
use crate::entry::{Digest, Output};
use crate::initial::{Configuration, InitialState};
use crate::message::{Batch, Hello, Message, PROTOCOL_VERSION, Resume, Signal};
use crate::types::{EntryIndex, Generation, Incarnation, OutputSeq, Position, Token};

/// How long a report of what was replayed may wait for company, in nanoseconds.
const REPLAY_REPORT_NS: u64 = 5_000_000;

/// Where a backup stands, for people and for the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupState {
    /// Looking for its primary.
    Joining,
    /// Building the machine.
    Building,
    /// The machine is built; the generation is not open yet.
    Ready,
    /// In step.
    Following,
    /// Frozen: the primary may be gone.
    Suspecting,
    /// Frozen: the primary has said that it leaves.
    Parting,
    /// The generation was claimed.
    Claiming,
    /// Won: [`Backup::into_primary`] is due.
    Won,
    /// The VM was stopped in order: what is held of its log is replayed to the end.
    Draining,
    /// Over: halted or finished.
    Ended,
}

#[derive(Clone, Debug)]
enum State {
    Joining,
    Building,
    Ready,
    Following,
    Suspecting(Takeover),
    Won,
    Draining,
    Ended,
}

/// The backup's side of the protocol.
#[derive(Clone, Debug)]
pub struct Backup {
    me: Incarnation,
    node: String,
    probe: String,
    configuration: Configuration,
    initial: Option<InitialState>,
    primary: Option<Incarnation>,
    token: Token,
    state: State,
    timing: Timing,
    limits: Limits,
    watch: Watch,

    /// A channel is open.
    linked: bool,
    /// What the last tick said of the replaying thread.
    vcpu_alive: bool,
    /// A question to the arbiter is open.
    asking: bool,
    /// The primary's port is being probed.
    probing: bool,

    received: EntryIndex,
    replayed: EntryIndex,
    position: Position,
    tail: Tail,

    /// The last acknowledgement that was sent, and when.
    acknowledged: (EntryIndex, EntryIndex),
    acknowledged_at: Now,
    nonce: u64,
    peer_nonce: u64,

    effects: VecDeque<Effect>,
}

impl Backup {
    /// A backup that looks for its primary. `probe` is where this node listens, to be probed.
    #[must_use]
    pub fn new(
        now: Now,
        me: Incarnation,
        node: String,
        probe: String,
        configuration: Configuration,
        timing: Timing,
        limits: Limits,
    ) -> Self {
        Backup {
            me,
            node,
            probe,
            configuration,
            initial: None,
            primary: None,
            token: Token {
                generation: Generation(1),
                won: false,
            },
            state: State::Joining,
            timing,
            limits,
            watch: Watch::new(now, timing),
            linked: false,
            vcpu_alive: true,
            asking: false,
            probing: false,
            received: EntryIndex(0),
            replayed: EntryIndex(0),
            position: Position(0),
            tail: Tail::new(limits.tail_bytes),
            acknowledged: (EntryIndex(0), EntryIndex(0)),
            acknowledged_at: now,
            nonce: 0,
            peer_nonce: 0,
            effects: VecDeque::new(),
        }
    }

    // ---- what the node does with it ------------------------------------------------------------

    /// The next thing to do.
    pub fn poll(&mut self, now: Now) -> Option<Effect> {
        if self.effects.is_empty() {
            self.acknowledge(now);
        }
        self.effects.pop_front()
    }

    /// Where this node stands.
    #[must_use]
    pub fn state(&self) -> BackupState {
        match &self.state {
            State::Joining => BackupState::Joining,
            State::Building => BackupState::Building,
            State::Ready => BackupState::Ready,
            State::Following => BackupState::Following,
            State::Suspecting(takeover) if takeover.claim_sent() => BackupState::Claiming,
            State::Suspecting(takeover) if takeover.is_announced() => BackupState::Parting,
            State::Suspecting(_) => BackupState::Suspecting,
            State::Won => BackupState::Won,
            State::Draining => BackupState::Draining,
            State::Ended => BackupState::Ended,
        }
    }

    /// The fencing token of everything that this node says.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The incarnation of the primary, once it is known.
    #[must_use]
    pub fn primary(&self) -> Option<Incarnation> {
        self.primary
    }

    /// Last entry held, last acknowledged, last replayed.
    #[must_use]
    pub fn indexes(&self) -> (EntryIndex, EntryIndex, EntryIndex) {
        (self.received, self.acknowledged.0, self.replayed)
    }

    /// How many outputs are kept, and their size in bytes (OUT-3).
    #[must_use]
    pub fn tail_fill(&self) -> (usize, usize) {
        self.tail.fill()
    }

    /// Whether the node should dial the primary while there is no channel.
    #[must_use]
    pub fn wants_channel(&self) -> bool {
        match &self.state {
            State::Joining | State::Following => true,
            // FAIL-8: until the claim is sent the pair may resume; once it is sent, never.
            State::Suspecting(takeover) => self.is_member() && !takeover.claim_sent(),
            _ => false,
        }
    }

    /// A channel to the primary is open.
    pub fn handle_channel_opened(&mut self, now: Now) {
        self.observe(now);
        if !self.wants_channel() {
            return self.effects.push_back(Effect::CloseChannel);
        }
        self.linked = true;
        self.watch.heard();
        // An acknowledgement may have got lost with the last channel.
        self.acknowledged = (EntryIndex(0), EntryIndex(0));
        let resume = match (&self.state, &self.initial) {
            (State::Joining, _) | (_, None) => None,
            (_, Some(initial)) => Some(Resume {
                life: initial.life,
                received: self.received,
            }),
        };
        self.send(Signal::Hello(Box::new(Hello {
            protocol: PROTOCOL_VERSION,
            incarnation: self.me,
            node: self.node.clone(),
            probe: self.probe.clone(),
            configuration: self.configuration.clone(),
            resume,
        })));
    }

    /// The channel is gone.
    pub fn handle_channel_closed(&mut self, now: Now) {
        self.observe(now);
        if std::mem::take(&mut self.linked) {
            self.unlinked(now);
        }
        self.advance(now);
    }

    /// A message came on the channel.
    pub fn handle_message(&mut self, now: Now, token: Token, message: Message) {
        self.observe(now);
        if !self.linked {
            return;
        }
        if token < self.token {
            return self.drop_channel(now); // FAIL-6
        }
        self.watch.heard();
        match message {
            Message::Entries(batch) => self.handle_entries(now, batch),
            Message::Signal(signal) => self.handle_signal(now, signal),
        }
        self.advance(now);
    }

    fn handle_signal(&mut self, now: Now, signal: Signal) {
        match (&self.state, signal) {
            (State::Joining, Signal::Welcome(welcome)) => {
                if let Some(difference) = self
                    .configuration
                    .difference(&welcome.initial.configuration)
                {
                    let rejection = crate::message::Rejection::Configuration(difference);
                    return self.halt(Halt::Rejected(rejection));
                }
                self.primary = Some(welcome.incarnation);
                self.initial = Some(welcome.initial.clone());
                self.state = State::Building;
                self.effects
                    .push_back(Effect::Build(Box::new(welcome.initial)));
            }
            (State::Ready | State::Following | State::Suspecting(_), Signal::Opened { token })
                if token == self.token && !self.claim_sent() =>
            {
                // ONE-2 lets a member claim; and a suspicion is over (FAIL-8).
                self.state = State::Following;
            }
            (State::Following, Signal::Resumed { next }) if next == self.received.next() => {}
            (_, Signal::Heartbeat { nonce, .. }) => self.peer_nonce = nonce,
            (State::Following, Signal::HandOver | Signal::Stopped) => {
                // The arbiter's word counts: the read will say which.
                self.state = State::Suspecting(Takeover::announced(now));
                self.close_channel();
            }
            (_, Signal::Rejected(rejection)) => match self.state {
                State::Joining | State::Building | State::Ready => {
                    self.halt(Halt::Rejected(rejection));
                }
                _ => self.drop_channel(now),
            },
            (_, signal) => self.halt(Halt::Broken(format!("{signal:?} out of order"))),
        }
    }

    fn handle_entries(&mut self, now: Now, batch: Batch) {
        if !matches!(self.state, State::Following) {
            // FAIL-8: frozen, it takes nothing more.
            return self.drop_channel(now);
        }
        for entry in batch.iter() {
            if entry.index != self.received.next() || entry.position < self.position {
                let what = format!(
                    "LOG-1: entry {} at position {} after entry {} at position {}",
                    entry.index, entry.position, self.received, self.position
                );
                return self.halt(Halt::Broken(what));
            }
            self.received = entry.index;
            self.position = entry.position;
            if let Err(what) = self.tail.received(entry) {
                return self.halt(Halt::Broken(what));
            }
        }
        self.effects.push_back(Effect::Append(batch.clone()));
        self.effects.push_back(Effect::Replay(batch));
    }

    /// The machine is built, in the state that `digest` names.
    pub fn handle_built(&mut self, now: Now, digest: Digest) {
        self.observe(now);
        if matches!(self.state, State::Building) {
            self.state = State::Ready;
            self.send(Signal::Ready { digest });
            if !self.linked {
                self.unlinked(now);
            }
        }
        self.advance(now);
    }

    /// The machine has replayed up to `through`, and said `outputs` on the way.
    pub fn handle_replayed(
        &mut self,
        now: Now,
        through: EntryIndex,
        outputs: Vec<(OutputSeq, Output)>,
    ) {
        self.observe(now);
        assert!(
            through <= self.received,
            "LOG-3: replayed past what was heard of"
        );
        self.replayed = self.replayed.max(through);
        for (seq, output) in outputs {
            self.tail.keep(seq, output);
        }
        self.advance(now);
    }

    /// The machine parted from the log (DET-5).
    pub fn handle_diverged(&mut self, at: EntryIndex, what: String) {
        self.send(Signal::Diverged {
            at,
            what: what.clone(),
        });
        self.halt(Halt::Diverged { at, what });
    }

    /// The machine cannot go on here.
    pub fn handle_machine_failed(&mut self, why: String) {
        self.halt(Halt::Machine(why));
    }

    /// A person has decided that the VM goes on here, whatever was lost; see
    /// [`Primary::recover`]. The machine goes on from what it has replayed, and
    /// [`Backup::into_primary`] is due.
    ///
    /// # Panics
    ///
    /// If this node is not halted, never had a machine, or the token is none of a later generation.
    pub fn recover(&mut self, token: Token) {
        assert!(
            matches!(self.state, State::Ended),
            "only a halted node is recovered"
        );
        assert!(self.initial.is_some(), "a machine that was never built");
        assert!(
            token.won && token > self.token,
            "FAIL-6: {token} after {}",
            self.token
        );
        self.token = token;
        self.received = self.replayed;
        self.state = State::Won;
    }

    /// The primary's port was probed.
    pub fn handle_probe(&mut self, now: Now, probe: Probe) {
        self.observe(now);
        self.probing = false;
        if let State::Suspecting(takeover) = &mut self.state
            && !self.linked
        {
            takeover.probed(probe);
        }
        self.advance(now);
    }

    /// The arbiter has answered.
    pub fn handle_answer(&mut self, now: Now, answer: Answer) {
        self.observe(now);
        assert!(self.asking, "an answer without a question");
        self.asking = false;
        if let State::Suspecting(takeover) = &mut self.state {
            let generation = self.token.generation;
            match takeover.answered(now, &self.timing, self.me, generation, &answer) {
                Outcome::Wait => {}
                Outcome::Won => {
                    self.close_channel();
                    self.token.won = true;
                    self.state = State::Won;
                }
                Outcome::Halt(halt) => self.halt(halt),
                Outcome::Stopped => {
                    self.close_channel();
                    self.state = State::Draining;
                }
                Outcome::NotOpen if self.received == EntryIndex(0) => {
                    self.finish(Finish::NeverStarted);
                }
                Outcome::NotOpen => self.halt(Halt::Deleted),
            }
        }
        self.advance(now);
    }

    /// Time has passed; see [`Primary::handle_tick`].
    pub fn handle_tick(&mut self, now: Now, vcpu_alive: bool) {
        self.observe(now);
        let silent = self.watch.tick(now);
        if self.linked && silent {
            // Confirmed: the detection time has passed already (FAIL-1).
            match self.state {
                State::Following | State::Ready => {
                    self.close_channel();
                    self.suspect(now, 0);
                }
                State::Joining => self.close_channel(),
                _ => {}
            }
        }
        self.vcpu_alive = vcpu_alive;
        if self.linked && vcpu_alive && !matches!(self.state, State::Joining) {
            self.nonce += 1;
            self.send(Signal::Heartbeat {
                nonce: self.nonce,
                echo: self.peer_nonce,
            });
        }
        self.advance(now);
    }

    /// Turns the winner into the VM: it goes on alone from the last entry it holds (FAIL-7), and
    /// sends what it kept before anything new (OUT-4).
    ///
    /// # Panics
    ///
    /// If the generation is not won (FAIL-2).
    #[must_use]
    pub fn into_primary(mut self, now: Now) -> Primary {
        assert!(
            matches!(self.state, State::Won),
            "FAIL-2: live without the arbiter's grant"
        );
        assert_eq!(
            self.replayed, self.received,
            "FAIL-7: live before the tail is replayed"
        );
        Primary::from_winner(Winner {
            now,
            me: self.me,
            node: self.node,
            initial: self.initial.expect("a winner was welcomed"),
            timing: self.timing,
            limits: self.limits,
            token: self.token,
            last: self.received,
            position: self.position,
            kept: self.tail.take(),
        })
    }

    // ---- inside --------------------------------------------------------------------------------

    fn observe(&mut self, now: Now) {
        // A backup says nothing on its own account: its pauses need no further care (FAIL-9).
        let _ = self.watch.was_away(now);
    }

    fn is_member(&self) -> bool {
        self.initial.is_some()
    }

    fn claim_sent(&self) -> bool {
        matches!(&self.state, State::Suspecting(takeover) if takeover.claim_sent())
    }

    fn send(&mut self, signal: Signal) {
        if self.linked {
            self.effects.push_back(Effect::Send(signal.into()));
        }
    }

    fn close_channel(&mut self) {
        if std::mem::take(&mut self.linked) {
            self.effects.push_back(Effect::CloseChannel);
        }
    }

    fn drop_channel(&mut self, now: Now) {
        self.close_channel();
        self.unlinked(now);
    }

    fn unlinked(&mut self, now: Now) {
        match self.state {
            // Its answer may have got lost with the channel: only the arbiter knows now (ONE-2).
            State::Following | State::Ready => {
                self.suspect(now, self.timing.detect_ns);
                self.probe();
            }
            // A process that is being killed may accept once more; what a probe said meanwhile was
            // not heard.
            State::Suspecting(_) if !self.probing => self.probe(),
            _ => {}
        }
    }

    fn probe(&mut self) {
        self.probing = true;
        self.effects.push_back(Effect::Probe);
    }

    fn suspect(&mut self, now: Now, patience_ns: u64) {
        self.state = State::Suspecting(Takeover::new(now, patience_ns));
    }

    fn halt(&mut self, halt: Halt) {
        self.end(Effect::Halt(halt));
    }

    fn finish(&mut self, finish: Finish) {
        self.end(Effect::Finish(finish));
    }

    fn end(&mut self, effect: Effect) {
        if !matches!(self.state, State::Ended) {
            self.effects.push_back(effect);
            self.close_channel();
            self.state = State::Ended;
        }
    }

    fn advance(&mut self, now: Now) {
        // A node whose own thread hangs must not win what it cannot carry on.
        let ready = self.replayed == self.received && self.vcpu_alive;
        if let State::Suspecting(takeover) = &mut self.state
            && !self.asking
            && let Some(question) = takeover.question(now, ready)
        {
            if takeover.claim_sent() {
                self.close_channel();
            }
            self.asking = true;
            self.effects.push_back(Effect::Ask(question));
        }
        // FAIL-10: a backup ends where its primary did, and has seen whether it agrees.
        if matches!(self.state, State::Draining) && self.replayed == self.received {
            self.finish(Finish::Stopped);
        }
    }

    /// LOG-2: everything up to here is held; OUT-3: as far as what it makes us keep is bounded.
    fn acknowledge(&mut self, now: Now) {
        if !self.linked || !matches!(self.state, State::Following) {
            return;
        }
        let received = self.tail.acknowledgeable();
        let replayed = self.replayed.min(received);
        let due = received != self.acknowledged.0
            || (replayed != self.acknowledged.1
                && (replayed == received || now.since(self.acknowledged_at) >= REPLAY_REPORT_NS));
        if due {
            self.acknowledged = (received, replayed);
            self.acknowledged_at = now;
            self.send(Signal::Ack { received, replayed });
        }
    }
}

#[cfg(test)]
mod tests;
