//! The channel to the primary: when it is wanted, what is said on it, and what is acknowledged.

use super::super::takeover::Takeover;
use super::super::{Effect, Halt, Now};
use super::{Backup, State};
use crate::message::{Batch, Hello, Message, PROTOCOL_VERSION, Rejection, Resume, Signal};
use crate::types::{EntryIndex, Token};

/// How long a report of what was replayed may wait for company, in nanoseconds.
const REPLAY_REPORT_NS: u64 = 5_000_000;

impl Backup {
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
                    let rejection = Rejection::Configuration(difference);
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

    pub(super) fn send(&mut self, signal: Signal) {
        if self.linked {
            self.effects.push_back(Effect::Send(signal.into()));
        }
    }

    pub(super) fn close_channel(&mut self) {
        if std::mem::take(&mut self.linked) {
            self.effects.push_back(Effect::CloseChannel);
        }
    }

    fn drop_channel(&mut self, now: Now) {
        self.close_channel();
        self.unlinked(now);
    }

    pub(super) fn unlinked(&mut self, now: Now) {
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

    /// LOG-2: everything up to here is held; OUT-3: as far as what it makes us keep is bounded.
    pub(super) fn acknowledge(&mut self, now: Now) {
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
