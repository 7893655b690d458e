//! Whether this node becomes the VM: suspecting, claiming, going live, and every way to end.

use super::super::primary::Winner;
use super::super::takeover::{Outcome, Takeover};
use super::super::{Answer, Effect, Finish, Halt, Now, Primary, Probe};
use super::{Backup, State};
use crate::types::{EntryIndex, Token};

impl Backup {
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

    pub(super) fn is_member(&self) -> bool {
        self.initial.is_some()
    }

    pub(super) fn claim_sent(&self) -> bool {
        matches!(&self.state, State::Suspecting(takeover) if takeover.claim_sent())
    }

    pub(super) fn suspect(&mut self, now: Now, patience_ns: u64) {
        self.state = State::Suspecting(Takeover::new(now, patience_ns));
    }

    pub(super) fn probe(&mut self) {
        self.probing = true;
        self.effects.push_back(Effect::Probe);
    }

    pub(super) fn halt(&mut self, halt: Halt) {
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

    pub(super) fn advance(&mut self, now: Now) {
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
}
