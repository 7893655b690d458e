//! Asks everybody how they are, several times a second, for the live view.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use test_and_set::{Client, ClientConfig, Role};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Stage;
use super::process::Who;
use crate::node::{self, ControlRequest, ControlResponse, NodeStatus};

/// How often the nodes are asked.
const EVERY: Duration = Duration::from_millis(100);

/// The arbiter is asked once in so many rounds.
const ARBITER_ROUNDS: u32 = 5;

/// A node that takes longer to answer counts as silent.
const PATIENCE: Duration = Duration::from_secs(1);

/// How everybody is.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Observed {
    /// The nodes that answer.
    pub(in crate::cli) nodes: BTreeMap<Who, NodeStatus>,
    /// The arbiter's servers that answer: what they do, and in which term.
    pub(in crate::cli) arbiter: BTreeMap<u64, (Role, u64)>,
    /// Bits of log a second, lately.
    pub(in crate::cli) log_bits_per_s: f64,
}

/// A task that looks; it ends with this value.
#[derive(Debug)]
pub(in crate::cli) struct Observer {
    observed: Arc<Mutex<Observed>>,
    task: JoinHandle<()>,
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Observer {
    /// Begins to look at what is on `stage`.
    pub(in crate::cli) fn start(stage: &Stage) -> Self {
        let observed = Arc::<Mutex<Observed>>::default();
        let nodes = [Who::Primary, Who::Backup].map(|who| (who, stage.control(who)));
        let (arbiter, to) = (stage.arbiter(), observed.clone());
        let task = tokio::spawn(async move {
            let mut every = interval(EVERY);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut before: Option<(Instant, u64)> = None;
            for round in 0u32.. {
                every.tick().await;
                let mut seen = to.lock().unwrap_or_else(PoisonError::into_inner).clone();
                for (who, path) in &nodes {
                    match status(path).await {
                        Some(status) => seen.nodes.insert(*who, status),
                        None => seen.nodes.remove(who),
                    };
                }
                if round.is_multiple_of(ARBITER_ROUNDS) {
                    seen.arbiter = servers(arbiter.clone()).await;
                }
                let (now, bytes) = (Instant::now(), log_bytes(&seen));
                if let Some((then, earlier)) = before {
                    let bits = bytes.saturating_sub(earlier) as f64 * 8.0;
                    let rate = bits / (now - then).as_secs_f64();
                    seen.log_bits_per_s += (rate - seen.log_bits_per_s) / 4.0;
                }
                before = Some((now, bytes));
                *to.lock().unwrap_or_else(PoisonError::into_inner) = seen;
            }
        });
        Observer { observed, task }
    }

    /// What was seen last.
    pub(in crate::cli) fn now(&self) -> Observed {
        self.observed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Log sent by whoever is the VM.
fn log_bytes(seen: &Observed) -> u64 {
    let vm = seen.nodes.values().find(|node| node.role == "primary");
    vm.map_or(0, |node| node.log_bytes)
}

/// A node's status; `None` if it does not answer.
pub(in crate::cli) async fn status(control: &Path) -> Option<NodeStatus> {
    let answer = node::request(control, &ControlRequest::Status);
    match timeout(PATIENCE, answer).await {
        Ok(Ok(ControlResponse::Status(status))) => Some(*status),
        _ => None,
    }
}

/// What each of the arbiter's servers does that answers.
pub(in crate::cli) async fn servers(arbiter: ClientConfig) -> BTreeMap<u64, (Role, u64)> {
    let statuses = Client::new(arbiter).status_all().await;
    statuses
        .into_values()
        .flatten()
        .map(|status| (status.server.0, (status.role, status.term)))
        .collect()
}

/// Which server leads, if one does.
pub(in crate::cli) fn leader(servers: &BTreeMap<u64, (Role, u64)>) -> Option<u64> {
    let leaders = servers
        .iter()
        .filter(|(_, (role, _))| *role == Role::Leader);
    leaders
        .max_by_key(|(_, (_, term))| *term)
        .map(|(id, _)| *id)
}
