//! The kept tail: outputs of a replaying machine that may not have left the primary (OUT-3, OUT-4).
//!
//! What is kept is bounded by credit: the sizes of outputs stand in the log, so the backup knows
//! from the entries alone how much it will have to keep, and acknowledges no output that would
//! pass the bound until `Released` has made room. Nothing is ever dropped.

use std::collections::VecDeque;

use crate::entry::{Entry, Output, OutputMark, Payload};
use crate::types::{EntryIndex, OutputSeq};

/// What a kept output costs beside its bytes.
const ITEM_BYTES: usize = 64;

#[derive(Clone, Debug)]
struct Mark {
    index: EntryIndex,
    seq: OutputSeq,
    bytes: usize,
}

/// Keeps the outputs that are not known as released.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    bound: usize,
    /// Unreleased outputs of the log, oldest first; the first `admitted` of them have credit.
    marks: VecDeque<Mark>,
    admitted: usize,
    admitted_bytes: usize,
    /// What the machine has said so far of them.
    kept: VecDeque<(OutputSeq, Output)>,
    released: OutputSeq,
    received: EntryIndex,
}

impl Tail {
    pub(super) fn new(bound: usize) -> Self {
        Tail {
            bound,
            marks: VecDeque::new(),
            admitted: 0,
            admitted_bytes: 0,
            kept: VecDeque::new(),
            released: OutputSeq(0),
            received: EntryIndex(0),
        }
    }

    /// Takes note of an entry that was received.
    ///
    /// # Errors
    ///
    /// If the primary says that it released what this backup cannot have acknowledged (OUT-1).
    pub(super) fn received(&mut self, entry: &Entry) -> Result<(), String> {
        self.received = entry.index;
        match entry.payload {
            Payload::Output(OutputMark { seq, len, .. }) => {
                let bytes = ITEM_BYTES + len as usize;
                self.marks.push_back(Mark {
                    index: entry.index,
                    seq,
                    bytes,
                });
            }
            Payload::Released { through } => self.released(through)?,
            _ => {}
        }
        self.admit();
        Ok(())
    }

    fn released(&mut self, through: OutputSeq) -> Result<(), String> {
        self.released = self.released.max(through);
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.seq <= through) {
            self.admitted = self
                .admitted
                .checked_sub(1)
                .ok_or_else(|| format!("output {} left before it was acknowledged", mark.seq))?;
            self.admitted_bytes -= mark.bytes;
        }
        while self.kept.pop_front_if(|(seq, _)| *seq <= through).is_some() {}
        Ok(())
    }

    fn admit(&mut self) {
        while let Some(mark) = self.marks.get(self.admitted) {
            // One output always fits, or nothing would ever move.
            if self.admitted > 0 && self.admitted_bytes + mark.bytes > self.bound {
                break;
            }
            self.admitted += 1;
            self.admitted_bytes += mark.bytes;
        }
    }

    /// The last entry that may be acknowledged.
    pub(super) fn acknowledgeable(&self) -> EntryIndex {
        match self.marks.get(self.admitted) {
            Some(mark) => EntryIndex(mark.index.0 - 1),
            None => self.received,
        }
    }

    /// Keeps what the machine said, unless it is known to have left the primary.
    pub(super) fn keep(&mut self, seq: OutputSeq, output: Output) {
        assert!(
            self.kept.back().is_none_or(|(last, _)| last.next() == seq),
            "OUT-5: outputs come in one sequence"
        );
        if seq > self.released {
            self.kept.push_back((seq, output));
        }
    }

    /// Gives up what is kept, oldest first.
    pub(super) fn take(&mut self) -> VecDeque<(OutputSeq, Output)> {
        std::mem::take(&mut self.kept)
    }

    /// How many outputs are kept, and their size.
    pub(super) fn fill(&self) -> (usize, usize) {
        (
            self.kept.len(),
            self.kept.iter().map(|(_, output)| output.bytes.len()).sum(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::OutputDevice;
    use crate::types::Position;

    fn entry(index: u64, payload: Payload) -> Entry {
        Entry {
            index: EntryIndex(index),
            position: Position(index),
            payload,
        }
    }

    fn output(len: usize) -> Output {
        Output {
            device: OutputDevice::Net,
            bytes: vec![0; len],
        }
    }

    fn mark(index: u64, seq: u64, len: usize) -> Entry {
        entry(index, Payload::Output(output(len).mark(OutputSeq(seq))))
    }

    #[test]
    fn out_3_what_is_not_known_as_released_is_kept_whichever_comes_first() {
        let mut tail = Tail::new(1 << 20);
        for i in 1..=4 {
            tail.received(&mark(i, i, 100)).expect("in order");
        }
        tail.keep(OutputSeq(1), output(100));
        tail.keep(OutputSeq(2), output(100));
        tail.received(&entry(
            5,
            Payload::Released {
                through: OutputSeq(3),
            },
        ))
        .expect("in order");
        tail.keep(OutputSeq(3), output(100));
        tail.keep(OutputSeq(4), output(100));
        let kept: Vec<u64> = tail.take().iter().map(|(seq, _)| seq.0).collect();
        assert_eq!(kept, [4]);
    }

    #[test]
    fn out_3_at_the_bound_acknowledgements_are_withheld_and_released_makes_room() {
        let mut tail = Tail::new(400);
        tail.received(&mark(1, 1, 100)).expect("in order");
        tail.received(&mark(2, 2, 100)).expect("in order");
        assert_eq!(tail.acknowledgeable(), EntryIndex(2));
        tail.received(&mark(3, 3, 100)).expect("in order");
        tail.received(&entry(4, Payload::Progress))
            .expect("in order");
        assert_eq!(
            tail.acknowledgeable(),
            EntryIndex(2),
            "the third would pass the bound"
        );
        tail.received(&entry(
            5,
            Payload::Released {
                through: OutputSeq(1),
            },
        ))
        .expect("in order");
        assert_eq!(tail.acknowledgeable(), EntryIndex(5));
    }

    #[test]
    fn out_1_a_release_without_an_acknowledgement_is_the_primarys_fault() {
        let mut tail = Tail::new(10);
        tail.received(&mark(1, 1, 100)).expect("in order");
        tail.received(&mark(2, 2, 100)).expect("in order");
        let early = entry(
            3,
            Payload::Released {
                through: OutputSeq(2),
            },
        );
        assert!(tail.received(&early).is_err());
    }

    #[test]
    fn out_3_one_output_always_fits() {
        let mut tail = Tail::new(10);
        tail.received(&mark(1, 1, 100)).expect("in order");
        tail.received(&mark(2, 2, 100)).expect("in order");
        assert_eq!(tail.acknowledgeable(), EntryIndex(1));
        tail.received(&entry(
            3,
            Payload::Released {
                through: OutputSeq(1),
            },
        ))
        .expect("in order");
        assert_eq!(tail.acknowledgeable(), EntryIndex(3));
    }
}
