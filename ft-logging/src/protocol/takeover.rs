//! From suspecting the peer to knowing who goes on: the part that both roles share.
//!
//! Three things must come together before a claim is sent (FAIL-1, FAIL-8): the suspicion is
//! confirmed, the arbiter has answered a read, and the node's own machine is ready. Until then the
//! pair may resume; from then on never, and the question is repeated until it is answered (FAIL-4,
//! FAIL-5).

use super::{Answer, Halt, Now, Probe, Question, RecordView, Timing};
use crate::types::{Generation, Incarnation};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// To be asked from this moment on.
    From(Now),
    Open,
    Answered,
}

/// One suspicion, on its way to a claim.
#[derive(Clone, Debug)]
pub(super) struct Takeover {
    since: Now,
    patience_ns: u64,
    announced: bool,
    read: Asked,
    claim: Asked,
    claim_sent: bool,
}

/// What an answer means for a node that wants to take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing yet.
    Wait,
    Won,
    Halt(Halt),
    /// The VM was stopped in order: there is nothing to take over.
    Stopped,
    /// The arbiter does not know this pair: its generation was never opened.
    NotOpen,
}

impl Takeover {
    /// A suspicion that is confirmed after `patience_ns` without news.
    pub(super) fn new(now: Now, patience_ns: u64) -> Self {
        Takeover {
            since: now,
            patience_ns,
            announced: false,
            read: Asked::From(now),
            claim: Asked::From(now),
            claim_sent: false,
        }
    }

    /// The peer itself has said that it leaves: there is nothing to wait for.
    pub(super) fn announced(now: Now) -> Self {
        Takeover {
            announced: true,
            ..Takeover::new(now, 0)
        }
    }

    pub(super) fn is_announced(&self) -> bool {
        self.announced
    }

    /// The suspicion is confirmed: waiting would bring nothing.
    pub(super) fn confirm(&mut self) {
        self.patience_ns = 0;
    }

    pub(super) fn is_confirmed(&self, now: Now) -> bool {
        now.since(self.since) >= self.patience_ns
    }

    pub(super) fn probed(&mut self, probe: Probe) {
        if probe == Probe::Refused {
            self.confirm();
        }
    }

    /// The record is to be read once more.
    pub(super) fn read_again(&mut self, at: Now) {
        self.read = Asked::From(at);
    }

    pub(super) fn claim_sent(&self) -> bool {
        self.claim_sent
    }

    /// What to ask the arbiter now; `ready` says that the machine here could go on.
    pub(super) fn question(&mut self, now: Now, ready: bool) -> Option<Question> {
        if matches!(self.read, Asked::From(at) if at <= now) {
            self.read = Asked::Open;
            return Some(Question::Read);
        }
        if self.is_confirmed(now)
            && ready
            && self.read == Asked::Answered
            && matches!(self.claim, Asked::From(at) if at <= now)
        {
            self.claim = Asked::Open;
            self.claim_sent = true;
            return Some(Question::Claim);
        }
        None
    }

    /// What `answer` means to `me`, a member of `generation`.
    pub(super) fn answered(
        &mut self,
        now: Now,
        timing: &Timing,
        me: Incarnation,
        generation: Generation,
        answer: &Answer,
    ) -> Outcome {
        let retry = Asked::From(Now(now.0 + timing.retry_ns));
        match answer {
            Answer::Won => Outcome::Won,
            Answer::Lost { to } => Outcome::Halt(Halt::Lost { to: *to }),
            Answer::Stopped => Outcome::Stopped,
            Answer::Deleted => Outcome::Halt(Halt::Deleted),
            Answer::Refused(why) => Outcome::Halt(Halt::Refused(why.clone())),
            Answer::Record(None) => Outcome::NotOpen,
            Answer::Record(Some(record)) => {
                let outcome = judge(record, me, generation);
                if outcome == Outcome::Wait && self.read == Asked::Open {
                    self.read = Asked::Answered;
                }
                outcome
            }
            // TAS-4: an unknown answer is no answer.
            Answer::Unknown(_) | Answer::Opened => {
                if self.read == Asked::Open {
                    self.read = retry;
                }
                if self.claim == Asked::Open {
                    self.claim = retry;
                }
                Outcome::Wait
            }
        }
    }
}

/// What a record says to a member of `generation`.
pub(super) fn judge(record: &RecordView, me: Incarnation, generation: Generation) -> Outcome {
    if record.stopped {
        Outcome::Stopped
    } else if record.generation > generation {
        Outcome::Halt(Halt::Outdated(record.generation))
    } else if record.generation < generation || !record.members.contains(&me) {
        Outcome::NotOpen
    } else {
        match record.winner {
            None => Outcome::Wait,
            Some(winner) if winner == me => Outcome::Won,
            Some(winner) => Outcome::Halt(Halt::Lost { to: winner }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Incarnation = Incarnation([1; 16]);
    const PEER: Incarnation = Incarnation([2; 16]);
    const G: Generation = Generation(4);

    fn record() -> RecordView {
        RecordView {
            generation: G,
            members: vec![ME, PEER],
            winner: None,
            stopped: false,
        }
    }

    #[test]
    fn fail_8_a_claim_needs_confirmation_and_a_read_and_a_ready_machine() {
        let timing = Timing::default();
        let later = Now(timing.detect_ns);
        for missing in ["nothing", "confirmation", "read", "machine"] {
            let mut takeover = Takeover::new(Now(0), timing.detect_ns);
            assert_eq!(takeover.question(Now(0), true), Some(Question::Read));
            assert_eq!(
                takeover.question(Now(0), true),
                None,
                "one question at a time"
            );
            if missing != "read" {
                takeover.answered(Now(0), &timing, ME, G, &Answer::Record(Some(record())));
            }
            let now = if missing == "confirmation" {
                Now(1)
            } else {
                later
            };
            let asked = takeover.question(now, missing != "machine");
            assert_eq!(
                asked == Some(Question::Claim),
                missing == "nothing",
                "{missing} missing"
            );
            assert_eq!(takeover.claim_sent(), missing == "nothing");
        }
    }

    #[test]
    fn fail_4_an_unanswered_claim_is_asked_again_and_never_taken_back() {
        let timing = Timing::default();
        let mut takeover = Takeover::new(Now(0), 0);
        takeover.question(Now(0), true);
        takeover.answered(Now(0), &timing, ME, G, &Answer::Record(Some(record())));
        assert_eq!(takeover.question(Now(0), true), Some(Question::Claim));
        let unknown = Answer::Unknown("no answer".to_owned());
        assert_eq!(
            takeover.answered(Now(1), &timing, ME, G, &unknown),
            Outcome::Wait
        );
        assert_eq!(takeover.question(Now(2), true), None);
        assert_eq!(
            takeover.question(Now(1 + timing.retry_ns), true),
            Some(Question::Claim)
        );
        assert!(takeover.claim_sent());
    }

    #[test]
    fn what_a_record_means() {
        let cases = [
            (record(), Outcome::Wait),
            (
                RecordView {
                    winner: Some(ME),
                    ..record()
                },
                Outcome::Won,
            ),
            (
                RecordView {
                    winner: Some(PEER),
                    ..record()
                },
                Outcome::Halt(Halt::Lost { to: PEER }),
            ),
            (
                RecordView {
                    stopped: true,
                    ..record()
                },
                Outcome::Stopped,
            ),
            (
                RecordView {
                    generation: G.next(),
                    ..record()
                },
                Outcome::Halt(Halt::Outdated(G.next())),
            ),
            (
                RecordView {
                    generation: Generation(3),
                    ..record()
                },
                Outcome::NotOpen,
            ),
            (
                RecordView {
                    members: vec![PEER],
                    ..record()
                },
                Outcome::NotOpen,
            ),
        ];
        for (record, expected) in cases {
            assert_eq!(judge(&record, ME, G), expected, "{record:?}");
        }
    }
}
