//! The task that drives a gateway: sockets on one side, the pure switch and stack
//! on the other. `gateway.rs` has the picture.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::time::Sleep;

use super::capture::CaptureFile;
use super::clients::{Clients, MAX_CONNECTIONS};
use super::fence::AttachmentId;
use super::gateway::GatewayConfig;
use super::host::{GUEST_ADDRESS, HOST_ADDRESS, HOST_MAC, HostStack, PREFIX_LEN};
use super::node_port::{HELLO_TIMEOUT, NodePort, Peer, Read};
use super::packet::FrameBuf;
use super::protocol::{DecodeError, Hello, Rejection, ToGateway, ToNode, VERSION, Welcome};
use super::readiness::ReadySet;
use super::stats::{CaptureStats, GatewayStats, MAX_MOVES, PortMove, VmStats, hex};
use super::switch::{
    AttachError, Effect, MAX_ATTACHMENTS, Move, Source, Switch, SwitchConfig, Verdict,
};

/// Connections on the gateway's own port: all nodes, and some who only ask.
const MAX_NODE_PORTS: usize = MAX_ATTACHMENTS + 64;

/// How long a listener rests after it failed (the process has no descriptors left).
const LISTEN_RETRY: Duration = Duration::from_millis(100);

/// The least time between two wakes for a timer that is already due: the stack
/// may name the past while it waits for something else.
const MIN_SLEEP: Duration = Duration::from_millis(1);

/// The socket that was woken.
#[derive(Debug, Clone, Copy)]
enum Key {
    Listener(usize),
    Node(u64),
    Client(u64),
}

/// What connections to a listener are for.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Nodes,
    Forward(SocketAddrV4),
}

struct Listening {
    listener: TcpListener,
    purpose: Purpose,
    waker: Waker,
    /// It rests until then.
    retry_at: Option<Duration>,
    /// It waits for a connection to end.
    full: bool,
}

/// What the driver counts itself; the switch counts the rest.
#[derive(Default)]
struct Counts {
    strangers: u64,
    /// Frames that a node did not take.
    overflowed: u64,
    moves: VecDeque<Move>,
}

pub(super) struct Driver {
    id: [u8; 16],
    welcome: Welcome,
    repeat: bool,
    started: Instant,
    /// The wall clock at `started`; only stamps captures and reports.
    started_unix: Duration,
    ready: Arc<ReadySet<Key>>,
    listeners: Vec<Listening>,
    nodes: BTreeMap<u64, NodePort>,
    /// The node behind each attachment.
    attached: BTreeMap<AttachmentId, u64>,
    clients: Clients,
    next_id: u64,
    switch: Switch,
    capture: Option<CaptureFile>,
    counts: Counts,
}

/// The wall clock, since the Unix epoch.
fn unix_time() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "stamps captures and reports, no guest sees it"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Driver {
    /// A driver of sockets that listen already.
    pub(super) fn new(
        config: &GatewayConfig,
        id: [u8; 16],
        nodes: TcpListener,
        clients: Vec<(TcpListener, SocketAddrV4)>,
        capture: Option<CaptureFile>,
    ) -> Driver {
        let ready = ReadySet::new();
        let forwards = clients
            .into_iter()
            .map(|(socket, guest)| (socket, Purpose::Forward(guest)));
        let listeners = std::iter::once((nodes, Purpose::Nodes))
            .chain(forwards)
            .enumerate();
        let listening = |(at, (listener, purpose))| {
            let waker = ready.waker(Key::Listener(at));
            waker.wake_by_ref();
            Listening {
                listener,
                purpose,
                waker,
                retry_at: None,
                full: false,
            }
        };
        let listeners = listeners.map(listening).collect();
        let seed = id
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let stack = HostStack::new(Duration::ZERO, seed, config.ack_delay);
        Driver {
            id,
            welcome: Welcome {
                gateway: id,
                mac: HOST_MAC,
                address: HOST_ADDRESS,
                prefix_len: PREFIX_LEN,
                guest: config
                    .forwards
                    .first()
                    .map_or(GUEST_ADDRESS, |first| *first.guest.ip()),
            },
            repeat: config.repeat,
            started: Instant::now(),
            started_unix: unix_time(),
            ready,
            listeners,
            nodes: BTreeMap::new(),
            attached: BTreeMap::new(),
            clients: Clients::new(stack, config.connect_timeout),
            next_id: 0,
            switch: Switch::new(SwitchConfig {
                host: HOST_MAC,
                repeat_window: config.repeat.then_some(config.repeat_window),
            }),
            capture,
            counts: Counts::default(),
        }
    }

    /// Serves for ever.
    pub(super) async fn serve(&mut self) -> Infallible {
        let mut timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        let mut keys = Vec::new();
        let turns = poll_fn(|cx| self.poll_turn(cx, timer.as_mut(), &mut keys));
        // A turn is bounded by itself; the runtime's budget would only make a
        // socket look idle in the middle of one.
        tokio::task::unconstrained(turns).await
    }

    /// One turn; never ready.
    fn poll_turn(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        keys: &mut Vec<Key>,
    ) -> Poll<Infallible> {
        self.ready.set_task(cx.waker());
        let now = self.started.elapsed();
        keys.clear();
        self.ready.take(keys);
        for key in keys.drain(..) {
            match key {
                Key::Listener(at) => self.accept(now, at),
                Key::Node(id) => self.read_node(now, id),
                Key::Client(id) => self.clients.woken(id),
            }
        }
        self.handle_timeouts(now);
        self.settle(now);
        self.flush_nodes();

        if let Some(at) = self.poll_timeout(now) {
            let at = (self.started + at.max(now + MIN_SLEEP)).into();
            // A timer that is early costs a turn; moving it at each turn costs more.
            if timer.is_elapsed() || at < timer.deadline() {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }

    fn poll_timeout(&mut self, now: Duration) -> Option<Duration> {
        let greeting = |node: &NodePort| match node.peer {
            Peer::Unknown { until } | Peer::Answered { until } => Some(until),
            Peer::Node(_) => None,
        };
        let nodes = self.nodes.values().filter_map(greeting).min();
        let listeners = self
            .listeners
            .iter()
            .filter_map(|listening| listening.retry_at)
            .min();
        let flush = self.capture.as_ref().and_then(CaptureFile::flush_at);
        let pure = [self.switch.poll_timeout(), self.clients.poll_timeout(now)];
        [nodes, listeners, flush]
            .into_iter()
            .chain(pure)
            .flatten()
            .min()
    }

    fn handle_timeouts(&mut self, now: Duration) {
        self.switch.handle_timeout(now);
        let late = |(id, node): (&u64, &NodePort)| match node.peer {
            Peer::Unknown { until } | Peer::Answered { until } if until <= now => {
                Some((*id, node.peer))
            }
            _ => None,
        };
        let late: Vec<(u64, Peer)> = self.nodes.iter().filter_map(late).collect();
        for (id, peer) in late {
            match peer {
                Peer::Unknown { .. } => self.dismiss(id, "it did not say who it is"),
                Peer::Answered { .. } | Peer::Node(_) => self.close_node(id),
            }
        }
        for listening in &mut self.listeners {
            if listening.retry_at.is_some_and(|at| at <= now) {
                listening.retry_at = None;
                listening.waker.wake_by_ref();
            }
        }
        if let Some(capture) = &mut self.capture
            && capture.flush_at().is_some_and(|at| at <= now)
        {
            capture.flush();
        }
    }

    // --- accepting

    fn accept(&mut self, now: Duration, at: usize) {
        loop {
            let listening = &mut self.listeners[at];
            if listening.retry_at.is_some() {
                return;
            }
            listening.full = match listening.purpose {
                Purpose::Nodes => self.nodes.len() >= MAX_NODE_PORTS,
                Purpose::Forward(_) => self.clients.len() >= MAX_CONNECTIONS,
            };
            if listening.full {
                tracing::warn!("too many connections; new ones wait until one ends");
                return;
            }
            let mut cx = Context::from_waker(&listening.waker);
            match (listening.listener.poll_accept(&mut cx), listening.purpose) {
                (Poll::Pending, _) => return,
                (Poll::Ready(Err(error)), _) => {
                    tracing::warn!(%error, "cannot accept a connection; trying again");
                    listening.retry_at = Some(now + LISTEN_RETRY);
                    return;
                }
                (Poll::Ready(Ok((stream, address))), purpose) => {
                    // Without it small frames would wait for the peer's acknowledgements;
                    // a stream that cannot be set so is closed already.
                    if stream.set_nodelay(true).is_err() {
                        continue;
                    }
                    let id = self.next_id;
                    self.next_id += 1;
                    match purpose {
                        Purpose::Nodes => {
                            let waker = self.ready.waker(Key::Node(id));
                            waker.wake_by_ref();
                            self.nodes
                                .insert(id, NodePort::new(now, stream, address, waker));
                        }
                        Purpose::Forward(guest) => {
                            let waker = self.ready.waker(Key::Client(id));
                            self.clients.open(now, id, stream, waker, guest);
                        }
                    }
                }
            }
        }
    }

    /// A connection ended: listeners that waited for that go on.
    fn resume_listeners(&mut self) {
        for listening in self.listeners.iter().filter(|listening| listening.full) {
            listening.waker.wake_by_ref();
        }
    }

    // --- nodes

    fn read_node(&mut self, now: Duration, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.woken();
        for reads in 0.. {
            let Some(node) = self.nodes.get_mut(&id) else {
                return;
            };
            match node.read(reads) {
                Read::Pending => return,
                Read::Closed => {
                    if let (Peer::Unknown { .. }, true) = (node.peer, node.inbox.is_amid_message())
                    {
                        self.dismiss(id, "it left amid its first message");
                    } else {
                        self.close_node(id);
                    }
                    return;
                }
                Read::Some => {}
            }
            if let Err(error) = self.handle_messages(now, id) {
                if let DecodeError::Version { .. } = error {
                    self.reject(now, id, Rejection::Version { gateway: VERSION });
                } else {
                    self.dismiss(id, &error.to_string());
                }
                return;
            }
        }
    }

    fn handle_messages(&mut self, now: Duration, id: u64) -> Result<(), DecodeError> {
        while let Some(node) = self.nodes.get_mut(&id) {
            let peer = node.peer;
            let Some(message) = node.inbox.next()? else {
                return Ok(());
            };
            match (peer, message) {
                (Peer::Node(who), ToGateway::Frame(frame)) => {
                    let frame = FrameBuf::from(frame);
                    self.handle_frame(now, who, frame);
                }
                (Peer::Node(who), ToGateway::Announce(said)) => {
                    self.switch.handle_announce(now, who, said);
                }
                (Peer::Unknown { .. }, ToGateway::Hello(hello)) => self.attach(now, id, &hello),
                (Peer::Unknown { .. }, ToGateway::Query) => self.answer(now, id),
                (Peer::Answered { .. }, _) => {}
                (Peer::Node(_), ToGateway::Hello(_) | ToGateway::Query)
                | (Peer::Unknown { .. }, ToGateway::Frame(_) | ToGateway::Announce(_)) => {
                    return Err(DecodeError::Magic);
                }
            }
        }
        Ok(())
    }

    fn attach(&mut self, now: Duration, id: u64, hello: &Hello) {
        match self
            .switch
            .handle_attach(hello.life, &hello.name, hello.incarnation)
        {
            Ok(who) => {
                let welcome = self.welcome;
                let Some(node) = self.nodes.get_mut(&id) else {
                    return;
                };
                node.peer = Peer::Node(who);
                let queued = node.send(&ToNode::Welcome(welcome));
                assert!(queued, "the first message always has room");
                let token = hello.announcement.token;
                tracing::info!(vm = hello.name, life = %hello.life, %token, "a node is attached");
                self.attached.insert(who, id);
                self.switch.handle_announce(now, who, hello.announcement);
            }
            Err(AttachError::TooManyLives) => self.reject(now, id, Rejection::TooManyVms),
            Err(AttachError::TooManyAttachments) => self.reject(now, id, Rejection::TooManyNodes),
        }
    }

    fn reject(&mut self, now: Duration, id: u64, why: Rejection) {
        if let Some(node) = self.nodes.get_mut(&id) {
            tracing::warn!(peer = %node.address, reason = %why, "a node is rejected");
        }
        self.send_last(now, id, &ToNode::Rejected(why));
    }

    fn answer(&mut self, now: Duration, id: u64) {
        let json = serde_json::to_vec(&self.stats(now)).expect("plain data has a JSON form");
        self.send_last(now, id, &ToNode::Stats(&json));
    }

    fn send_last(&mut self, now: Duration, id: u64, message: &ToNode<'_>) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let queued = node.send(message);
        assert!(queued, "the first message always has room");
        node.peer = Peer::Answered {
            until: now + HELLO_TIMEOUT,
        };
        if !node.flush() {
            self.close_node(id);
        }
    }

    /// Closes the connection of somebody who is no node.
    fn dismiss(&mut self, id: u64, why: &str) {
        if let Some(node) = self.nodes.get(&id) {
            tracing::warn!(peer = %node.address, reason = why, "a stranger's connection is closed");
            self.counts.strangers += 1;
        }
        self.close_node(id);
    }

    fn close_node(&mut self, id: u64) {
        let Some(node) = self.nodes.remove(&id) else {
            return;
        };
        if let Peer::Node(who) = node.peer {
            tracing::info!(peer = %node.address, "a node is gone");
            self.attached.remove(&who);
            self.switch.handle_detach(who);
        }
        self.resume_listeners();
    }

    fn flush_nodes(&mut self) {
        let gone = |(id, node): (&u64, &mut NodePort)| (!node.flush()).then_some(*id);
        let gone: Vec<u64> = self.nodes.iter_mut().filter_map(gone).collect();
        for id in gone {
            self.close_node(id);
        }
    }

    // --- frames

    fn handle_frame(&mut self, now: Duration, who: AttachmentId, frame: FrameBuf) {
        let captured = self.capture.is_some().then(|| frame.clone());
        let verdict = self
            .switch
            .handle_frame(now, Source::Attachment(who), frame);
        if let (Verdict::Accepted, Some(frame)) = (verdict, captured) {
            self.record(now, &frame);
        }
    }

    fn record(&mut self, now: Duration, frame: &[u8]) {
        if let Some(capture) = &mut self.capture {
            capture.record(now, self.started_unix + now, frame);
        }
    }

    /// Lets frames and bytes flow until nothing moves any more.
    fn settle(&mut self, now: Duration) {
        let before = self.clients.len();
        loop {
            self.perform_effects(now);
            let mut moved = self.clients.poll(now);
            while let Some(frame) = self.clients.poll_frame() {
                self.switch.handle_frame(now, Source::Host, frame);
                moved = true;
            }
            if !moved {
                break;
            }
        }
        if self.clients.len() < before {
            self.resume_listeners();
        }
    }

    fn perform_effects(&mut self, now: Duration) {
        while let Some(effect) = self.switch.poll_effect() {
            match effect {
                Effect::ToHost(frame) => self.clients.handle_frame(frame),
                Effect::ToNode(who, frame) => {
                    if self.send(who, &ToNode::Frame(&frame)) {
                        self.record(now, &frame);
                    } else {
                        self.counts.overflowed += 1;
                    }
                }
                Effect::Refuse(who, highest) => {
                    tracing::warn!(%highest, "a node that may not speak is refused");
                    // A node that takes nothing will find its connection closed.
                    let _ = self.send(who, &ToNode::Refused(highest));
                }
                Effect::Moved(moved) => {
                    let Move {
                        life,
                        token,
                        repeated,
                        held,
                        ..
                    } = moved;
                    tracing::info!(%life, %token, repeated, held, "a guest's port has moved");
                    self.counts.moves.push_back(moved);
                    if self.counts.moves.len() > MAX_MOVES {
                        self.counts.moves.pop_front();
                    }
                }
            }
        }
    }

    /// Queues a message for a node; `false` if it is gone or takes nothing.
    fn send(&mut self, who: AttachmentId, message: &ToNode<'_>) -> bool {
        let node = self
            .attached
            .get(&who)
            .and_then(|id| self.nodes.get_mut(id));
        node.is_some_and(|node| node.send(message))
    }

    // --- reports

    fn stats(&self, now: Duration) -> GatewayStats {
        let counters = self.switch.counters();
        let clients = self.clients.counts();
        let kept_dropped: u64 = self.switch.ports().map(|port| port.kept_dropped).sum();
        let stamped = |moved| PortMove::new(moved, self.started_unix);
        let moves = self.counts.moves.iter().map(stamped);
        GatewayStats {
            gateway: hex(&self.id),
            uptime_ms: now.as_millis() as u64,
            repeat: self.repeat,
            vms: VmStats::of(self.switch.ports()),
            nodes: self.attached.len() as u64,
            frames_from_guests: counters.from_guests,
            frames_to_guests: counters.to_guests,
            frames_refused: counters.refused,
            frames_malformed: counters.malformed,
            frames_repeated: counters.repeated,
            frames_held: counters.held,
            frames_dropped: counters.unheard + self.counts.overflowed + kept_dropped,
            port_moves: moves.collect(),
            connections_open: self.clients.len() as u64,
            connections_opened: clients.opened,
            connections_reset: clients.reset,
            connections_unanswered: clients.unanswered,
            strangers: self.counts.strangers,
            capture: self.capture.as_ref().map(|capture| CaptureStats {
                frames: capture.frames(),
                error: capture.error().map(str::to_owned),
            }),
        }
    }

    /// Completes the capture; the sockets close with the driver.
    pub(super) fn finish(&mut self) -> GatewayStats {
        if let Some(capture) = &mut self.capture {
            capture.flush();
        }
        self.stats(self.started.elapsed())
    }
}
