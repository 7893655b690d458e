//! One run: two nodes, what surrounds them, and what goes wrong.

use ft_logging::entry::Control;
use ft_logging::protocol::{BackupState, PrimaryState, Probe, Wish};

use crate::checks::must;
use crate::coverage::Situation;
use crate::env::{Env, Event, ProcessId};
use crate::network::Segment;
use crate::node::{News, Node, Socket, Standing, State};
use crate::plan::{A, B, C, Death, Fault, HOSTS, Host, MS, Planned, Role};
use crate::rng::Rng;
use crate::toy::CLIENTS;
use crate::trace::Trace;

/// Everything.
pub(crate) struct World {
    pub(crate) env: Env,
    nodes: [Option<Node>; HOSTS],
    /// Without power.
    dark: [bool; HOSTS],
    /// Failed and never repaired.
    lost: [bool; HOSTS],
    /// Which process each fault has struck.
    struck: Vec<Option<ProcessId>>,
    failed: Vec<(ProcessId, u64)>,
    /// More has failed than the VM can survive.
    excused: bool,
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        World {
            env: Env::new(Rng::new(seed), trace),
            nodes: [const { None }; HOSTS],
            dark: [false; HOSTS],
            lost: [false; HOSTS],
            struck: Vec::new(),
            failed: Vec::new(),
            excused: false,
        }
    }

    /// Runs to the end, or panics at the first breach of an invariant.
    pub(crate) fn run(&mut self) {
        let env = &mut self.env;
        env.trace.note(env.now, || format!("{:?}", env.plan));
        let primary = Node::run(env, A, env.plan.alone);
        env.guest = primary.life();
        self.nodes[A.0] = Some(primary);
        if !env.plan.alone {
            self.nodes[B.0] = Some(Node::backup(env, B));
        }
        for (i, planned) in env.plan.faults.clone().iter().enumerate() {
            env.schedule(planned.at, Event::Strike(i));
        }
        self.struck = vec![None; env.plan.faults.len()];
        for id in 0..CLIENTS {
            env.schedule(5 * MS, Event::Client { id, timer: 0 });
        }
        if env.plan.faults.is_empty() {
            env.met(Situation::Quiet);
        }
        while let Some(event) = self.env.advance() {
            self.handle(event);
        }
        self.live_1_the_vm_serves_at_the_end();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Wake(process) => self.on(process, Node::wake),
            Event::Tick(process) => self.on(process, Node::tick_is_due),
            Event::Vcpu(process) => self.on(process, Node::vcpu_turn),
            Event::Replay(process) => self.on(process, Node::replay_turn),
            Event::Built(process) => self.on(process, |node, env| node.news(env, News::Built)),
            Event::Written(process) => self.on(process, Node::written),
            Event::Dial(process) => self.dial(process),
            Event::DialFailed(process) => {
                self.on(process, |node, env| node.socket(env, Socket::DialFailed));
            }
            Event::Deliver { connection, lane } => self.deliver(connection, lane),
            Event::Probe(process) => self.probe(process),
            Event::Probed(process, probe) => {
                self.on(process, |node, env| node.news(env, News::Probed(probe)));
            }
            Event::Question(asked) => self.env.question_arrived(&asked),
            Event::Answer {
                process,
                number,
                answer,
            } => self.answer(process, number, answer),
            Event::ToGateway(frame) => self.env.gateway_got(&frame),
            Event::ToGuest { host, request } => {
                if let Some(process) = self.running_on(host)
                    && !self.env.network.is_isolated(host)
                {
                    self.on(process, |node, env| node.frame(env, request));
                }
            }
            Event::ToClient(reply) => self.env.client_got(reply),
            Event::Client { id, timer } => self.env.client_turn(id, timer),
            Event::Strike(i) => self.strike(self.env.plan.faults[i], i),
            Event::Repair(i) => self.repair(self.env.plan.faults[i].fault, self.struck[i]),
        }
    }

    // ---- processes -----------------------------------------------------------------------------

    fn node(&self, host: Host) -> Option<&Node> {
        self.nodes[host.0].as_ref().filter(|node| node.is_running())
    }

    fn running_on(&self, host: Host) -> Option<ProcessId> {
        self.node(host).map(|node| node.process)
    }

    /// Lets a process act, if it is still there, and buries it if it is not after that.
    fn on(&mut self, process: ProcessId, act: impl FnOnce(&mut Node, &mut Env)) {
        let running = |node: &&mut Node| node.process == process && node.is_running();
        let Some(node) = self.nodes.iter_mut().flatten().find(running) else {
            return;
        };
        act(node, &mut self.env);
        let (standing, host) = (node.standing, node.host);
        match standing {
            Standing::Up | Standing::Halted => {}
            Standing::Finished => {
                let starts_anew = node.never_started;
                self.env.close_all(process);
                if starts_anew {
                    // There will be another primary, and this host is still a backup's.
                    self.nodes[host.0] = Some(Node::backup(&mut self.env, host));
                }
            }
            Standing::Dead => {
                self.env.close_all(process);
                self.env.checks.is_over(process);
                self.failed(host, process);
            }
        }
    }

    /// A fault strikes whatever process runs on a host.
    fn hit(&mut self, fault: usize, host: Host, act: impl FnOnce(&mut Node, &mut Env)) {
        self.struck[fault] = self.running_on(host);
        self.release(self.struck[fault], act);
    }

    /// A fault is over for the process that it has struck.
    fn release(&mut self, struck: Option<ProcessId>, act: impl FnOnce(&mut Node, &mut Env)) {
        if let Some(process) = struck {
            self.on(process, act);
        }
    }

    fn host_of(&self, process: ProcessId) -> Option<Host> {
        let node = self
            .nodes
            .iter()
            .flatten()
            .find(|node| node.process == process);
        node.filter(|node| node.is_running()).map(|node| node.host)
    }

    /// Whether the node there can go on as the VM: it holds what was agreed on, is neither broken
    /// nor over, and nobody else has won.
    fn is_able(&self, host: Host) -> bool {
        let record = self
            .env
            .guest
            .and_then(|life| self.env.arbiter.record(life));
        let Some(record) = record.filter(|record| record.stopped.is_none()) else {
            return false;
        };
        self.node(host).is_some_and(|node| {
            node.standing == Standing::Up
                && node.is_member
                && node.life() == self.env.guest
                && !node.corrupt
                && !self.lost[host.0]
                && record
                    .winner
                    .is_none_or(|winner| winner.0 == node.incarnation.0)
        })
    }

    /// A node has failed: if that leaves nobody, it was one failure too many.
    fn failed(&mut self, host: Host, process: ProcessId) {
        self.lost[host.0] = true;
        self.failed.push((process, self.env.now));
        self.excused |= !self.is_able(A) && !self.is_able(B);
    }

    /// Whether a node failed that had asked for the generation, or asked before it could notice:
    /// then the winner failed unprotected.
    fn a_claimant_failed(&self) -> bool {
        let notices_ns = 2 * self.env.plan.timing.tick_ns;
        self.failed.iter().any(|(process, at)| {
            let claimed = self.env.checks.claimed(*process);
            claimed.is_some_and(|claimed| claimed <= at + notices_ns)
        })
    }

    // ---- paths ---------------------------------------------------------------------------------

    fn dial(&mut self, process: ProcessId) {
        let Some(from) = self.host_of(process) else {
            return;
        };
        let to = Env::peer_of(from);
        let network = &self.env.network;
        let through = network.reaches(from, to) && network.reaches(to, from) && !self.dark[to.0];
        if !through {
            let patience_ns = self.env.plan.timing.detect_ns / 2;
            return self.env.schedule(patience_ns, Event::DialFailed(process));
        }
        match self.node(to).filter(|node| node.listens()) {
            Some(listener) => {
                let listener = listener.process;
                let connection = self.env.connect((from, process), (to, listener));
                self.on(listener, |node, env| {
                    node.socket(env, Socket::Accepted(connection))
                });
            }
            None => {
                let delay = self.env.delay();
                self.env.schedule(delay, Event::DialFailed(process));
            }
        }
    }

    fn probe(&mut self, process: ProcessId) {
        let Some(from) = self.host_of(process) else {
            return;
        };
        let to = Env::peer_of(from);
        let network = &self.env.network;
        let through = network.reaches(from, to) && network.reaches(to, from) && !self.dark[to.0];
        let (situation, probe, after_ns) = if !through {
            let patience_ns = self.env.plan.timing.detect_ns / 2;
            (Situation::ProbeUnanswered, Probe::NoAnswer, patience_ns)
        } else if self.node(to).is_some() {
            (Situation::ProbeAccepted, Probe::Accepted, self.env.delay())
        } else {
            (Situation::ProbeRefused, Probe::Refused, self.env.delay())
        };
        self.env.met(situation);
        self.env.schedule(after_ns, Event::Probed(process, probe));
    }

    fn deliver(&mut self, connection: usize, lane: usize) {
        let Some((_, process, segment)) = self.env.arrive(connection, lane) else {
            return;
        };
        let socket = match segment {
            Segment::Open => Socket::Connected(connection),
            Segment::Message {
                token,
                message,
                sent_at,
            } => Socket::Message {
                connection,
                token,
                message,
                sent_at,
            },
            Segment::Close => Socket::Closed(connection),
        };
        self.on(process, |node, env| node.socket(env, socket));
    }

    fn answer(&mut self, process: ProcessId, number: u64, answer: ft_logging::protocol::Answer) {
        use ft_logging::protocol::Answer;
        let unknown = matches!(answer, Answer::Unknown(_));
        let reached = |host| unknown || self.env.network.reaches_arbiter(host);
        if self.host_of(process).is_some_and(reached) {
            self.on(process, |node, env| {
                node.news(env, News::Answered(number, answer))
            });
        }
    }

    // ---- faults --------------------------------------------------------------------------------

    fn strike(&mut self, planned: Planned, number: usize) {
        let Planned { fault, until, .. } = planned;
        self.env.note(|| format!("!!! {fault:?}, until {until:?}"));
        if let Some(until) = until {
            self.env
                .schedule(until - self.env.now.min(until), Event::Repair(number));
        }
        let network = &mut self.env.network;
        match fault {
            Fault::Kill { host, death } => self.kill(host, death),
            Fault::Restart { host, role } => self.restart(host, role),
            Fault::Pause { host } => self.hit(number, host, |node, _| node.paused += 1),
            Fault::Hang { host } => self.hit(number, host, |node, _| node.hung += 1),
            Fault::SlowNode { host } => self.hit(number, host, |node, _| node.slow += 1),
            Fault::SlowReplay { host } => self.hit(number, host, |node, _| node.replay_slow += 1),
            Fault::Corrupt { host } => self.hit(number, host, |node, _| node.corrupt()),
            Fault::Cut { from, to, .. } => network.cut(from, to),
            Fault::CutBoth { .. } => {
                network.cut(A, B);
                network.cut(B, A);
            }
            Fault::Reset => self.env.reset_pair(),
            Fault::Isolate { host, .. } => network.isolate(host),
            Fault::CutArbiter { host } => network.cut_arbiter(host),
            Fault::ArbiterDown => self.env.arbiter.lose_majority(),
            Fault::Stop => self.wish(Wish::Stop),
            Fault::HandOver => self.wish(Wish::HandOver),
            Fault::PowerButton => {
                if let Some(speaker) = self.speaker() {
                    self.on(speaker, |node, env| node.command(env, Control::PowerButton));
                }
            }
            Fault::GuestPowerOff => self.env.ask_for_power_off(),
            Fault::SecondRun => self.nodes[C.0] = Some(Node::run(&mut self.env, C, true)),
        }
        match fault {
            Fault::Pause { host } | Fault::Hang { host } | Fault::Isolate { host, .. } => {
                if let (None, Some(process)) = (until, self.running_on(host)) {
                    self.failed(host, process);
                }
            }
            Fault::Corrupt { .. } => self.excused |= !self.is_able(A) && !self.is_able(B),
            _ => {}
        }
    }

    fn repair(&mut self, fault: Fault, struck: Option<ProcessId>) {
        self.env.note(|| format!("!!! over: {fault:?}"));
        match fault {
            Fault::Pause { .. } => {
                let record = self
                    .env
                    .guest
                    .and_then(|life| self.env.arbiter.record(life));
                let winner = record.and_then(|record| record.winner);
                self.release(struck, |node, env| {
                    if winner.is_some_and(|winner| winner.0 != node.incarnation.0) {
                        env.met(Situation::WokeAsLoser);
                    }
                    node.resume(env);
                });
            }
            Fault::Hang { .. } => self.release(struck, |node, env| node.unhang(env)),
            Fault::SlowNode { .. } => self.release(struck, |node, _| node.slow -= 1),
            Fault::SlowReplay { .. } => self.release(struck, |node, _| node.replay_slow -= 1),
            Fault::Cut { from, to, reset } => self.env.mend(from, to, reset),
            Fault::CutBoth { reset } => {
                self.env.mend(A, B, reset);
                self.env.mend(B, A, reset);
            }
            Fault::Isolate { host, reset } => self.env.rejoin(host, reset),
            Fault::CutArbiter { host } => self.env.network.mend_arbiter(host),
            Fault::ArbiterDown => self.env.arbiter.regain_majority(),
            Fault::Kill { .. }
            | Fault::Restart { .. }
            | Fault::Corrupt { .. }
            | Fault::Reset
            | Fault::Stop
            | Fault::HandOver
            | Fault::PowerButton
            | Fault::GuestPowerOff
            | Fault::SecondRun => {}
        }
    }

    fn kill(&mut self, host: Host, death: Death) {
        let Some(process) = self.running_on(host) else {
            return;
        };
        match death {
            Death::AmidEffects(effects) => {
                self.on(process, |node, _| node.dies_after = Some(effects));
            }
            Death::Process => self.on(process, |node, _| node.standing = Standing::Dead),
            Death::Host => {
                self.dark[host.0] = true;
                self.env.checks.is_over(process);
                self.nodes[host.0] = None;
                self.failed(host, process);
            }
        }
    }

    fn restart(&mut self, host: Host, role: Role) {
        if self.node(host).is_some() {
            return;
        }
        self.dark[host.0] = false;
        let node = match role {
            Role::Backup => Node::backup(&mut self.env, host),
            Role::Alone => Node::run(&mut self.env, host, true),
        };
        self.nodes[host.0] = Some(node);
    }

    /// Who an operator reaches: the node that says it runs the guest.
    fn speaker(&self) -> Option<ProcessId> {
        let speaks = |host: &&Host| {
            let state = self.node(**host).map(Node::state);
            matches!(
                state,
                Some(State::Primary(
                    PrimaryState::Protected | PrimaryState::Alone
                ))
            )
        };
        [A, B]
            .iter()
            .find(speaks)
            .and_then(|host| self.running_on(*host))
    }

    fn wish(&mut self, wish: Wish) {
        if let Some(speaker) = self.speaker() {
            self.on(speaker, |node, env| node.news(env, News::Wish(wish)));
        }
    }

    // ---- the end -------------------------------------------------------------------------------

    /// LIVE-1, and that nothing hangs between two states.
    fn live_1_the_vm_serves_at_the_end(&mut self) {
        for host in [A, B, C] {
            if let Some(node) = self.node(host)
                && node.standing == Standing::Up
                && !self.lost[host.0]
                && !self.env.network.is_isolated(host)
            {
                let settled = matches!(
                    node.state(),
                    State::Primary(
                        PrimaryState::Waiting | PrimaryState::Protected | PrimaryState::Alone
                    ) | State::Backup(BackupState::Joining | BackupState::Following)
                );
                must!(settled, "LIVE-1", "{host:?} hangs in {:?}", node.state());
            }
        }
        let whole = [A, B].iter().all(|host| {
            let node = self.node(*host);
            node.is_some_and(|node| {
                !self.lost[host.0]
                    && !node.corrupt
                    && (node.standing == Standing::Up || node.turned_away)
            })
        });
        let able = self.is_able(A) || self.is_able(B);
        let linked = self.env.network.reaches(A, B) && self.env.network.reaches(B, A);
        let excused = self.excused || self.a_claimant_failed();
        let begun = self.env.arbiter.has_begun(self.env.guest);
        let promised = self.env.plan.survivable && begun && !excused;
        let could_begin = whole && linked && self.env.arbiter.knows_no_other(self.env.guest);
        if self.env.arbiter.has_stopped(self.env.guest) || !(able || could_begin || promised) {
            return;
        }
        for (id, client) in self.env.clients.iter().enumerate() {
            let (asked_at, answered_at) = client.served;
            must!(
                asked_at >= self.env.plan.calm_at && answered_at >= self.env.plan.serving_by,
                "LIVE-1",
                "client {id} was last served at {} ms",
                answered_at / MS
            );
        }
        for host in [A, B] {
            if let Some(node) = self.node(host)
                && matches!(
                    node.state(),
                    State::Primary(PrimaryState::Alone | PrimaryState::Protected)
                )
                && node.life() == self.env.guest
            {
                let (process, waiting) = (node.process, node.waiting_outputs());
                self.env.checks.nothing_is_missing(process, waiting);
            }
        }
    }
}
