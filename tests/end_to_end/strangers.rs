//! Who is not let in: second primaries, strangers, and nodes that come back from the dead.

use std::io::Write;
use std::net::TcpStream;

use crate::ENOUGH;
use crate::harness::{Client, Clients, World};

#[test]
fn one_2_a_second_primary_of_a_running_vm_is_refused() {
    let world = World::new(1);
    let mut first = world.primary("node-a", &["--alone"]);
    first.wait_for_state("ALONE");
    let mut second = world.primary("node-c", &["--alone"]);
    assert!(!second.wait().success());
    let end = second.last_word();
    assert!(end.contains("exists already"), "{end}");
    assert!(
        Client::connect(world.forward()).pings(),
        "the first serves on"
    );
}

#[test]
fn sec_2_a_stranger_on_the_replication_port_is_turned_away() {
    let world = World::new(1);
    let (mut primary, _backup) = world.pair();
    let clients = Clients::start(world.forward());
    let address = primary.address();
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0xFF; 64], &[0; 8], b""] {
        let mut stranger = TcpStream::connect(address).expect("the port is open");
        stranger.write_all(garbage).expect("it takes bytes");
    }
    primary.wait_for_warning("replication");
    clients.wait_for(ENOUGH);
    clients.finish();
}

/// ONE-1: a dead node that is started again, as it was or in another way, is no part of the VM.
#[test]
fn one_2_a_node_that_comes_back_from_the_dead_is_refused() {
    let mut world = World::listening(1);
    let (mut primary, mut backup) = world.pair();
    let survivor = backup.address();
    let clients = Clients::start(world.forward());
    clients.wait_for(ENOUGH);
    primary.kill();
    backup.wait_for_state("ALONE");

    let mut again = world.primary("node-a", &[]);
    assert!(!again.wait().success());
    assert!(
        again.stderr().contains("holds the log of life"),
        "{}",
        again.stderr()
    );
    std::fs::rename(world.log("node-a"), world.dir.path().join("moved")).expect("moved");
    let mut again = world.primary("node-a", &["--alone"]);
    assert!(!again.wait().success());
    let end = again.last_word();
    assert!(
        end.contains("exists already") && end.contains("arbiter delete"),
        "{end}"
    );
    let mut again = world.backup("node-a", survivor, &[]);
    assert!(!again.wait().success());
    assert!(
        again.last_word().contains("runs alone"),
        "{}",
        again.last_word()
    );

    clients.wait_for(ENOUGH);
    clients.finish();
    let said = world.one_history(&mut backup, "node-a");
    assert!(said.before > 0 && said.after > 0, "{said:?}");
}

/// The winner dies too, before it is protected again: nobody speaks for the VM any more, until a
/// person decides.
#[test]
fn one_2_an_old_winner_that_is_started_again_says_nothing() {
    let world = World::listening(1);
    let (mut primary, mut backup) = world.pair();
    let listened = primary.address();
    primary.kill();
    backup.wait_for_state("ALONE");
    backup.kill();
    let said = [world.said("node-a"), world.said("node-b")];

    std::fs::rename(world.log("node-b"), world.dir.path().join("moved")).expect("moved");
    let mut backup = world.backup("node-b", listened, &[]);
    backup.wait_for_state("STARTING");
    std::fs::rename(world.log("node-a"), world.dir.path().join("moved too")).expect("moved");
    // Both halves are there again, with another life, which nobody may begin.
    let mut primary = world.primary_at("node-a", listened, &[]);
    assert!(!primary.wait().success());
    assert!(primary.last_word().contains("exists already"));
    drop(backup);
    assert_eq!(said, [world.said("node-a"), world.said("node-b")]);

    let servers = world.servers();
    let delete = ["arbiter", "delete", "kv", "--yes", "--servers", &servers];
    let (status, text) = world.ftvm(&delete);
    assert!(status.success(), "{text}");
    let (_primary, _backup) = world.pair_of("node-c", "node-d");
    assert!(Client::connect(world.forward()).pings(), "a new life");
}
