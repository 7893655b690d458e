//! What the checks remember: of each process what it did, of each life what is true of it.

use std::collections::{BTreeMap, VecDeque};

use ft_logging::entry::{Entry, Output, OutputMark, Payload};
use ft_logging::protocol::RequestId;
use ft_logging::types::{EntryIndex, Life, OutputSeq};

use crate::env::ProcessId;

/// What an entry costs in a buffer beside its payload: as the protocol counts.
const ENTRY_BYTES: usize = 64;

/// What one process did.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) life: Option<Life>,
    pub(super) log: Vec<Entry>,
    /// The size of the log up to each entry.
    pub(super) bytes_through: Vec<usize>,
    /// Each output's entry and mark, by its sequence number.
    pub(super) outputs: Vec<(EntryIndex, OutputMark)>,
    pub(super) requests: BTreeMap<RequestId, EntryIndex>,
    pub(super) acknowledged: EntryIndex,
    /// The last output that its log says has left.
    pub(super) known_released: OutputSeq,
    pub(super) passed: OutputSeq,
    pub(super) written: OutputSeq,
    /// What it has to send before anything new.
    pub(super) owes: VecDeque<OutputSeq>,
    pub(super) has_read: bool,
    /// When it first asked for the generation.
    pub(super) claimed: Option<u64>,
    pub(super) live: bool,
    pub(super) over: bool,
    /// Since when it has to expect that it was given up (FAIL-9).
    pub(super) away: Option<u64>,
}

impl Ledger {
    pub(super) fn last(&self) -> EntryIndex {
        EntryIndex(self.log.len() as u64)
    }

    pub(super) fn bytes_after(&self, index: EntryIndex) -> usize {
        let through = |n: usize| n.checked_sub(1).map_or(0, |last| self.bytes_through[last]);
        through(self.log.len()) - through(index.0 as usize)
    }

    pub(super) fn append(&mut self, entry: &Entry) {
        let bytes = self.bytes_through.last().copied().unwrap_or(0);
        let added = ENTRY_BYTES + entry.payload.held_bytes();
        self.bytes_through.push(bytes + added);
        match &entry.payload {
            Payload::Output(mark) => self.outputs.push((entry.index, *mark)),
            Payload::Released { through } => {
                self.known_released = self.known_released.max(*through);
            }
            _ => {}
        }
        self.log.push(entry.clone());
    }

    pub(super) fn outputs_through(&self, index: EntryIndex) -> OutputSeq {
        OutputSeq(self.outputs.partition_point(|output| output.0 <= index) as u64)
    }
}

/// What is true of one life.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) primary: Option<ProcessId>,
    pub(super) backup: Option<ProcessId>,
    /// Who goes on alone, and the last output that both agreed on.
    pub(super) winner: Option<(ProcessId, OutputSeq)>,
    /// What the world has seen, by sequence number.
    pub(super) wire: Vec<Output>,
}

/// Whether an output was on the wire before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    First,
    Again,
    /// For the first time, but said by another node before, which did not get it out.
    Saved,
    /// Said by a node that had lost, within what was agreed on.
    Late,
}
