//! The log on disk of a running node: a thread of its own, so that a slow disk delays nothing
//! (LOG-6).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use ft_logging::message::Batch;
use ft_logging::store::{LogStart, Options, Writer};
use ft_logging::types::Token;

use super::Event;

/// What may wait for the disk, in entries; beyond it recording stops, loudly.
const MAX_WAITING_ENTRIES: usize = 4 << 20;

#[derive(Debug)]
enum ToDisk {
    Batch(Batch),
    Token(Token),
}

/// The node's end of the thread. Dropping it waits until the disk has everything; a log that got no
/// entry, because the guest never ran, is taken away again.
#[derive(Debug)]
pub(super) struct Recorder {
    queue: Option<mpsc::Sender<ToDisk>>,
    waiting: Arc<AtomicUsize>,
    bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    events: tokio::sync::mpsc::Sender<Event>,
}

impl Recorder {
    /// Creates the log in `dir`.
    pub(super) fn create(
        dir: PathBuf,
        start: LogStart,
        options: Options,
        events: tokio::sync::mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let mut writer = Writer::create(&dir, start, options)?;
        let (queue, inbox) = mpsc::channel::<ToDisk>();
        let waiting = Arc::new(AtomicUsize::new(0));
        let bytes = Arc::new(AtomicU64::new(writer.bytes()));
        let thread = {
            let (waiting, bytes, events) = (waiting.clone(), bytes.clone(), events.clone());
            std::thread::Builder::new()
                .name("recorder".to_owned())
                .spawn(move || {
                    let mut next = inbox.recv().ok();
                    while let Some(item) = next {
                        let result = match item {
                            ToDisk::Batch(batch) => {
                                waiting.fetch_sub(batch.len(), Ordering::Relaxed);
                                writer.append(&batch)
                            }
                            ToDisk::Token(token) => writer.set_token(token),
                        };
                        // Whatever has piled up goes into one write.
                        let result = result.and_then(|()| match inbox.try_recv() {
                            Ok(item) => Ok(Some(item)),
                            Err(_) => writer.flush().map(|()| None),
                        });
                        bytes.store(writer.bytes(), Ordering::Relaxed);
                        next = match result {
                            Ok(Some(item)) => Some(item),
                            Ok(None) => inbox.recv().ok(),
                            Err(error) => {
                                let _ = events.blocking_send(Event::Warning(format!(
                                    "the log on disk ends here, the VM goes on: {error}"
                                )));
                                return;
                            }
                        };
                    }
                    if let Err(error) = writer.close() {
                        let _ = events.blocking_send(Event::Warning(error.to_string()));
                    }
                })?
        };
        Ok(Recorder {
            queue: Some(queue),
            waiting,
            bytes,
            thread: Some(thread),
            events,
        })
    }

    /// Takes a batch; never waits.
    pub(super) fn append(&mut self, batch: Batch) {
        let waiting = self.waiting.fetch_add(batch.len(), Ordering::Relaxed);
        if waiting > MAX_WAITING_ENTRIES {
            self.queue = None;
            let why = "the disk is too slow: the log on disk ends here, the VM goes on".to_owned();
            let _ = self.events.try_send(Event::Warning(why));
        }
        if let Some(queue) = &self.queue {
            let _ = queue.send(ToDisk::Batch(batch));
        }
    }

    /// The node speaks with another token from here on.
    pub(super) fn set_token(&self, token: Token) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(ToDisk::Token(token));
        }
    }

    /// The size of the log so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
