//! Servers as processes of their own, killed with SIGKILL.
//!
//! This test program starts itself again as a server: [`serve_when_asked`] does
//! nothing in an ordinary run.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use test_and_set::types::ServerId;
use test_and_set::{
    ClaimOutcome, Client, ClientConfig, Exposure, Server, ServerConfig, StartMode, Tuning,
};

use crate::common::{PATIENCE, Pair, own_ip};

const ASKED: &str = "ARBITER_TEST_SERVER";
const READY: &str = "the server listens";

/// A server in a process of its own.
struct Process {
    id: u64,
    dir: PathBuf,
    listen: String,
    child: Child,
}

/// `id directory address mode`, with the others' addresses after `init`.
fn spawn(id: u64, dir: &Path, listen: &str, mode: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::serve_when_asked", "--nocapture"])
        .env(ASKED, format!("{id} {} {listen} {mode}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let ready = output
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains(READY));
    assert!(ready, "server {id} did not start");
    child
}

impl Process {
    fn start(id: u64, dir: &Path, listen: String, mode: &str) -> Self {
        let child = spawn(id, dir, &listen, mode);
        let dir = dir.to_path_buf();
        Self {
            id,
            dir,
            listen,
            child,
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = spawn(self.id, &self.dir, &self.listen, "resume");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server that other tests start in processes of their own.
#[test]
fn serve_when_asked() {
    let Ok(asked) = std::env::var(ASKED) else {
        return;
    };
    let words: Vec<_> = asked.split(' ').collect();
    let [id, dir, listen, mode, others @ ..] = &words[..] else {
        panic!("asked `{asked}`");
    };
    let founders = others.iter().zip(2..);
    let start = match *mode {
        "init" => StartMode::Init {
            others: founders
                .map(|(at, id)| (ServerId(id), at.parse().unwrap()))
                .collect(),
        },
        "join" => StartMode::Join,
        _ => StartMode::Resume,
    };
    let config = ServerConfig {
        id: ServerId(id.parse().unwrap()),
        listen: listen.parse().unwrap(),
        advertise: None,
        data_dir: dir.into(),
        start,
        tuning: Tuning::default(),
        exposure: Exposure::Loopback,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let server = Server::start(config).await.unwrap();
        println!("{READY}");
        panic!("{}", server.failed().await);
    });
}

/// Three servers of one cluster, and where they listen.
fn three(dir: &Path) -> (Vec<Process>, [String; 3]) {
    let listen = [1, 2, 3].map(|_| format!("{}:7000", own_ip()));
    let mut servers = Vec::new();
    for id in [2, 3, 1] {
        let mode = match id {
            1 => format!("init {} {}", listen[1], listen[2]),
            _ => "join".to_owned(),
        };
        let dir = dir.join(id.to_string());
        servers.push(Process::start(
            id,
            &dir,
            listen[id as usize - 1].clone(),
            &mode,
        ));
    }
    (servers, listen)
}

fn client(listen: &[String]) -> Client {
    Client::new(ClientConfig {
        total_timeout: PATIENCE,
        ..ClientConfig::new(listen.to_vec())
    })
}

/// TAS-1: what was answered before all servers were killed is read after they are back, at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_1_a_read_after_all_were_killed_sees_what_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (mut servers, listen) = three(dir.path());
    for round in 0..4 {
        let name = format!("vm{round}");
        // A new client asks whoever leads first.
        Pair::create(&mut client(&listen), &name).await;
        tokio::task::block_in_place(|| {
            servers.iter_mut().for_each(Process::kill);
            servers.iter_mut().for_each(Process::restart);
        });
        let record = client(&listen).read(name.parse().unwrap()).await;
        let record = record.expect("the servers are back");
        assert!(record.is_some(), "round {round}: {name} was created");
    }
}

/// TAS-2: each server in turn, and then all at once, are killed with SIGKILL while
/// claims are made; whoever won has won for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_2_winners_survive_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let (mut servers, listen) = three(dir.path());
    let [mut one, mut two] = [client(&listen), client(&listen)];
    let mut decided = Vec::new();
    for round in 0..12 {
        let pair = Pair::create(&mut one, &format!("vm{round}")).await;
        let all = round % 4 == 3;
        let killed = if all { 0..3 } else { round % 3..round % 3 + 1 };
        let kill = async {
            tokio::task::yield_now().await;
            tokio::task::block_in_place(|| {
                servers[killed.clone()].iter_mut().for_each(Process::kill);
                servers[killed].iter_mut().for_each(Process::restart);
            });
        };
        let claims = tokio::join!(
            pair.claim(&mut one, pair.who(0)),
            pair.claim(&mut two, pair.who(1)),
            kill,
        );
        let winner = match claims {
            (ClaimOutcome::Won, ClaimOutcome::Lost { to }, ()) if to == pair.who(0) => to,
            (ClaimOutcome::Lost { to }, ClaimOutcome::Won, ()) if to == pair.who(1) => to,
            other => panic!("vm{round}: {other:?}"),
        };
        decided.push((pair, winner));
    }
    for (pair, winner) in &decided {
        pair.assert_won_by(&mut one, *winner).await;
    }
}
