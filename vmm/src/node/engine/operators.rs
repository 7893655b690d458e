//! What people ask of a running node: by signals, and over its control socket.

use ft_logging::protocol::{Now, PrimaryState, RequestId, Wish};
use tokio::sync::oneshot;

use super::super::{ControlRequest, ControlResponse, End};
use super::{Node, Role};
use crate::determinism::Order;

impl Node {
    /// FAIL-10: Ctrl-C ends the VM, SIGTERM hands it over; a backup just leaves.
    pub(super) fn handle_signal(&mut self, wish: Wish) {
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

    pub(super) fn handle_control(
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
}
