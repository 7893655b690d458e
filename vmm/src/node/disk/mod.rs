//! The guest's disk on this host: an image file, and the thread that reads and writes it.
//!
//! ```text
//!   vCPU thread ──requests, in order──▶ disk's thread ──▶ pread, pwrite, fdatasync
//!        ▲                                   │
//!        └────── done: status, what was read ┘
//! ```
//!
//! Each node has an image of its own and carries out every request on it, the primary's when the
//! guest makes it, the backup's when the guest makes it again in replay. They are equal at the
//! start, which the handshake checks by [`DiskImage::identity`], and see the same writes in the same
//! order; so they stay equal, and the moment of completion is all that is recorded.

mod image;
mod overlay;
mod server;
mod stamp;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::determinism::DiskDone;
use crate::devices::{BlockOperation, BlockRequest};

pub use image::{DiskError, DiskImage};
pub use overlay::Overlay;
use server::Server;
pub(super) use stamp::{DiskRole, Stamp};

/// What reads and writes for the guest.
trait Storage {
    /// Carries out an operation and returns what was read.
    fn carry_out(&mut self, operation: &BlockOperation) -> std::io::Result<Vec<u8>>;
}

/// The vCPU thread's end of the queues to the disk's thread, which ends with it.
#[derive(Debug)]
pub(super) struct DiskThread {
    requests: mpsc::Sender<BlockRequest>,
    answers: mpsc::Receiver<DiskDone>,
    /// Answers that were received and not yet asked for, oldest first. As many as there are
    /// requests in flight, which the device bounds.
    done: VecDeque<DiskDone>,
}

impl DiskThread {
    /// Starts the thread; it calls `wake` after each answer, and tells a person what fails.
    pub(super) fn spawn(
        image: Arc<DiskImage>,
        wake: impl Fn() + Send + 'static,
        tell: impl FnMut(String) + Send + 'static,
    ) -> Self {
        let (requests, inbox) = mpsc::channel();
        let (outbox, answers) = mpsc::channel();
        thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || {
                let mut server = Server::new(&*image, tell);
                for request in inbox {
                    if outbox.send(server.serve(request)).is_err() {
                        return;
                    }
                    wake();
                }
            })
            .expect("the host starts a thread");
        DiskThread {
            requests,
            answers,
            done: VecDeque::new(),
        }
    }

    pub(super) fn request(&self, request: BlockRequest) {
        // The thread ends only when this end is gone.
        let _ = self.requests.send(request);
    }

    /// The oldest answer that was not yet asked for.
    pub(super) fn done(&mut self) -> Option<DiskDone> {
        self.done.extend(self.answers.try_iter());
        self.done.pop_front()
    }

    /// Waits for the answer to request `tag`, at most for `patience`.
    pub(super) fn wait(
        &mut self,
        tag: u64,
        patience: Duration,
    ) -> Result<DiskDone, RecvTimeoutError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(at) = self.done.iter().position(|done| done.tag == tag) {
                return Ok(self.done.remove(at).expect("just found"));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.done.push_back(self.answers.recv_timeout(left)?);
        }
    }
}

#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod tests;
