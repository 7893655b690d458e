//! The node that runs the guest: records, sends, waits for acknowledgements, speaks.
//!
//! ```text
//!   vCPU ──▶ records ──▶ channel ──▶ backup       what becomes log, and when what was said may leave
//!               ▲           │
//!               └── fate ◀──┘    whether this node is the VM at all: the arbiter decides
//! ```

mod channel;
mod fate;
mod records;

use std::collections::VecDeque;

use super::gate::Gate;
use super::lag::{Brake, Lag};
use super::takeover::Takeover;
use super::watch::Watch;
use super::{Effect, Limits, Now, Timing};
use crate::entry::Digest;
use crate::initial::InitialState;
use crate::message::Batch;
use crate::types::{EntryIndex, Generation, Incarnation, OutputSeq, Position, Token};

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
    brake: Brake,
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
            brake: Brake::OFF,
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

    // ---- inside --------------------------------------------------------------------------------

    /// Every event passes here first (FAIL-9).
    fn observe(&mut self, now: Now) {
        if self.watch.was_away(now) && !self.alone && self.running {
            self.demand_proof();
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
