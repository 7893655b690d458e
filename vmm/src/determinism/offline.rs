//! A link to nobody: replays a recorded log, in this thread.

use std::time::Duration;

use ft_logging::entry::Output;
use ft_logging::message::Batch;
use ft_logging::types::{OutputSeq, Position};

use super::{Link, Order, Report};

/// Feeds batches from a log to a replaying machine and hands its outputs to `sink`.
#[derive(Debug)]
pub struct LogLink<B, F> {
    batches: B,
    sink: F,
}

impl<B, F> LogLink<B, F>
where
    B: Iterator<Item = Batch>,
    F: FnMut(OutputSeq, Output),
{
    /// Replays `batches`, to their end.
    pub fn new(batches: B, sink: F) -> Self {
        LogLink { batches, sink }
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

    fn is_slowed(&self) -> bool {
        false
    }
}
