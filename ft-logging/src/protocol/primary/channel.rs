//! The channel to the backup: who may open it, what is said on it, and when it is given up.

use super::super::{Effect, Now};
use super::{Primary, State};
use crate::message::{Batch, Hello, Message, PROTOCOL_VERSION, Rejection, Resume, Signal, Welcome};
use crate::types::{EntryIndex, Incarnation, Token};

impl Primary {
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
    pub(super) fn compare_machines(&mut self, now: Now) {
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

    pub(super) fn demand_proof(&mut self) {
        self.proof = Some(self.nonce + 1);
        if self.linked {
            self.heartbeat();
        }
    }

    pub(super) fn heartbeat(&mut self) {
        self.nonce += 1;
        self.send(Signal::Heartbeat {
            nonce: self.nonce,
            echo: self.peer_nonce,
        });
    }

    pub(super) fn send(&mut self, signal: Signal) {
        if self.linked {
            self.effects.push_back(Effect::Send(signal.into()));
        }
    }

    pub(super) fn drop_channel(&mut self, now: Now) {
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
}
