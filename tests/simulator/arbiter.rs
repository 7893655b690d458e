//! The arbiter: the real register machine behind an unreliable path.
//!
//! Its servers are one here, since what they decide is linearizable (TAS-1). What a node sees of
//! them is simulated: a question may be lost, its answer may be lost after it took effect, it may
//! take effect long after its asker has given up, and the majority may be down for a while.

use std::collections::BTreeMap;

use ft_logging::protocol::{Answer, Question, RecordView};
use ft_logging::types::{Generation, Incarnation, Life};
use test_and_set::register::{self, Command, Record, Refusal, Register};
use test_and_set::types as tas;

use crate::coverage::Situation;
use crate::env::{Env, Event, ProcessId};
use crate::plan::{Host, US};

/// A question on its way, with who asks: the incarnation, for one life and generation.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) process: ProcessId,
    pub(crate) host: Host,
    pub(crate) incarnation: Incarnation,
    pub(crate) life: Life,
    pub(crate) generation: Generation,
    pub(crate) number: u64,
    pub(crate) question: Question,
    /// Whether the asker will not get an answer.
    unheard: bool,
}

impl Asked {
    pub(crate) fn new(
        (process, host, incarnation): (ProcessId, Host, Incarnation),
        (life, generation): (Life, Generation),
        number: u64,
        question: Question,
    ) -> Self {
        Asked {
            process,
            host,
            incarnation,
            life,
            generation,
            number,
            question,
            unheard: false,
        }
    }
}

/// The register and whether a majority is up.
#[derive(Default)]
pub(crate) struct Arbiter {
    register: Register,
    /// The lives that ever began, and whether each was stopped.
    lives: BTreeMap<Life, bool>,
    down: u32,
}

impl Arbiter {
    pub(crate) fn lose_majority(&mut self) {
        self.down += 1;
    }

    pub(crate) fn regain_majority(&mut self) {
        self.down -= 1;
    }

    /// What it has recorded about a life.
    pub(crate) fn record(&self, life: Life) -> Option<&Record> {
        let record = self.register.read(&name());
        record.filter(|record| record.life.0 == life.0)
    }

    /// Whether the name is free for a life, or its own.
    pub(crate) fn knows_no_other(&self, life: Option<Life>) -> bool {
        self.register
            .read(&name())
            .is_none_or(|record| Some(Life(record.life.0)) == life)
    }

    /// Whether a life ever began, also if its name is another's by now.
    pub(crate) fn has_begun(&self, life: Option<Life>) -> bool {
        life.is_some_and(|life| self.lives.contains_key(&life))
    }

    /// Whether a life was stopped, also if its name is another's by now.
    pub(crate) fn has_stopped(&self, life: Option<Life>) -> bool {
        life.is_some_and(|life| self.lives.get(&life) == Some(&true))
    }

    fn answer(&mut self, asked: &Asked) -> Answer {
        let vm = name();
        let life = tas::Life(asked.life.0);
        let by = tas::Incarnation(asked.incarnation.0);
        let generation = tas::Generation(asked.generation.0);
        let command = match &asked.question {
            Question::Read => return Answer::Record(self.record(asked.life).map(view)),
            Question::Open { members } => Command::Create {
                vm,
                life,
                members: members
                    .iter()
                    .copied()
                    .map(member)
                    .collect::<Vec<_>>()
                    .try_into()
                    .expect("one or two different members"),
            },
            Question::Claim => Command::Claim {
                vm,
                life,
                generation,
                by,
            },
            Question::Stop => Command::Stop {
                vm,
                life,
                generation,
                by,
                reason: "asked to".parse().expect("a short text"),
            },
        };
        let answer = self.register.apply(command);
        if let Some(record) = self.record(asked.life) {
            let stopped = record.stopped.is_some();
            self.lives.insert(asked.life, stopped);
        }
        match answer {
            register::Answer::Created | register::Answer::Opened => Answer::Opened,
            register::Answer::Won | register::Answer::Recovered { .. } => Answer::Won,
            register::Answer::Lost { to } => Answer::Lost {
                to: Incarnation(to.0),
            },
            register::Answer::Stopped => Answer::Stopped,
            register::Answer::Deleted => Answer::Deleted,
            register::Answer::Refused(Refusal::NotWinner(Record {
                winner: Some(to), ..
            })) => Answer::Lost {
                to: Incarnation(to.0),
            },
            register::Answer::Refused(refusal) => Answer::Refused(format!("{refusal:?}")),
        }
    }
}

fn name() -> tas::VmName {
    "vm".parse().expect("a short name")
}

fn member(incarnation: Incarnation) -> tas::Member {
    tas::Member {
        incarnation: tas::Incarnation(incarnation.0),
        node: "node".parse().expect("a short label"),
        address: "node:1".parse().expect("a short address"),
    }
}

fn view(record: &Record) -> RecordView {
    let incarnation = |id: tas::Incarnation| Incarnation(id.0);
    RecordView {
        generation: Generation(record.generation.0),
        members: record
            .members
            .as_slice()
            .iter()
            .map(|m| incarnation(m.incarnation))
            .collect(),
        winner: record.winner.map(incarnation),
        stopped: record.stopped.is_some(),
    }
}

impl Env {
    /// Sends a question on its way, and sees to it that it is answered exactly once or more: the
    /// node takes the first answer.
    pub(crate) fn ask(&mut self, mut asked: Asked) {
        let patience_ns = self.plan.timing.detect_ns / 2;
        let unknown = Event::Answer {
            process: asked.process,
            number: asked.number,
            answer: Answer::Unknown("no answer in time".to_owned()),
        };
        self.schedule(patience_ns, unknown);
        let mut after_ns = self.rng.between(50 * US, 2_000 * US);
        let calm = self.now >= self.plan.calm_at;
        if !calm && self.rng.percent(self.plan.arbiter_loss) {
            match self.rng.below(3) {
                0 => return,
                1 => asked.unheard = true,
                _ => {
                    asked.unheard = true;
                    after_ns += patience_ns * self.rng.between(1, 12) / 2;
                    self.met(Situation::LateEffect);
                }
            }
        }
        self.schedule(after_ns, Event::Question(Box::new(asked)));
    }

    /// A question arrives at the arbiter.
    pub(crate) fn question_arrived(&mut self, asked: &Asked) {
        if self.arbiter.down > 0 || !self.network.reaches_arbiter(asked.host) {
            return;
        }
        let claimed_before = self
            .arbiter
            .record(asked.life)
            .is_some_and(|r| r.winner.is_some());
        let answer = self.arbiter.answer(asked);
        self.note(|| {
            let unheard = if asked.unheard { ", unheard" } else { "" };
            format!(
                "arbiter: {:?} of process {} is answered {answer:?}{unheard}",
                asked.question, asked.process.0
            )
        });
        if asked.unheard {
            if answer == Answer::Won && !claimed_before {
                self.met(Situation::ClaimWonUnheard);
            }
            return;
        }
        let after_ns = self.rng.between(50 * US, 2_000 * US);
        self.schedule(
            after_ns,
            Event::Answer {
                process: asked.process,
                number: asked.number,
                answer,
            },
        );
    }
}
