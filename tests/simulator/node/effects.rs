//! What the protocol wants done, done.

use ft_logging::message::{Message, Signal};
use ft_logging::protocol::{BackupState, Brake, Effect, Finish, Halt, PrimaryState, Question};
use ft_logging::types::{EntryIndex, Token};

use super::{Machine, News, Node, Side, Standing, State, machine_of};
use crate::arbiter::Asked;
use crate::checks::{Seen, must};
use crate::coverage::Situation;
use crate::env::{Env, Event};
use crate::gateway::Frame;
use crate::plan::{MS, US};
use crate::toy::{Live, Replayer};

impl Node {
    /// Carries out all effects, in order, and makes a winner the VM.
    pub(super) fn carry_out(&mut self, env: &mut Env) {
        loop {
            while let Some(effect) = self.next_effect(env) {
                if self.dies_after == Some(0) {
                    env.met(Situation::DiedAmidEffects);
                    env.note(|| {
                        format!("process {} dies before {}", self.process.0, brief(&effect))
                    });
                    self.standing = Standing::Dead;
                    return;
                }
                self.dies_after = self.dies_after.map(|left| left - 1);
                self.perform(env, effect);
            }
            self.look(env);
            if self.state() != State::Backup(BackupState::Won) {
                return;
            }
            self.become_primary(env);
        }
    }

    fn next_effect(&mut self, env: &Env) -> Option<Effect> {
        let now = self.now(env);
        match &mut self.side {
            Side::Primary(primary) => primary.poll(),
            Side::Backup(backup) => backup.poll(now),
        }
    }

    fn become_primary(&mut self, env: &mut Env) {
        let now = self.now(env);
        let Side::Backup(backup) = &self.side else {
            unreachable!("only a backup wins as one");
        };
        let primary = backup.clone().into_primary(now);
        self.side = Side::Primary(Box::new(primary));
        self.is_member = true;
        let position = match std::mem::replace(&mut self.machine, Machine::Absent) {
            Machine::Replaying(Replayer { toy, .. }) => {
                let position = toy.position();
                let live = Live(toy);
                if !live.takes_inputs() && !live.is_over() {
                    env.met(Situation::LiveAmidPosition);
                }
                self.machine = Machine::Live(live);
                position
            }
            Machine::Absent | Machine::Live(_) => panic!("FAIL-7: no machine to go live with"),
        };
        if env.checks.held(self.process) == EntryIndex(0) {
            env.met(Situation::LiveFromTheStart);
        }
        let record = self.life.and_then(|life| env.arbiter.record(life));
        let kept = env
            .checks
            .goes_live(self.process, self.incarnation, Some(position), record);
        if kept > 0 {
            env.met(Situation::KeptSent);
        }
        env.met(Situation::BackupTookOver);
    }

    fn perform(&mut self, env: &mut Env, effect: Effect) {
        env.note(|| {
            format!(
                "process {} ({:?}): {}",
                self.process.0,
                self.state(),
                brief(&effect)
            )
        });
        match effect {
            Effect::Send(message) => self.send(env, message),
            Effect::CloseChannel => {
                if let Some(connection) = self.channel.take() {
                    env.close(connection, self.process);
                }
            }
            Effect::Probe => {
                let delay = env.delay();
                env.schedule(delay, Event::Probe(self.process));
            }
            Effect::Ask(question) => self.ask(env, question),
            Effect::Build(initial) => {
                self.life = Some(initial.life);
                self.machine = Machine::Replaying(Replayer::new(machine_of(&initial)));
                env.checks.becomes_backup(self.process, initial.life);
                let takes_ns = env.rng.between(100 * US, 10 * MS);
                env.schedule(takes_ns, Event::Built(self.process));
            }
            Effect::Run => {
                let record = self.life.and_then(|life| env.arbiter.record(life));
                env.checks.runs(self.process, self.incarnation, record);
                self.let_run(env);
                self.announce(env);
            }
            Effect::Replay(batch) => {
                if let Machine::Replaying(replayer) = &mut self.machine {
                    replayer.push(&batch);
                }
                self.replay_soon(env);
            }
            Effect::Append(batch) => {
                let replays = matches!(self.side, Side::Backup(_));
                let frozen = self.state().suspects();
                env.checks.appends(self.process, replays, frozen, &batch);
            }
            Effect::Release { seq, output } => {
                let protected = self.state().in_step();
                env.checks.passes_the_gate(self.process, seq, protected);
                self.device.push_back((seq, output));
                self.write_one(env);
            }
            Effect::Answer(request) => {
                let protected = !self.state().suspects();
                env.checks
                    .answers_an_operator(self.process, request, protected);
                env.met(Situation::OperatorAnswered);
            }
            Effect::GoLive(token) => self.go_live(env, token),
            Effect::SlowDown(brake) => {
                self.brake = brake;
                if brake != Brake::OFF {
                    env.met(Situation::SlowedDown);
                }
            }
            Effect::Halt(halt) => self.halt(env, &halt),
            Effect::Finish(finish) => self.finish(env, finish),
        }
    }

    fn send(&mut self, env: &mut Env, message: Message) {
        if let Message::Signal(Signal::Ack { received, .. }) = message {
            let in_step = self.state().in_step();
            env.checks
                .acknowledges(self.process, in_step, received, &env.plan.limits);
            if received < env.checks.held(self.process) {
                env.met(Situation::CreditWithheld);
            }
        }
        if let Message::Signal(Signal::Resumed { .. }) = message {
            env.met(Situation::Resumed);
        }
        if let Some(connection) = self.channel {
            let token = self.token();
            env.send(connection, self.process, token, message);
        }
    }

    fn ask(&mut self, env: &mut Env, question: Question) {
        let (linked, replayed) = (
            self.channel.is_some(),
            match &self.side {
                Side::Primary(_) => None,
                Side::Backup(backup) => Some(backup.indexes().2),
            },
        );
        env.checks
            .asks(self.process, &question, linked, replayed, env.now);
        if question == Question::Claim && env.checks.both_have_claimed(self.process) {
            env.met(Situation::BothClaimed);
        }
        self.asked += 1;
        self.open_question = Some(self.asked);
        let who = (self.process, self.host, self.incarnation);
        let life = self.life.expect("who asks belongs to a life");
        let generation = self.token().generation;
        env.ask(Asked::new(who, (life, generation), self.asked, question));
    }

    fn go_live(&mut self, env: &mut Env, token: Token) {
        assert!(token.won, "FAIL-6: live with the pair's token");
        if self.vcpu.is_running() || !self.is_member {
            // It was the primary of this life from the beginning.
            let record = self.life.and_then(|life| env.arbiter.record(life));
            env.checks
                .goes_live(self.process, self.incarnation, None, record);
            env.met(Situation::PrimaryWentAlone);
        } else {
            self.let_run(env);
        }
        self.announce(env);
    }

    /// Says at which port the guest is, while it runs here.
    pub(super) fn announce(&mut self, env: &mut Env) {
        if self.vcpu.is_running() && self.standing == Standing::Up {
            self.to_gateway(env, None);
        }
    }

    fn to_gateway(&self, env: &mut Env, output: Option<ft_logging::entry::Output>) {
        if self.life != env.guest {
            return;
        }
        env.send_to_gateway(Frame {
            host: self.host,
            process: self.process,
            token: self.token(),
            output,
        });
    }

    /// The head of the device's queue is on the wire; only now is it released (OUT-3).
    pub(crate) fn written(&mut self, env: &mut Env) {
        if self.paused > 0 {
            return;
        }
        let Some((seq, output)) = self.device.pop_front() else {
            return;
        };
        match env.checks.is_on_the_wire(self.process, seq, &output) {
            Seen::First => {}
            Seen::Again => env.met(Situation::SeenTwice),
            Seen::Saved => env.met(Situation::KeptSaved),
            Seen::Late => env.met(Situation::SpokeInTheWindow),
        }
        self.to_gateway(env, Some(output));
        self.news(env, News::Written(seq));
    }

    fn halt(&mut self, env: &mut Env, halt: &Halt) {
        match (halt, &self.side) {
            (Halt::Lost { .. }, Side::Primary(_)) => env.met(Situation::PrimaryLost),
            (Halt::Lost { .. }, Side::Backup(_)) => env.met(Situation::BackupLost),
            (Halt::Refused(why), _) => {
                let known = self
                    .life
                    .is_some_and(|life| env.arbiter.record(life).is_some());
                assert!(!known, "the arbiter refused a member: {why}");
                env.met(Situation::SecondRunRefused);
            }
            (Halt::Rejected(_), _) => {
                self.turned_away = true;
                env.met(Situation::RestartRefused);
            }
            (Halt::Diverged { .. }, _) => {
                assert!(self.corrupt, "DET-5: diverged without a fault: {halt}");
            }
            // Its name is another's by now.
            (Halt::Deleted, _) if env.arbiter.has_stopped(self.life) => {}
            (halt, _) => panic!("nobody gave a reason to halt: {halt}"),
        }
        self.end(env, Standing::Halted);
    }

    fn finish(&mut self, env: &mut Env, finish: Finish) {
        match finish {
            Finish::Stopped => {
                let stopped = env.arbiter.has_stopped(self.life);
                must!(stopped, "FAIL-10", "{:?} stops unrecorded", self.process);
                if let Side::Backup(backup) = &self.side {
                    let (received, _, replayed) = backup.indexes();
                    let whole = replayed == received;
                    must!(whole, "FAIL-10", "{:?} stops before its end", self.process);
                }
                env.met(Situation::Stopped);
            }
            Finish::HandedOver => env.met(Situation::HandedOver),
            Finish::NeverStarted => {
                self.never_started = true;
                env.met(Situation::NeverStarted);
            }
        }
        self.end(env, Standing::Finished);
    }

    /// FAIL-3: nothing more is said, not even what waits for the wire.
    fn end(&mut self, env: &mut Env, standing: Standing) {
        env.checks.is_over(self.process);
        self.standing = standing;
        self.vcpu.stop();
        if standing == Standing::Halted && !self.device.is_empty() {
            env.met(Situation::LostWithOutputs);
        }
        self.device.clear();
    }

    /// Looks at the protocol after an event.
    fn look(&mut self, env: &mut Env) {
        let after = self.state();
        let before = std::mem::replace(&mut self.seen, after);
        if after.in_step() {
            self.is_member = true;
            env.checks.is_in_step(self.process);
            env.checks.has_read(self.process, false);
        }
        self.note_changes(env, before, after);
        match &self.side {
            Side::Primary(primary) => {
                let (_, acknowledged, replayed) = primary.indexes();
                let (held, bytes) = primary.gate_fill();
                env.checks.buffers(
                    self.process,
                    (acknowledged, replayed),
                    bytes,
                    primary.wants_records(),
                    &env.plan.limits,
                );
                if held > 3 {
                    env.met(Situation::GateHeld);
                }
            }
            Side::Backup(backup) if self.standing == Standing::Up => {
                let (kept, _) = backup.tail_fill();
                env.checks.keeps(self.process, kept, backup.indexes().2);
            }
            Side::Backup(_) => {}
        }
    }

    fn note_changes(&self, env: &mut Env, before: State, after: State) {
        use {BackupState as B, PrimaryState as P};
        if before == after {
            return;
        }
        env.note(|| format!("process {}: {before:?} becomes {after:?}", self.process.0));
        match (before, after) {
            (State::Primary(P::Suspecting), State::Primary(P::Protected)) => {
                env.met(Situation::SilenceEnded);
            }
            (State::Primary(P::Yielding), State::Primary(P::Alone)) => {
                env.met(Situation::HandOverFailed);
            }
            (State::Primary(P::Alone), State::Primary(P::Stopping)) => {
                env.met(Situation::StoppedAlone);
            }
            (State::Backup(B::Suspecting), State::Backup(B::Following)) => {
                let (received, _, _) = match &self.side {
                    Side::Backup(backup) => backup.indexes(),
                    Side::Primary(primary) => primary.indexes(),
                };
                if env.checks.acknowledged(self.process) < received {
                    env.met(Situation::ResumedWithoutCredit);
                }
            }
            _ => {}
        }
    }
}

/// An effect in one line.
fn brief(effect: &Effect) -> String {
    let span = |batch: &[ft_logging::entry::Entry]| {
        format!("{}..={}", batch[0].index, batch[batch.len() - 1].index)
    };
    match effect {
        Effect::Send(Message::Entries(batch)) => format!("send entries {}", span(batch)),
        Effect::Send(Message::Signal(Signal::Hello(hello))) => {
            format!(
                "send hello, resume {:?}",
                hello.resume.map(|resume| resume.received)
            )
        }
        Effect::Send(Message::Signal(Signal::Welcome(_))) => "send welcome".to_owned(),
        Effect::Send(Message::Signal(signal)) => format!("send {signal:?}"),
        Effect::Build(_) => "build".to_owned(),
        Effect::Replay(batch) => format!("replay {}", span(batch)),
        Effect::Append(batch) => format!("append {}", span(batch)),
        Effect::Release { seq, .. } => format!("release output {seq}"),
        other => format!("{other:?}"),
    }
}
