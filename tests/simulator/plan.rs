//! What a seed decides before the run: the times and bounds of the pair, how the world behaves at
//! its best, and which faults strike when.

use ft_logging::protocol::{Limits, Timing};

use crate::rng::Rng;

pub(crate) const US: u64 = 1_000;
pub(crate) const MS: u64 = 1_000_000;

/// No fault strikes later.
const FAULTS_END_NS: u64 = 500 * MS;

/// A machine that processes run on. The first two hold the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Host(pub(crate) usize);

/// Where the VM is started.
pub(crate) const A: Host = Host(0);
/// Where its first backup is.
pub(crate) const B: Host = Host(1);
/// Where a person by mistake runs the same VM a second time.
pub(crate) const C: Host = Host(2);
pub(crate) const HOSTS: usize = 3;

/// How a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// SIGKILL: the kernel closes its connections.
    Process,
    /// The same in the midst of what it was doing: after so many further effects.
    AmidEffects(u64),
    /// Its host loses power: nothing more comes from there.
    Host,
}

/// What a process is started as again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Backup,
    /// `ftvm run --alone`, with a life of its own.
    Alone,
}

/// Something that goes wrong, or that a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill {
        host: Host,
        death: Death,
    },
    Restart {
        host: Host,
        role: Role,
    },
    /// SIGSTOP, and SIGCONT at the end.
    Pause {
        host: Host,
    },
    /// The vCPU thread, or the replaying one, does not come round.
    Hang {
        host: Host,
    },
    /// Nothing gets through in this direction; at the end what was sent arrives late, or never.
    Cut {
        from: Host,
        to: Host,
        reset: bool,
    },
    /// Nothing gets through either way.
    CutBoth {
        reset: bool,
    },
    /// The connections of the pair break, and may be made anew.
    Reset,
    /// A host loses its network, the arbiter's and the clients' included.
    Isolate {
        host: Host,
        reset: bool,
    },
    /// A host does not reach the arbiter.
    CutArbiter {
        host: Host,
    },
    /// The arbiter has lost its majority.
    ArbiterDown,
    /// The protocol's thread comes late.
    SlowNode {
        host: Host,
    },
    /// Replay takes long.
    SlowReplay {
        host: Host,
    },
    /// A bit of a replaying machine's state flips.
    Corrupt {
        host: Host,
    },
    /// `ftvm control stop`.
    Stop,
    /// `ftvm control failover`.
    HandOver,
    /// An operator's command that the guest survives.
    PowerButton,
    /// The guest switches itself off.
    GuestPowerOff,
    /// Somebody runs the same VM a second time.
    SecondRun,
}

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) at: u64,
    pub(crate) fault: Fault,
    /// When it is over; never, if it is not repaired.
    pub(crate) until: Option<u64>,
}

/// Everything that a seed decides beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// At most one failure strikes: the VM must survive it (LIVE-1). Otherwise anything may
    /// happen, and what is left must be safe.
    pub(crate) survivable: bool,
    /// The first node starts without a backup.
    pub(crate) alone: bool,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) faults: Vec<Planned>,
    /// From here on nothing fails any more.
    pub(crate) calm_at: u64,
    /// From here on the VM must serve again.
    pub(crate) serving_by: u64,
    pub(crate) end: u64,
    /// A message takes from the first to the second on its way, and rarely up to the third.
    pub(crate) delay_ns: (u64, u64, u64),
    /// How long a guest runs from one position to the next.
    pub(crate) step_ns: u64,
    pub(crate) replay_ns: u64,
    pub(crate) write_ns: u64,
    pub(crate) think_ns: u64,
    /// How many in a hundred questions to the arbiter get lost, or their answers.
    pub(crate) arbiter_loss: u64,
}

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let detect_ms = rng.pick(&[50, 70, 100]);
        let timing = Timing::new(detect_ms, rng.pick(&[10, 20, 40]));
        let survivable = rng.percent(60);
        let delay = rng.pick(&[30 * US, 200 * US, MS]);
        let tail_bytes = rng.pick(&[1, 300, 2 << 10, 1 << 20]);
        // With little credit outputs leave one by one: a deep gate would mean answers after seconds.
        let gate_bytes = if tail_bytes < 1 << 10 {
            512
        } else {
            rng.pick(&[4 << 10, 1 << 20])
        };
        let calm_at = FAULTS_END_NS + rng.below(100 * MS);
        let serving_by = calm_at + 9 * timing.detect_ns;
        let mut plan = Plan {
            survivable,
            alone: rng.percent(2),
            timing,
            limits: Limits {
                log_bytes: rng.pick(&[2 << 10, 16 << 10, 1 << 20]),
                gate_bytes,
                tail_bytes,
            },
            faults: Vec::new(),
            calm_at,
            serving_by,
            end: serving_by + 4 * timing.detect_ns + 100 * MS,
            delay_ns: (
                delay,
                3 * delay,
                timing.detect_ns * rng.pick(&[1, 4, 12]) / 10,
            ),
            step_ns: rng.pick(&[500 * US, 2 * MS, 5 * MS]),
            replay_ns: rng.pick(&[20 * US, 100 * US]),
            write_ns: rng.pick(&[10 * US, 200 * US, 2 * MS, 5 * MS]),
            think_ns: rng.pick(&[2 * MS, 10 * MS]),
            arbiter_loss: rng.pick(&[0, 10, 30]),
        };
        if survivable && rng.percent(5) {
            plan.failure_amid_a_hand_over(rng);
        } else if survivable {
            plan.one_failure(rng);
        } else {
            for _ in 0..rng.between(2, 6) {
                let fault = failure(rng);
                plan.strike(rng, fault);
            }
        }
        plan.wishes(rng);
        plan
    }

    fn one_failure(&mut self, rng: &mut Rng) {
        // Without a backup every failure is one too many.
        if !self.alone && rng.percent(90) {
            let fault = failure(rng);
            self.strike(rng, fault);
        }
    }

    /// Whoever is asked to take over fails at that moment.
    fn failure_amid_a_hand_over(&mut self, rng: &mut Rng) {
        let at = rng.between(50 * MS, FAULTS_END_NS);
        let death = rng.pick(&[Death::Process, Death::Host, Death::AmidEffects(1)]);
        let failure = rng.pick(&[Fault::Kill { host: B, death }, Fault::Hang { host: B }]);
        let faults = [(at, Fault::HandOver), (at + rng.below(3 * MS), failure)];
        self.faults.extend(faults.map(|(at, fault)| Planned {
            at,
            fault,
            until: None,
        }));
    }

    /// What people do meanwhile, and what hurts nobody.
    fn wishes(&mut self, rng: &mut Rng) {
        let chances = [
            (5, Fault::Stop),
            (12, Fault::HandOver),
            (4, Fault::GuestPowerOff),
            (40, Fault::PowerButton),
            (8, Fault::SecondRun),
        ];
        for (chance, wish) in chances {
            if rng.percent(chance) {
                self.strike(rng, wish);
            }
        }
        for _ in 0..rng.below(3) {
            let host = rng.pick(&[A, B]);
            let fault = rng.pick(&[Fault::SlowNode { host }, Fault::SlowReplay { host }]);
            self.strike(rng, fault);
        }
    }

    fn strike(&mut self, rng: &mut Rng, fault: Fault) {
        // Often early, when the generation is not open yet.
        let at = match rng.below(5) {
            0 => rng.below(20 * MS),
            _ => rng.between(20 * MS, FAULTS_END_NS),
        };
        let lasting = self.timing.detect_ns * rng.pick(&[2, 5, 12, 20, 30, 60]) / 10;
        let repaired = match fault {
            // LIVE-1 wants a majority; what is broken for ever is another failure's business.
            Fault::ArbiterDown | Fault::CutArbiter { .. } => true,
            Fault::SlowNode { .. } | Fault::SlowReplay { .. } => true,
            _ => rng.percent(60),
        };
        let until = repaired.then(|| (at + lasting).min(self.calm_at));
        self.faults.push(Planned { at, fault, until });
        if let Fault::Kill { host, .. } = fault
            && rng.percent(40)
        {
            let role = rng.pick(&[Role::Backup, Role::Alone]);
            self.faults.push(Planned {
                at: (at + lasting / 2).min(self.calm_at),
                fault: Fault::Restart { host, role },
                until: None,
            });
        }
    }
}

fn failure(rng: &mut Rng) -> Fault {
    let host = rng.pick(&[A, A, B]);
    let other = if host == A { B } else { A };
    let reset = rng.percent(50);
    match rng.below(20) {
        0..=2 => Fault::Kill {
            host,
            death: Death::Process,
        },
        3..=5 => Fault::Kill {
            host,
            death: Death::AmidEffects(rng.below(12)),
        },
        6 | 7 => Fault::Kill {
            host,
            death: Death::Host,
        },
        8..=10 => Fault::Pause { host },
        11 => Fault::Hang { host },
        12 => Fault::Cut {
            from: host,
            to: other,
            reset,
        },
        13 | 14 => Fault::CutBoth { reset },
        15 => Fault::Reset,
        16 => Fault::Isolate { host, reset },
        17 => Fault::CutArbiter { host },
        18 => Fault::ArbiterDown,
        _ => Fault::Corrupt { host: B },
    }
}
