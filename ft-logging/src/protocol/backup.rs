//! The node that replays: holds, acknowledges, keeps what was said, and takes over.
//!
//! ```text
//!   channel ──▶ entries held ──▶ acknowledged ──▶ machine replays
//!      │                                            │
//!      └──▶ fate: only the arbiter makes it live ◀──┘ with everything held replayed
//! ```

mod channel;
mod fate;

use std::collections::VecDeque;

use super::tail::Tail;
use super::takeover::Takeover;
use super::watch::Watch;
use super::{Effect, Halt, Limits, Now, Timing};
use crate::entry::{Digest, Output};
use crate::initial::{Configuration, InitialState};
use crate::message::Signal;
use crate::types::{EntryIndex, Generation, Incarnation, OutputSeq, Position, Token};

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

    // ---- inside --------------------------------------------------------------------------------

    fn observe(&mut self, now: Now) {
        // A backup says nothing on its own account: its pauses need no further care (FAIL-9).
        let _ = self.watch.was_away(now);
    }
}

#[cfg(test)]
mod tests;
