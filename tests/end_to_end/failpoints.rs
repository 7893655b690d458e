//! Nodes that die exactly between two steps that the rules of takeover keep apart.

use nix::sys::signal::Signal;

use crate::ENOUGH;
use crate::harness::{Client, Clients, World, no_kvm, protected};

/// A pair whose primary dies at a point of its outputs' way, under load.
fn primary_dies(failpoint: &str, most_said_twice: usize) -> Option<usize> {
    if no_kvm() {
        return None;
    }
    let mut world = World::listening(1);
    let mut primary = world.primary("node-a", &["--failpoint", failpoint]);
    let backup = world.backup("node-b", primary.address(), &[]);
    let (mut primary, mut backup) = protected(primary, backup);
    let clients = Clients::start(world.forward());
    assert!(!primary.wait().success());
    backup.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();
    let said = world.one_history(&mut backup, "node-a");
    assert!(said.before > 0 && said.after > 0, "{said:?}");
    assert!(said.twice <= most_said_twice, "{said:?}");
    Some(said.twice)
}

#[test]
fn out_4_a_primary_that_dies_before_a_write_leaves_it_to_the_backup() {
    // `Released` of the write before may not have reached the backup.
    primary_dies("before-write:400", usize::MAX);
}

#[test]
fn out_4_a_primary_that_dies_after_a_write_has_it_said_twice() {
    if let Some(twice) = primary_dies("after-write:400", usize::MAX) {
        assert!(twice > 0, "nobody knew that the last write was done");
    }
}

/// ONE-2: no generation is open, so no guest ran: the backup waits for another primary.
#[test]
fn one_2_a_primary_that_dies_before_it_opens_leaves_nothing() {
    let world = World::new(1);
    let mut primary = world.primary("node-a", &["--failpoint", "before-open"]);
    let address = primary.address();
    let backup = world.backup("node-b", address, &[]);
    assert!(!primary.wait().success());
    let second = world.primary_at("node-c", address, &[]);
    let (_second, _backup) = protected(second, backup);
    assert!(Client::connect(world.forward()).pings());
}

/// The backup does not know yet that it is a member; the arbiter says so (ONE-2, LIVE-1).
#[test]
fn one_2_a_primary_that_dies_when_it_has_opened_is_taken_over_from() {
    let mut world = World::listening(1);
    let mut primary = world.primary("node-a", &["--failpoint", "after-open"]);
    let mut backup = world.backup("node-b", primary.address(), &[]);
    assert!(!primary.wait().success());
    backup.wait_for_state("ALONE");
    assert!(Client::connect(world.forward()).pings());
    let said = world.one_history(&mut backup, "node-a");
    assert_eq!(said.before, 0, "{said:?}");
}

/// A backup that dies on its way to the generation while the primary stands still, and the primary,
/// which then wakes, under load.
fn backup_dies(world: &World, failpoint: &str) -> (crate::harness::Process, Clients) {
    let mut primary = world.primary("node-a", &[]);
    let backup = world.backup("node-b", primary.address(), &["--failpoint", failpoint]);
    let (primary, mut backup) = protected(primary, backup);
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    primary.signal(Signal::SIGSTOP);
    assert!(!backup.wait().success());
    primary.signal(Signal::SIGCONT);
    (primary, clients)
}

/// LIVE-1: nobody has claimed, so the primary goes on.
#[test]
fn fail_9_a_backup_that_dies_before_its_claim_leaves_the_vm_to_the_primary() {
    let mut world = World::listening(1);
    let (mut primary, clients) = backup_dies(&world, "before-claim");
    primary.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();
    let said = world.one_history(&mut primary, "node-b");
    assert_eq!(said.before, 0, "{said:?}");
}

/// Two failures: the VM stops. What a person recovers has lost nothing, since the winner said nothing.
fn winner_dies(failpoint: &str) {
    let world = World::new(1);
    let (mut primary, clients) = backup_dies(&world, failpoint);
    primary.wait_for_state("STOPPED");
    let live = |event: &serde_json::Value| event["event"] == "live";
    assert!(!primary.has_said(live), "the generation was given away");
    let control = world.control("node-a");
    let control = control.to_str().expect("UTF-8");
    let (status, text) = world.ftvm(&["recover", "--from", control, "--accept-loss"]);
    assert!(status.success(), "{text}");
    primary.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();
}

#[test]
fn fail_2_a_backup_that_dies_when_its_claim_is_answered_has_won_and_said_nothing() {
    winner_dies("after-claim");
}

#[test]
fn fail_2_a_backup_that_dies_before_it_goes_live_has_said_nothing() {
    winner_dies("before-live");
}
