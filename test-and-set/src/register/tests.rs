//! The register's specification as tables, and its promises over random commands.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const VM: &str = "vm";

fn vm() -> VmName {
    VM.parse().unwrap()
}

fn life(n: u8) -> Life {
    Life([n; 16])
}

/// An incarnation by its letter.
fn who(name: char) -> Incarnation {
    Incarnation([name as u8; 16])
}

fn member(name: char) -> Member {
    Member {
        incarnation: who(name),
        node: format!("host-{name}").parse().unwrap(),
        address: "127.0.0.1:7000".parse().unwrap(),
    }
}

fn members(names: &str) -> Members {
    names
        .chars()
        .map(member)
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

fn create(l: u8, names: &str) -> Command {
    Command::Create {
        vm: vm(),
        life: life(l),
        members: members(names),
    }
}

fn open(g: u64, by: char, names: &str) -> Command {
    let members = members(names);
    Command::Open {
        vm: vm(),
        life: life(1),
        generation: Generation(g),
        by: who(by),
        members,
    }
}

fn claim(g: u64, by: char) -> Command {
    claim_in(1, g, by)
}

fn claim_in(l: u8, g: u64, by: char) -> Command {
    Command::Claim {
        vm: vm(),
        life: life(l),
        generation: Generation(g),
        by: who(by),
    }
}

fn stop(g: u64, by: char) -> Command {
    let reason = "power-off".parse().unwrap();
    Command::Stop {
        vm: vm(),
        life: life(1),
        generation: Generation(g),
        by: who(by),
        reason,
    }
}

fn recover(g: u64, by: char) -> Command {
    Command::Recover {
        vm: vm(),
        life: life(1),
        generation: Generation(g),
        by: member(by),
    }
}

fn delete(l: u8) -> Command {
    Command::Delete {
        vm: vm(),
        life: life(l),
    }
}

fn lost_to(name: char) -> Answer {
    Answer::Lost { to: who(name) }
}

fn recovered(g: u64) -> Answer {
    Answer::Recovered {
        generation: Generation(g),
    }
}

/// A refusal without the record that it carries.
#[derive(Debug, PartialEq, Eq)]
enum Why {
    UnknownVm,
    OtherLife,
    AlreadyOpen,
    WrongGeneration,
    NotMember,
    NotWinner,
}

fn why(refusal: &Refusal) -> Why {
    match refusal {
        Refusal::UnknownVm => Why::UnknownVm,
        Refusal::OtherLife(_) => Why::OtherLife,
        Refusal::AlreadyOpen(_) => Why::AlreadyOpen,
        Refusal::WrongGeneration(_) => Why::WrongGeneration,
        Refusal::NotMember(_) => Why::NotMember,
        Refusal::NotWinner(_) => Why::NotWinner,
        Refusal::Full(bound) => panic!("full: {bound:?}"),
    }
}

/// Applies a table of commands and compares each answer, and checks on the way
/// that a refusal changes nothing.
#[track_caller]
fn play(table: Vec<(Command, Result<Answer, Why>)>) -> Register {
    let mut register = Register::default();
    for (step, (command, expected)) in table.into_iter().enumerate() {
        let before = register.clone();
        let answer = match register.apply(command.clone()) {
            Answer::Refused(refusal) => {
                assert_eq!(register, before, "step {step}: a refusal changed something");
                Err(why(&refusal))
            }
            answer => Ok(answer),
        };
        assert_eq!(answer, expected, "step {step}: {command:?}");
    }
    register
}

/// TAS-2, FAIL-5: the first member that claims wins, and everybody goes on getting
/// the answer that they got.
#[test]
fn tas_2_first_claim_wins_for_ever() {
    play(vec![
        (create(1, "PB"), Ok(Answer::Created)),
        (claim(1, 'B'), Ok(Answer::Won)),
        (claim(1, 'P'), Ok(lost_to('B'))),
        (claim(1, 'B'), Ok(Answer::Won)),
        (claim(1, 'P'), Ok(lost_to('B'))),
    ]);
}

/// ONE-2: a generation is opened by the winner of the one before, and claimed by
/// its members only.
#[test]
fn one_2_open_by_winner_claim_by_member() {
    play(vec![
        (claim(1, 'P'), Err(Why::UnknownVm)),
        (create(1, "PB"), Ok(Answer::Created)),
        (open(2, 'P', "PC"), Err(Why::NotWinner)),
        (claim(2, 'P'), Err(Why::WrongGeneration)),
        (claim(1, 'X'), Err(Why::NotMember)),
        (claim(1, 'P'), Ok(Answer::Won)),
        (open(2, 'B', "BC"), Err(Why::NotWinner)),
        (open(3, 'P', "PC"), Err(Why::WrongGeneration)),
        (open(2, 'P', "CD"), Err(Why::NotMember)),
        (open(2, 'P', "PC"), Ok(Answer::Opened)),
        (open(2, 'P', "PC"), Ok(Answer::Opened)),
        (open(2, 'P', "PD"), Err(Why::AlreadyOpen)),
        (claim(2, 'B'), Err(Why::NotMember)),
        (claim(2, 'C'), Ok(Answer::Won)),
        (claim(2, 'P'), Ok(lost_to('C'))),
        (open(2, 'P', "PC"), Ok(Answer::Opened)),
    ]);
}

/// TAS-2: a past generation is still answered as it was won.
#[test]
fn tas_2_past_generations_keep_their_winner() {
    play(vec![
        (create(1, "PB"), Ok(Answer::Created)),
        (claim(1, 'P'), Ok(Answer::Won)),
        (open(2, 'P', "PC"), Ok(Answer::Opened)),
        (claim(1, 'P'), Ok(Answer::Won)),
        (claim(1, 'B'), Ok(lost_to('P'))),
        (claim(2, 'C'), Ok(Answer::Won)),
        (open(3, 'C', "CD"), Ok(Answer::Opened)),
        (open(2, 'P', "PC"), Err(Why::WrongGeneration)),
        (claim(1, 'P'), Ok(Answer::Won)),
        (claim(2, 'P'), Ok(lost_to('C'))),
        (claim(2, 'C'), Ok(Answer::Won)),
        (claim(0, 'C'), Err(Why::WrongGeneration)),
    ]);
}

/// ONE-2: two creators of one name: one gets it, and asking again is harmless.
#[test]
fn one_2_a_name_belongs_to_one_life() {
    let register = play(vec![
        (create(1, "PB"), Ok(Answer::Created)),
        (create(1, "PB"), Ok(Answer::Created)),
        (create(1, "PC"), Err(Why::AlreadyOpen)),
        (create(2, "QC"), Err(Why::OtherLife)),
        (claim_in(2, 1, 'Q'), Err(Why::OtherLife)),
        (claim(1, 'P'), Ok(Answer::Won)),
        (create(1, "PB"), Ok(Answer::Created)),
        (open(2, 'P', "PC"), Ok(Answer::Opened)),
        (create(1, "PB"), Err(Why::AlreadyOpen)),
    ]);
    let Answer::Refused(Refusal::OtherLife(record)) = register.clone().apply(create(2, "QC"))
    else {
        panic!("a second life of one name");
    };
    assert_eq!(
        Some(&record),
        register.read(&vm()),
        "the answer says who has the name"
    );
}

/// FAIL-10: a stop is not a failure, and nothing takes over after it.
#[test]
fn fail_10_a_stopped_life_grants_nothing() {
    let register = play(vec![
        (create(1, "PB"), Ok(Answer::Created)),
        (stop(1, 'X'), Err(Why::NotMember)),
        (stop(2, 'P'), Err(Why::WrongGeneration)),
        (stop(1, 'P'), Ok(Answer::Stopped)),
        (stop(1, 'P'), Ok(Answer::Stopped)),
        (claim(1, 'B'), Ok(Answer::Stopped)),
        (recover(1, 'R'), Ok(Answer::Stopped)),
        (create(1, "PB"), Ok(Answer::Stopped)),
        (open(2, 'P', "PC"), Ok(Answer::Stopped)),
    ]);
    let stopped = register.read(&vm()).unwrap().stopped.clone().unwrap();
    assert_eq!(
        (stopped.by, stopped.reason.as_str()),
        (who('P'), "power-off")
    );
}

/// FAIL-10: once a generation is won, only its winner stops the VM.
#[test]
fn fail_10_only_the_winner_stops() {
    play(vec![
        (create(1, "PB"), Ok(Answer::Created)),
        (claim(1, 'B'), Ok(Answer::Won)),
        (stop(1, 'P'), Err(Why::NotWinner)),
        (stop(1, 'B'), Ok(Answer::Stopped)),
        (claim(1, 'B'), Ok(Answer::Stopped)),
    ]);
}

/// A stopped VM's name may begin another life; the old one stays stopped for ever.
#[test]
fn tas_2_a_stopped_life_is_replaced_and_leaves_a_tombstone() {
    play(vec![
        (create(1, "PB"), Ok(Answer::Created)),
        (stop(1, 'P'), Ok(Answer::Stopped)),
        (create(2, "QC"), Ok(Answer::Created)),
        (claim(1, 'B'), Ok(Answer::Stopped)),
        (create(1, "PB"), Ok(Answer::Stopped)),
        (claim_in(2, 1, 'C'), Ok(Answer::Won)),
        (delete(1), Ok(Answer::Deleted)),
        (claim(1, 'B'), Ok(Answer::Deleted)),
        (claim_in(2, 1, 'C'), Ok(Answer::Won)),
    ]);
}

/// TAS-2: deleting leaves a tombstone that answers every later claim.
#[test]
fn tas_2_a_deleted_life_leaves_a_tombstone() {
    let register = play(vec![
        (delete(1), Err(Why::UnknownVm)),
        (create(1, "PB"), Ok(Answer::Created)),
        (delete(2), Err(Why::OtherLife)),
        (claim(1, 'P'), Ok(Answer::Won)),
        (delete(1), Ok(Answer::Deleted)),
        (delete(1), Ok(Answer::Deleted)),
        (claim(1, 'P'), Ok(Answer::Deleted)),
        (claim(1, 'B'), Ok(Answer::Deleted)),
        (stop(1, 'P'), Ok(Answer::Deleted)),
        (create(1, "PB"), Ok(Answer::Deleted)),
        (delete(2), Err(Why::UnknownVm)),
    ]);
    assert_eq!(register.read(&vm()), None);
    assert_eq!(register.list(None).count(), 0);
}

/// A person's recovery is a test-and-set too, and takes the VM from whoever had it.
#[test]
fn recover_gives_the_vm_to_one() {
    play(vec![
        (create(1, "PB"), Ok(Answer::Created)),
        (claim(1, 'P'), Ok(Answer::Won)),
        (recover(2, 'R'), Err(Why::WrongGeneration)),
        (recover(u64::MAX, 'R'), Err(Why::WrongGeneration)),
        (recover(1, 'R'), Ok(recovered(2))),
        (recover(1, 'R'), Ok(recovered(2))),
        (recover(1, 'S'), Err(Why::WrongGeneration)),
        (claim(1, 'P'), Ok(lost_to('R'))),
        (claim(2, 'P'), Err(Why::NotMember)),
        (claim(2, 'R'), Ok(Answer::Won)),
        (open(2, 'P', "PC"), Err(Why::AlreadyOpen)),
        (open(3, 'R', "RC"), Ok(Answer::Opened)),
        (recover(1, 'R'), Err(Why::WrongGeneration)),
    ]);
}

#[test]
fn list_goes_on_after_a_name() {
    let mut register = Register::default();
    for name in ["c", "a", "b"] {
        let vm = name.parse().unwrap();
        register.apply(Command::Create {
            vm,
            life: life(1),
            members: members("P"),
        });
    }
    let after = |name: Option<&str>| {
        let name = name.map(|name| name.parse().unwrap());
        let names = register
            .list(name.as_ref())
            .map(|(name, _)| name.to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(after(None), ["a", "b", "c"]);
    assert_eq!(after(Some("a")), ["b", "c"]);
    assert_eq!(after(Some("c")), [] as [&str; 0]);
}

#[test]
fn names_and_lives_are_bounded() {
    let mut register = Register::default();
    for n in 0..MAX_LIVES as u128 {
        let life = Life(n.to_be_bytes());
        let begun = Command::Create {
            vm: vm(),
            life,
            members: members("P"),
        };
        assert_eq!(register.apply(begun), Answer::Created);
        assert_eq!(
            register.apply(Command::Delete { vm: vm(), life }),
            Answer::Deleted
        );
    }
    let full = |bound| Answer::Refused(Refusal::Full(bound));
    let one_more = Life([255; 16]);
    let begun = Command::Create {
        vm: vm(),
        life: one_more,
        members: members("P"),
    };
    assert_eq!(register.apply(begun), full(Bound::Lives));
    for n in 1..MAX_VMS {
        let vm = format!("vm{n}").parse().unwrap();
        let begun = Command::Create {
            vm,
            life: one_more,
            members: members("P"),
        };
        assert_eq!(register.apply(begun), Answer::Created);
    }
    let vm = "one-more".parse().unwrap();
    let begun = Command::Create {
        vm,
        life: one_more,
        members: members("P"),
    };
    assert_eq!(register.apply(begun), full(Bound::Vms));
}

fn any_command() -> impl Strategy<Value = Command> {
    let l = || 1u8..4;
    let g = || prop_oneof![20 => 1u64..5, 1 => any::<u64>()].prop_map(Generation);
    let name = || proptest::sample::select(vec!['A', 'B', 'C', 'D']);
    let names = || {
        proptest::sample::subsequence(vec!['A', 'B', 'C', 'D'], 1..=2)
            .prop_map(|names| members(&names.into_iter().collect::<String>()))
    };
    prop_oneof![
        2 => (l(), names())
            .prop_map(|(l, members)| Command::Create { vm: vm(), life: life(l), members }),
        4 => (l(), g(), name(), names()).prop_map(|(l, generation, by, members)| {
            Command::Open { vm: vm(), life: life(l), generation, by: who(by), members }
        }),
        8 => (l(), g(), name()).prop_map(|(l, generation, by)| {
            Command::Claim { vm: vm(), life: life(l), generation, by: who(by) }
        }),
        1 => (l(), g(), name()).prop_map(|(l, generation, by)| {
            let reason = "test".parse().unwrap();
            Command::Stop { vm: vm(), life: life(l), generation, by: who(by), reason }
        }),
        1 => (l(), g(), name()).prop_map(|(l, generation, by)| {
            Command::Recover { vm: vm(), life: life(l), generation, by: member(by) }
        }),
        1 => l().prop_map(delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// TAS-2: at most one incarnation ever wins a (life, generation), and who
    /// lost it is never told later that it won.
    #[test]
    fn tas_2_at_most_one_winner(commands in prop::collection::vec(any_command(), 1..200)) {
        let mut register = Register::default();
        let mut winners = BTreeMap::new();
        let mut losers = Vec::new();
        for command in commands {
            let answer = register.apply(command.clone());
            if let Command::Claim { life, generation, by, .. } = command {
                match answer {
                    Answer::Won => {
                        let winner = *winners.entry((life, generation)).or_insert(by);
                        prop_assert_eq!(winner, by, "two winners of {:?}", (life, generation));
                        prop_assert!(!losers.contains(&(life, generation, by)));
                    }
                    Answer::Lost { .. } => losers.push((life, generation, by)),
                    _ => {}
                }
            }
        }
    }

    /// FAIL-5: asking again at once gets the same answer and changes nothing, and a
    /// refusal changes nothing.
    #[test]
    fn fail_5_asking_again_is_harmless(commands in prop::collection::vec(any_command(), 1..100)) {
        let mut register = Register::default();
        for command in commands {
            let before = register.clone();
            let answer = register.apply(command.clone());
            if matches!(answer, Answer::Refused(_)) {
                prop_assert_eq!(&before, &register);
            }
            let after = register.clone();
            prop_assert_eq!(register.apply(command), answer);
            prop_assert_eq!(&after, &register);
        }
    }

    /// What a store keeps as rows is the whole register.
    #[test]
    fn rows_are_the_whole_state(commands in prop::collection::vec(any_command(), 1..50)) {
        let mut register = Register::default();
        let mut rows = BTreeMap::new();
        for command in commands {
            let name = command.vm().clone();
            register.apply(command);
            if let Some(row) = register.row(&name) {
                rows.insert(name, row.clone());
            }
        }
        let kept = rows.into_iter().map(|(name, row)| {
            let bytes = postcard::to_stdvec(&row).unwrap();
            (name, postcard::from_bytes(&bytes).unwrap())
        });
        prop_assert_eq!(Register::from_rows(kept), register);
    }
}
