//! `ftvm status`, `control`, `recover`, `arbiter` and `doctor`.

use std::fs;
use std::path::Path;

use serde_json::Value;
use test_and_set::types::{Incarnation, Life, Member, Members, VmName};
use test_and_set::{ChangeOutcome, Client, ClientConfig};

use super::harness::Process;
use super::{Ran, command, ftvm, ftvm_in, text};

#[test]
fn without_a_node_everybody_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let ask = |args: &[&str]| ftvm_in(dir.path(), args);
    for args in [
        &["status"][..],
        &["status", "kv"],
        &["status", "--role", "backup"],
    ] {
        ask(args).exits(3).says("is it running");
    }
    // What a dead node left behind is nobody.
    let sockets = dir.path().join("ftvm");
    fs::create_dir(&sockets).expect("a directory");
    let dead = sockets.join("kv-primary.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).expect("a socket"));
    ask(&["status"]).exits(3).says("is it running");
    ask(&["status", "--control", text(&dead)])
        .exits(3)
        .says("no node listens on");
    ask(&["control", "pause"]).exits(1).says("is it running");
    ask(&["control", "--control", text(&dead), "stop"])
        .exits(1)
        .says("no node listens on");
    ask(&["recover", "--from", "kv"])
        .exits(1)
        .says("no halted node");
    ask(&["recover", "--from", "NO NAME", "--accept-loss"])
        .exits(1)
        .says("neither");
}

#[test]
fn a_node_is_looked_at_and_commanded() {
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("a.sock");
    let args = [
        "run",
        "--alone",
        "--json",
        "--guest",
        "kv",
        "--listen",
        "127.0.0.1:0",
        "--node",
        "host-a",
        "--control",
        text(&socket),
    ];
    let mut node = Process::start(dir.path(), "node", command(dir.path(), &args));
    node.wait_for_state("ALONE");
    let at = ["--control", text(&socket)];
    let status = |more: &[&str]| ftvm(&[&["status"], &at[..], more].concat());
    let view = status(&[]).exits(1).stdout;
    assert!(
        view.starts_with("ALONE  host-a, primary of VM kv"),
        "{view}"
    );
    let json = status(&["--json"]).exits(1).json();
    assert_eq!(
        (&json["state"], &json["role"]),
        (&Value::from("ALONE"), &Value::from("primary"))
    );

    let control = |command: &[&str]| ftvm(&[&["control"], &at[..], command].concat());
    control(&["pause"]).exits(0);
    control(&["resume"]).exits(0);
    control(&["console", "hello"]).exits(0);
    control(&["failover"]).exits(1).says("refused");
    ftvm(&["recover", "--from", text(&socket)])
        .exits(1)
        .says("no halted node");
    control(&["power-off"]).exits(0);
    assert!(node.wait().success());
    assert!(!socket.exists());
}

/// An arbiter of one server.
struct Arbiter {
    _server: Process,
    address: String,
}

impl Arbiter {
    fn start(dir: &Path) -> Self {
        let data = dir.join("arbiter");
        let args = [
            "arbiter",
            "serve",
            "--json",
            "--id",
            "1",
            "--listen",
            "127.0.0.1:0",
            "--init",
            "--data",
            text(&data),
        ];
        let mut server = Process::start(dir, "arbiter", command(dir, &args));
        let address = server.address().to_string();
        Arbiter {
            _server: server,
            address,
        }
    }

    fn ask(&self, words: &[&str]) -> Ran {
        ftvm(&[&["arbiter"], words, &["--servers", &self.address]].concat())
    }

    /// Begins a life of a VM with two members.
    fn create(&self, vm: &str, life: Life) {
        let member = |id: u8, node: &str| Member {
            incarnation: Incarnation([id; 16]),
            node: node.parse().expect("a label"),
            address: "127.0.0.1:1".parse().expect("an address"),
        };
        let members = vec![member(1, "host-a"), member(2, "host-b")];
        let members = Members::try_from(members).expect("two members");
        let vm: VmName = vm.parse().expect("a name");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let outcome = runtime.block_on(async {
            let mut client = Client::new(ClientConfig::new([self.address.clone()]));
            client.create(vm, life, members).await
        });
        assert_eq!(outcome, ChangeOutcome::Done);
    }
}

#[test]
fn the_arbiter_is_looked_at_and_a_vm_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let arbiter = Arbiter::start(dir.path());
    let life = Life([0xAB; 16]);
    arbiter.create("kv", life);

    // TAS-6
    let status = arbiter.ask(&["status"]).exits(0).stdout;
    assert!(
        status.contains("The loss of 127.0.0.1 would stop the decision"),
        "{status}"
    );
    let json = arbiter.ask(&["status", "--json"]).exits(0).json();
    assert_eq!(json["reach"]["hosts"][0], "127.0.0.1");
    assert_eq!(json["servers"][0]["status"]["role"], "leader");

    let list = arbiter.ask(&["list"]).exits(0).stdout;
    assert!(list.contains("host-a, host-b"), "{list}");
    let show = arbiter.ask(&["show", "kv"]).exits(0).stdout;
    assert!(
        show.contains(&life.to_string()) && show.contains("nobody has claimed"),
        "{show}"
    );
    let json = arbiter.ask(&["show", "kv", "--json"]).exits(0).json();
    assert_eq!(
        (&json["generation"], &json["winner"]),
        (&Value::from(1), &Value::Null)
    );
    arbiter
        .ask(&["show", "other"])
        .exits(1)
        .says("knows no VM other");

    let confirm = format!("--life {life}");
    arbiter.ask(&["delete", "kv"]).exits(2).says(&confirm);
    let other = Life([0xCD; 16]).to_string();
    arbiter
        .ask(&["delete", "kv", "--life", &other])
        .exits(1)
        .says("another life by now");
    arbiter
        .ask(&["delete", "kv", "--life", &life.to_string()])
        .exits(0)
        .says("given up");
    arbiter
        .ask(&["delete", "kv", "--yes"])
        .exits(1)
        .says("knows no VM kv");
    assert_eq!(
        arbiter.ask(&["list", "--json"]).exits(0).json(),
        Value::Array(vec![])
    );

    arbiter.ask(&["remove", "1"]).exits(1).says("the only one");
    arbiter
        .ask(&["add", "2=127.0.0.1:1"])
        .exits(1)
        .says("does not answer");
}

#[test]
fn an_arbiter_that_is_not_there_is_said_to_decide_nothing() {
    let nowhere = ["--servers", "127.0.0.1:1"];
    let ask = |words: &[&str]| ftvm(&[&["arbiter"], words, &nowhere[..]].concat());
    let status = ask(&["status"]).exits(1).stdout;
    assert!(status.contains("no server answers"), "{status}");
    assert_eq!(ask(&["status", "--json"]).exits(1).json()["decides"], false);
    ask(&["list"]).exits(1).says("does not answer");
}

#[test]
fn the_doctor_judges_every_part_of_the_host() {
    let ran = ftvm(&["doctor", "--json"]);
    let diagnosis = ran.json();
    assert!(diagnosis["cpu"].is_string(), "{diagnosis}");
    assert_eq!(ran.code, 0);
    let checks = diagnosis["checks"].as_array().expect("checks");
    let named = |name: &str| checks.iter().any(|check| check["check"] == name);
    for name in [
        "/dev/kvm",
        "CPU model",
        "CPUs",
        "memory",
        "time source",
        "open files",
    ] {
        assert!(named(name), "{name}: {diagnosis}");
    }
    for check in checks.iter().filter(|check| check["verdict"] != "ok") {
        assert!(check["advice"].is_string(), "what is to be done? {check}");
    }
    let view = ftvm(&["doctor"]).exits(0).stdout;
    assert!(view.contains("/dev/kvm"), "{view}");
}
