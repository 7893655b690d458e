//! Servers of the arbiter killed and restarted while a VM is protected.

use crate::ENOUGH;
use crate::harness::{Clients, World};

#[test]
fn fail_4_without_a_majority_of_the_arbiter_everything_holds_and_goes_on_when_it_returns() {
    let mut world = World::new(3);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    world.arbiters[0].kill();
    clients.wait_for(ENOUGH); // a minority is not missed
    world.arbiters[1].kill();
    clients.wait_for(ENOUGH); // nor is the majority, while nobody has to decide
    primary.kill();
    backup.wait_for_state("HOLDING");
    backup.wait_for_warning("arbiter");
    let live = |event: &serde_json::Value| event["event"] == "live";
    assert!(!backup.has_said(live), "TAS-3: a minority grants nothing");
    world.restart_arbiter(0);
    world.restart_arbiter(1);
    backup.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();
}

/// TAS-2: what was opened outlives every server.
#[test]
fn tas_2_each_server_is_killed_and_restarted_under_load_then_all_then_the_primary_dies() {
    let mut world = World::listening(3);
    let (mut primary, mut backup) = world.pair();
    let clients = Clients::start(world.forward());
    for server in 0..3 {
        world.arbiters[server].kill();
        clients.wait_for(ENOUGH);
        world.restart_arbiter(server);
    }
    world.arbiters.iter_mut().for_each(|server| server.kill());
    clients.wait_for(ENOUGH);
    (0..3).for_each(|server| world.restart_arbiter(server));
    primary.kill();
    backup.wait_for_state("ALONE");
    clients.wait_for(ENOUGH);
    clients.finish();

    let (status, text) = world.ftvm(&[
        "arbiter",
        "show",
        "kv",
        "--json",
        "--servers",
        &world.servers(),
    ]);
    assert!(status.success(), "{text}");
    let show: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(show["generation"], 1, "{show}");
    let said = world.one_history(&mut backup, "node-a");
    assert!(said.before > 0 && said.after > 0, "{said:?}");
}
