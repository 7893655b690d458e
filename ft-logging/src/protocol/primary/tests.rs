//! The primary's transitions, event by event.

use super::super::fixtures::*;
use super::super::{
    Answer, Effect, Finish, Halt, Limits, Now, Primary, PrimaryState, Probe, Question, Record,
    RequestId, Wish,
};
use crate::entry::Payload;
use crate::message::{Hello, Message, Rejection, Signal};
use crate::types::{Incarnation, OutputSeq, Position, Token};

fn effects(primary: &mut Primary) -> Vec<Effect> {
    std::iter::from_fn(|| primary.poll()).collect()
}

fn fresh() -> Primary {
    let name = "a".to_owned();
    let mut primary = Primary::new(
        Now(0),
        PRIMARY,
        name,
        initial(),
        timing(),
        Limits::default(),
    );
    primary.handle_built(Now(0), DIGEST);
    primary
}

fn say(primary: &mut Primary, ms: u64, signal: Signal) {
    primary.handle_message(at(ms), PAIR, signal.into());
}

fn heartbeat(primary: &mut Primary, ms: u64, echo: u64) {
    say(primary, ms, Signal::Heartbeat { nonce: ms, echo });
}

fn greeted() -> Primary {
    let mut primary = fresh();
    primary
        .handle_hello(Now(0), &hello(BACKUP, None))
        .expect("the first backup is taken");
    primary
}

fn protected() -> Primary {
    let mut primary = greeted();
    say(&mut primary, 0, Signal::Ready { digest: DIGEST });
    primary.handle_answer(Now(0), Answer::Opened);
    effects(&mut primary);
    primary
}

fn record_of(payload: Payload, len: Option<usize>) -> Record {
    Record {
        position: Position(1),
        payload,
        output: len.map(output),
        request: None,
    }
}

/// Makes the machine say outputs `seqs`, each under its own entry.
fn says(primary: &mut Primary, ms: u64, seqs: std::ops::RangeInclusive<u64>) {
    let records = seqs.map(|seq| record_of(mark(seq, 10), Some(10))).collect();
    primary.handle_records(at(ms), records);
}

/// Ticks from one moment to another, as often as it should be.
fn ticks(primary: &mut Primary, from_ms: u64, to_ms: u64, vcpu_alive: bool) {
    for ms in (from_ms..=to_ms).step_by(50) {
        primary.handle_tick(at(ms), vcpu_alive);
    }
}

/// The channel is closed, and the arbiter asked.
fn suspecting() -> Primary {
    let mut primary = protected();
    primary.handle_channel_closed(Now(0));
    assert_eq!(questions(&effects(&mut primary)), [&Question::Read]);
    primary
}

#[test]
fn one_2_no_guest_runs_before_its_generation_is_open() {
    let mut primary = fresh();
    assert_eq!(primary.state(), PrimaryState::Waiting);
    assert_eq!(primary.handle_hello(Now(0), &hello(BACKUP, None)), Ok(()));
    assert_eq!(primary.state(), PrimaryState::Greeting);
    assert!(matches!(
        signals(&effects(&mut primary))[..],
        [Signal::Welcome(_)]
    ));
    say(&mut primary, 0, Signal::Ready { digest: DIGEST });
    assert_eq!(primary.state(), PrimaryState::Opening);
    let members = vec![PRIMARY, BACKUP];
    assert_eq!(
        questions(&effects(&mut primary)),
        [&Question::Open { members }]
    );
    primary.handle_answer(Now(0), Answer::Opened);
    assert_eq!(primary.state(), PrimaryState::Protected);
    let done = effects(&mut primary);
    assert_eq!(done[0], Effect::Run);
    assert_eq!(signals(&done), [&Signal::Opened { token: PAIR }]);
}

#[test]
fn fail_4_an_open_without_an_answer_is_asked_again() {
    let mut primary = greeted();
    say(&mut primary, 0, Signal::Ready { digest: DIGEST });
    effects(&mut primary);
    primary.handle_answer(Now(0), Answer::Unknown(String::new()));
    primary.handle_tick(at(50), true);
    assert_eq!(questions(&effects(&mut primary)), Vec::<&Question>::new());
    primary.handle_tick(at(100), true);
    assert_eq!(questions(&effects(&mut primary)).len(), 1);
}

#[test]
fn who_is_greeted_and_who_may_resume() {
    let other = Incarnation([3; 16]);
    type Make = fn() -> Primary;
    let alone: Make = || {
        let mut primary = suspecting();
        primary.handle_answer(Now(0), Answer::Record(Some(record())));
        primary.handle_probe(Now(0), Probe::Refused);
        primary.handle_answer(Now(0), Answer::Won);
        primary
    };
    let cases: [(&str, Make, _, _, bool); 9] = [
        ("waiting", fresh, BACKUP, None, true),
        ("waiting", fresh, BACKUP, Some(0), false),
        ("protected", protected, other, None, false),
        ("protected", protected, BACKUP, Some(0), true),
        ("protected", protected, other, Some(0), false),
        ("protected", protected, BACKUP, Some(1), false),
        ("suspecting", suspecting, BACKUP, Some(0), true),
        ("alone", alone, other, None, false),
        ("alone", alone, BACKUP, Some(0), false),
    ];
    for (name, make, incarnation, resume, taken) in cases {
        let answer = make().handle_hello(Now(0), &hello(incarnation, resume));
        assert_eq!(
            answer.is_ok(),
            taken,
            "{name}, {incarnation}, {resume:?}: {answer:?}"
        );
    }
}

#[test]
fn a_backup_that_starts_from_another_state_is_turned_away() {
    let mut primary = greeted();
    effects(&mut primary);
    let digest = crate::entry::Digest {
        machine: 8,
        ram: None,
    };
    say(&mut primary, 0, Signal::Ready { digest });
    let done = effects(&mut primary);
    let signals = signals(&done);
    assert!(
        matches!(signals[..], [Signal::Rejected(Rejection::InitialState(_))]),
        "{done:?}"
    );
    assert_eq!(primary.state(), PrimaryState::Waiting);
}

#[test]
fn a_backup_that_is_ready_first_waits_for_the_primarys_machine() {
    let other = crate::entry::Digest {
        machine: 8,
        ram: None,
    };
    for (theirs, then) in [
        (DIGEST, PrimaryState::Opening),
        (other, PrimaryState::Waiting),
    ] {
        let name = "a".to_owned();
        let (timing, limits) = (timing(), Limits::default());
        let mut primary = Primary::new(Now(0), PRIMARY, name, initial(), timing, limits);
        primary
            .handle_hello(Now(0), &hello(BACKUP, None))
            .expect("the first backup is taken");
        say(&mut primary, 0, Signal::Ready { digest: theirs });
        assert_eq!(primary.state(), PrimaryState::Greeting);
        primary.handle_built(Now(1), DIGEST);
        assert_eq!(primary.state(), then);
    }
}

#[test]
fn out_1_an_output_leaves_with_the_acknowledgement_of_its_own_entry() {
    let mut primary = protected();
    says(&mut primary, 0, 1..=3);
    assert_eq!(leaving(&effects(&mut primary)), Vec::<u64>::new());
    say(&mut primary, 0, ack(2, 0));
    assert_eq!(leaving(&effects(&mut primary)), [1, 2]);
    say(&mut primary, 0, ack(3, 3));
    assert_eq!(leaving(&effects(&mut primary)), [3]);
}

#[test]
fn out_1_an_operators_answer_waits_like_an_output() {
    let mut primary = protected();
    let request = Some(RequestId(9));
    let record = Record {
        request,
        ..record_of(Payload::Progress, None)
    };
    primary.handle_records(Now(0), vec![record]);
    assert!(!effects(&mut primary).contains(&Effect::Answer(RequestId(9))));
    say(&mut primary, 0, ack(1, 0));
    assert!(effects(&mut primary).contains(&Effect::Answer(RequestId(9))));
}

#[test]
fn out_3_released_is_logged_when_the_write_is_reported_and_not_before() {
    let mut primary = protected();
    says(&mut primary, 0, 1..=1);
    say(&mut primary, 0, ack(1, 1));
    let before = effects(&mut primary);
    primary.handle_released(Now(0), OutputSeq(1));
    let after = effects(&mut primary);
    let logged = |effects: &[Effect]| {
        effects.iter().any(|effect| {
            matches!(effect, Effect::Append(batch) if batch.iter().any(|e| e.payload == released(1)))
        })
    };
    assert!(!logged(&before) && logged(&after));
}

#[test]
fn fail_1_a_silent_backup_is_suspected_and_a_heartbeat_ends_it() {
    let mut primary = protected();
    ticks(&mut primary, 50, 450, true);
    assert_eq!(primary.state(), PrimaryState::Protected);
    primary.handle_tick(at(500), true);
    assert_eq!(primary.state(), PrimaryState::Suspecting);
    heartbeat(&mut primary, 510, 0);
    assert_eq!(primary.state(), PrimaryState::Protected);
}

#[test]
fn fail_2_it_claims_after_another_detection_time_or_a_refused_probe() {
    for (probe, claims_at) in [
        (Probe::NoAnswer, 500),
        (Probe::Accepted, 500),
        (Probe::Refused, 0),
    ] {
        let mut primary = suspecting();
        primary.handle_answer(Now(0), Answer::Record(Some(record())));
        primary.handle_probe(Now(0), probe);
        let mut claimed_at = None;
        for ms in (0..=500).step_by(50) {
            if ms > 0 {
                primary.handle_tick(at(ms), true);
            }
            if questions(&effects(&mut primary)) == [&Question::Claim] {
                claimed_at = Some(ms);
                break;
            }
        }
        assert_eq!(claimed_at, Some(claims_at), "{probe:?}");
        assert_eq!(primary.state(), PrimaryState::Claiming);
    }
}

#[test]
fn fail_4_and_fail_8_once_the_claim_is_sent_it_waits_and_never_resumes() {
    let mut primary = suspecting();
    primary.handle_answer(Now(0), Answer::Record(Some(record())));
    primary.handle_probe(Now(0), Probe::Refused);
    primary.handle_answer(Now(0), Answer::Unknown(String::new()));
    says(&mut primary, 0, 1..=1);
    assert_eq!(primary.state(), PrimaryState::Claiming);
    assert!(
        primary
            .handle_hello(Now(0), &hello(BACKUP, Some(0)))
            .is_err()
    );
    assert_eq!(leaving(&effects(&mut primary)), Vec::<u64>::new());
    primary.handle_tick(at(100), true);
    assert_eq!(questions(&effects(&mut primary)), [&Question::Claim]);
    primary.handle_answer(at(100), Answer::Won);
    let done = effects(&mut primary);
    let token = Token { won: true, ..PAIR };
    assert!(done.contains(&Effect::GoLive(token)), "{done:?}");
    assert_eq!(leaving(&done), [1]);
    assert_eq!(primary.state(), PrimaryState::Alone);
}

#[test]
fn fail_3_a_loser_says_nothing_more() {
    let mut primary = suspecting();
    says(&mut primary, 0, 1..=1);
    effects(&mut primary);
    let lost = won_by(BACKUP);
    primary.handle_answer(Now(0), Answer::Record(Some(lost)));
    assert_eq!(
        effects(&mut primary),
        [Effect::Halt(Halt::Lost { to: BACKUP })]
    );
    says(&mut primary, 0, 2..=2);
    ticks(&mut primary, 50, 2_000, true);
    assert_eq!(effects(&mut primary), []);
    assert_eq!(primary.state(), PrimaryState::Ended);
}

#[test]
fn fail_6_a_higher_token_ends_the_trust_in_the_channel() {
    let mut primary = protected();
    let token = Token { won: true, ..PAIR };
    primary.handle_message(Now(0), token, Message::Signal(ack(0, 0)));
    assert!(effects(&mut primary).contains(&Effect::CloseChannel));
    assert_eq!(primary.state(), PrimaryState::Suspecting);
}

#[test]
fn fail_9_after_a_pause_nothing_leaves_before_the_backup_has_echoed() {
    let mut primary = protected();
    says(&mut primary, 0, 1..=1);
    effects(&mut primary);
    // It was away for a second; an acknowledgement had been waiting in its socket.
    say(&mut primary, 1_000, ack(1, 1));
    let done = effects(&mut primary);
    assert_eq!(leaving(&done), Vec::<u64>::new());
    let nonce = signals(&done)
        .into_iter()
        .find_map(|signal| match signal {
            Signal::Heartbeat { nonce, .. } => Some(*nonce),
            _ => None,
        })
        .expect("it asks at once");
    heartbeat(&mut primary, 1_001, nonce - 1);
    assert_eq!(leaving(&effects(&mut primary)), Vec::<u64>::new());
    heartbeat(&mut primary, 1_002, nonce);
    assert_eq!(leaving(&effects(&mut primary)), [1]);
}

#[test]
fn fail_10_a_stop_is_acknowledged_and_sent_then_recorded_then_told() {
    let mut primary = protected();
    says(&mut primary, 0, 1..=1);
    primary.handle_wish(Now(0), Wish::Stop);
    primary.handle_quiesced(Now(0));
    say(&mut primary, 0, ack(1, 1));
    assert_eq!(
        primary.state(),
        PrimaryState::Protected,
        "the output has not left yet"
    );
    primary.handle_released(Now(0), OutputSeq(1));
    assert_eq!(
        primary.state(),
        PrimaryState::Protected,
        "Released is not acknowledged yet"
    );
    effects(&mut primary);
    say(&mut primary, 0, ack(2, 2));
    assert_eq!(questions(&effects(&mut primary)), [&Question::Stop]);
    primary.handle_answer(Now(0), Answer::Stopped);
    let done = effects(&mut primary);
    assert_eq!(signals(&done), [&Signal::Stopped]);
    assert!(done.contains(&Effect::Finish(Finish::Stopped)));
}

#[test]
fn a_hand_over_ends_when_the_backup_has_won() {
    let mut primary = handing_over();
    primary.handle_answer(Now(0), Answer::Record(Some(record())));
    primary.handle_tick(at(100), true);
    assert_eq!(questions(&effects(&mut primary)), [&Question::Read]);
    primary.handle_answer(at(100), Answer::Record(Some(won_by(BACKUP))));
    assert_eq!(effects(&mut primary)[0], Effect::Finish(Finish::HandedOver));
}

fn handing_over() -> Primary {
    let mut primary = protected();
    primary.handle_wish(Now(0), Wish::HandOver);
    primary.handle_quiesced(Now(0));
    let done = effects(&mut primary);
    assert_eq!(signals(&done), [&Signal::HandOver]);
    assert_eq!(questions(&done), [&Question::Read]);
    assert_eq!(primary.state(), PrimaryState::Yielding);
    primary
}

#[test]
fn out_3_a_resume_is_no_acknowledgement_since_the_backup_may_lack_the_credit() {
    let mut primary = protected();
    says(&mut primary, 0, 1..=2);
    say(&mut primary, 0, ack(1, 0));
    primary.handle_channel_closed(Now(0));
    effects(&mut primary);
    primary
        .handle_hello(Now(0), &hello(BACKUP, Some(2)))
        .expect("the same log");
    let nonce = primary.nonce;
    heartbeat(&mut primary, 1, nonce);
    assert_eq!(leaving(&effects(&mut primary)), Vec::<u64>::new());
    say(&mut primary, 2, ack(2, 0));
    assert_eq!(leaving(&effects(&mut primary)), [2]);
}

#[test]
fn fail_1_a_backup_that_acknowledges_but_does_not_replay_is_suspected() {
    let mut primary = protected();
    says(&mut primary, 0, 1..=9);
    for i in 1..=10 {
        say(&mut primary, 50 * i, ack(i.min(9), 0));
        primary.handle_tick(at(50 * i), true);
    }
    assert_eq!(primary.state(), PrimaryState::Suspecting);
}

#[test]
fn fail_1_a_primary_whose_vcpu_hangs_neither_resumes_nor_claims() {
    let mut primary = suspecting();
    primary.handle_answer(Now(0), Answer::Record(Some(record())));
    ticks(&mut primary, 50, 1_000, false);
    assert_eq!(questions(&effects(&mut primary)), Vec::<&Question>::new());
    assert!(
        primary
            .handle_hello(at(1_000), &hello(BACKUP, Some(0)))
            .is_err()
    );
    primary.handle_tick(at(1_050), true);
    assert_eq!(questions(&effects(&mut primary)), [&Question::Claim]);
}

#[test]
fn live_1_a_hand_over_that_nobody_takes_is_taken_back() {
    let mut primary = handing_over();
    let mut claimed_at = None;
    for ms in (50..=3_000).step_by(50) {
        if primary.asking {
            primary.handle_answer(at(ms), Answer::Record(Some(record())));
        }
        primary.handle_tick(at(ms), true);
        if questions(&effects(&mut primary)).contains(&&Question::Claim) {
            claimed_at = Some(ms);
            break;
        }
    }
    let claimed_at = claimed_at.expect("a claim");
    assert!((2_000..=2_200).contains(&claimed_at), "{claimed_at}");
    primary.handle_answer(at(claimed_at), Answer::Won);
    assert!(effects(&mut primary).contains(&Effect::Run));
    assert_eq!(primary.state(), PrimaryState::Alone);
}

#[test]
fn live_1_a_backup_that_falls_silent_while_it_builds_makes_room() {
    let mut primary = greeted();
    ticks(&mut primary, 50, 500, true);
    assert_eq!(primary.state(), PrimaryState::Waiting);
    assert!(effects(&mut primary).contains(&Effect::CloseChannel));
    let other = Incarnation([3; 16]);
    assert_eq!(primary.handle_hello(at(500), &hello(other, None)), Ok(()));
}

#[test]
fn live_1_a_backup_that_is_started_again_takes_its_predecessors_place() {
    let other = Incarnation([3; 16]);
    for (probe, taken) in [("b:1", true), ("c:1", false)] {
        let hello = Hello {
            probe: probe.to_owned(),
            ..hello(other, None)
        };
        let mut primary = greeted();
        assert_eq!(
            primary.handle_hello(Now(0), &hello).is_ok(),
            taken,
            "{probe}"
        );
        assert_eq!(primary.peer(), Some(if taken { other } else { BACKUP }));
        assert!(
            protected().handle_hello(Now(0), &hello).is_err(),
            "the guest runs already"
        );
    }
}

#[test]
fn fail_10_a_life_that_ended_before_its_open_was_answered_is_over() {
    let cases = [
        (Answer::Stopped, Effect::Finish(Finish::Stopped)),
        (Answer::Deleted, Effect::Halt(Halt::Deleted)),
        (
            Answer::Refused("no".to_owned()),
            Effect::Halt(Halt::Refused("no".to_owned())),
        ),
    ];
    for (answer, expected) in cases {
        let mut primary = greeted();
        say(&mut primary, 0, Signal::Ready { digest: DIGEST });
        effects(&mut primary);
        primary.handle_answer(Now(0), answer);
        assert_eq!(effects(&mut primary)[0], expected);
    }
}

#[test]
fn out_2_the_machine_goes_on_while_its_outputs_are_held() {
    let mut primary = protected();
    for ms in 1..100 {
        says(&mut primary, ms, ms..=ms);
        assert!(primary.wants_records(), "the vCPU's reports are taken");
    }
    assert_eq!(primary.gate_fill().0, 99);
    assert!(
        effects(&mut primary)
            .iter()
            .all(|e| !matches!(e, Effect::Release { .. }))
    );
}

#[test]
fn a_loser_that_a_person_recovers_goes_on_with_what_it_held() {
    let mut primary = suspecting();
    says(&mut primary, 1, 1..=1);
    primary.handle_answer(at(2), Answer::Lost { to: BACKUP });
    assert_eq!(primary.state(), PrimaryState::Ended);
    effects(&mut primary);
    let token = Token {
        generation: PAIR.generation.next(),
        won: true,
    };
    primary.recover(at(3), token);
    assert_eq!(
        (primary.state(), primary.token()),
        (PrimaryState::Alone, token)
    );
    let done = effects(&mut primary);
    assert_eq!(done[..2], [Effect::GoLive(token), Effect::Run]);
    assert!(
        matches!(
            done[2],
            Effect::Release {
                seq: OutputSeq(1),
                ..
            }
        ),
        "{:?}",
        done[2]
    );
}
