//! How much of what a log holds, and what it costs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::dump::device_name;
use crate::codec;
use crate::entry::{Entry, Kind, OutputDevice, Payload};
use crate::store::{Place, Result};
use crate::types::VirtualTime;

/// The upper ends of the classes of gaps, in nanoseconds: decades from 10 µs to 1 s, and a last
/// class without end.
const GAP_CLASSES_NS: [u64; 6] = [
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
];

/// The figures of a log, or of a part of one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// How many entries there are.
    pub entries: u64,
    /// What they take in the log, without the headers of frames and segments.
    pub bytes: u64,
    /// How much virtual time passes, in nanoseconds.
    pub span_ns: u64,
    /// Entries per second of virtual time, if any passes.
    pub entries_per_s: Option<f64>,
    /// Bits of entries per second of virtual time, if any passes.
    pub bits_per_s: Option<f64>,
    /// By kind, without the kinds that do not occur.
    pub kinds: Vec<KindStats>,
    /// Outputs by device.
    pub outputs: Vec<DeviceStats>,
    /// Interrupts by vector.
    pub interrupts: Vec<VectorStats>,
    /// Digests.
    pub digests: DigestStats,
    /// How long virtual time stands between one `Clock` and the next.
    pub gaps: Vec<GapStats>,
}

/// The figures of one kind of entry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindStats {
    /// The kind.
    pub kind: Kind,
    /// How many there are.
    pub count: u64,
    /// What they take in the log.
    pub bytes: u64,
    /// What one takes on average.
    pub bytes_per_entry: f64,
    /// Their part of all entries' bytes, from 0 to 1.
    pub share: f64,
}

/// The outputs of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceStats {
    /// The device's name.
    pub device: &'static str,
    /// How many there are.
    pub count: u64,
    /// The bytes that left the machine, which are not in the log.
    pub bytes: u64,
}

/// The interrupts of one vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VectorStats {
    /// The vector.
    pub vector: u8,
    /// How many there are.
    pub count: u64,
}

/// Digests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DigestStats {
    /// All of them.
    pub count: u64,
    /// Those that cover RAM.
    pub with_ram: u64,
}

/// One class of gaps in virtual time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapStats {
    /// Shorter than this many nanoseconds, and not in the class before; none for the last class.
    pub below_ns: Option<u64>,
    /// How many there are.
    pub count: u64,
}

impl Stats {
    /// Counts the entries of a log from `start` on.
    ///
    /// # Errors
    ///
    /// The first error of `entries`.
    pub fn of(start: Place, entries: impl IntoIterator<Item = Result<Entry>>) -> Result<Self> {
        let mut counts = Counts::default();
        let mut place = start;
        for entry in entries {
            let entry = entry?;
            counts.add(&entry, place);
            place = place.after(&entry);
        }
        Ok(counts.finish(place.time.since(start.time)))
    }
}

#[derive(Default)]
struct Counts {
    kinds: BTreeMap<Kind, (u64, u64)>,
    outputs: BTreeMap<OutputDevice, (u64, u64)>,
    interrupts: BTreeMap<u8, u64>,
    digests: DigestStats,
    last_clock: Option<VirtualTime>,
    gaps: [u64; GAP_CLASSES_NS.len() + 1],
}

impl Counts {
    fn add(&mut self, entry: &Entry, before: Place) {
        let (count, bytes) = self.kinds.entry(entry.payload.kind()).or_default();
        *count += 1;
        *bytes += codec::entry_len(entry, before.position, before.time) as u64;
        match &entry.payload {
            Payload::Output(mark) => {
                let (count, bytes) = self.outputs.entry(mark.device).or_default();
                *count += 1;
                *bytes += u64::from(mark.len);
            }
            Payload::Interrupt { vector } => *self.interrupts.entry(*vector).or_default() += 1,
            Payload::Digest(digest) => {
                self.digests.count += 1;
                self.digests.with_ram += u64::from(digest.ram.is_some());
            }
            Payload::Clock { now } => {
                if let Some(last) = self.last_clock.replace(*now) {
                    let gap = now.since(last);
                    self.gaps[GAP_CLASSES_NS.partition_point(|end| *end <= gap)] += 1;
                }
            }
            _ => {}
        }
    }

    fn finish(self, span_ns: u64) -> Stats {
        let entries: u64 = self.kinds.values().map(|(count, _)| count).sum();
        let bytes: u64 = self.kinds.values().map(|(_, bytes)| bytes).sum();
        let per_s =
            |amount: u64| (span_ns > 0).then(|| amount as f64 / (span_ns as f64 / 1_000_000_000.0));
        let classes = GAP_CLASSES_NS.into_iter().map(Some).chain([None]);
        Stats {
            entries,
            bytes,
            span_ns,
            entries_per_s: per_s(entries),
            bits_per_s: per_s(bytes * 8),
            kinds: self
                .kinds
                .into_iter()
                .map(|(kind, (count, of_kind))| KindStats {
                    kind,
                    count,
                    bytes: of_kind,
                    bytes_per_entry: of_kind as f64 / count as f64,
                    share: of_kind as f64 / bytes as f64,
                })
                .collect(),
            outputs: self
                .outputs
                .into_iter()
                .map(|(device, (count, bytes))| DeviceStats {
                    device: device_name(device),
                    count,
                    bytes,
                })
                .collect(),
            interrupts: self
                .interrupts
                .into_iter()
                .map(|(vector, count)| VectorStats { vector, count })
                .collect(),
            digests: self.digests,
            gaps: classes
                .zip(self.gaps)
                .map(|(below_ns, count)| GapStats { below_ns, count })
                .collect(),
        }
    }
}
