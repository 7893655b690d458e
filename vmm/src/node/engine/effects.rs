//! What the protocol asks is done here.

use std::net::SocketAddr;
use std::time::Duration;

use ft_logging::protocol::{BackupState, Effect, Finish, Halt, Now, Probe};
use ft_logging::types::{Life, Token};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::super::arbiter::Asker;
use super::super::failpoint::Failpoint;
use super::super::setup::{create_recorder, open_world, spawn_vcpu};
use super::super::vcpu::Start;
use super::super::{ControlResponse, End, Event, Notice};
use super::{Node, Role};
use crate::determinism::Order;

/// How long to wait before a port that accepts is probed once more, at first; then twice as long.
const PROBE_PAUSE: Duration = Duration::from_millis(2);

impl Node {
    /// Carries out everything that the protocol asks by now.
    pub(super) async fn pump(&mut self) -> anyhow::Result<()> {
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
    pub(super) fn flush_peer(&mut self) -> bool {
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
                self.stamp_before_writing().await;
                if let (Some(vcpu), Some(world)) = (&self.vcpu, &self.world) {
                    world.speak(self.token(), false);
                    vcpu.run();
                }
            }
            Effect::Replay(batch) => {
                self.stamp_before_writing().await;
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
            Effect::SlowDown(brake) => {
                if let Some(vcpu) = &self.vcpu {
                    vcpu.set_brake(brake);
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
    pub(super) async fn finish(&mut self, end: End) -> anyhow::Result<Option<End>> {
        // What was released is written before the process ends.
        if let (Some(world), End::Stopped) = (self.world.take(), &end) {
            world.close().await;
        }
        self.recorder = None; // closes the log
        self.readers.close();
        self.stamp_end(&end).await;
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
            // Accepted, and closed before this task saw it.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Ok(Err(_)) | Err(_) => return Probe::NoAnswer,
            Ok(Ok(_)) => {}
        }
        if Instant::now() + pause >= deadline {
            return Probe::Accepted;
        }
        sleep(pause).await;
        pause *= 2;
    }
}

fn end_text(end: &End) -> String {
    match end {
        End::Halted(halt) => halt.to_string(),
        other => format!("{other:?}"),
    }
}
