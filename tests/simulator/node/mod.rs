//! One node: the protocol's object, the machine beside it, and as little as possible between them.
//!
//! The glue obeys the rules that `ft_logging::protocol` sets for every caller: what has arrived is
//! taken before the timers are looked at, effects are carried out in order and all of them before
//! the next event, and each question is answered once.

mod effects;
mod machine;
mod side;

use std::collections::VecDeque;

use ft_logging::entry::{Control, Output};
use ft_logging::initial::{Configuration, CpuIdentity, InitialState, MACHINE_MODEL_VERSION};
use ft_logging::message::{Message, Signal};
use ft_logging::protocol::{Answer, Backup, Brake, Now, Primary, Probe, RequestId, Wish};
use ft_logging::types::{EntryIndex, Incarnation, Life, OutputSeq, Token};

use crate::coverage::Situation;
use crate::env::{Env, Event, ProcessId};
use crate::plan::{Host, MS, US};
use crate::toy::{Live, Replayer, Request, Toy};
use machine::Vcpu;
pub(crate) use side::{Side, State};

/// What a socket has to tell.
#[derive(Debug)]
pub(crate) enum Socket {
    Accepted(usize),
    Connected(usize),
    DialFailed,
    Message {
        connection: usize,
        token: Token,
        message: Message,
        sent_at: u64,
    },
    Closed(usize),
}

/// What else a node hears of.
#[derive(Debug)]
pub(crate) enum News {
    Built,
    Probed(Probe),
    Answered(u64, Answer),
    Written(OutputSeq),
    Replayed(EntryIndex, Vec<(OutputSeq, Output)>),
    Diverged(EntryIndex, String),
    Wish(Wish),
}

/// The machine, and who moves it.
enum Machine {
    Absent,
    Live(Live),
    Replaying(Replayer),
}

/// How a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Up,
    /// Stopped by the protocol, keeping its state (FAIL-3).
    Halted,
    /// Gone in order.
    Finished,
    /// Killed.
    Dead,
}

/// A process on a host.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) process: ProcessId,
    pub(crate) incarnation: Incarnation,
    pub(crate) side: Side,
    pub(crate) standing: Standing,
    /// Whether its guest has run in step or live: it holds what was agreed on.
    pub(crate) is_member: bool,
    pub(crate) corrupt: bool,
    /// Whether its peer refused it.
    pub(crate) turned_away: bool,
    /// Whether it ended because its primary never ran the guest.
    pub(crate) never_started: bool,
    /// The protocol's state after the event before.
    seen: State,
    life: Option<Life>,
    clock_ns: u64,
    last_event: u64,
    heard_at: u64,

    channel: Option<usize>,
    strangers: Vec<usize>,
    dialling: bool,
    sockets: VecDeque<Socket>,
    news: VecDeque<News>,
    tick_due: bool,
    wake_scheduled: bool,
    pub(crate) paused: u32,
    pub(crate) hung: u32,
    pub(crate) slow: u32,
    pub(crate) replay_slow: u32,
    pub(crate) dies_after: Option<u64>,

    machine: Machine,
    vcpu: Vcpu,
    replay_scheduled: bool,
    brake: Brake,
    quiesced: bool,
    /// Outputs on their way to the wire.
    device: VecDeque<(OutputSeq, Output)>,
    asked: u64,
    open_question: Option<u64>,
    requests: u64,
}

fn configuration() -> Configuration {
    Configuration {
        machine_model: MACHINE_MODEL_VERSION,
        vm: "vm".to_owned(),
        guest: "counter".to_owned(),
        image: [1; 32],
        initrd: None,
        memory_mib: 1,
        command_line: String::new(),
        mac: [2, 0, 0, 0, 0, 1],
        disk: None,
        cpu: CpuIdentity {
            backend: "toy".to_owned(),
            model: "toy".to_owned(),
            kind: "toy".to_owned(),
            cpuid: 0,
        },
    }
}

fn machine_of(initial: &InitialState) -> Toy {
    Toy::new(u64::from_le_bytes(
        initial.seed[..8].try_into().expect("8 bytes"),
    ))
}

impl Node {
    /// `ftvm run`: a primary with a life of its own.
    pub(crate) fn run(env: &mut Env, host: Host, alone: bool) -> Self {
        let life = Life(env.rng.bytes());
        let mut seed = [0; 32];
        seed[..16].copy_from_slice(&env.rng.bytes());
        let initial = InitialState {
            life,
            configuration: configuration(),
            rtc_epoch_s: 0,
            seed,
        };
        let toy = machine_of(&initial);
        let mut node = Node::start(env, host, |now, me, env| {
            let (timing, limits) = (env.plan.timing, env.plan.limits);
            let name = "node".to_owned();
            let mut primary = Primary::new(now, me, name, initial, timing, limits);
            primary.handle_built(now, toy.digest());
            if alone {
                primary.start_alone(now);
            }
            Side::Primary(Box::new(primary))
        });
        env.checks.becomes_primary(node.process, life);
        node.life = Some(life);
        node.machine = Machine::Live(Live(toy));
        node.wake_soon(env);
        node
    }

    /// `ftvm backup`.
    pub(crate) fn backup(env: &mut Env, host: Host) -> Self {
        let mut node = Node::start(env, host, |now, me, env| {
            let (timing, limits) = (env.plan.timing, env.plan.limits);
            let (name, probe) = ("node".to_owned(), format!("{host:?}"));
            let backup = Backup::new(now, me, name, probe, configuration(), timing, limits);
            Side::Backup(Box::new(backup))
        });
        node.wake_soon(env);
        node
    }

    fn start(env: &mut Env, host: Host, side: impl FnOnce(Now, Incarnation, &Env) -> Side) -> Self {
        let process = env.next_process();
        let incarnation = Incarnation(env.rng.bytes());
        env.checks.starts(process, incarnation);
        let clock_ns = env.rng.below(1 << 40);
        let now = env.now + clock_ns;
        let side = side(Now(now), incarnation, env);
        let seen = side.state();
        let first_tick = env.rng.below(env.plan.timing.tick_ns);
        env.schedule(first_tick, Event::Tick(process));
        env.note(|| format!("{host:?}: process {} starts", process.0));
        Node {
            host,
            process,
            incarnation,
            side,
            standing: Standing::Up,
            is_member: false,
            corrupt: false,
            turned_away: false,
            never_started: false,
            seen,
            life: None,
            clock_ns,
            last_event: now,
            heard_at: now,
            channel: None,
            strangers: Vec::new(),
            dialling: false,
            sockets: VecDeque::new(),
            news: VecDeque::new(),
            tick_due: false,
            wake_scheduled: false,
            paused: 0,
            hung: 0,
            slow: 0,
            replay_slow: 0,
            dies_after: None,
            machine: Machine::Absent,
            vcpu: Vcpu::default(),
            replay_scheduled: false,
            brake: Brake::OFF,
            quiesced: false,
            device: VecDeque::new(),
            asked: 0,
            open_question: None,
            requests: 0,
        }
    }

    fn now(&self, env: &Env) -> Now {
        Now(env.now + self.clock_ns)
    }

    fn token(&self) -> Token {
        match &self.side {
            Side::Primary(primary) => primary.token(),
            Side::Backup(backup) => backup.token(),
        }
    }

    pub(crate) fn life(&self) -> Option<Life> {
        self.life
    }

    /// Whether the process is there.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.standing, Standing::Up | Standing::Halted)
    }

    /// Whether it takes connections from a backup.
    pub(crate) fn listens(&self) -> bool {
        self.is_running() && matches!(self.side, Side::Primary(_))
    }

    /// How many outputs wait at the gate or for the wire.
    pub(crate) fn waiting_outputs(&self) -> usize {
        let at_the_gate = match &self.side {
            Side::Primary(primary) => primary.gate_fill().0,
            Side::Backup(_) => 0,
        };
        at_the_gate + self.device.len()
    }

    /// What it says of itself.
    pub(crate) fn state(&self) -> State {
        self.side.state()
    }

    // ---- what comes from outside ---------------------------------------------------------------

    pub(crate) fn socket(&mut self, env: &mut Env, socket: Socket) {
        self.sockets.push_back(socket);
        self.wake_soon(env);
    }

    pub(crate) fn news(&mut self, env: &mut Env, news: News) {
        self.news.push_back(news);
        self.wake_soon(env);
    }

    pub(crate) fn tick_is_due(&mut self, env: &mut Env) {
        self.tick_due = true;
        env.schedule(env.plan.timing.tick_ns, Event::Tick(self.process));
        self.wake_soon(env);
    }

    /// A frame from the gateway.
    pub(crate) fn frame(&mut self, env: &mut Env, request: Request) {
        self.vcpu.receive(request);
        self.vcpu_soon(env);
    }

    /// An operator's command to the guest, which is answered once it is protected.
    pub(crate) fn command(&mut self, env: &mut Env, control: Control) {
        self.requests += 1;
        self.vcpu.command(control, RequestId(self.requests));
        self.vcpu_soon(env);
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self, env: &mut Env) {
        self.paused -= 1;
        self.wake_soon(env);
        self.vcpu_soon(env);
        self.replay_soon(env);
        for _ in 0..self.device.len() {
            self.write_one(env);
        }
    }

    /// One output more reaches the wire after a while.
    fn write_one(&self, env: &mut Env) {
        let takes_ns = env.rng.between(US, env.plan.write_ns);
        env.schedule(takes_ns, Event::Written(self.process));
    }

    pub(crate) fn unhang(&mut self, env: &mut Env) {
        self.hung -= 1;
        self.vcpu_soon(env);
        self.replay_soon(env);
    }

    pub(crate) fn corrupt(&mut self) {
        if let Machine::Replaying(replayer) = &mut self.machine {
            replayer.toy.corrupt();
            self.corrupt = true;
        }
    }

    // ---- the protocol's thread -----------------------------------------------------------------

    fn wake_soon(&mut self, env: &mut Env) {
        if self.paused == 0 && !std::mem::replace(&mut self.wake_scheduled, true) {
            let latest = if self.slow > 0 { 15 * MS } else { 40 * US };
            let latency = env.rng.between(US, latest);
            env.schedule(latency, Event::Wake(self.process));
        }
    }

    pub(crate) fn wake(&mut self, env: &mut Env) {
        self.wake_scheduled = false;
        if self.paused > 0 {
            return;
        }
        let now = self.now(env).0;
        if now - self.last_event > env.plan.timing.detect_ns && self.vcpu.is_running() {
            env.checks.was_away(self.process, env.now);
            if matches!(self.side, Side::Primary(_)) {
                env.met(Situation::OwnPause);
            }
        }
        self.last_event = now;
        self.drain_sockets(env);
        self.drain_news(env);
        self.take_records(env);
        if self.is_running() && std::mem::take(&mut self.tick_due) {
            self.tick(env);
        }
        self.dial(env);
    }

    fn drain_sockets(&mut self, env: &mut Env) {
        while self.is_running()
            && let Some(socket) = self.sockets.pop_front()
        {
            self.handle_socket(env, socket);
            self.carry_out(env);
        }
    }

    fn handle_socket(&mut self, env: &mut Env, socket: Socket) {
        let now = self.now(env);
        match (socket, &mut self.side) {
            (Socket::Accepted(connection), _) => self.strangers.push(connection),
            (Socket::Connected(connection), Side::Backup(backup)) => {
                self.dialling = false;
                self.channel = Some(connection);
                self.heard_at = now.0;
                backup.handle_channel_opened(now);
            }
            (Socket::Connected(connection), Side::Primary(_)) => {
                env.close(connection, self.process);
            }
            (Socket::DialFailed, _) => self.dialling = false,
            (Socket::Closed(connection), _) if self.channel != Some(connection) => {
                self.strangers.retain(|stranger| *stranger != connection);
                // Or it was reset before this node learnt that it was connected.
                self.dialling = false;
            }
            (Socket::Closed(_), side) => {
                self.channel = None;
                match side {
                    Side::Primary(primary) => primary.handle_channel_closed(now),
                    Side::Backup(backup) => backup.handle_channel_closed(now),
                }
            }
            (
                Socket::Message {
                    connection,
                    token,
                    message,
                    sent_at,
                },
                _,
            ) => self.handle_message(env, connection, token, message, sent_at),
        }
    }

    fn handle_message(
        &mut self,
        env: &mut Env,
        connection: usize,
        token: Token,
        message: Message,
        sent_at: u64,
    ) {
        let now = self.now(env);
        if self.channel == Some(connection) {
            match &message {
                Message::Signal(Signal::Heartbeat { .. }) => {
                    self.heard_at = now.0;
                    env.checks.hears(self.process, sent_at);
                }
                Message::Signal(Signal::Diverged { .. }) => env.met(Situation::DivergenceHeard),
                _ => {}
            }
            return match &mut self.side {
                Side::Primary(primary) => primary.handle_message(now, token, message),
                Side::Backup(backup) => backup.handle_message(now, token, message),
            };
        }
        let known = self.strangers.len();
        self.strangers.retain(|stranger| *stranger != connection);
        let (true, Side::Primary(primary), Message::Signal(Signal::Hello(hello))) =
            (self.strangers.len() < known, &mut self.side, message)
        else {
            return;
        };
        match primary.handle_hello(now, &hello) {
            Ok(()) => {
                self.heard_at = now.0;
                if let Some(old) = self.channel.replace(connection) {
                    env.close(old, self.process);
                }
            }
            Err(rejection) => {
                env.note(|| format!("process {} refuses: {rejection}", self.process.0));
                if hello.resume.is_some() {
                    env.met(Situation::ResumeRefused);
                }
                let token = self.token();
                env.send(
                    connection,
                    self.process,
                    token,
                    Signal::Rejected(rejection).into(),
                );
                env.close(connection, self.process);
            }
        }
    }

    fn drain_news(&mut self, env: &mut Env) {
        while self.is_running()
            && let Some(news) = self.news.pop_front()
        {
            self.handle_news(env, news);
            self.carry_out(env);
        }
    }

    fn handle_news(&mut self, env: &mut Env, news: News) {
        let now = self.now(env);
        match (news, &mut self.side) {
            (News::Probed(probe), Side::Primary(primary)) => primary.handle_probe(now, probe),
            (News::Probed(probe), Side::Backup(backup)) => backup.handle_probe(now, probe),
            (News::Answered(number, answer), _) => {
                if self.open_question == Some(number) {
                    self.answered(env, answer);
                }
            }
            (News::Written(through), Side::Primary(primary)) => {
                primary.handle_released(now, through);
            }
            (News::Wish(wish), Side::Primary(primary)) if self.vcpu.is_running() => {
                primary.handle_wish(now, wish);
                match wish {
                    Wish::Stop => self.command(env, Control::PowerOff),
                    Wish::HandOver => self.vcpu.park(),
                    Wish::Run => {}
                }
            }
            (News::Built, Side::Backup(backup)) => {
                if let Machine::Replaying(replayer) = &self.machine {
                    backup.handle_built(now, replayer.toy.digest());
                }
            }
            (News::Replayed(through, outputs), Side::Backup(backup)) => {
                backup.handle_replayed(now, through, outputs);
            }
            (News::Diverged(at, what), Side::Backup(backup)) => {
                env.met(Situation::Diverged);
                backup.handle_diverged(at, what);
            }
            (News::Wish(_), _) => {}
            (news, _) => panic!("{news:?} for the wrong side"),
        }
    }

    fn answered(&mut self, env: &mut Env, answer: Answer) {
        self.open_question = None;
        env.note(|| format!("process {} is answered {answer:?}", self.process.0));
        match &answer {
            Answer::Unknown(_) => env.met(Situation::UnknownAnswer),
            Answer::Record(Some(_)) => env.checks.has_read(self.process, true),
            _ => {}
        }
        let now = self.now(env);
        match &mut self.side {
            Side::Primary(primary) => primary.handle_answer(now, answer),
            Side::Backup(backup) => backup.handle_answer(now, answer),
        }
    }

    fn tick(&mut self, env: &mut Env) {
        env.checks.ticks(self.process, self.sockets.len());
        let now = self.now(env);
        // A thread that waits, or has not begun, is alive: only one that hangs is not.
        let vcpu_alive = self.hung == 0;
        let before = self.state();
        match &mut self.side {
            Side::Primary(primary) => primary.handle_tick(now, vcpu_alive),
            Side::Backup(backup) => backup.handle_tick(now, vcpu_alive),
        }
        if !before.suspects() && self.state().suspects() {
            let silent_ns = now.0 - self.heard_at;
            env.checks
                .suspects_by_silence(self.process, silent_ns, env.plan.timing.detect_ns);
        }
        self.carry_out(env);
        if let Side::Primary(primary) = &self.side {
            let lag_ns = primary.lag(now).0;
            if self.standing == Standing::Up {
                env.checks
                    .paces(self.process, lag_ns, env.plan.timing.max_lag_ns, self.brake);
            }
            self.announce(env);
        }
    }

    /// A backup without a channel dials.
    fn dial(&mut self, env: &mut Env) {
        if let Side::Backup(backup) = &self.side
            && backup.wants_channel()
            && self.channel.is_none()
            && self.standing == Standing::Up
            && !std::mem::replace(&mut self.dialling, true)
        {
            let delay = env.delay();
            env.schedule(delay, Event::Dial(self.process));
        }
    }
}
