//! What the tests of both sides share.

use super::{Effect, Now, Question, RecordView, Timing};
use crate::entry::{Digest, Entry, Output, OutputDevice, Payload};
use crate::initial::InitialState;
use crate::initial::tests::example;
use crate::message::{Batch, Hello, Message, PROTOCOL_VERSION, Resume, Signal};
use crate::types::{EntryIndex, Generation, Incarnation, OutputSeq, Position, Token};

pub(super) const PRIMARY: Incarnation = Incarnation([1; 16]);
pub(super) const BACKUP: Incarnation = Incarnation([2; 16]);
pub(super) const MS: u64 = 1_000_000;

/// The pair's token.
pub(super) const PAIR: Token = Token {
    generation: Generation(1),
    won: false,
};

pub(super) const DIGEST: Digest = Digest {
    machine: 7,
    ram: None,
};

pub(super) fn timing() -> Timing {
    Timing::new(500, 100)
}

pub(super) fn at(ms: u64) -> Now {
    Now(ms * MS)
}

pub(super) fn initial() -> InitialState {
    example()
}

/// The record of a pair that is whole.
pub(super) fn record() -> RecordView {
    RecordView {
        generation: Generation(1),
        members: vec![PRIMARY, BACKUP],
        winner: None,
        stopped: false,
    }
}

pub(super) fn won_by(winner: Incarnation) -> RecordView {
    RecordView {
        winner: Some(winner),
        ..record()
    }
}

pub(super) fn hello(incarnation: Incarnation, resume: Option<u64>) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        incarnation,
        node: "b".to_owned(),
        probe: "b:1".to_owned(),
        configuration: initial().configuration,
        resume: resume.map(|received| Resume {
            life: initial().life,
            received: EntryIndex(received),
        }),
    }
}

pub(super) fn output(len: usize) -> Output {
    Output {
        device: OutputDevice::Net,
        bytes: vec![0; len],
    }
}

/// Entries from `first` on, each at the position of its index.
pub(super) fn entries(first: u64, payloads: &[Payload]) -> Batch {
    let entry = |(index, payload): (u64, &Payload)| Entry {
        index: EntryIndex(index),
        position: Position(index),
        payload: payload.clone(),
    };
    (first..).zip(payloads).map(entry).collect()
}

pub(super) fn mark(seq: u64, len: usize) -> Payload {
    Payload::Output(output(len).mark(OutputSeq(seq)))
}

pub(super) fn released(through: u64) -> Payload {
    Payload::Released {
        through: OutputSeq(through),
    }
}

pub(super) fn ack(received: u64, replayed: u64) -> Signal {
    Signal::Ack {
        received: EntryIndex(received),
        replayed: EntryIndex(replayed),
    }
}

/// The signals among what is sent.
pub(super) fn signals(effects: &[Effect]) -> Vec<&Signal> {
    let mut signals = Vec::new();
    for effect in effects {
        if let Effect::Send(Message::Signal(signal)) = effect {
            signals.push(signal);
        }
    }
    signals
}

/// What the arbiter is asked.
pub(super) fn questions(effects: &[Effect]) -> Vec<&Question> {
    let mut questions = Vec::new();
    for effect in effects {
        if let Effect::Ask(question) = effect {
            questions.push(question);
        }
    }
    questions
}

/// The outputs that may leave.
pub(super) fn leaving(effects: &[Effect]) -> Vec<u64> {
    let seq = |effect: &Effect| match effect {
        Effect::Release { seq, .. } => Some(seq.0),
        _ => None,
    };
    effects.iter().filter_map(seq).collect()
}
