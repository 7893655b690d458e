//! The node's loop: what happens goes into the protocol, what the protocol asks is done.
//!
//! The loop never waits for a peer, a disk or the arbiter. Before it looks at the time it takes
//! what has arrived (FAIL-1): the branches of its `select!` are tried in order, and time is last.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ft_logging::initial::{Configuration, InitialState};
use ft_logging::message::{Hello, Message, Rejection, Signal};
use ft_logging::protocol::{
    Answer, Backup, BackupState, Effect, Finish, Halt, Limits, Now, Primary, PrimaryState, Probe,
    RequestId, Timing, Wish,
};
use ft_logging::types::{Generation, Incarnation, Life, Token};
use test_and_set::ClientConfig;
use test_and_set::types::{Member, VmName};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::arbiter::{Arbiter, Asker};
use super::console::ConsoleHub;
use super::control::ControlSocket;
use super::disk::{DiskImage, DiskRole, Stamp};
use super::failpoint::{Failpoint, Fuse};
use super::peer::{self, Peer, PeerError};
use super::recorder::{LogConfig, Recorder};
use super::setup::{
    accept, configuration, create_recorder, member, open_world, random, rtc_epoch_s, spawn_vcpu,
};
use super::status::Stats;
use super::vcpu::{FromVcpu, Start, Vcpu};
use super::world::World;
use super::{ConsoleSink, ControlRequest, ControlResponse, Event, NetLink, NodeState};
use crate::cpu::Backend;
use crate::determinism::{Order, Report};
use crate::machine::{BootImages, Stop};

/// Events that wait for the loop.
const EVENTS: usize = 1024;

/// How long to wait before the primary is dialled again.
const REDIAL: Duration = Duration::from_millis(50);

/// How long to wait before a port that accepts is probed once more, at first; then twice as long.
const PROBE_PAUSE: Duration = Duration::from_millis(2);

/// How many events that are at hand are handled before what they ask to send is written: each write
/// is a system call here and a wake-up there.
const BURST: usize = 32;

/// How many warnings `ftvm status` shows.
const KEPT_WARNINGS: usize = 20;

/// Which role a node starts in.
#[derive(Clone, Debug)]
pub enum RoleConfig {
    /// Runs the guest.
    Primary {
        /// Without waiting for a backup.
        alone: bool,
    },
    /// Replays the guest of this primary.
    Backup {
        /// Where it listens.
        primary: SocketAddr,
    },
}

/// Everything that a node is told.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// The VM's name.
    pub vm: VmName,
    /// This node's name for people.
    pub node: String,
    /// Its role.
    pub role: RoleConfig,
    /// What the guest boots.
    pub images: BootImages,
    /// The CPU that runs it.
    pub cpu: Backend,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// The network device's address.
    pub mac: [u8; 6],
    /// The guest's disk, if it has one.
    pub disk: Option<Arc<DiskImage>>,
    /// The arbiter.
    pub arbiter: ClientConfig,
    /// Where the peer connects to, or probes.
    pub listen: SocketAddr,
    /// The guest's network.
    pub net: NetLink,
    /// The guest's console.
    pub console: ConsoleSink,
    /// The protocol's times.
    pub timing: Timing,
    /// Where to write the log, and how large and old it may become.
    pub log: Option<LogConfig>,
    /// The control socket.
    pub control: PathBuf,
    /// Where the node dies, in tests.
    pub fuse: Fuse,
}

/// What a node tells whoever started it, as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The peer can connect.
    Listening(SocketAddr),
    /// The state has changed.
    State(NodeState, String),
    /// The generation is this node's.
    Live(Token),
    /// Something that a person should know.
    Warning(String),
}

/// How a node's part has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The VM was stopped in order.
    Stopped,
    /// The other node goes on.
    HandedOver,
    /// The primary went away before the guest ever ran.
    NeverStarted,
    /// The operator asked this node to leave.
    Left,
    /// The node halted.
    Halted(Halt),
}

pub(super) enum Role {
    Primary(Box<Primary>),
    Backup(Box<Backup>),
}

/// A node.
pub struct Node {
    pub(super) config: NodeConfig,
    pub(super) started: Instant,
    pub(super) me: Incarnation,
    pub(super) configuration: Configuration,
    pub(super) life: Option<Life>,
    pub(super) role: Role,
    pub(super) peer: Option<Peer>,
    /// The peer as the arbiter and people know it.
    pub(super) peer_member: Option<Member>,
    pub(super) peer_probe: Option<SocketAddr>,
    pub(super) dialling: bool,
    pub(super) listen: SocketAddr,
    pub(super) vcpu: Option<Vcpu>,
    pub(super) reports: Option<mpsc::Receiver<FromVcpu>>,
    pub(super) world: Option<World>,
    pub(super) recorder: Option<Recorder>,
    pub(super) arbiter: Arbiter,
    /// Those who are attached to the guest's console.
    pub(super) readers: ConsoleHub,
    pub(super) _control: ControlSocket,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) inbox: mpsc::Receiver<Event>,
    pub(super) notices: mpsc::UnboundedSender<Notice>,
    pub(super) requests: BTreeMap<RequestId, oneshot::Sender<ControlResponse>>,
    pub(super) last_request: u64,
    pub(super) enders: Vec<oneshot::Sender<ControlResponse>>,
    pub(super) end: Option<End>,
    /// What the disk says of whose it is, or is about to say.
    stamped: Option<Stamp>,
    stamping: Option<JoinHandle<()>>,
    pub(super) stats: Stats,
}

impl Node {
    /// Prepares a node: nothing runs yet, everything that can fail has been tried.
    ///
    /// # Errors
    ///
    /// With what to do about it.
    pub async fn start(
        config: NodeConfig,
        notices: mpsc::UnboundedSender<Notice>,
    ) -> anyhow::Result<Self> {
        let configuration = configuration(&config)?;
        let listener = peer::bind(config.listen)?;
        let listen = listener.local_addr()?;
        let (events, inbox) = mpsc::channel(EVENTS);
        let readers = ConsoleHub::default();
        let control = ControlSocket::bind(&config.control, events.clone(), readers.clone()).await?;
        let me = Incarnation(random()?);
        anyhow::ensure!(
            member(me, &config.node, &listen.to_string()).is_some(),
            "{:?} is no name for a node: use 1 to 64 characters that can be printed",
            config.node
        );
        let started = Instant::now();
        let now = Now(0);
        let arbiter = Arbiter::start(config.arbiter.clone(), events.clone(), config.fuse.clone());
        let mut life = None;
        let (mut vcpu, mut reports, mut world, mut recorder) = (None, None, None, None);
        let mut peer_probe = None;
        let role = match &config.role {
            RoleConfig::Primary { alone } => {
                let initial = InitialState {
                    life: Life(random()?),
                    configuration: configuration.clone(),
                    rtc_epoch_s: rtc_epoch_s(),
                    seed: random()?,
                };
                life = Some(initial.life);
                recorder = create_recorder(&config, &initial, &events)?;
                let (thread, from_thread) = spawn_vcpu(&config, Start::Live, &initial);
                world =
                    Some(open_world(&config, me, initial.life, &thread, &readers, &events).await?);
                (vcpu, reports) = (Some(thread), Some(from_thread));
                let mut primary = Primary::new(
                    now,
                    me,
                    config.node.clone(),
                    initial,
                    config.timing,
                    Limits::default(),
                );
                if *alone {
                    primary.start_alone(now);
                }
                Role::Primary(Box::new(primary))
            }
            RoleConfig::Backup { primary } => {
                peer_probe = Some(*primary);
                Role::Backup(Box::new(Backup::new(
                    now,
                    me,
                    config.node.clone(),
                    listen.to_string(),
                    configuration.clone(),
                    config.timing,
                    Limits::default(),
                )))
            }
        };
        tokio::spawn(accept(listener, events.clone()));
        let _ = notices.send(Notice::Listening(listen));
        Ok(Node {
            config,
            started,
            me,
            configuration,
            life,
            role,
            peer: None,
            peer_member: None,
            peer_probe,
            dialling: false,
            listen,
            vcpu,
            reports,
            world,
            recorder,
            arbiter,
            readers,
            _control: control,
            events,
            inbox,
            notices,
            requests: BTreeMap::new(),
            last_request: 0,
            enders: Vec::new(),
            end: None,
            stamped: None,
            stamping: None,
            stats: Stats::new(started),
        })
    }

    pub(super) fn now(&self) -> Now {
        Now(self.started.elapsed().as_nanos() as u64)
    }

    /// Runs the node to its end.
    ///
    /// # Errors
    ///
    /// If this host fails it.
    pub async fn run(mut self) -> anyhow::Result<End> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tick = interval(Duration::from_nanos(self.config.timing.tick_ns));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut burst = 0;
        loop {
            self.pump().await?;
            burst += 1;
            if self.end.is_none() && burst < BURST && self.handle_ready()? {
                continue;
            }
            burst = 0;
            if self.flush_peer() {
                continue;
            }
            if let Some(end) = self.end.take() {
                match self.finish(end).await? {
                    Some(end) => return Ok(end),
                    None => continue,
                }
            }
            let wants_reports = self.wants_reports();
            tokio::select! {
                biased;
                message = next_message(&mut self.peer) => self.handle_message(message),
                Some(report) = next_report(&mut self.reports), if wants_reports => {
                    self.handle_report(report)?;
                }
                Some(event) = self.inbox.recv() => self.handle_event(event),
                _ = terminate.recv() => self.handle_signal(Wish::HandOver),
                _ = interrupt.recv() => self.handle_signal(Wish::Stop),
                _ = tick.tick() => self.handle_tick(),
            }
        }
    }

    fn wants_reports(&self) -> bool {
        match &self.role {
            Role::Primary(primary) => primary.wants_records(),
            Role::Backup(_) => true,
        }
    }

    // ---- what happens --------------------------------------------------------------------------

    /// Handles a message, report or event that is at hand; whether there was one.
    fn handle_ready(&mut self) -> anyhow::Result<bool> {
        if let Some(message) = self.peer.as_mut().and_then(Peer::ready) {
            self.handle_message(message);
            return Ok(true);
        }
        if self.wants_reports()
            && let Some(reports) = &mut self.reports
            && let Ok(report) = reports.try_recv()
        {
            self.handle_report(report)?;
            return Ok(true);
        }
        if let Ok(event) = self.inbox.try_recv() {
            self.handle_event(event);
            return Ok(true);
        }
        Ok(false)
    }

    fn handle_tick(&mut self) {
        let now = self.now();
        let alive = self.vcpu.as_mut().is_none_or(Vcpu::check_alive);
        match &mut self.role {
            Role::Primary(primary) => primary.handle_tick(now, alive),
            Role::Backup(backup) => backup.handle_tick(now, alive),
        }
        self.dial();
    }

    fn dial(&mut self) {
        let Role::Backup(backup) = &self.role else {
            return;
        };
        let Some(address) = self.peer_probe else {
            return;
        };
        if self.dialling || self.peer.is_some() || !backup.wants_channel() {
            return;
        }
        self.dialling = true;
        let events = self.events.clone();
        tokio::spawn(async move {
            let stream = TcpStream::connect(address).await;
            if stream.is_err() {
                sleep(REDIAL).await;
            }
            let _ = events.send(Event::Dialled(stream)).await;
        });
    }

    fn handle_message(&mut self, message: Result<(Token, Message), PeerError>) {
        let now = self.now();
        match message {
            Ok((token, message)) => {
                if matches!(message, Message::Signal(Signal::Heartbeat { .. })) {
                    self.heard_heartbeat();
                }
                match &mut self.role {
                    Role::Primary(primary) => primary.handle_message(now, token, message),
                    Role::Backup(backup) => backup.handle_message(now, token, message),
                }
            }
            Err(error) => {
                if !matches!(error, PeerError::Closed) {
                    self.warn(error.to_string());
                }
                self.lose_peer(now);
            }
        }
    }

    fn lose_peer(&mut self, now: Now) {
        self.peer = None;
        self.stats.heard = None;
        match &mut self.role {
            Role::Primary(primary) => primary.handle_channel_closed(now),
            Role::Backup(backup) => backup.handle_channel_closed(now),
        }
        self.dial();
    }

    fn heard_heartbeat(&mut self) {
        let heard = Instant::now();
        if let Some(before) = self.stats.heard.replace(heard) {
            self.stats.gaps.record((heard - before).as_nanos() as u64);
        }
    }

    fn handle_report(&mut self, report: FromVcpu) -> anyhow::Result<()> {
        let now = self.now();
        match (&mut self.role, report) {
            (Role::Primary(primary), FromVcpu::Built(digest)) => primary.handle_built(now, digest),
            (Role::Backup(backup), FromVcpu::Built(digest)) => backup.handle_built(now, digest),
            (_, FromVcpu::NotBuilt(why)) => anyhow::bail!("{why}"),
            (Role::Primary(primary), FromVcpu::Report(Report::Records(records))) => {
                primary.handle_records(now, records);
            }
            (Role::Backup(backup), FromVcpu::Report(Report::Replayed { through, outputs })) => {
                backup.handle_replayed(now, through, outputs);
            }
            (Role::Primary(_), FromVcpu::Report(Report::Replayed { outputs, .. })) => {
                assert!(
                    outputs.is_empty(),
                    "OUT-4: replayed outputs after going live"
                );
            }
            (Role::Backup(_), FromVcpu::Report(Report::Records(_))) => {
                panic!("FAIL-2: the machine went live before the node did");
            }
            (Role::Primary(primary), FromVcpu::Ended(stop)) => match stop {
                Stop::Off(_) => {
                    primary.handle_wish(now, Wish::Stop);
                    primary.handle_quiesced(now);
                }
                Stop::Requested | Stop::EndOfLog => primary.handle_quiesced(now),
                failed => primary.handle_machine_failed(failed.to_string()),
            },
            (Role::Backup(backup), FromVcpu::Ended(stop)) => match stop {
                Stop::Diverged { at, what } => backup.handle_diverged(at, what),
                Stop::Requested => {}
                failed => backup.handle_machine_failed(failed.to_string()),
            },
        }
        Ok(())
    }

    fn handle_event(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Hello(greeting) => self.handle_hello(now, *greeting),
            Event::Dialled(Ok(stream)) => {
                self.dialling = false;
                if let (Role::Backup(backup), Ok(peer)) = (&mut self.role, Peer::new(stream)) {
                    self.peer = Some(peer);
                    backup.handle_channel_opened(now);
                }
            }
            Event::Dialled(Err(_)) => {
                self.dialling = false;
                self.dial();
            }
            Event::Probed(probe) => match &mut self.role {
                Role::Primary(primary) => primary.handle_probe(now, probe),
                Role::Backup(backup) => backup.handle_probe(now, probe),
            },
            Event::Answer(answer) => self.handle_answer(now, answer),
            Event::Released(seq) => {
                if let Role::Primary(primary) = &mut self.role {
                    primary.handle_released(now, seq);
                }
            }
            Event::Fenced(highest) => {
                self.warn(format!(
                    "the gateway has heard token {highest}: this node is stale"
                ));
            }
            Event::Warning(warning) => self.warn(warning),
            Event::Typed(bytes) => {
                if let (Role::Primary(_), Some(vcpu)) = (&self.role, &self.vcpu) {
                    vcpu.order(Order::Console(bytes));
                }
            }
            Event::Control(request, answer) => self.handle_control(now, request, answer),
        }
    }

    fn handle_hello(&mut self, now: Now, (mut peer, hello): (Peer, Hello)) {
        let welcome = match &mut self.role {
            Role::Primary(primary) => primary.handle_hello(now, &hello),
            Role::Backup(_) => Err(Rejection::Busy(
                "is a backup itself; let --primary name the address where the primary listens"
                    .to_owned(),
            )),
        };
        match welcome {
            Ok(()) => {
                self.peer_probe = hello
                    .probe
                    .parse()
                    .ok()
                    .filter(|at: &SocketAddr| at.ip().is_loopback());
                self.peer_member = member(hello.incarnation, &hello.node, &hello.probe);
                self.peer = Some(peer);
            }
            Err(rejection) => {
                self.warn(format!("{} was turned away: {rejection}", peer.address()));
                let token = self.token();
                peer.queue(token, &Signal::Rejected(rejection).into());
                let _ = peer.flush();
            }
        }
    }

    fn handle_answer(&mut self, now: Now, answer: Answer) {
        let reached = !matches!(answer, Answer::Unknown(_));
        if self.stats.arbiter_reached != Some(reached)
            && let Answer::Unknown(why) = &answer
        {
            self.warn(format!("the arbiter does not answer, holding: {why}"));
        }
        self.stats.arbiter_reached = Some(reached);
        if let (Some(asked), Answer::Won) = (self.stats.asked, &answer) {
            self.stats.claim = Some(asked.elapsed());
        }
        match &mut self.role {
            Role::Primary(primary) => primary.handle_answer(now, answer),
            Role::Backup(backup) => backup.handle_answer(now, answer),
        }
        // A primary that goes on alone has won without a word to its machine.
        if self.token().won {
            self.stamp_disk();
        }
    }

    /// ONE-3: the disk says whose it is, soon. The loop does not wait for it: a crash before it is
    /// written leaves a stamp that says less.
    fn stamp_disk(&mut self) {
        let (Some(disk), Some(stamp)) = (self.config.disk.clone(), self.disk_stamp()) else {
            return;
        };
        if self.stamped.as_ref() == Some(&stamp) {
            return;
        }
        self.stamped = Some(stamp.clone());
        let events = self.events.clone();
        let before = self.stamping.take();
        self.stamping = Some(tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let stamped = tokio::task::spawn_blocking(move || disk.stamp(stamp)).await;
            if let Ok(Err(error)) = stamped {
                let _ = events.send(Event::Warning(error.to_string())).await;
            }
        }));
    }

    fn started_alone(&self) -> bool {
        matches!(self.config.role, RoleConfig::Primary { alone: true })
    }

    fn disk_stamp(&self) -> Option<Stamp> {
        let first = self.token().generation <= Generation(1);
        let role = match &self.role {
            Role::Primary(_) if first && self.started_alone() => DiskRole::Alone,
            Role::Primary(_) => DiskRole::Primary,
            Role::Backup(_) => DiskRole::Backup,
        };
        Some(Stamp::running(self.life?, self.token(), role))
    }

    /// FAIL-10: Ctrl-C ends the VM, SIGTERM hands it over; a backup just leaves.
    fn handle_signal(&mut self, wish: Wish) {
        let now = self.now();
        match &mut self.role {
            Role::Backup(_) => self.end = Some(End::Left),
            Role::Primary(primary) => match (primary.state(), wish) {
                (
                    PrimaryState::Waiting
                    | PrimaryState::Greeting
                    | PrimaryState::Opening
                    | PrimaryState::Ended,
                    _,
                ) => self.end = Some(End::Left),
                (PrimaryState::Protected, Wish::HandOver) => self.wish(now, Wish::HandOver),
                _ => self.wish(now, Wish::Stop),
            },
        }
    }

    fn wish(&mut self, now: Now, wish: Wish) {
        if let (Role::Primary(primary), Some(vcpu)) = (&mut self.role, &self.vcpu) {
            primary.handle_wish(now, wish);
            vcpu.stop();
        }
    }

    fn handle_control(
        &mut self,
        now: Now,
        request: ControlRequest,
        answer: oneshot::Sender<ControlResponse>,
    ) {
        if request == ControlRequest::Status {
            let _ = answer.send(ControlResponse::Status(Box::new(self.status())));
            return;
        }
        let refuse = |answer: oneshot::Sender<_>, why: &str| {
            let _ = answer.send(ControlResponse::Refused {
                why: why.to_owned(),
            });
        };
        let (Role::Primary(primary), Some(vcpu)) = (&mut self.role, &self.vcpu) else {
            return refuse(answer, "this node is the backup: ask the primary");
        };
        let state = primary.state();
        if state == PrimaryState::Ended {
            return refuse(answer, "this node has halted and speaks for nobody");
        }
        match request {
            ControlRequest::Machine { command } => {
                self.last_request += 1;
                let id = RequestId(self.last_request);
                self.requests.insert(id, answer);
                vcpu.order(Order::Control(command.into(), Some(id)));
            }
            ControlRequest::Console { text } => {
                vcpu.order(Order::Console(text.into_bytes()));
                let _ = answer.send(ControlResponse::Done);
            }
            ControlRequest::Attach => {
                let _ = answer.send(ControlResponse::Done);
            }
            ControlRequest::Stop => {
                self.enders.push(answer);
                self.wish(now, Wish::Stop);
            }
            ControlRequest::Failover if state != PrimaryState::Protected => {
                refuse(answer, "there is no backup in step to take over");
            }
            ControlRequest::Failover => {
                self.enders.push(answer);
                self.wish(now, Wish::HandOver);
            }
            ControlRequest::Recover => refuse(answer, "this node goes on already"),
            ControlRequest::Status => unreachable!("answered above"),
        }
    }

    // ---- what is to be done --------------------------------------------------------------------

    /// Carries out everything that the protocol asks by now.
    async fn pump(&mut self) -> anyhow::Result<()> {
        loop {
            let now = self.now();
            let effect = match &mut self.role {
                Role::Primary(primary) => primary.poll(),
                Role::Backup(backup) => backup.poll(now),
            };
            match effect {
                Some(effect) => self.perform(effect).await?,
                None if self.go_live(now) => {}
                None => break,
            }
        }
        self.note_state();
        Ok(())
    }

    /// Writes what was asked to be sent; whether the channel broke over it.
    fn flush_peer(&mut self) -> bool {
        let broke = self.peer.as_mut().is_some_and(|peer| peer.flush().is_err());
        if broke {
            let now = self.now();
            self.lose_peer(now);
        }
        broke
    }

    /// A backup that has won becomes a primary.
    fn go_live(&mut self, now: Now) -> bool {
        match &self.role {
            Role::Backup(backup) if backup.state() == BackupState::Won => {
                let primary = backup.as_ref().clone().into_primary(now);
                self.role = Role::Primary(Box::new(primary));
                true
            }
            _ => false,
        }
    }

    async fn perform(&mut self, effect: Effect) -> anyhow::Result<()> {
        match effect {
            Effect::Send(message) => {
                let token = self.token();
                if let Some(peer) = &mut self.peer {
                    let before = peer.backlog();
                    peer.queue(token, &message);
                    self.stats.log_bytes += (peer.backlog() - before) as u64;
                }
            }
            Effect::CloseChannel => {
                if let Some(mut peer) = self.peer.take() {
                    let _ = peer.flush();
                }
                self.stats.heard = None;
            }
            Effect::Probe => self.probe(),
            Effect::Ask(question) => {
                self.stats.asked = Some(Instant::now());
                let asker = Asker {
                    vm: self.config.vm.clone(),
                    life: self.life.unwrap_or(Life([0; 16])),
                    generation: self.token().generation,
                    me: self.member(),
                    peer: self.peer_member.clone(),
                };
                self.arbiter.ask(asker, question);
            }
            Effect::Build(initial) => {
                self.life = Some(initial.life);
                self.recorder = create_recorder(&self.config, &initial, &self.events)?;
                let (vcpu, reports) = spawn_vcpu(&self.config, Start::Replay, &initial);
                self.world = Some(
                    open_world(
                        &self.config,
                        self.me,
                        initial.life,
                        &vcpu,
                        &self.readers,
                        &self.events,
                    )
                    .await?,
                );
                (self.vcpu, self.reports) = (Some(vcpu), Some(reports));
            }
            Effect::Run => {
                self.stamp_disk();
                // The one time that it is waited for: what the guest is about to write must not
                // stand under the stamp of an earlier life.
                if let Some(stamping) = self.stamping.take() {
                    let _ = stamping.await;
                }
                if let (Some(vcpu), Some(world)) = (&self.vcpu, &self.world) {
                    world.speak(self.token(), false);
                    vcpu.run();
                }
            }
            Effect::Replay(batch) => {
                self.stamp_disk();
                self.stats.log_bytes += batch
                    .iter()
                    .map(|entry| 8 + entry.payload.held_bytes() as u64)
                    .sum::<u64>();
                if let Some(vcpu) = &self.vcpu {
                    vcpu.order(Order::Entries(batch));
                }
            }
            Effect::Append(batch) => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.append(batch);
                }
            }
            Effect::Release { seq, output } => {
                if let Some(world) = &self.world {
                    world.send(seq, output);
                }
            }
            Effect::Answer(request) => {
                if let Some(answer) = self.requests.remove(&request) {
                    let _ = answer.send(ControlResponse::Done);
                }
            }
            Effect::GoLive(token) => {
                self.config.fuse.reach(Failpoint::BeforeLive);
                if let Some(recorder) = &self.recorder {
                    recorder.set_token(token);
                }
                if let (Some(vcpu), Some(world)) = (&self.vcpu, &self.world) {
                    world.speak(token, true);
                    vcpu.order(Order::GoLive);
                }
                self.stamp_disk();
                let _ = self.notices.send(Notice::Live(token));
            }
            Effect::SlowDown(slowed) => {
                if let Some(vcpu) = &self.vcpu {
                    vcpu.set_slowed(slowed);
                }
            }
            Effect::Halt(halt) => self.stand(End::Halted(halt)),
            Effect::Finish(finish) => self.stand(match finish {
                Finish::Stopped => End::Stopped,
                Finish::HandedOver => End::HandedOver,
                Finish::NeverStarted => End::NeverStarted,
            }),
        }
        Ok(())
    }

    /// FAIL-3: nothing more leaves.
    fn stand(&mut self, end: End) {
        if let Some(vcpu) = &self.vcpu {
            vcpu.stop();
        }
        if !matches!(end, End::Stopped) {
            self.world = None;
        }
        self.end = Some(end);
    }

    fn probe(&mut self) {
        let Some(address) = self.peer_probe else {
            return;
        };
        let (events, patience) = (self.events.clone(), self.config.timing.detect_ns / 2);
        tokio::spawn(async move {
            let probe = probe(address, Duration::from_nanos(patience)).await;
            let _ = events.send(Event::Probed(probe)).await;
        });
    }

    /// Closes what is open. `None` if a person gave the VM back to this node.
    async fn finish(&mut self, end: End) -> anyhow::Result<Option<End>> {
        // What was released is written before the process ends.
        if let (Some(world), End::Stopped) = (self.world.take(), &end) {
            world.close().await;
        }
        self.recorder = None; // closes the log
        self.readers.close();
        if let Some(stamping) = self.stamping.take() {
            let _ = stamping.await;
        }
        if let (End::Stopped, Role::Primary(_), Some(disk), Some(_), Some(stamp)) = (
            &end,
            &self.role,
            &self.config.disk,
            &self.stamped,
            self.disk_stamp(),
        ) && let Err(error) = disk.stamp(stamp.stopped())
        {
            self.warn(error.to_string());
        }
        self.note_state();
        for answer in std::mem::take(&mut self.enders) {
            let response = match &end {
                End::Halted(halt) => ControlResponse::Refused {
                    why: halt.to_string(),
                },
                _ => ControlResponse::Done,
            };
            let _ = answer.send(response);
        }
        if let End::Halted(Halt::Lost { .. }) = &end {
            self.warn(format!("halted, its state kept: {}", end_text(&end)));
            if let Some(token) = self.rest().await {
                self.recover(token).await?;
                return Ok(None);
            }
        }
        // The control task writes the answers.
        tokio::task::yield_now().await;
        Ok(Some(end))
    }

    /// Goes on after all, alone, with a generation of its own.
    async fn recover(&mut self, token: Token) -> anyhow::Result<()> {
        let now = self.now();
        if let (Some(vcpu), Some(life)) = (&self.vcpu, self.life) {
            self.world = Some(
                open_world(
                    &self.config,
                    self.me,
                    life,
                    vcpu,
                    &self.readers,
                    &self.events,
                )
                .await?,
            );
            vcpu.run();
        }
        match &mut self.role {
            Role::Primary(primary) => primary.recover(now, token),
            Role::Backup(backup) => backup.recover(token),
        }
        Ok(())
    }

    /// This node as the arbiter knows it.
    pub(super) fn member(&self) -> Member {
        member(self.me, &self.config.node, &self.listen.to_string())
            .expect("this node's own name was checked")
    }

    pub(super) fn token(&self) -> Token {
        match &self.role {
            Role::Primary(primary) => primary.token(),
            Role::Backup(backup) => backup.token(),
        }
    }

    fn warn(&mut self, warning: String) {
        if self.stats.warnings.len() == KEPT_WARNINGS {
            self.stats.warnings.remove(0);
        }
        self.stats.warnings.push(warning.clone());
        let _ = self.notices.send(Notice::Warning(warning));
    }
}

/// FAIL-1: finds out whether anybody listens at `address`. A process that is being killed closes its
/// sockets one by one, so that the port may outlive the channel by a moment: whoever accepts is
/// asked again while there is patience.
async fn probe(address: SocketAddr, patience: Duration) -> Probe {
    let deadline = Instant::now() + patience;
    let mut pause = PROBE_PAUSE;
    loop {
        match timeout_at(deadline, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Probe::Refused;
            }
            Ok(Err(_)) | Err(_) => return Probe::NoAnswer,
            Ok(Ok(_)) if Instant::now() + pause >= deadline => return Probe::Accepted,
            Ok(Ok(_)) => {}
        }
        sleep(pause).await;
        pause *= 2;
    }
}

async fn next_message(peer: &mut Option<Peer>) -> Result<(Token, Message), PeerError> {
    match peer {
        Some(peer) => peer.next().await,
        None => std::future::pending().await,
    }
}

async fn next_report(reports: &mut Option<mpsc::Receiver<FromVcpu>>) -> Option<FromVcpu> {
    match reports {
        Some(reports) => reports.recv().await,
        None => std::future::pending().await,
    }
}

fn end_text(end: &End) -> String {
    match end {
        End::Halted(halt) => halt.to_string(),
        other => format!("{other:?}"),
    }
}
