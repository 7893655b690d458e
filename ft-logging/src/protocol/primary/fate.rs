//! Whether this node is the VM: opening, suspecting, claiming, going alone, and every way to end.

use super::super::takeover::{Outcome, Takeover, judge};
use super::super::{Answer, Brake, Effect, Finish, Halt, Now, Probe, Question};
use super::{Primary, State, Wish};
use crate::message::Signal;
use crate::types::Token;

/// How many detection times a backup gets to take over what was handed to it.
const HAND_OVER_PATIENCE: u64 = 4;

impl Primary {
    /// Runs without a backup from the start (`--alone`): opens a generation of one and claims it.
    pub fn start_alone(&mut self, now: Now) {
        assert!(
            matches!(self.state, State::Waiting),
            "only a fresh primary starts alone"
        );
        self.state = State::Opening { retry: Some(now) };
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

    pub(super) fn suspect(&mut self, now: Now, patience_ns: u64) {
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
        self.set_brake(Brake::OFF);
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

    /// What has become possible: after every event.
    pub(super) fn advance(&mut self, now: Now) {
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
