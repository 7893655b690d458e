//! Everything around the nodes: virtual time, what is going to happen, and the services.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use ft_logging::protocol::{Answer, Probe};
use ft_logging::types::Life;

use crate::arbiter::{Arbiter, Asked};
use crate::checks::Checks;
use crate::coverage::{Coverage, Situation};
use crate::gateway::{Client, Frame, Gateway};
use crate::network::Network;
use crate::plan::{Host, MS, Plan};
use crate::rng::Rng;
use crate::toy::{CLIENTS, Reply, Request};
use crate::trace::Trace;

/// One process from its start to its end; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId(pub(crate) usize);

/// Something that is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// The protocol's thread looks at what has come.
    Wake(ProcessId),
    Tick(ProcessId),
    /// The vCPU's turn.
    Vcpu(ProcessId),
    /// The replaying machine's turn.
    Replay(ProcessId),
    Built(ProcessId),
    /// The output at the head of the network device's queue is on the wire.
    Written(ProcessId),
    /// A backup's wish for a connection arrives at its peer's host.
    Dial(ProcessId),
    DialFailed(ProcessId),
    /// The next segment of a connection's lane arrives.
    Deliver {
        connection: usize,
        lane: usize,
    },
    Probe(ProcessId),
    Probed(ProcessId, Probe),
    Question(Box<Asked>),
    Answer {
        process: ProcessId,
        number: u64,
        answer: Answer,
    },
    ToGateway(Frame),
    ToGuest {
        host: Host,
        request: Request,
    },
    ToClient(Reply),
    Client {
        id: usize,
        timer: u64,
    },
    Strike(usize),
    Repair(usize),
}

struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, since the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The world but for the nodes.
pub(crate) struct Env {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) network: Network,
    pub(crate) arbiter: Arbiter,
    pub(crate) gateway: Gateway,
    pub(crate) clients: Vec<Client>,
    pub(crate) checks: Checks,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    /// The life that the clients talk to.
    pub(crate) guest: Option<Life>,
    coming: BinaryHeap<Scheduled>,
    scheduled: u64,
    processes: usize,
}

impl Env {
    pub(crate) fn new(mut rng: Rng, trace: Trace) -> Self {
        let plan = Plan::new(&mut rng);
        Env {
            now: MS,
            rng,
            plan,
            network: Network::default(),
            arbiter: Arbiter::default(),
            gateway: Gateway::default(),
            clients: (0..CLIENTS).map(Client::new).collect(),
            checks: Checks::default(),
            coverage: Coverage::default(),
            trace,
            guest: None,
            coming: BinaryHeap::new(),
            scheduled: 0,
            processes: 0,
        }
    }

    pub(crate) fn next_process(&mut self) -> ProcessId {
        self.processes += 1;
        ProcessId(self.processes)
    }

    pub(crate) fn schedule(&mut self, after_ns: u64, event: Event) {
        self.scheduled += 1;
        self.coming.push(Scheduled {
            at: self.now + after_ns,
            number: self.scheduled,
            event,
        });
    }

    /// Moves time to the next event, if there is one before the end.
    pub(crate) fn advance(&mut self) -> Option<Event> {
        let next = self.coming.pop().filter(|next| next.at <= self.plan.end)?;
        self.now = next.at;
        Some(next.event)
    }

    /// How long a message takes.
    pub(crate) fn delay(&mut self) -> u64 {
        let (least, most, rarely) = self.plan.delay_ns;
        match self.rng.below(2_000) {
            0 if self.now < self.plan.calm_at => self.rng.between(least, rarely.max(least)),
            _ => self.rng.between(least, most),
        }
    }

    pub(crate) fn met(&mut self, situation: Situation) {
        self.coverage.met(situation);
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.note(self.now, text);
    }
}
