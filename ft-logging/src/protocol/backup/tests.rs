//! The backup's transitions, event by event.

use super::super::fixtures::*;
use super::super::{
    Answer, Backup, BackupState, Effect, Finish, Halt, Limits, Now, PrimaryState, Probe, Question,
    RecordView,
};
use crate::entry::Payload;
use crate::message::{Batch, Message, Rejection, Signal, Welcome};
use crate::types::{EntryIndex, OutputSeq, Token};

fn effects(backup: &mut Backup, ms: u64) -> Vec<Effect> {
    std::iter::from_fn(|| backup.poll(at(ms))).collect()
}

fn say(backup: &mut Backup, ms: u64, signal: Signal) {
    backup.handle_message(at(ms), PAIR, signal.into());
}

fn take(backup: &mut Backup, ms: u64, batch: Batch) {
    backup.handle_message(at(ms), PAIR, Message::Entries(batch));
}

fn replay(backup: &mut Backup, ms: u64, through: u64, outputs: &[u64]) {
    let outputs = outputs
        .iter()
        .map(|seq| (OutputSeq(*seq), output(10)))
        .collect();
    backup.handle_replayed(at(ms), EntryIndex(through), outputs);
}

fn joining(limits: Limits) -> Backup {
    let (name, probe) = ("b".to_owned(), "b:1".to_owned());
    let configuration = initial().configuration;
    let mut backup = Backup::new(Now(0), BACKUP, name, probe, configuration, timing(), limits);
    backup.handle_channel_opened(Now(0));
    backup
}

fn welcome() -> Signal {
    Signal::Welcome(Box::new(Welcome {
        incarnation: PRIMARY,
        node: "a".to_owned(),
        initial: initial(),
    }))
}

fn ready(limits: Limits) -> Backup {
    let mut backup = joining(limits);
    say(&mut backup, 0, welcome());
    backup.handle_built(Now(0), DIGEST);
    effects(&mut backup, 0);
    backup
}

fn following_within(limits: Limits) -> Backup {
    let mut backup = ready(limits);
    say(&mut backup, 0, Signal::Opened { token: PAIR });
    effects(&mut backup, 0);
    backup
}

fn following() -> Backup {
    following_within(Limits::default())
}

/// Frozen at three entries and two outputs, of which one is known to have left; replayed to
/// `replayed`.
fn suspecting(replayed: u64) -> Backup {
    let mut backup = following();
    take(
        &mut backup,
        0,
        entries(1, &[mark(1, 10), released(1), mark(2, 10)]),
    );
    if replayed > 0 {
        replay(&mut backup, 0, replayed, &[1, 2]);
    }
    effects(&mut backup, 0);
    backup.handle_channel_closed(Now(0));
    backup
}

#[test]
fn from_joining_to_following() {
    let mut backup = joining(Limits::default());
    assert!(matches!(
        signals(&effects(&mut backup, 0))[..],
        [Signal::Hello(_)]
    ));
    say(&mut backup, 0, welcome());
    assert_eq!(backup.state(), BackupState::Building);
    assert_eq!(
        effects(&mut backup, 0),
        [Effect::Build(Box::new(initial()))]
    );
    backup.handle_built(Now(0), DIGEST);
    assert_eq!(backup.state(), BackupState::Ready);
    assert_eq!(
        signals(&effects(&mut backup, 0)),
        [&Signal::Ready { digest: DIGEST }]
    );
    say(&mut backup, 0, Signal::Opened { token: PAIR });
    assert_eq!(backup.state(), BackupState::Following);
}

#[test]
fn a_primary_that_is_configured_otherwise_is_refused() {
    let mut backup = joining(Limits::default());
    effects(&mut backup, 0);
    let mut initial = initial();
    initial.configuration.memory_mib += 1;
    let welcome = Welcome {
        incarnation: PRIMARY,
        node: "a".to_owned(),
        initial,
    };
    say(&mut backup, 0, Signal::Welcome(Box::new(welcome)));
    let done = effects(&mut backup, 0);
    assert!(
        matches!(
            done[0],
            Effect::Halt(Halt::Rejected(Rejection::Configuration(_)))
        ),
        "{done:?}"
    );
}

#[test]
fn log_1_a_break_in_the_log_stops_the_backup() {
    let progress = |n| vec![Payload::Progress; n];
    let cases = [
        ("a gap", entries(3, &progress(1))),
        ("a repeat", entries(1, &progress(1))),
        ("a step back", {
            let mut batch: Vec<_> = entries(2, &progress(2)).to_vec();
            batch[1].position = crate::types::Position(0);
            batch.into()
        }),
    ];
    for (what, batch) in cases {
        let mut backup = following();
        take(&mut backup, 0, entries(1, &progress(1)));
        effects(&mut backup, 0);
        take(&mut backup, 0, batch);
        let done = effects(&mut backup, 0);
        assert!(
            matches!(done[0], Effect::Halt(Halt::Broken(_))),
            "{what}: {done:?}"
        );
        assert_eq!(
            signals(&done),
            Vec::<&Signal>::new(),
            "{what} is not acknowledged"
        );
    }
}

#[test]
fn log_2_what_is_acknowledged_was_handed_on_before() {
    let mut backup = following();
    let batch = entries(1, &[Payload::Progress, Payload::Progress]);
    take(&mut backup, 0, batch.clone());
    let expected = [
        Effect::Append(batch.clone()),
        Effect::Replay(batch),
        Effect::Send(ack(2, 0).into()),
    ];
    assert_eq!(effects(&mut backup, 0), expected);
}

#[test]
fn out_3_beyond_its_credit_it_acknowledges_nothing() {
    let limits = Limits {
        tail_bytes: 1,
        ..Limits::default()
    };
    let mut backup = following_within(limits);
    take(
        &mut backup,
        0,
        entries(1, &[mark(1, 10), mark(2, 10), Payload::Progress]),
    );
    assert_eq!(signals(&effects(&mut backup, 0)), [&ack(1, 0)]);
    take(&mut backup, 0, entries(4, &[released(1)]));
    assert_eq!(signals(&effects(&mut backup, 0)), [&ack(4, 0)]);
}

#[test]
fn fail_1_a_silent_primary_is_given_up_at_once_and_a_closed_channel_after_a_while() {
    let mut silent = following();
    for ms in (50..=500).step_by(50) {
        silent.handle_tick(at(ms), true);
    }
    let done = effects(&mut silent, 500);
    assert!(done.contains(&Effect::CloseChannel));
    assert_eq!(questions(&done), [&Question::Read]);
    silent.handle_answer(at(500), Answer::Record(Some(record())));
    assert_eq!(questions(&effects(&mut silent, 500)), [&Question::Claim]);

    let mut closed = following();
    closed.handle_channel_closed(Now(0));
    let done = effects(&mut closed, 0);
    assert!(done.contains(&Effect::Probe));
    assert_eq!(questions(&done), [&Question::Read]);
    closed.handle_answer(Now(0), Answer::Record(Some(record())));
    assert_eq!(questions(&effects(&mut closed, 0)), Vec::<&Question>::new());
    closed.handle_probe(Now(0), Probe::Refused);
    assert_eq!(questions(&effects(&mut closed, 0)), [&Question::Claim]);
}

#[test]
fn fail_8_a_frozen_backup_takes_and_acknowledges_nothing() {
    let mut backup = suspecting(3);
    backup.handle_channel_opened(Now(0));
    effects(&mut backup, 0);
    take(&mut backup, 0, entries(4, &[Payload::Progress]));
    assert_eq!(effects(&mut backup, 0), [Effect::CloseChannel]);
    assert_eq!(backup.indexes().0, EntryIndex(3));
}

#[test]
fn fail_8_the_pair_resumes_until_the_claim_is_sent_and_not_after() {
    for claims in [false, true] {
        let mut backup = suspecting(3);
        backup.handle_answer(Now(0), Answer::Record(Some(record())));
        backup.handle_channel_opened(Now(0));
        effects(&mut backup, 0);
        if claims {
            backup.handle_tick(at(500), true);
            let done = effects(&mut backup, 500);
            let ends = [Effect::CloseChannel, Effect::Ask(Question::Claim)];
            assert_eq!(done[done.len() - 2..], ends, "{done:?}");
            assert!(!backup.wants_channel());
        }
        say(&mut backup, 500, Signal::Opened { token: PAIR });
        let expected = if claims {
            BackupState::Claiming
        } else {
            BackupState::Following
        };
        assert_eq!(backup.state(), expected);
    }
}

#[test]
fn fail_7_it_claims_only_when_its_tail_is_replayed() {
    let mut backup = suspecting(0);
    backup.handle_answer(Now(0), Answer::Record(Some(record())));
    backup.handle_tick(at(500), true);
    assert_eq!(questions(&effects(&mut backup, 500)), [&Question::Read]);
    replay(&mut backup, 501, 3, &[1, 2]);
    assert_eq!(questions(&effects(&mut backup, 501)), [&Question::Claim]);
}

#[test]
fn what_the_arbiters_answers_mean_to_a_suspecting_backup() {
    let stopped = RecordView {
        stopped: true,
        ..record()
    };
    let lost = Effect::Halt(Halt::Lost { to: PRIMARY });
    let cases = [
        (Answer::Record(Some(won_by(PRIMARY))), Some(lost.clone())),
        (Answer::Lost { to: PRIMARY }, Some(lost)),
        (
            Answer::Record(Some(stopped)),
            Some(Effect::Finish(Finish::Stopped)),
        ),
        (Answer::Stopped, Some(Effect::Finish(Finish::Stopped))),
        (Answer::Record(None), Some(Effect::Halt(Halt::Deleted))),
        (Answer::Deleted, Some(Effect::Halt(Halt::Deleted))),
        (Answer::Unknown(String::new()), None),
        (Answer::Record(Some(record())), None),
    ];
    for (answer, expected) in cases {
        let mut backup = suspecting(3);
        effects(&mut backup, 0);
        backup.handle_answer(Now(0), answer.clone());
        let done = effects(&mut backup, 0);
        assert_eq!(done.first(), expected.as_ref(), "{answer:?}");
        let state = if expected.is_some() {
            BackupState::Ended
        } else {
            BackupState::Suspecting
        };
        assert_eq!(backup.state(), state, "{answer:?}");
    }
}

#[test]
fn fail_10_a_backup_of_a_stopped_vm_replays_to_its_end_first() {
    let mut backup = following();
    take(&mut backup, 0, entries(1, &[mark(1, 10), mark(2, 10)]));
    say(&mut backup, 0, Signal::Stopped);
    assert_eq!(backup.state(), BackupState::Parting);
    assert_eq!(questions(&effects(&mut backup, 0)), [&Question::Read]);
    let stopped = RecordView {
        stopped: true,
        ..record()
    };
    backup.handle_answer(Now(0), Answer::Record(Some(stopped)));
    assert_eq!(effects(&mut backup, 0), []);
    assert_eq!(backup.state(), BackupState::Draining);
    assert!(!backup.wants_channel());
    let mut parted = backup.clone();
    replay(&mut backup, 1, 1, &[1]);
    assert_eq!(effects(&mut backup, 1), []);
    replay(&mut backup, 2, 2, &[2]);
    let finished = Effect::Finish(Finish::Stopped);
    assert_eq!(effects(&mut backup, 2), [finished]);
    // DET-5: what differs at the very end is told as well.
    let (at, what) = (EntryIndex(2), "a bit".to_owned());
    parted.handle_diverged(at, what.clone());
    let halted = Effect::Halt(Halt::Diverged { at, what });
    assert_eq!(effects(&mut parted, 2), [halted]);
}

#[test]
fn det_5_a_diverged_backup_says_so_and_closes() {
    let mut backup = following();
    let at = EntryIndex(0);
    let what = "a bit".to_owned();
    backup.handle_diverged(at, what.clone());
    let expected = [
        Effect::Send(
            Signal::Diverged {
                at,
                what: what.clone(),
            }
            .into(),
        ),
        Effect::Halt(Halt::Diverged { at, what }),
        Effect::CloseChannel,
    ];
    assert_eq!(effects(&mut backup, 0), expected);
    assert_eq!(backup.state(), BackupState::Ended);
}

/// A process that is being killed closes its sockets one by one: the port may accept once more while
/// the probe is refused.
#[test]
fn fail_1_a_channel_that_breaks_again_is_probed_again() {
    let mut backup = following();
    backup.handle_channel_closed(Now(0));
    assert!(effects(&mut backup, 0).contains(&Effect::Probe));
    backup.handle_answer(Now(0), Answer::Record(Some(record())));
    backup.handle_channel_opened(Now(0));
    backup.handle_channel_closed(Now(0));
    backup.handle_channel_opened(Now(0));
    assert!(
        !effects(&mut backup, 0).contains(&Effect::Probe),
        "one at a time"
    );
    backup.handle_probe(Now(0), Probe::Refused);
    assert_eq!(questions(&effects(&mut backup, 0)), Vec::<&Question>::new());
    backup.handle_channel_closed(Now(0));
    assert!(effects(&mut backup, 0).contains(&Effect::Probe));
    backup.handle_probe(Now(0), Probe::Refused);
    assert_eq!(questions(&effects(&mut backup, 0)), [&Question::Claim]);
}

#[test]
fn out_4_a_winner_sends_what_it_kept_before_anything_new() {
    let mut backup = suspecting(3);
    backup.handle_probe(Now(0), Probe::Refused);
    backup.handle_answer(Now(0), Answer::Record(Some(record())));
    backup.handle_answer(Now(0), Answer::Won);
    assert_eq!(backup.state(), BackupState::Won);
    let mut primary = backup.into_primary(Now(0));
    assert_eq!(primary.state(), PrimaryState::Alone);
    primary.handle_records(
        Now(0),
        vec![super::super::Record {
            position: crate::types::Position(3),
            payload: mark(3, 10),
            output: Some(output(10)),
            request: None,
        }],
    );
    let done: Vec<Effect> = std::iter::from_fn(|| primary.poll()).collect();
    assert_eq!(done[0], Effect::GoLive(Token { won: true, ..PAIR }));
    assert_eq!(leaving(&done), [2, 3], "output 1 had left");
}

#[test]
#[should_panic(expected = "FAIL-2")]
fn fail_2_nobody_goes_live_without_a_grant() {
    let _ = suspecting(3).into_primary(Now(0));
}

#[test]
fn log_2_after_a_resume_it_acknowledges_anew() {
    let mut backup = suspecting(3);
    backup.handle_channel_opened(Now(0));
    say(&mut backup, 0, Signal::Opened { token: PAIR });
    let next = EntryIndex(4);
    say(&mut backup, 0, Signal::Resumed { next });
    assert!(signals(&effects(&mut backup, 0)).contains(&&ack(3, 3)));
}

#[test]
fn fail_1_a_backup_whose_thread_hangs_does_not_claim() {
    let mut backup = suspecting(3);
    backup.handle_answer(Now(0), Answer::Record(Some(record())));
    effects(&mut backup, 0);
    for ms in (50..=1_000).step_by(50) {
        backup.handle_tick(at(ms), false);
    }
    assert_eq!(
        questions(&effects(&mut backup, 1_000)),
        Vec::<&Question>::new()
    );
    backup.handle_tick(at(1_050), true);
    assert_eq!(questions(&effects(&mut backup, 1_050)), [&Question::Claim]);
}

#[test]
fn a_pair_that_the_arbiter_never_knew_has_not_started() {
    let mut backup = ready(Limits::default());
    backup.handle_channel_closed(Now(0));
    effects(&mut backup, 0);
    backup.handle_answer(Now(0), Answer::Record(None));
    assert_eq!(
        effects(&mut backup, 0),
        [Effect::Finish(Finish::NeverStarted)]
    );
}
