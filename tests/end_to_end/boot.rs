//! Kills before the pair is protected, and in the guest's first moments.

use crate::harness::{Client, World, first_to};

/// The guest's very first outputs may be lost with the primary; the backup says them again (OUT-4).
#[test]
fn live_1_the_primary_is_killed_while_the_guest_boots() {
    let mut world = World::listening(1);
    let mut primary = world.primary("node-a", &[]);
    let mut backup = world.backup("node-b", primary.address(), &[]);
    primary.wait_for_state("PROTECTED"); // and only now the guest runs
    primary.kill();
    backup.wait_for_state("ALONE");
    assert!(Client::connect(world.forward()).pings());
    world.one_history(&mut backup, "node-a");
}

#[test]
fn fail_2_the_backup_is_killed_while_the_guest_boots() {
    let mut world = World::listening(1);
    let mut primary = world.primary("node-a", &[]);
    let mut backup = world.backup("node-b", primary.address(), &[]);
    backup.wait_for_state("PROTECTED");
    backup.kill();
    primary.wait_for_state("ALONE");
    assert!(Client::connect(world.forward()).pings());
    world.one_history(&mut primary, "node-b");
}

/// ONE-2: if the generation was open by then the backup goes on; if not, no guest ever ran, and the
/// backup waits for the next primary, which may use the name.
#[test]
fn one_2_the_primary_is_killed_before_the_pair_is_protected() {
    let world = World::new(1);
    let mut first = world.primary("node-a", &[]);
    let address = first.address();
    let mut backup = world.backup("node-b", address, &[]);
    backup.address(); // it dials from now on
    first.kill();
    let mut second = world.primary_at("node-c", address, &[]);
    let begun = |event: &serde_json::Value| {
        let state = event["state"].as_str();
        event["event"] == "state" && matches!(state, Some("PROTECTED" | "ALONE"))
    };
    first_to([&mut second, &mut backup], "begins", begun);
    let took_over = |event: &serde_json::Value| event["state"] == "ALONE";
    if backup.has_said(took_over) {
        assert!(second.last_word().contains("exists already"));
    } else {
        second.wait_for_state("PROTECTED");
        backup.wait_for_state("PROTECTED");
    }
    assert!(Client::connect(world.forward()).pings());
}
