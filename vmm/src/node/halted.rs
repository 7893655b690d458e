//! A node that has lost: silent, its state kept, until it is not needed any more (FAIL-3), or until a
//! person decides that the VM goes on here after all.

use std::time::Duration;

use ft_logging::types::{Generation, Token};
use test_and_set::types::{self, Member};
use test_and_set::{ChangeOutcome, Client};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::engine::Node;
use super::{ControlRequest, ControlResponse, Event};

/// How often the arbiter is asked whether the VM has moved on.
const POLL: Duration = Duration::from_secs(2);

impl Node {
    /// Returns `None` when the arbiter knows of a later generation, a stop or a deletion, or when
    /// the operator ends the process; a token when a person gave the VM to this node.
    pub(super) async fn rest(&mut self) -> Option<Token> {
        let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return None;
        };
        let mut arbiter = Client::new(self.config.arbiter.clone());
        loop {
            tokio::select! {
                Some(event) = self.inbox.recv() => {
                    let Event::Control(request, answer) = event else { continue };
                    let response = match request {
                        ControlRequest::Status => {
                            ControlResponse::Status(Box::new(self.status()))
                        }
                        ControlRequest::Recover => match self.recovered(&mut arbiter).await {
                            Ok(token) => {
                                let _ = answer.send(ControlResponse::Done);
                                return Some(token);
                            }
                            Err(why) => ControlResponse::Refused { why },
                        },
                        _ => ControlResponse::Refused {
                            why: "this node has halted: the VM goes on elsewhere".to_owned(),
                        },
                    };
                    let _ = answer.send(response);
                }
                () = asked_to_leave(&mut terminate, &mut interrupt) => return None,
                () = sleep(POLL) => {
                    let record = arbiter.read(self.config.vm.clone()).await;
                    let generation = self.token().generation.0;
                    let needed = match record {
                        Ok(Some(record)) => {
                            Some(record.life.0) == self.life.map(|life| life.0)
                                && record.generation.0 == generation
                                && record.stopped.is_none()
                        }
                        Ok(None) => false,
                        Err(_) => true,
                    };
                    if !needed {
                        return None;
                    }
                }
            }
        }
    }
}

impl Node {
    /// Asks the arbiter for a generation of this node's own.
    async fn recovered(&self, arbiter: &mut Client) -> Result<Token, String> {
        let vm = self.config.vm.clone();
        let life = self.life.ok_or("this node never had a machine")?;
        let record = arbiter
            .read(vm.clone())
            .await
            .map_err(|silence| silence.to_string())?;
        let record = record
            .filter(|record| record.life.0 == life.0 && record.stopped.is_none())
            .ok_or("the VM of this node was stopped, deleted or replaced")?;
        let me: Member = self.member();
        let life = types::Life(life.0);
        match arbiter.recover(vm, life, record.generation, me).await {
            ChangeOutcome::Done => Ok(Token {
                generation: Generation(record.generation.0 + 1),
                won: true,
            }),
            other => Err(format!("the arbiter did not agree: {other:?}")),
        }
    }
}

async fn asked_to_leave(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
