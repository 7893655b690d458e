//! Failover: who suspects, claims and goes live, and when.

use ft_logging::entry::OutputMark;
use ft_logging::protocol::Question;
use ft_logging::types::{EntryIndex, Incarnation, OutputSeq, Position};
use test_and_set::register::Record;

use super::{Checks, must};
use crate::env::ProcessId;

impl Checks {
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
