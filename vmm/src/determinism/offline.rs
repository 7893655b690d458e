//! A link to nobody: replays a recorded log, in this thread.

use std::time::Duration;

use std::collections::VecDeque;

use ft_logging::entry::Output;
use ft_logging::message::Batch;
use ft_logging::protocol::Brake;
use ft_logging::types::{OutputSeq, Position};

use super::{DiskDone, Link, Order, Report};
use crate::devices::BlockRequest;

/// Feeds batches from a log to a replaying machine and hands its outputs to `sink`.
pub struct LogLink<B, F> {
    batches: B,
    sink: F,
    disk: Option<Disk>,
    done: VecDeque<DiskDone>,
}

/// Carries out a request to the disk, at once.
type Disk = Box<dyn FnMut(BlockRequest) -> DiskDone>;

impl<B, F> LogLink<B, F>
where
    B: Iterator<Item = Batch>,
    F: FnMut(OutputSeq, Output),
{
    /// Replays `batches`, to their end.
    pub fn new(batches: B, sink: F) -> Self {
        LogLink {
            batches,
            sink,
            disk: None,
            done: VecDeque::new(),
        }
    }

    /// Gives the machine a disk. A machine without one makes no requests.
    #[must_use]
    pub fn with_disk(mut self, disk: impl FnMut(BlockRequest) -> DiskDone + 'static) -> Self {
        self.disk = Some(Box::new(disk));
        self
    }
}

impl<B, F> Link for LogLink<B, F>
where
    B: Iterator<Item = Batch>,
    F: FnMut(OutputSeq, Output),
{
    fn receive(&mut self, _patience: Duration) -> Option<Order> {
        Some(self.batches.next().map_or(Order::End, Order::Entries))
    }

    fn send(&mut self, report: Report) {
        if let Report::Replayed { outputs, .. } = report {
            outputs
                .into_iter()
                .for_each(|(seq, output)| (self.sink)(seq, output));
        }
    }

    fn beat(&mut self, _position: Position) {}

    fn brake(&self) -> Brake {
        Brake::OFF
    }

    fn disk_request(&mut self, request: BlockRequest) {
        let disk = self.disk.as_mut();
        let disk = disk.expect("a machine with a disk is replayed with one");
        self.done.push_back(disk(request));
    }

    fn disk_done(&mut self) -> Option<DiskDone> {
        self.done.pop_front()
    }

    fn disk_wait(&mut self, tag: u64) -> Option<DiskDone> {
        let at = self.done.iter().position(|done| done.tag == tag)?;
        self.done.remove(at)
    }
}
