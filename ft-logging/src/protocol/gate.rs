//! The output gate: where the primary holds what it wants to say (OUT-1, OUT-2).

use std::collections::VecDeque;

use super::RequestId;
use crate::entry::Output;
use crate::types::{EntryIndex, OutputSeq};

/// What a held item costs beside its bytes.
const ITEM_BYTES: usize = 64;

/// Something that may leave once its entry is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Output { seq: OutputSeq, output: Output },
    Answer(RequestId),
}

impl Held {
    fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Held::Output { output, .. } => output.bytes.len(),
                Held::Answer(_) => 0,
            }
    }
}

/// Holds outputs, in order, each under the index of its own entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    held: VecDeque<(EntryIndex, Held)>,
    bytes: usize,
}

impl Gate {
    /// Holds `item` until the entry `index` is acknowledged.
    pub(super) fn hold(&mut self, index: EntryIndex, item: Held) {
        assert!(
            self.held.back().is_none_or(|(last, _)| *last <= index),
            "OUT-5: outputs come in the order of their entries"
        );
        self.bytes += item.bytes();
        self.held.push_back((index, item));
    }

    /// The next item that may leave when every entry up to `acknowledged` is held by the backup.
    pub(super) fn pass(&mut self, acknowledged: EntryIndex) -> Option<Held> {
        let (_, item) = self
            .held
            .pop_front_if(|(index, _)| *index <= acknowledged)?;
        self.bytes -= item.bytes();
        Some(item)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_1_nothing_passes_before_its_own_entry_is_acknowledged() {
        let mut gate = Gate::default();
        gate.hold(EntryIndex(3), Held::Answer(RequestId(1)));
        gate.hold(EntryIndex(5), Held::Answer(RequestId(2)));
        assert_eq!(gate.pass(EntryIndex(2)), None);
        assert_eq!(gate.pass(EntryIndex(4)), Some(Held::Answer(RequestId(1))));
        assert_eq!(gate.pass(EntryIndex(4)), None);
        assert_eq!(gate.pass(EntryIndex(5)), Some(Held::Answer(RequestId(2))));
        assert!(gate.is_empty());
        assert_eq!(gate.bytes(), 0);
    }
}
