//! A node that has lost: silent, its state kept, until it is not needed any more (FAIL-3).

use std::time::Duration;

use test_and_set::Client;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use super::engine::Node;
use super::{ControlRequest, ControlResponse, Event};

/// How often the arbiter is asked whether the VM has moved on.
const POLL: Duration = Duration::from_secs(2);

impl Node {
    /// Returns when the arbiter knows of a later generation, a stop or a deletion, or when the
    /// operator ends the process.
    pub(super) async fn rest(&mut self) {
        let (Ok(mut terminate), Ok(mut interrupt)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
        ) else {
            return;
        };
        let mut arbiter = Client::new(self.config.arbiter.clone());
        loop {
            tokio::select! {
                Some(event) = self.inbox.recv() => {
                    if let Event::Control(request, answer) = event {
                        let _ = answer.send(match request {
                            ControlRequest::Status => {
                                ControlResponse::Status(Box::new(self.status()))
                            }
                            _ => ControlResponse::Refused {
                                why: "this node has halted: the VM goes on elsewhere".to_owned(),
                            },
                        });
                    }
                }
                () = asked_to_leave(&mut terminate, &mut interrupt) => return,
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
                        return;
                    }
                }
            }
        }
    }
}

async fn asked_to_leave(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
