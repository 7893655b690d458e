//! What a node says of itself.

use std::time::Duration;

use ft_logging::protocol::{BackupState, Histogram, Primary, PrimaryState};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Notice;
use super::engine::{Node, Role};
use super::recorder::{LogSpace, Recorder};

/// Whether the VM is protected, as an operator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NodeState {
    /// The machine does not run yet.
    Starting,
    /// A backup is in step.
    Protected,
    /// This node is the VM, without a backup.
    Alone,
    /// The guest runs or stands, and nothing it says leaves, until the arbiter or the peer answers.
    Holding,
    /// Over: the VM was stopped, handed over or lost.
    Stopped,
}

/// A node's answer to `ftvm status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The VM's name.
    pub vm: String,
    /// This node's name for people.
    pub node: String,
    /// `primary` or `backup`.
    pub role: String,
    /// Protected or not.
    pub state: NodeState,
    /// Why, in a few words.
    pub why: String,
    /// For how long it has been so, in milliseconds.
    pub since_ms: u64,
    /// What to do next, if anything.
    pub next: Option<String>,
    /// The guest's name.
    pub guest: String,
    /// The CPU backend.
    pub backend: String,
    /// The life, once it is known.
    pub life: Option<String>,
    /// This node's incarnation.
    pub incarnation: String,
    /// The fencing token: the generation, with `w` if it is won.
    pub token: String,
    /// The other node, if one is known.
    pub peer: Option<String>,
    /// How far the machine has run.
    pub position: u64,
    /// The last entry of the log.
    pub entries: u64,
    /// The last entry that the backup has acknowledged.
    pub acknowledged: u64,
    /// The last entry that was replayed.
    pub replayed: u64,
    /// How far replay is behind, in milliseconds (primary).
    pub lag_ms: f64,
    /// The lag that half of all batches of entries did not pass in the last seconds, in milliseconds
    /// (primary).
    pub lag_ms_median: f64,
    /// The lag that 99 of 100 of them did not pass, in milliseconds (primary).
    pub lag_ms_p99: f64,
    /// Outputs that wait at the gate, or that the backup keeps.
    pub held_outputs: usize,
    /// Their size in bytes.
    pub held_bytes: usize,
    /// Bytes of log sent to or received from the peer.
    pub log_bytes: u64,
    /// How many gaps between two signs of life of the peer were measured.
    pub heartbeat_gaps: u64,
    /// The longest time between two signs of life of the peer, in milliseconds.
    pub worst_heartbeat_gap_ms: f64,
    /// The gap that 9,999 of 10,000 did not pass, in milliseconds.
    pub heartbeat_gap_p9999_ms: f64,
    /// How often the peer was suspected.
    pub suspicions: u64,
    /// How long the arbiter took to answer a claim, in milliseconds.
    pub claim_ms: Option<f64>,
    /// Whether the arbiter answered when it was last asked; `None` if it never was.
    pub arbiter_reached: Option<bool>,
    /// The log on disk, if one is or was written.
    pub log_on_disk: Option<LogSpace>,
    /// Warnings so far, the latest last.
    pub warnings: Vec<String>,
}

/// What only the status wants to know.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) state: (NodeState, &'static str),
    pub(super) since: Instant,
    pub(super) log_bytes: u64,
    pub(super) heard: Option<Instant>,
    pub(super) gaps: Histogram,
    pub(super) suspicions: u64,
    pub(super) asked: Option<Instant>,
    pub(super) claim: Option<Duration>,
    pub(super) arbiter_reached: Option<bool>,
    pub(super) warnings: Vec<String>,
}

impl Stats {
    pub(super) fn new(now: Instant) -> Self {
        Stats {
            state: (NodeState::Starting, "starting"),
            since: now,
            log_bytes: 0,
            heard: None,
            gaps: Histogram::default(),
            suspicions: 0,
            asked: None,
            claim: None,
            arbiter_reached: None,
            warnings: Vec::new(),
        }
    }
}

fn primary_state(primary: &Primary) -> (NodeState, &'static str) {
    match primary.state() {
        PrimaryState::Suspecting | PrimaryState::Claiming if primary.peer().is_none() => {
            (NodeState::Starting, "the generation is claimed")
        }
        PrimaryState::Waiting => (NodeState::Starting, "waiting for a backup"),
        PrimaryState::Greeting => (NodeState::Starting, "the backup builds its machine"),
        PrimaryState::Opening => (NodeState::Starting, "the arbiter opens the generation"),
        PrimaryState::Protected => (NodeState::Protected, "a backup is in step"),
        PrimaryState::Suspecting => (NodeState::Holding, "the backup may be gone"),
        PrimaryState::Claiming => (NodeState::Holding, "the generation is claimed"),
        PrimaryState::Alone => (NodeState::Alone, "this node has won the generation"),
        PrimaryState::Stopping => (NodeState::Holding, "the arbiter is told that the VM stops"),
        PrimaryState::Yielding => (NodeState::Holding, "the backup is taking over"),
        PrimaryState::Ended => (NodeState::Stopped, "this node's part is over"),
    }
}

fn backup_state(state: BackupState) -> (NodeState, &'static str) {
    match state {
        BackupState::Joining => (NodeState::Starting, "looking for the primary"),
        BackupState::Building => (NodeState::Starting, "building the machine"),
        BackupState::Ready => (NodeState::Starting, "the machine is built"),
        BackupState::Following => (NodeState::Protected, "in step with the primary"),
        BackupState::Suspecting => (NodeState::Holding, "the primary may be gone"),
        BackupState::Parting => (NodeState::Holding, "the primary leaves"),
        BackupState::Claiming | BackupState::Won => {
            (NodeState::Holding, "the generation is claimed")
        }
        BackupState::Draining => (
            NodeState::Holding,
            "the VM was stopped: its log is replayed to the end",
        ),
        BackupState::Ended => (NodeState::Stopped, "this node's part is over"),
    }
}

fn what_next(state: NodeState, primary: bool, arbiter: Option<bool>) -> Option<&'static str> {
    match (state, primary) {
        (NodeState::Starting, true) => Some("start its backup: `ftvm backup --primary ADDRESS`"),
        (NodeState::Starting, false) => Some("start its primary: `ftvm run`"),
        (NodeState::Protected, _) => None,
        (NodeState::Alone, _) => {
            Some("a running guest takes no new backup yet: the next failure ends the VM")
        }
        (NodeState::Holding, _) if arbiter == Some(false) => {
            Some("bring a majority of the arbiter's servers back: `ftvm arbiter status`")
        }
        (NodeState::Holding, _) => Some("wait a moment"),
        (NodeState::Stopped, _) => Some("see the other node: `ftvm arbiter show VM` names it"),
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn ns_as_ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

impl Node {
    /// Tells of a new state.
    pub(super) fn note_state(&mut self) {
        let state = match &self.role {
            Role::Primary(primary) => primary_state(primary),
            Role::Backup(backup) => backup_state(backup.state()),
        };
        if state == self.stats.state {
            return;
        }
        let suspects = |state: (NodeState, &str)| state.1.ends_with("may be gone");
        if suspects(state) {
            self.stats.suspicions += 1;
        }
        self.stats.state = state;
        self.stats.since = Instant::now();
        let _ = self
            .notices
            .send(Notice::State(state.0, state.1.to_owned()));
    }

    /// The answer to `ftvm status`.
    pub(super) fn status(&self) -> NodeStatus {
        let is_primary = matches!(self.role, Role::Primary(_));
        let (state, why) = self.stats.state;
        let (indexes, held, lag) = match &self.role {
            Role::Primary(primary) => {
                let (lag, recent) = primary.lag(self.now());
                (
                    primary.indexes(),
                    primary.gate_fill(),
                    (lag, recent.quantile_ns(0.5), recent.quantile_ns(0.99)),
                )
            }
            Role::Backup(backup) => (backup.indexes(), backup.tail_fill(), (0, 0, 0)),
        };
        let peer = match &self.role {
            Role::Primary(primary) => primary.peer(),
            Role::Backup(backup) => backup.primary(),
        };
        NodeStatus {
            vm: self.config.vm.to_string(),
            node: self.config.node.clone(),
            role: if is_primary { "primary" } else { "backup" }.to_owned(),
            state,
            why: why.to_owned(),
            since_ms: self.stats.since.elapsed().as_millis() as u64,
            next: what_next(state, is_primary, self.stats.arbiter_reached).map(str::to_owned),
            guest: self.configuration.guest.clone(),
            backend: self.configuration.cpu.backend.clone(),
            life: self.life.map(|life| life.to_string()),
            incarnation: self.me.to_string(),
            token: self.token().to_string(),
            peer: peer.map(|peer| peer.to_string()),
            position: self.vcpu.as_ref().map_or(0, |vcpu| vcpu.position().0),
            entries: indexes.0.0,
            acknowledged: indexes.1.0,
            replayed: indexes.2.0,
            lag_ms: ns_as_ms(lag.0),
            lag_ms_median: ns_as_ms(lag.1),
            lag_ms_p99: ns_as_ms(lag.2),
            held_outputs: held.0,
            held_bytes: held.1,
            log_bytes: self.stats.log_bytes,
            heartbeat_gaps: self.stats.gaps.count(),
            worst_heartbeat_gap_ms: ns_as_ms(self.stats.gaps.max_ns()),
            heartbeat_gap_p9999_ms: ns_as_ms(self.stats.gaps.quantile_ns(0.9999)),
            suspicions: self.stats.suspicions,
            claim_ms: self.stats.claim.map(ms),
            arbiter_reached: self.stats.arbiter_reached,
            log_on_disk: self.recorder.as_ref().map(Recorder::space),
            warnings: self.stats.warnings.clone(),
        }
    }
}
