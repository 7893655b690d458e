//! The clients' side of the network: a learning switch that fences, and clients that count.

use std::collections::{BTreeSet, VecDeque};

use ft_logging::entry::{Output, OutputDevice};
use ft_logging::types::Token;

use crate::coverage::Situation;
use crate::env::{Env, Event, ProcessId};
use crate::plan::{Host, US};
use crate::toy::{Operation, Reply, Request};

/// What a node sends to the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) host: Host,
    pub(crate) process: ProcessId,
    pub(crate) token: Token,
    /// Nothing in an announcement.
    pub(crate) output: Option<Output>,
}

/// The switch: which port the guest is at, by the highest token seen (FAIL-6).
#[derive(Default)]
pub(crate) struct Gateway {
    port: Option<(Host, ProcessId)>,
    token: Token,
    recent: VecDeque<(u64, Request)>,
}

/// Somebody who increments the counter, and sends again until there is an answer.
pub(crate) struct Client {
    id: u8,
    number: u32,
    waiting: bool,
    /// The only timer of this client that counts.
    timer: u64,
    operation: Operation,
    asked_at: u64,
    /// The highest count that anyone had been told of when the question was first sent.
    floor: u64,
    last_reply: Option<Reply>,
    /// When the last question that was answered was first asked, and when it was answered.
    pub(crate) served: (u64, u64),
}

impl Client {
    pub(crate) fn new(id: usize) -> Self {
        Client {
            id: u8::try_from(id).expect("few clients"),
            number: 0,
            waiting: false,
            timer: 0,
            operation: Operation::Increment,
            asked_at: 0,
            floor: 0,
            last_reply: None,
            served: (0, 0),
        }
    }
}

/// What the clients together know: the counter never repeats a number and never goes back.
#[derive(Debug, Default)]
pub(crate) struct Known {
    counts: BTreeSet<u64>,
    asked: u64,
}

impl Known {
    fn highest(&self) -> u64 {
        self.counts.last().copied().unwrap_or(0)
    }
}

/// How long a client waits before it sends again.
const RETRANSMIT_NS: u64 = 25_000 * US;

impl Env {
    pub(crate) fn send_to_gateway(&mut self, frame: Frame) {
        let delay = self.delay();
        if !self.network.is_isolated(frame.host) {
            self.schedule(delay, Event::ToGateway(frame));
        }
    }

    pub(crate) fn gateway_got(&mut self, frame: &Frame) {
        let Frame { host, process, .. } = *frame;
        if frame.token < self.gateway.token {
            self.note(|| format!("gateway: refuses process {} ({})", process.0, frame.token));
            return self.met(Situation::StaleRefused);
        }
        self.checks
            .fail_6_the_gateway_lets_pass(process, frame.token);
        self.gateway.token = frame.token;
        if self.gateway.port.replace((host, process)) != Some((host, process)) {
            self.note(|| format!("gateway: the guest is at process {}", process.0));
            let oldest = self.now.saturating_sub(self.plan.timing.detect_ns * 2);
            let recent: Vec<_> = self
                .gateway
                .recent
                .iter()
                .filter(|r| r.0 >= oldest)
                .copied()
                .collect();
            for (_, request) in recent {
                self.met(Situation::FramesRepeated);
                self.forward(request);
            }
        }
        if let Some(output) = &frame.output
            && output.device == OutputDevice::Net
        {
            self.schedule(10 * US, Event::ToClient(Reply::parse(&output.bytes)));
        }
    }

    fn forward(&mut self, request: Request) {
        let delay = self.delay();
        if let Some((host, _)) = self.gateway.port
            && !self.network.is_isolated(host)
        {
            self.schedule(delay, Event::ToGuest { host, request });
        }
    }

    /// A client asks, or asks again.
    pub(crate) fn client_turn(&mut self, id: usize, timer: u64) {
        let client = &mut self.clients[id];
        if timer != client.timer {
            return;
        }
        if !client.waiting {
            client.waiting = true;
            client.number += 1;
            client.asked_at = self.now;
            client.floor = self.checks.known.highest();
            self.checks.known.asked += 1;
        }
        let client = &self.clients[id];
        let request = Request {
            client: client.id,
            number: client.number,
            operation: client.operation,
        };
        if self.gateway.recent.len() == 64 {
            self.gateway.recent.pop_front();
        }
        self.gateway.recent.push_back((self.now, request));
        self.forward(request);
        self.set_timer(id, RETRANSMIT_NS);
    }

    fn set_timer(&mut self, id: usize, after_ns: u64) {
        self.clients[id].timer += 1;
        let timer = self.clients[id].timer;
        self.schedule(after_ns, Event::Client { id, timer });
    }

    /// From now on this client asks the guest to switch itself off.
    pub(crate) fn ask_for_power_off(&mut self) {
        self.clients[0].operation = Operation::PowerOff;
    }

    pub(crate) fn client_got(&mut self, reply: Reply) {
        let client = &mut self.clients[usize::from(reply.client)];
        if let Some(last) = client.last_reply.filter(|last| last.number == reply.number) {
            assert_eq!(
                last.count, reply.count,
                "exactly once: the same request counted twice"
            );
            self.met(Situation::AnsweredAgain);
        }
        let client = &mut self.clients[usize::from(reply.client)];
        if !client.waiting || reply.number != client.number {
            return;
        }
        client.waiting = false;
        client.served = (client.asked_at, self.now);
        client.last_reply = Some(reply);
        let (floor, think_ns) = (client.floor, self.plan.think_ns);
        let known = &mut self.checks.known;
        assert!(
            reply.count > floor,
            "lost: count {} after {floor} had been acknowledged",
            reply.count
        );
        assert!(
            known.counts.insert(reply.count),
            "count {} was given to two requests",
            reply.count
        );
        assert!(
            reply.count <= known.asked,
            "doubled: count {} after {} requests",
            reply.count,
            known.asked
        );
        let pause = self.rng.between(think_ns / 2, think_ns * 2);
        self.note(|| {
            format!(
                "client {}: request {} is {}",
                reply.client, reply.number, reply.count
            )
        });
        self.set_timer(usize::from(reply.client), pause);
    }
}
