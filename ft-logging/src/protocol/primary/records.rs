//! What the machine does becomes log, and what it says leaves once the log is held (OUT-1).

use super::super::gate::Held;
use super::super::{Brake, Effect, Histogram, Now, Record};
use super::{Primary, State};
use crate::entry::{Entry, Payload};
use crate::message::{BATCH_TARGET_BYTES, Batch, MAX_BATCH_ENTRIES, Message};
use crate::types::{EntryIndex, OutputSeq};

/// What an entry costs in a buffer beside its payload.
const ENTRY_BYTES: usize = 64;

impl Primary {
    /// How many outputs wait at the gate, and their size in bytes.
    #[must_use]
    pub fn gate_fill(&self) -> (usize, usize) {
        (self.gate.len(), self.gate.bytes())
    }

    /// How far replay is behind now, in nanoseconds, and the lags of the last 5 to 10 seconds
    /// (LOG-5).
    #[must_use]
    pub fn lag(&self, now: Now) -> (u64, Histogram) {
        (self.lag.current_ns(now), self.lag.recent(now))
    }

    /// Whether the node may take more records from the vCPU thread; if not, the thread waits
    /// (LOG-4).
    #[must_use]
    pub fn wants_records(&self) -> bool {
        self.gate.bytes() < self.limits.gate_bytes
            && self.unacked_bytes < self.limits.log_bytes
            && self.lag.bytes() < self.limits.log_bytes
    }

    /// The vCPU thread has records.
    pub fn handle_records(&mut self, now: Now, records: Vec<Record>) {
        self.observe(now);
        if matches!(self.state, State::Ended) {
            return;
        }
        self.append(now, records);
        self.advance(now);
    }

    /// Outputs up to `through` were written to where they go.
    pub fn handle_released(&mut self, now: Now, through: OutputSeq) {
        self.observe(now);
        assert!(
            through <= self.passed,
            "OUT-3: released what never passed the gate"
        );
        self.released = self.released.max(through);
        if !self.alone && !matches!(self.state, State::Ended) {
            let payload = Payload::Released { through };
            let record = Record {
                position: self.position,
                payload,
                output: None,
                request: None,
            };
            self.append(now, vec![record]);
        }
        self.advance(now);
    }

    fn append(&mut self, now: Now, records: Vec<Record>) {
        let mut entries = Vec::with_capacity(records.len());
        let mut bytes = 0;
        for record in records {
            assert!(record.position >= self.position, "positions never go back");
            self.position = record.position;
            self.last = self.last.next();
            if let Some(output) = record.output {
                let Payload::Output(mark) = &record.payload else {
                    panic!("an output without its mark");
                };
                self.gate.hold(
                    self.last,
                    Held::Output {
                        seq: mark.seq,
                        output,
                    },
                );
            }
            if let Some(request) = record.request {
                self.gate.hold(self.last, Held::Answer(request));
            }
            bytes += ENTRY_BYTES + record.payload.held_bytes();
            let (position, payload) = (record.position, record.payload);
            entries.push(Entry {
                index: self.last,
                position,
                payload,
            });
            if bytes >= BATCH_TARGET_BYTES || entries.len() == MAX_BATCH_ENTRIES {
                self.append_batch(
                    now,
                    std::mem::take(&mut entries),
                    std::mem::take(&mut bytes),
                );
            }
        }
        if !entries.is_empty() {
            self.append_batch(now, entries, bytes);
        }
    }

    fn append_batch(&mut self, now: Now, entries: Vec<Entry>, bytes: usize) {
        let batch = Batch::from(entries);
        self.effects.push_back(Effect::Append(batch.clone()));
        if self.alone {
            return;
        }
        self.unacked.push_back(batch.clone());
        self.unacked_bytes += bytes;
        self.lag.sent(now, self.last, bytes);
        if self.linked {
            self.effects
                .push_back(Effect::Send(Message::Entries(batch)));
        }
    }

    pub(super) fn acknowledge(&mut self, through: EntryIndex) {
        self.acked = through;
        let held = |batch: &mut Batch| batch.last().is_some_and(|last| last.index <= through);
        while let Some(batch) = self.unacked.pop_front_if(held) {
            self.unacked_bytes -= batch
                .iter()
                .map(|entry| ENTRY_BYTES + entry.payload.held_bytes())
                .sum::<usize>();
        }
    }

    /// LOG-5.
    pub(super) fn pace(&mut self, now: Now) {
        self.set_brake(match self.alone {
            true => Brake::OFF,
            false => Brake::of_lag(self.lag.current_ns(now), self.timing.max_lag_ns),
        });
    }

    pub(super) fn set_brake(&mut self, brake: Brake) {
        if self.brake != brake {
            self.brake = brake;
            self.effects.push_back(Effect::SlowDown(brake));
        }
    }

    /// OUT-1: what is acknowledged may leave, while protected and beyond doubt; alone, everything.
    pub(super) fn pass_gate(&mut self) {
        let through = match self.state {
            _ if self.alone && !matches!(self.state, State::Ended) => self.last,
            State::Protected if self.linked && self.proof.is_none() => self.acked,
            _ => return,
        };
        while let Some(item) = self.gate.pass(through) {
            self.effects.push_back(match item {
                Held::Answer(request) => Effect::Answer(request),
                Held::Output { seq, output } => {
                    self.passed = seq;
                    Effect::Release { seq, output }
                }
            });
        }
    }
}
