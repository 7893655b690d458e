//! The channel between two live nodes is cut.

use crate::ENOUGH;
use crate::harness::{Clients, World, first_to};

/// ONE-1, FAIL-3.
#[test]
fn one_1_the_channel_is_cut_and_exactly_one_survives() {
    let mut world = World::listening(3);
    let (mut primary, mut backup, cable) = world.pair_with_cable();
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    cable.cut();
    let live = |event: &serde_json::Value| event["event"] == "live";
    let won = first_to([&mut primary, &mut backup], "wins", live);
    let (mut winner, mut loser) = if won == 0 {
        (primary, backup)
    } else {
        (backup, primary)
    };
    winner.wait_for_state("ALONE");
    loser.wait_for_state("STOPPED");
    clients.wait_for(ENOUGH);
    clients.finish();
    assert!(!loser.has_said(live), "two winners");
    let said = world.one_history(&mut winner, &loser.name);
    assert!(said.after > 0, "{said:?}");
}
