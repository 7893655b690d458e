//! The vCPU thread and the replaying thread of a node.

use std::collections::VecDeque;

use ft_logging::entry::{Control, Payload};
use ft_logging::protocol::{Record, RequestId, Wish};

use super::{Machine, News, Node, Side, Standing};
use crate::coverage::Situation;
use crate::env::{Env, Event};
use crate::plan::{MS, US};
use crate::toy::Request;

/// How many handfuls of records may wait for the protocol's thread (LOG-4).
const QUEUE_TURNS: usize = 4;

/// How many frames the network device holds before it drops.
const FRAMES: usize = 16;

/// How often the guest's timer is due.
const TIMER_NS: u64 = 10 * MS;

/// How many entries are replayed in one turn.
const REPLAY_BURST: usize = 8;

/// How much slower a vCPU is that the protocol slows.
const SLOWER: u64 = 4;

/// How much slower a replaying thread is that has too little of the CPU.
const STARVED: u64 = 200;

/// The vCPU thread's own things.
#[derive(Default)]
pub(super) struct Vcpu {
    running: bool,
    parked: bool,
    scheduled: bool,
    frames: VecDeque<Request>,
    commands: VecDeque<(Control, RequestId)>,
    /// What it has done and the protocol's thread has not taken.
    records: VecDeque<Vec<Record>>,
    timer_due: u64,
}

impl Vcpu {
    pub(super) fn is_running(&self) -> bool {
        self.running
    }

    pub(super) fn receive(&mut self, request: Request) {
        if self.running && self.frames.len() < FRAMES {
            self.frames.push_back(request);
        }
    }

    pub(super) fn command(&mut self, control: Control, request: RequestId) {
        if self.running {
            self.commands.push_back((control, request));
        }
    }

    pub(super) fn park(&mut self) {
        self.parked = true;
    }

    pub(super) fn stop(&mut self) {
        self.running = false;
    }
}

impl Node {
    /// Lets the guest run, or run on.
    pub(super) fn let_run(&mut self, env: &mut Env) {
        self.is_member = true;
        self.vcpu.running = true;
        self.vcpu.parked = false;
        self.quiesced = false;
        self.vcpu_soon(env);
    }

    pub(super) fn vcpu_soon(&mut self, env: &mut Env) {
        self.vcpu_after(env, US);
    }

    fn vcpu_after(&mut self, env: &mut Env, after_ns: u64) {
        let can_run = self.vcpu.running
            && !self.vcpu.parked
            && self.paused == 0
            && self.hung == 0
            && self.vcpu.records.len() < QUEUE_TURNS;
        if can_run && !std::mem::replace(&mut self.vcpu.scheduled, true) {
            env.schedule(after_ns, Event::Vcpu(self.process));
        }
    }

    /// One turn of the vCPU thread.
    pub(crate) fn vcpu_turn(&mut self, env: &mut Env) {
        self.vcpu.scheduled = false;
        let Machine::Live(live) = &mut self.machine else {
            return;
        };
        if !self.vcpu.running || self.vcpu.parked || self.paused > 0 || self.hung > 0 {
            return;
        }
        let mut inputs = Vec::new();
        if live.takes_inputs() {
            let guest_now = env.now;
            let reads_the_clock = !live.is_idle() && env.rng.percent(5);
            if env.now >= self.vcpu.timer_due || reads_the_clock {
                self.vcpu.timer_due = env.now + TIMER_NS;
                inputs.push((live.clock_input(guest_now), None));
            }
            for request in self.vcpu.frames.drain(..) {
                let frame = request.frame();
                inputs.push((Payload::NetRx { frame }, None));
            }
            for (control, request) in self.vcpu.commands.drain(..) {
                inputs.push((Payload::Control(control), Some(request)));
            }
        }
        if !live.is_idle() || !inputs.is_empty() {
            let records = live.step(inputs);
            self.hand_over(env, records);
        }
        let Machine::Live(live) = &self.machine else {
            unreachable!("a live machine stays live");
        };
        if live.is_over() {
            return self.wake_soon(env);
        }
        if self.vcpu.records.len() >= QUEUE_TURNS {
            return env.met(Situation::VcpuWaited);
        }
        let after_ns = if live.is_idle() {
            self.vcpu.timer_due.saturating_sub(env.now).max(US)
        } else {
            // One that stands looks again soon.
            let runs = u64::from(100 - self.brake.percent());
            env.plan.step_ns * (100 / runs.max(1)).min(SLOWER)
        };
        self.vcpu_after(env, after_ns);
    }

    /// Gives the records of one turn to the protocol's thread, at once or in two handfuls.
    fn hand_over(&mut self, env: &mut Env, mut records: Vec<Record>) {
        if records.len() > 1 && env.rng.percent(50) {
            let rest = records.split_off(1 + env.rng.below(records.len() as u64 - 1) as usize);
            self.vcpu.records.extend([records, rest]);
        } else if !records.is_empty() {
            self.vcpu.records.push_back(records);
        }
        if !self.vcpu.records.is_empty() {
            self.wake_soon(env);
        }
    }

    /// Takes from the vCPU thread what the protocol wants, and notices when no more will come.
    pub(super) fn take_records(&mut self, env: &mut Env) {
        let now = self.now(env);
        while self.is_running()
            && let Side::Primary(primary) = &mut self.side
            && primary.wants_records()
            && let Some(records) = self.vcpu.records.pop_front()
        {
            let requests = records
                .iter()
                .zip(1..)
                .filter_map(|(r, i)| Some((r.request?, i)));
            for (request, ahead) in requests {
                env.checks.request_is_logged(self.process, request, ahead);
            }
            primary.handle_records(now, records);
            self.carry_out(env);
            self.vcpu_soon(env);
        }
        let over = matches!(&self.machine, Machine::Live(live) if live.is_over());
        if self.is_running()
            && self.vcpu.running
            && (over || self.vcpu.parked)
            && self.vcpu.records.is_empty()
            && let Side::Primary(primary) = &mut self.side
            && !std::mem::replace(&mut self.quiesced, true)
        {
            if over {
                primary.handle_wish(now, Wish::Stop);
            }
            primary.handle_quiesced(now);
            self.carry_out(env);
        }
    }

    pub(super) fn replay_soon(&mut self, env: &mut Env) {
        let due = matches!(&self.machine, Machine::Replaying(replayer) if !replayer.is_idle());
        if due
            && self.paused == 0
            && self.hung == 0
            && !std::mem::replace(&mut self.replay_scheduled, true)
        {
            let slower = if self.replay_slow > 0 { STARVED } else { 1 };
            let after_ns = env.rng.between(1, 2 * env.plan.replay_ns * slower);
            env.schedule(after_ns, Event::Replay(self.process));
        }
    }

    /// One turn of the replaying thread.
    pub(crate) fn replay_turn(&mut self, env: &mut Env) {
        self.replay_scheduled = false;
        let Machine::Replaying(replayer) = &mut self.machine else {
            return;
        };
        if self.paused > 0 || self.hung > 0 || self.standing != Standing::Up {
            return;
        }
        let mut outputs = Vec::new();
        let mut through = None;
        for _ in 0..REPLAY_BURST {
            if replayer.is_idle() {
                break;
            }
            match replayer.step() {
                (index, Ok(output)) => {
                    through = Some(index);
                    outputs.extend(output);
                }
                (at, Err(divergence)) => {
                    return self.news(env, News::Diverged(at, divergence.0));
                }
            }
        }
        env.checks.replays(self.process, replayer.toy.position());
        if let Some(through) = through {
            self.news(env, News::Replayed(through, outputs));
        }
        self.replay_soon(env);
    }
}
