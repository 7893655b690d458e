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

mod ledger;

use std::collections::{BTreeMap, BTreeSet};

use ft_logging::entry::{Entry, Output, OutputMark, Payload};
use ft_logging::protocol::{Limits, Question, RequestId};
use ft_logging::types::{EntryIndex, Incarnation, Life, OutputSeq, Position, Token};
use test_and_set::register::Record;

use crate::env::ProcessId;
use crate::gateway::Known;
pub(crate) use ledger::Seen;
use ledger::{History, Ledger};

/// By how much a bound may be passed: what the machine says and takes in one turn, and the
/// primary's own `Released` entries.
const SLACK_BYTES: usize = 4 << 10;

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

    /// The guest is let run.
    pub(crate) fn runs(&mut self, process: ProcessId, me: Incarnation, record: Option<&Record>) {
        let member = record.is_some_and(|record| {
            record
                .members
                .as_slice()
                .iter()
                .any(|m| m.incarnation.0 == me.0)
        });
        must!(
            member,
            "ONE-2",
            "process {} runs before its generation is open",
            process.0
        );
    }

    /// Entries belong to the log of `process` now.
    pub(crate) fn appends(
        &mut self,
        process: ProcessId,
        replays: bool,
        frozen: bool,
        entries: &[Entry],
    ) {
        must!(
            !(replays && frozen),
            "FAIL-8",
            "process {} takes entries while it suspects",
            process.0
        );
        let primary = self.life_of(process).primary;
        let ours = self.ledger(process).log.len();
        if replays {
            let primary = &self.ledgers[&primary.expect("a life with a primary")];
            must!(
                primary.log.get(ours..ours + entries.len()) == Some(entries),
                "LOG-1",
                "process {} takes other entries after {ours} than the primary's",
                process.0
            );
        }
        let ledger = self.ledger(process);
        for entry in entries {
            let last = ledger.log.last();
            must!(
                entry.index == ledger.last().next()
                    && last.is_none_or(|last| last.position <= entry.position),
                "LOG-1",
                "{entry:?} follows {last:?}"
            );
            match &entry.payload {
                Payload::Output(mark) => must!(
                    mark.seq.0 == ledger.outputs.len() as u64 + 1,
                    "OUT-5",
                    "output {} follows output {}",
                    mark.seq,
                    ledger.outputs.len()
                ),
                Payload::Released { through } => must!(
                    replays || *through <= ledger.written,
                    "OUT-3",
                    "process {} says that output {through} has left, but only {} have",
                    process.0,
                    ledger.written
                ),
                _ => {}
            }
            ledger.append(entry);
        }
    }

    /// The operator's request `request` is carried out by the next entry that is appended.
    pub(crate) fn request_is_logged(&mut self, process: ProcessId, request: RequestId, ahead: u64) {
        let ledger = self.ledger(process);
        let index = EntryIndex(ledger.log.len() as u64 + ahead);
        ledger.requests.insert(request, index);
    }

    /// A backup acknowledges.
    pub(crate) fn acknowledges(
        &mut self,
        process: ProcessId,
        in_step: bool,
        received: EntryIndex,
        limits: &Limits,
    ) {
        let ledger = self.ledger(process);
        must!(
            in_step && ledger.claimed.is_none(),
            "FAIL-8",
            "process {} acknowledges {received} while it suspects",
            process.0
        );
        must!(
            received <= ledger.last(),
            "LOG-2",
            "process {} acknowledges {received} and holds {}",
            process.0,
            ledger.last()
        );
        ledger.acknowledged = ledger.acknowledged.max(received);
        let acknowledged = ledger.outputs_through(received).0 as usize;
        let first = (ledger.known_released.0 as usize).min(acknowledged);
        let unreleased = &ledger.outputs[first..acknowledged];
        let bytes: usize = unreleased.iter().map(|(_, mark)| mark.len as usize).sum();
        must!(
            unreleased.len() <= 1 || bytes <= limits.tail_bytes,
            "OUT-3",
            "process {} acknowledged {bytes} bytes of outputs beyond its bound",
            process.0
        );
    }

    /// What a backup keeps.
    pub(crate) fn keeps(&mut self, process: ProcessId, kept: usize, replayed: EntryIndex) {
        let ledger = self.ledger(process);
        let due = ledger
            .outputs_through(replayed)
            .since(ledger.known_released);
        must!(
            kept as u64 == due,
            "OUT-3",
            "process {} keeps {kept} outputs where {due} are not known as released",
            process.0
        );
    }

    /// A replaying machine stands at `position`.
    pub(crate) fn replays(&mut self, process: ProcessId, position: Position) {
        let heard = self.ledger(process).log.last().map(|entry| entry.position);
        must!(
            heard >= Some(position),
            "LOG-3",
            "process {} ran to {position} and heard of {heard:?}",
            process.0
        );
    }

    /// What may be said now: everything alone; else what the backup holds and has acknowledged.
    fn may_leave(&mut self, process: ProcessId, entry: EntryIndex, protected: bool) {
        let backup = self.life_of(process).backup;
        let (held, acknowledged) = backup.map_or((EntryIndex(0), EntryIndex(0)), |backup| {
            let backup = self.ledger(backup);
            (backup.last(), backup.acknowledged)
        });
        let ledger = self.ledger(process);
        must!(
            !ledger.over,
            "FAIL-3",
            "process {} says what entry {entry} says after its end",
            process.0
        );
        if ledger.live {
            return;
        }
        must!(
            entry <= held.min(acknowledged),
            "OUT-1",
            "what entry {entry} says leaves process {}: {held} held, {acknowledged} acknowledged",
            process.0
        );
        must!(
            protected && ledger.claimed.is_none(),
            "FAIL-4",
            "process {} says what entry {entry} says while the arbiter has not answered",
            process.0
        );
        must!(
            ledger.away.is_none(),
            "FAIL-9",
            "process {} says what entry {entry} says after a pause, before its peer was heard again",
            process.0
        );
    }

    /// An output leaves the protocol towards the wire.
    pub(crate) fn passes_the_gate(&mut self, process: ProcessId, seq: OutputSeq, protected: bool) {
        let ledger = self.ledger(process);
        if let Some(owed) = ledger.owes.pop_front() {
            must!(
                seq == owed,
                "OUT-4",
                "output {seq} leaves before the kept {owed}"
            );
        } else {
            must!(
                seq == ledger.passed.next(),
                "OUT-5",
                "output {seq} leaves process {} after {}",
                process.0,
                ledger.passed
            );
        }
        ledger.passed = seq;
        let entry = ledger.outputs[seq.0 as usize - 1].0;
        self.may_leave(process, entry, protected);
    }

    pub(crate) fn answers_an_operator(
        &mut self,
        process: ProcessId,
        request: RequestId,
        protected: bool,
    ) {
        let entry = self.ledger(process).requests[&request];
        self.may_leave(process, entry, protected);
    }

    /// An output is seen by the world.
    pub(crate) fn is_on_the_wire(
        &mut self,
        process: ProcessId,
        seq: OutputSeq,
        output: &Output,
    ) -> Seen {
        let ledger = self.ledger(process);
        must!(
            !ledger.over,
            "FAIL-3",
            "process {} writes output {seq} after its end",
            process.0
        );
        ledger.written = seq;
        let history = self.life_of(process);
        let agreed = match history.winner {
            Some((winner, agreed)) if winner != process => Some(agreed),
            _ => None,
        };
        must!(
            agreed.is_none_or(|agreed| seq <= agreed),
            "ONE-1",
            "process {} lost at output {agreed:?} and says {seq}",
            process.0
        );
        match history.wire.get(seq.0 as usize - 1) {
            Some(seen) => {
                must!(
                    seen == output,
                    "ONE-1",
                    "output {seq} is seen in two versions"
                );
                agreed.map_or(Seen::Again, |_| Seen::Late)
            }
            None => {
                must!(
                    seq.0 == history.wire.len() as u64 + 1,
                    "OUT-5",
                    "output {seq} is seen after {}",
                    history.wire.len()
                );
                history.wire.push(output.clone());
                match history.winner {
                    Some((winner, _)) if winner != process => Seen::Late,
                    Some((_, agreed)) if seq <= agreed && history.primary != Some(process) => {
                        Seen::Saved
                    }
                    _ => Seen::First,
                }
            }
        }
    }

    /// A node asks the arbiter.
    pub(crate) fn asks(
        &mut self,
        process: ProcessId,
        question: &Question,
        linked: bool,
        replayed: Option<EntryIndex>,
        now: u64,
    ) {
        let ledger = self.ledger(process);
        if *question != Question::Claim {
            return;
        }
        must!(
            ledger.has_read,
            "FAIL-8",
            "process {} claims before it has read",
            process.0
        );
        if let Some(replayed) = replayed {
            must!(
                replayed == ledger.last(),
                "FAIL-8",
                "process {} claims at {replayed} of {} entries",
                process.0,
                ledger.last()
            );
            must!(
                !linked,
                "FAIL-8",
                "process {} claims on an open channel",
                process.0
            );
        }
        ledger.claimed.get_or_insert(now);
    }

    /// Whether a node that suspects has read the arbiter's record.
    pub(crate) fn has_read(&mut self, process: ProcessId, has_read: bool) {
        self.ledger(process).has_read = has_read;
    }

    /// A node counts itself as one of a whole pair.
    pub(crate) fn is_in_step(&mut self, process: ProcessId) {
        let claimed = self.ledger(process).claimed;
        must!(
            claimed.is_none(),
            "FAIL-8",
            "process {} has claimed and goes on as one of a pair",
            process.0
        );
    }

    /// A node goes live; how many outputs it keeps, and how many of them the world knows.
    pub(crate) fn goes_live(
        &mut self,
        process: ProcessId,
        me: Incarnation,
        replayed_to: Option<Position>,
        record: Option<&Record>,
    ) -> usize {
        let record = record.filter(|record| record.winner.is_some_and(|winner| winner.0 == me.0));
        must!(
            record.is_some(),
            "FAIL-2",
            "process {} goes live without a grant",
            process.0
        );
        must!(
            record.is_some_and(|record| record.stopped.is_none()),
            "FAIL-10",
            "process {} goes live after the VM was stopped",
            process.0
        );
        let ledger = self.ledger(process);
        ledger.live = true;
        ledger.away = None;
        let agreed = OutputSeq(ledger.outputs.len() as u64);
        if let Some(position) = replayed_to {
            let last = ledger
                .log
                .last()
                .map_or(Position(0), |entry| entry.position);
            must!(
                position == last,
                "FAIL-7",
                "process {} goes live at {position}, its log ends at {last}",
                process.0
            );
            ledger.owes = (ledger.known_released.0 + 1..=agreed.0)
                .map(OutputSeq)
                .collect();
            ledger.passed = ledger.known_released;
        }
        let owes = ledger.owes.len();
        let marks: Vec<OutputMark> = ledger.outputs.iter().map(|output| output.1).collect();
        let history = self.life_of(process);
        must!(
            history.winner.is_none(),
            "ONE-1",
            "process {} goes live after {:?}",
            process.0,
            history.winner
        );
        history.winner = Some((process, agreed));
        for (i, output) in history.wire.iter().enumerate() {
            let seq = OutputSeq(i as u64 + 1);
            must!(
                marks.get(i) == Some(&output.mark(seq)),
                "ONE-1",
                "the world has seen output {seq}, the survivor's history has another or none"
            );
        }
        owes
    }

    /// A process says nothing more.
    pub(crate) fn is_over(&mut self, process: ProcessId) {
        self.ledger(process).over = true;
    }

    /// A node finds that it was away for longer than the detection time.
    pub(crate) fn was_away(&mut self, process: ProcessId, now: u64) {
        let ledger = self.ledger(process);
        if !ledger.live {
            ledger.away = Some(now);
        }
    }

    /// A node handles a heartbeat.
    pub(crate) fn hears(&mut self, process: ProcessId, sent_at: u64) {
        let ledger = self.ledger(process);
        ledger.away = ledger.away.filter(|since| sent_at < *since);
    }

    /// A node looks at its timers.
    pub(crate) fn ticks(&self, process: ProcessId, unread: usize) {
        must!(
            unread == 0,
            "FAIL-1",
            "process {} looks at its timers with {unread} messages unread",
            process.0
        );
    }

    /// A node suspects its peer because it was silent.
    pub(crate) fn suspects_by_silence(&self, process: ProcessId, silent_ns: u64, detect_ns: u64) {
        must!(
            // The tick that counts may come a little before the last of the detection time.
            silent_ns >= detect_ns / 10 * 8,
            "FAIL-1",
            "process {} suspects its peer after {silent_ns} ns of silence",
            process.0
        );
    }

    /// How full a primary's buffers are, and whether it takes more.
    pub(crate) fn buffers(
        &mut self,
        process: ProcessId,
        (acknowledged, replayed): (EntryIndex, EntryIndex),
        gate_bytes: usize,
        wants_records: bool,
        limits: &Limits,
    ) {
        let ledger = self.ledger(process);
        if ledger.live || ledger.over {
            return;
        }
        let unacknowledged = ledger.bytes_after(acknowledged);
        let unreplayed = ledger.bytes_after(replayed);
        must!(
            gate_bytes <= limits.gate_bytes + SLACK_BYTES
                && unacknowledged <= limits.log_bytes + SLACK_BYTES
                && unreplayed <= limits.log_bytes + SLACK_BYTES,
            "LOG-4",
            "process {} buffers {gate_bytes}, {unacknowledged} and {unreplayed} bytes",
            process.0
        );
        must!(
            wants_records
                || gate_bytes >= limits.gate_bytes
                || unacknowledged + SLACK_BYTES >= limits.log_bytes
                || unreplayed + SLACK_BYTES >= limits.log_bytes,
            "OUT-2",
            "process {} stops its vCPU with {gate_bytes}, {unacknowledged} and {unreplayed} bytes",
            process.0
        );
    }

    /// Whether a primary that is not alone is slowed by the lag that it sees.
    pub(crate) fn paces(&self, process: ProcessId, lag_ns: u64, max_lag_ns: u64, slowed: bool) {
        must!(
            slowed || lag_ns <= max_lag_ns,
            "LOG-5",
            "process {} runs freely {lag_ns} ns ahead",
            process.0
        );
        must!(
            !slowed || lag_ns >= max_lag_ns / 2,
            "LOG-5",
            "process {} is slowed {lag_ns} ns ahead",
            process.0
        );
    }

    /// A winner's token, once seen, bars everybody else's.
    pub(crate) fn fail_6_the_gateway_lets_pass(&mut self, process: ProcessId, token: Token) {
        if let Some((winner, fence)) = self.fence {
            must!(
                process == winner || token > fence,
                "FAIL-6",
                "a frame of process {} passes after the winner's",
                process.0
            );
        }
        if token.won {
            self.fence = Some((process, token));
        }
    }

    /// Everything that the survivor's history says was said is on the wire, but for what waits.
    pub(crate) fn nothing_is_missing(&mut self, process: ProcessId, waiting: usize) {
        let said = self.ledger(process).outputs.len();
        let seen = self.life_of(process).wire.len();
        must!(
            seen + waiting >= said,
            "OUT-4",
            "{said} outputs were said, {seen} seen, and {waiting} wait"
        );
    }

    /// How much a process holds.
    pub(crate) fn held(&mut self, process: ProcessId) -> EntryIndex {
        self.ledger(process).last()
    }

    /// How much a process has acknowledged.
    pub(crate) fn acknowledged(&mut self, process: ProcessId) -> EntryIndex {
        self.ledger(process).acknowledged
    }

    /// Whether a process and its peer have both sent a claim.
    pub(crate) fn both_have_claimed(&mut self, process: ProcessId) -> bool {
        let history = self.life_of(process);
        let members = [history.primary, history.backup];
        members
            .into_iter()
            .all(|member| member.is_some_and(|member| self.claimed(member).is_some()))
    }

    /// When a process first sent a claim.
    pub(crate) fn claimed(&self, process: ProcessId) -> Option<u64> {
        self.ledgers.get(&process)?.claimed
    }
}
