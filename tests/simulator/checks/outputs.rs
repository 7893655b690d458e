//! Outputs: what may leave, in which order, and that nothing is said twice in two ways.

use ft_logging::entry::Output;
use ft_logging::protocol::RequestId;
use ft_logging::types::{EntryIndex, OutputSeq, Token};

use super::{Checks, Seen, must};
use crate::env::ProcessId;

impl Checks {
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
}
