//! SIGKILL to one of the nodes, under load.

use crate::ENOUGH;
use crate::harness::Manner::Pipelined;
use crate::harness::{Client, Clients, World};

/// ONE-1.
#[test]
fn live_1_the_primary_is_killed_and_the_same_connections_go_on() {
    let mut world = World::listening(3);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    primary.kill();
    backup.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();
    assert!(Client::connect(world.forward()).pings(), "a new connection");
    let said = world.one_history(&mut backup, "node-a");
    assert!(said.before > 0 && said.after > 0, "{said:?}");
}

/// ONE-1.
#[test]
fn fail_2_the_backup_is_killed_and_the_primary_claims_and_goes_on() {
    let mut world = World::listening(3);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    backup.kill();
    primary.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();
    let live = primary.wait_for("live", |event| event["event"] == "live");
    assert_eq!(live["token"], "1w");
    let said = world.one_history(&mut primary, "node-b");
    assert_eq!(said.before, 0, "a backup says nothing: {said:?}");
}

#[test]
fn live_1_the_primary_is_killed_under_heavy_writes_of_64_clients() {
    let mut world = World::listening(1);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::of(world.forward(), &[Pipelined(16); 64]);
    clients.wait_for(64 * 32);
    primary.kill();
    backup.wait_for_state("ALONE");
    clients.wait_for(64 * 32);
    clients.finish();
    let said = world.one_history(&mut backup, "node-a");
    assert!(said.before > 0 && said.after > 0, "{said:?}");
}

/// Each VM has the name and the gateway of the one before.
#[test]
fn live_1_ten_failovers_in_a_row() {
    let world = World::new(1);
    for round in 0..10 {
        let names = [format!("node-{round}a"), format!("node-{round}b")];
        let (mut primary, mut backup) = world.pair_of(&names[0], &names[1]);
        let clients = Clients::start(world.forward());
        clients.wait_for(ENOUGH);
        primary.kill();
        backup.wait_for_state("ALONE");
        clients.wait_for(ENOUGH);
        clients.finish();
        world.stop(&mut backup);
    }
}
