//! Stops that are no failures (FAIL-10).

use nix::sys::signal::Signal;

use crate::ENOUGH;
use crate::harness::{Clients, World};

#[test]
fn fail_10_a_stop_and_ctrl_c_do_not_fail_over_and_sigterm_hands_over() {
    let world = World::new(1);
    let (mut primary, mut backup) = world.pair();
    primary.signal(Signal::SIGINT);
    assert!(primary.wait().success());
    assert!(backup.wait().success());

    // The name is free again: another life.
    let (mut primary, mut backup) = world.pair_of("node-c", "node-d");
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    primary.signal(Signal::SIGTERM);
    assert!(primary.wait().success());
    backup.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();
    world.stop(&mut backup);
}

/// No request is lost, and no word is said by both.
#[test]
fn fail_10_an_operator_hands_the_vm_over_under_load() {
    let mut world = World::listening(1);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    let control = world.control("node-a");
    let control = control.to_str().expect("UTF-8");
    let (status, text) = world.ftvm(&["control", "--control", control, "failover"]);
    assert!(status.success(), "{text}");
    assert!(primary.wait().success());
    assert_eq!(primary.last_word(), "the other node has taken over");
    backup.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();
    let said = world.one_history(&mut backup, "node-a");
    assert!(said.before > 0 && said.after > 0, "{said:?}");
}
