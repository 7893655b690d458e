//! Every invariant that the simulator checks, by the design's names, against what all nodes did.
//!
//! The checks know everything at once: what each process holds, what it acknowledged, what is on
//! the wire. They are told by the nodes' glue as it happens, and stop the run at the first breach.
//!
//! | checked here, as it happens | |
//! | --- | --- |
//! | OUT-1, FAIL-3, FAIL-4, FAIL-9 | [`Checks::passes_the_gate`], [`Checks::answers_an_operator`] |
//! | OUT-2, LOG-4 | [`Checks::buffers`] |
//! | OUT-3 | [`Checks::keeps`], [`Checks::appends`], [`Checks::acknowledges`] |
//! | OUT-4 | [`Checks::passes_the_gate`], [`Checks::nothing_is_missing`] |
//! | OUT-5, ONE-1, FAIL-3 | [`Checks::is_on_the_wire`], [`Checks::goes_live`] |
//! | LOG-1 | [`Checks::appends`] |
//! | LOG-2, FAIL-8 | [`Checks::acknowledges`] |
//! | LOG-3 | [`Checks::replays`] |
//! | LOG-5 | [`Checks::paces`] |
//! | FAIL-1 | [`Checks::ticks`], [`Checks::suspects_by_silence`] |
//! | FAIL-2, FAIL-7, FAIL-10, ONE-1 | [`Checks::goes_live`] |
//! | FAIL-5 | [`Checks::starts`] |
//! | FAIL-6 | [`Checks::fail_6_the_gateway_lets_pass`] |
//! | FAIL-8 | [`Checks::asks`], [`Checks::is_in_step`], [`Checks::appends`] |
//! | FAIL-10 | `node/effects.rs`, when a node finishes |
//! | ONE-2 | [`Checks::runs`] |
//! | LIVE-1 | `world.rs`, at the end of a run |
//! | exactly once | `gateway.rs`, by the clients |

mod failover;
mod ledger;
mod log;
mod outputs;

use std::collections::{BTreeMap, BTreeSet};

use ft_logging::types::{Incarnation, Life, Token};

use crate::env::ProcessId;
use crate::gateway::Known;
pub(crate) use ledger::Seen;
use ledger::{History, Ledger};

macro_rules! must {
    ($holds:expr, $name:literal, $($text:tt)*) => {
        assert!($holds, "{} is violated: {}", $name, format!($($text)*))
    };
}
pub(crate) use must;

/// All ledgers.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) known: Known,
    ledgers: BTreeMap<ProcessId, Ledger>,
    lives: BTreeMap<Life, History>,
    incarnations: BTreeSet<Incarnation>,
    fence: Option<(ProcessId, Token)>,
}

impl Checks {
    fn ledger(&mut self, process: ProcessId) -> &mut Ledger {
        self.ledgers
            .get_mut(&process)
            .expect("a process that was started")
    }

    fn life_of(&mut self, process: ProcessId) -> &mut History {
        let life = self.ledger(process).life.expect("a member of a life");
        self.lives.entry(life).or_default()
    }

    /// A process is started, as an incarnation that nobody was before.
    pub(crate) fn starts(&mut self, process: ProcessId, incarnation: Incarnation) {
        must!(
            self.incarnations.insert(incarnation),
            "FAIL-5",
            "process {} is started as an incarnation that was used before",
            process.0
        );
        self.ledgers.insert(process, Ledger::default());
    }

    pub(crate) fn becomes_primary(&mut self, process: ProcessId, life: Life) {
        self.ledger(process).life = Some(life);
        self.life_of(process).primary = Some(process);
    }

    pub(crate) fn becomes_backup(&mut self, process: ProcessId, life: Life) {
        self.ledger(process).life = Some(life);
        self.life_of(process).backup = Some(process);
    }
}
