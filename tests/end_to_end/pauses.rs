//! Nodes that stand still for longer than the other waits, and wake.

use nix::sys::signal::Signal;

use crate::ENOUGH;
use crate::harness::{Client, Clients, World};

/// ONE-1, FAIL-9.
#[test]
fn fail_3_a_primary_that_was_stopped_and_wakes_halts_and_says_nothing_of_its_own() {
    let mut world = World::listening(1);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    primary.signal(Signal::SIGSTOP);
    backup.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    primary.signal(Signal::SIGCONT);
    primary.wait_for_state("STOPPED");
    clients.wait_for(ENOUGH);
    clients.finish();
    let said = world.one_history(&mut backup, "node-a");
    assert!(said.before > 0 && said.after > 0, "{said:?}");
}

#[test]
fn fail_2_a_backup_that_was_stopped_and_wakes_halts() {
    let mut world = World::listening(1);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    backup.signal(Signal::SIGSTOP);
    primary.wait_for_state("ALONE");
    backup.signal(Signal::SIGCONT);
    backup.wait_for_state("STOPPED");
    clients.wait_for(ENOUGH);
    clients.finish();
    let said = world.one_history(&mut primary, "node-b");
    assert_eq!(said.before, 0, "{said:?}");
}

#[test]
fn fail_3_a_loser_keeps_its_state_and_a_person_may_recover_it() {
    let world = World::new(1);
    let (mut primary, mut backup) = world.pair();
    primary.signal(Signal::SIGSTOP);
    backup.wait_for_state("ALONE");
    primary.signal(Signal::SIGCONT);
    primary.wait_for_state("STOPPED");

    // The winner dies before it is protected again: only a person can decide now.
    backup.kill();
    let control = world.control("node-a");
    let control = control.to_str().expect("UTF-8");
    let (status, text) = world.ftvm(&["recover", "--from", control]);
    assert!(
        !status.success(),
        "loss must be accepted in so many words: {text}"
    );
    let (status, text) = world.ftvm(&["recover", "--from", control, "--accept-loss"]);
    assert!(status.success(), "{text}");
    primary.wait_for_state("ALONE");
    assert!(Client::connect(world.forward()).pings(), "it serves again");
}
