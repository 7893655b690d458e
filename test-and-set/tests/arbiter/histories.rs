//! Histories of concurrent clients, while servers are cut off and restarted, checked
//! for linearizability (TAS-1) against the register itself as the specification.
//!
//! A question that had no answer stays open: it may take effect at any later time,
//! or never.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use porcupine_rs::{CheckResult, Model, Operation};
use test_and_set::register::{Answer, Command, Record, Register};
use test_and_set::types::{Generation, Incarnation, Life, Member, Members, VmName};
use test_and_set::{ChangeOutcome, ClaimOutcome, Client};
use tokio::task::JoinSet;

use crate::common::{Cluster, member, until, vm};

/// The register as the specification of one VM's history.
#[derive(Clone, Debug)]
struct Spec;

/// A question and what it was answered.
#[derive(Clone, Debug)]
enum Asked {
    /// A change; without an answer it is not known whether it was done.
    Change(Command, Option<Seen>),
    /// A read that was answered.
    Read(VmName, Box<Option<Record>>),
}

/// An answer as a client sees it: which refusal it was is not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Done,
    Won,
    Lost(Incarnation),
    Stopped,
    Deleted,
    Refused,
}

impl From<Answer> for Seen {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Created | Answer::Opened | Answer::Recovered { .. } => Self::Done,
            Answer::Won => Self::Won,
            Answer::Lost { to } => Self::Lost(to),
            Answer::Stopped => Self::Stopped,
            Answer::Deleted => Self::Deleted,
            Answer::Refused(_) => Self::Refused,
        }
    }
}

impl Model for Spec {
    type State = Register;
    type Op = Asked;
    type Metadata = ();

    fn partition_operations(history: &[Operation<Self>]) -> Vec<Vec<Operation<Self>>> {
        let mut parts: BTreeMap<VmName, Vec<_>> = BTreeMap::new();
        for operation in history {
            let vm = match &operation.op {
                Asked::Change(command, _) => command.vm(),
                Asked::Read(vm, _) => vm,
            };
            parts.entry(vm.clone()).or_default().push(operation.clone());
        }
        parts.into_values().collect()
    }

    fn init() -> Register {
        Register::default()
    }

    fn step(register: &Register, asked: &Asked) -> (bool, Register) {
        let mut next = register.clone();
        match asked {
            Asked::Read(vm, seen) => (register.read(vm) == (**seen).as_ref(), next),
            Asked::Change(command, seen) => {
                let answer = Seen::from(next.apply(command.clone()));
                (seen.as_ref().is_none_or(|seen| *seen == answer), next)
            }
        }
    }
}

/// Notes what was asked and answered, in the order of one clock.
#[derive(Clone, Default)]
struct Notes {
    clock: Arc<AtomicI64>,
    history: Arc<std::sync::Mutex<Vec<Operation<Spec>>>>,
}

impl Notes {
    fn now(&self) -> i64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// How many questions were answered.
    fn answered(&self) -> usize {
        let history = self.history.lock().unwrap();
        history
            .iter()
            .filter(|noted| noted.return_time != i64::MAX)
            .count()
    }

    /// Waits for more questions to be answered.
    async fn more(&self, more: usize) {
        let enough = self.answered() + more;
        until("answers", || (self.answered() >= enough).then_some(())).await;
    }

    fn note(&self, client_id: u32, call_time: i64, op: Asked) {
        let open = matches!(&op, Asked::Change(_, None));
        let return_time = if open { i64::MAX } else { self.now() };
        self.history.lock().unwrap().push(Operation {
            client_id: Some(client_id),
            call_time,
            return_time,
            op,
            metadata: None,
        });
    }
}

fn changed(outcome: ChangeOutcome) -> Option<Seen> {
    match outcome {
        ChangeOutcome::Done => Some(Seen::Done),
        ChangeOutcome::Stopped => Some(Seen::Stopped),
        ChangeOutcome::Deleted => Some(Seen::Deleted),
        ChangeOutcome::Refused(_) => Some(Seen::Refused),
        // Unreachable says that nothing was done: as an open question it must fit too.
        ChangeOutcome::Unknown(_) | ChangeOutcome::Unreachable(_) => None,
    }
}

fn claimed(outcome: ClaimOutcome) -> Option<Seen> {
    match outcome {
        ClaimOutcome::Won => Some(Seen::Won),
        ClaimOutcome::Lost { to } => Some(Seen::Lost(to)),
        ClaimOutcome::Stopped => Some(Seen::Stopped),
        ClaimOutcome::Deleted => Some(Seen::Deleted),
        ClaimOutcome::Refused(_) => Some(Seen::Refused),
        ClaimOutcome::Unknown(_) | ClaimOutcome::Unreachable(_) => None,
    }
}

/// One node's part in the life of one VM: creates, claims, opens, and reads, until
/// told to stop.
async fn node(
    id: u32,
    mut client: Client,
    vm: VmName,
    pair: [Member; 2],
    life: Life,
    notes: Notes,
    done: Arc<AtomicBool>,
) {
    let me = pair[(id % 2) as usize].incarnation;
    let members: Members = pair.to_vec().try_into().unwrap();
    let mut generation = Generation::FIRST;
    while !done.load(Ordering::Relaxed) {
        let call = notes.now();
        let create = Command::Create {
            vm: vm.clone(),
            life,
            members: members.clone(),
        };
        let seen = changed(client.create(vm.clone(), life, members.clone()).await);
        notes.note(id, call, Asked::Change(create, seen));

        let call = notes.now();
        let claim = Command::Claim {
            vm: vm.clone(),
            life,
            generation,
            by: me,
        };
        let seen = claimed(client.claim(vm.clone(), life, generation, me).await);
        let won = seen == Some(Seen::Won);
        notes.note(id, call, Asked::Change(claim, seen));

        if won {
            let call = notes.now();
            let next = generation.next();
            let open = Command::Open {
                vm: vm.clone(),
                life,
                generation: next,
                by: me,
                members: members.clone(),
            };
            let opened = client
                .open(vm.clone(), life, next, me, members.clone())
                .await;
            notes.note(id, call, Asked::Change(open, changed(opened)));
        }

        let call = notes.now();
        if let Ok(record) = client.read(vm.clone()).await {
            if let Some(record) = &record {
                generation = record.generation;
            }
            notes.note(id, call, Asked::Read(vm.clone(), Box::new(record)));
        }
    }
}

/// TAS-1: what clients saw while leaders were cut off and servers restarted can be
/// explained by one order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tas_1_histories_are_linearizable() {
    const VMS: u32 = 3;
    let mut cluster = Cluster::partitionable(3).await;
    let notes = Notes::default();
    let done = Arc::new(AtomicBool::new(false));
    let mut nodes = JoinSet::new();
    for n in 0..VMS {
        let pair = [member(), member()];
        let life = Life::random();
        for half in 0..2 {
            let client = cluster.client_of(&[1, 2, 3], Duration::from_millis(700));
            let (notes, done) = (notes.clone(), done.clone());
            let name = vm(&format!("vm{n}"));
            nodes.spawn(node(
                n * 2 + half,
                client,
                name,
                pair.clone(),
                life,
                notes,
                done,
            ));
        }
    }
    let links = cluster.links.as_ref().unwrap().clone();
    for _ in 0..2 {
        let leader = cluster.leader().await;
        let rest: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
        links.isolate(&[leader], &rest);
        cluster.leader_among(&rest).await;
        notes.more(20).await;
        links.mend();
        let leader = cluster.leader().await;
        notes.more(20).await;
        cluster.stop(leader).await;
        cluster.leader().await;
        notes.more(20).await;
        cluster.resume(leader).await;
        notes.more(20).await;
    }
    done.store(true, Ordering::Relaxed);
    nodes.join_all().await;
    let history = notes.history.lock().unwrap().clone();
    let verdict = porcupine_rs::check_operations_timeout(&history, Duration::from_secs(60));
    assert_eq!(verdict, CheckResult::Ok, "{history:#?}");
    cluster.shutdown().await;
}

/// The checker sees what it should: two winners, and a read from the past.
#[test]
fn the_checker_tells_wrong_histories() {
    let pair = [member(), member()];
    let life = Life::random();
    let members: Members = pair.to_vec().try_into().unwrap();
    let create = Command::Create {
        vm: vm("vm"),
        life,
        members,
    };
    let claim = |n: usize| Command::Claim {
        vm: vm("vm"),
        life,
        generation: Generation::FIRST,
        by: pair[n].incarnation,
    };
    let mut register = Register::default();
    register.apply(create.clone());
    let before = register.read(&vm("vm")).cloned();
    let check = |ops: Vec<Asked>| {
        let notes = Notes::default();
        for op in ops {
            let call = notes.now();
            notes.note(0, call, op);
        }
        let history = notes.history.lock().unwrap().clone();
        porcupine_rs::check_operations(&history)
    };
    let won = |n| Asked::Change(claim(n), Some(Seen::Won));
    let created = Asked::Change(create, Some(Seen::Done));
    let read = || Asked::Read(vm("vm"), Box::new(before.clone()));
    assert!(check(vec![created.clone(), read(), won(0), won(0)]));
    assert!(check(vec![
        created.clone(),
        Asked::Change(claim(1), None),
        read(),
        won(0)
    ]));
    assert!(!check(vec![created.clone(), won(0), won(1)]), "two winners");
    assert!(
        !check(vec![created, won(0), read()]),
        "a read from the past"
    );
}
