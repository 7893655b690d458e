//! The whole system, with real processes: nodes killed, stopped and cut off under load, while
//! clients count over the same TCP connections.

mod harness;

use std::io::Write;
use std::net::TcpStream;

use harness::{Client, Load, World, no_kvm};
use nix::sys::signal::Signal;

const ENOUGH: u64 = 300;

#[test]
fn live_1_the_primary_is_killed_and_the_same_connections_go_on() {
    if no_kvm() {
        return;
    }
    let world = World::new(3);
    let (mut primary, mut backup) = world.pair();
    let load = Load::start(world.forward, 4);
    load.wait_for(ENOUGH);
    primary.kill();
    backup.wait_for_state("ALONE");
    load.wait_for(ENOUGH);
    assert!(load.finish() >= 2 * ENOUGH);
    let mut late = Client::connect(world.forward);
    assert_eq!(late.ask(&["PING"]).expect("a new connection"), "PONG");
}

#[test]
fn fail_2_the_backup_is_killed_and_the_primary_claims_and_goes_on() {
    if no_kvm() {
        return;
    }
    let world = World::new(3);
    let (mut primary, mut backup) = world.pair();
    let load = Load::start(world.forward, 4);
    load.wait_for(ENOUGH);
    backup.kill();
    primary.wait_for_state("ALONE");
    load.wait_for(ENOUGH);
    load.finish();
    let live = primary.wait_for("live", |event| event["event"] == "live");
    assert_eq!(live["token"], "1w");
}

#[test]
fn fail_3_a_primary_that_was_stopped_and_wakes_halts_and_a_person_may_recover_it() {
    if no_kvm() {
        return;
    }
    let world = World::new(1);
    let (mut primary, mut backup) = world.pair();
    let load = Load::start(world.forward, 4);
    load.wait_for(ENOUGH);
    primary.signal(Signal::SIGSTOP);
    backup.wait_for_state("ALONE");
    load.wait_for(ENOUGH);
    primary.signal(Signal::SIGCONT);
    primary.wait_for_state("STOPPED");
    load.wait_for(ENOUGH);
    load.finish();

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
    let mut client = Client::connect(world.forward);
    assert_eq!(client.ask(&["PING"]).expect("it serves again"), "PONG");
}

#[test]
fn fail_4_without_a_majority_of_the_arbiter_everything_holds_and_goes_on_when_it_returns() {
    if no_kvm() {
        return;
    }
    let mut world = World::new(3);
    let (mut primary, mut backup) = world.pair();
    let load = Load::start(world.forward, 2);
    load.wait_for(ENOUGH);
    world.arbiters[0].kill();
    load.wait_for(ENOUGH); // a minority is not missed
    world.arbiters[1].kill();
    load.wait_for(ENOUGH); // nor is the majority, while nobody has to decide
    primary.kill();
    backup.wait_for_state("HOLDING");
    backup.wait_for("a word about the arbiter", |event| {
        event["event"] == "warning"
            && event["text"]
                .as_str()
                .is_some_and(|text| text.contains("arbiter"))
    });
    let answered = load.answered();
    world.restart_arbiter(0);
    world.restart_arbiter(1);
    backup.wait_for_state("ALONE");
    load.wait_for(ENOUGH);
    assert!(load.finish() > answered);
}

#[test]
fn fail_10_a_stop_and_ctrl_c_do_not_fail_over_and_sigterm_hands_over() {
    if no_kvm() {
        return;
    }
    let world = World::new(1);
    let (mut primary, mut backup) = world.pair();
    primary.signal(Signal::SIGINT);
    assert!(primary.wait().success());
    assert!(backup.wait().success());

    // The name is free again: another life.
    let (mut primary, mut backup) = world.pair_of("node-c", "node-d");
    let load = Load::start(world.forward, 2);
    load.wait_for(ENOUGH);
    primary.signal(Signal::SIGTERM);
    assert!(primary.wait().success());
    backup.wait_for_state("ALONE");
    load.wait_for(ENOUGH);
    load.finish();
    let control = world.control("node-d");
    let control = control.to_str().expect("UTF-8");
    let (status, text) = world.ftvm(&["control", "--control", control, "stop"]);
    assert!(status.success(), "{text}");
    assert!(backup.wait().success());
}

#[test]
fn one_2_a_second_primary_of_a_running_vm_is_refused() {
    if no_kvm() {
        return;
    }
    let world = World::new(1);
    let mut first = world.primary("node-a", &["--alone"]);
    first.wait_for_state("ALONE");
    let mut second = world.primary("node-c", &["--alone"]);
    assert!(!second.wait().success());
    let end = second.wait_for("the end", |event| event["event"] == "end");
    let end = end["end"].as_str().expect("text");
    assert!(end.contains("exists already"), "{end}");
    let mut client = Client::connect(world.forward);
    assert_eq!(client.ask(&["PING"]).expect("the first serves on"), "PONG");
}

#[test]
fn sec_2_a_stranger_on_the_replication_port_is_turned_away() {
    if no_kvm() {
        return;
    }
    let world = World::new(1);
    let (mut primary, _backup) = world.pair();
    let load = Load::start(world.forward, 2);
    let address = primary.address();
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0xFF; 64], &[0; 8], b""] {
        let mut stranger = TcpStream::connect(address).expect("the port is open");
        stranger.write_all(garbage).expect("it takes bytes");
    }
    primary.wait_for("a word about the stranger", |event| {
        event["event"] == "warning"
            && event["text"]
                .as_str()
                .is_some_and(|text| text.contains("replication"))
    });
    load.wait_for(ENOUGH);
    load.finish();
}
