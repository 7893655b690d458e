//! The log: that it is one, that what is acknowledged is held, and that every buffer is bounded.

use ft_logging::entry::{Entry, Payload};
use ft_logging::protocol::{Brake, Limits, RequestId};
use ft_logging::types::{EntryIndex, Position};

use super::{Checks, must};
use crate::env::ProcessId;

/// By how much a bound may be passed: what the machine says and takes in one turn, and the
/// primary's own `Released` entries.
const SLACK_BYTES: usize = 4 << 10;

impl Checks {
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
    pub(crate) fn paces(&self, process: ProcessId, lag_ns: u64, max_lag_ns: u64, brake: Brake) {
        must!(
            brake == Brake::FULL || lag_ns < max_lag_ns,
            "LOG-5",
            "process {} runs freely {lag_ns} ns ahead",
            process.0
        );
        must!(
            brake == Brake::OFF || lag_ns > max_lag_ns / 2,
            "LOG-5",
            "process {} is slowed {lag_ns} ns ahead",
            process.0
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
}
