//! The node's loop: what happens goes into the protocol, what the protocol asks is done.
//!
//! The loop never waits for a peer, a disk or the arbiter. Before it looks at the time it takes
//! what has arrived (FAIL-1): the branches of its `select!` are tried in order, and time is last.

mod effects;
mod operators;
mod stamping;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use ft_logging::initial::{Configuration, InitialState};
use ft_logging::message::{Hello, Message, Rejection, Signal};
use ft_logging::protocol::{Answer, Backup, Limits, Now, Primary, RequestId, Wish};
use ft_logging::types::{Incarnation, Life, Token};
use test_and_set::types::Member;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::stamping::Stamping;
use super::arbiter::Arbiter;
use super::config::{End, NodeConfig, Notice, RoleConfig};
use super::console::ConsoleHub;
use super::control::ControlSocket;
use super::peer::{self, Peer, PeerError};
use super::recorder::Recorder;
use super::setup::{
    accept, configuration, create_recorder, member, open_world, random, rtc_epoch_s, spawn_vcpu,
};
use super::status::Stats;
use super::vcpu::{FromVcpu, Start, Vcpu};
use super::world::World;
use super::{ControlResponse, Event};
use crate::determinism::{Order, Report};
use crate::machine::Stop;

/// Events that wait for the loop.
const EVENTS: usize = 1024;

/// How long to wait before the primary is dialled again.
const REDIAL: Duration = Duration::from_millis(50);

/// How many events that are at hand are handled before what they ask to send is written: each write
/// is a system call here and a wake-up there.
const BURST: usize = 32;

/// How many warnings `ftvm status` shows.
const KEPT_WARNINGS: usize = 20;

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
    stamping: Stamping,
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
            stamping: Stamping::default(),
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
            (_, FromVcpu::Warning(what)) => self.warn(what),
            (_, FromVcpu::Report(Report::Shutdown(what))) => self.warn(what.to_string()),
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
