//! The log on disk of a running node: a thread of its own, so that a slow disk delays nothing
//! (LOG-6).
//!
//! Recording ends for good, with a word to the operator, when the log reaches a bound, the disk
//! fails, or the disk is so slow that what waits for it fills its own bound. The VM goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ft_logging::entry::Entry;
use ft_logging::message::Batch;
use ft_logging::store::{LogStart, Options, StoreError, Writer};
use ft_logging::types::Token;
use serde::{Deserialize, Serialize};

use super::Event;

/// What may wait for the disk, in bytes: seconds of the fastest log, a fraction of a host's memory.
const MAX_WAITING_BYTES: usize = 256 << 20;

/// Where a node writes its log, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The directory, which must be empty or new.
    pub dir: PathBuf,
    /// The bound in bytes, and the size of segments.
    pub options: Options,
    /// Recording also stops after this time.
    pub keep_for: Option<Duration>,
}

/// How a node's log on disk is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogSpace {
    /// Its directory.
    pub dir: String,
    /// Whether it is still written.
    pub recording: bool,
    /// Its size in bytes.
    pub bytes: u64,
    /// At this size recording stops.
    pub keep_bytes: u64,
    /// How long ago it was begun, in seconds.
    pub age_s: u64,
    /// At this age recording stops, if at any.
    pub keep_s: Option<u64>,
    /// What is free on its disk, in bytes, if the system tells.
    pub free_bytes: Option<u64>,
}

#[derive(Debug)]
enum ToDisk {
    Batch(Batch),
    Token(Token),
}

/// What both sides of the queue see.
#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    bytes: AtomicU64,
    stopped: AtomicBool,
}

/// The node's end of the thread. Dropping it waits until the disk has everything; a log that got no
/// entry, because the guest never ran, is taken away again.
#[derive(Debug)]
pub(super) struct Recorder {
    config: LogConfig,
    begun: Instant,
    /// `None` once recording has stopped.
    queue: Option<mpsc::Sender<ToDisk>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    events: tokio::sync::mpsc::Sender<Event>,
}

impl Recorder {
    /// Creates the log.
    pub(super) fn create(
        config: LogConfig,
        start: LogStart,
        events: tokio::sync::mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let writer = Writer::create(&config.dir, start, config.options)?;
        let (queue, inbox) = mpsc::channel();
        let shared = Arc::new(Shared::default());
        shared.bytes.store(writer.bytes(), Ordering::Relaxed);
        let begun = Instant::now();
        let thread = {
            let (shared, events, keep_for) = (shared.clone(), events.clone(), config.keep_for);
            let record = move || {
                if let Err(why) = record(writer, &inbox, &shared, begun, keep_for) {
                    shared.stopped.store(true, Ordering::Relaxed);
                    tell(&events, why);
                }
            };
            std::thread::Builder::new()
                .name("recorder".to_owned())
                .spawn(record)?
        };
        Ok(Recorder {
            config,
            begun,
            queue: Some(queue),
            shared,
            thread: Some(thread),
            events,
        })
    }

    /// Takes a batch; never waits.
    pub(super) fn append(&mut self, batch: Batch) {
        let Some(queue) = &self.queue else {
            return;
        };
        let bytes = held_bytes(&batch);
        if self.shared.waiting.fetch_add(bytes, Ordering::Relaxed) > MAX_WAITING_BYTES {
            let why = "the disk is too slow: the log on disk ends here, the VM goes on";
            tell(&self.events, why.to_owned());
            self.queue = None;
        } else if queue.send(ToDisk::Batch(batch)).is_err() {
            // The thread has said why.
            self.queue = None;
        }
    }

    /// The node speaks with another token from here on.
    pub(super) fn set_token(&self, token: Token) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(ToDisk::Token(token));
        }
    }

    /// How the log is.
    pub(super) fn space(&self) -> LogSpace {
        let free = nix::sys::statvfs::statvfs(&self.config.dir).ok();
        LogSpace {
            dir: self.config.dir.display().to_string(),
            recording: self.queue.is_some() && !self.shared.stopped.load(Ordering::Relaxed),
            bytes: self.shared.bytes.load(Ordering::Relaxed),
            keep_bytes: self.config.options.keep_bytes,
            age_s: self.begun.elapsed().as_secs(),
            keep_s: self.config.keep_for.map(|age| age.as_secs()),
            free_bytes: free.map(|disk| disk.blocks_available() * disk.fragment_size()),
        }
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

/// What a batch holds in memory while it waits.
fn held_bytes(batch: &[Entry]) -> usize {
    let of_entry = |entry: &Entry| size_of::<Entry>() + entry.payload.held_bytes();
    batch.iter().map(of_entry).sum()
}

/// Never waits: the node's loop may be waiting for this thread.
fn tell(events: &tokio::sync::mpsc::Sender<Event>, why: String) {
    if let Err(unsent) = events.try_send(Event::Warning(why)) {
        tracing::warn!(?unsent, "the log on disk");
    }
}

/// Writes what comes until the queue ends; or until recording must stop, and says why.
fn record(
    mut writer: Writer,
    inbox: &mpsc::Receiver<ToDisk>,
    shared: &Shared,
    begun: Instant,
    keep_for: Option<Duration>,
) -> Result<(), String> {
    let ends = |error: StoreError| format!("the log on disk ends here, the VM goes on: {error}");
    let mut next = inbox.recv().ok();
    while let Some(item) = next {
        if let Some(age) = keep_for
            && begun.elapsed() >= age
        {
            let (dir, index) = (writer.dir().display().to_string(), writer.place().index);
            writer.close().map_err(ends)?;
            return Err(format!(
                "the log in {dir} has reached its bound of {} s before entry {index}: recording \
                 stops here, the VM goes on; give more with --log-keep",
                age.as_secs()
            ));
        }
        match item {
            ToDisk::Batch(batch) => {
                shared
                    .waiting
                    .fetch_sub(held_bytes(&batch), Ordering::Relaxed);
                writer.append(&batch)
            }
            ToDisk::Token(token) => writer.set_token(token),
        }
        .map_err(ends)?;
        // Whatever has piled up goes into one write.
        next = match inbox.try_recv() {
            Ok(item) => Some(item),
            Err(_) => {
                writer.flush().map_err(ends)?;
                shared.bytes.store(writer.bytes(), Ordering::Relaxed);
                inbox.recv().ok()
            }
        };
        shared.bytes.store(writer.bytes(), Ordering::Relaxed);
    }
    writer.close().map_err(ends)
}

#[cfg(test)]
mod tests {
    use ft_logging::entry::Payload;
    use ft_logging::initial::{Configuration, CpuIdentity, InitialState, MACHINE_MODEL_VERSION};
    use ft_logging::store::{Log, Place};
    use ft_logging::types::{EntryIndex, Generation, Life, Position};

    use super::*;

    fn initial() -> InitialState {
        let text = |text: &str| text.to_owned();
        InitialState {
            life: Life([1; 16]),
            configuration: Configuration {
                machine_model: MACHINE_MODEL_VERSION,
                vm: text("kv"),
                guest: text("kv"),
                image: [1; 32],
                initrd: None,
                memory_mib: 64,
                command_line: String::new(),
                mac: [2; 6],
                disk: None,
                cpu: CpuIdentity {
                    backend: text("kvm"),
                    model: text("a CPU"),
                    kind: text("software"),
                    cpuid: 1,
                },
            },
            rtc_epoch_s: 0,
            seed: [3; 32],
        }
    }

    /// A recorder, and what it warns of.
    fn recorder(
        dir: &std::path::Path,
        keep_bytes: u64,
        keep_for: Option<Duration>,
    ) -> (Recorder, tokio::sync::mpsc::Receiver<Event>) {
        let options = Options {
            keep_bytes,
            ..Options::default()
        };
        let config = LogConfig {
            dir: dir.join("log"),
            options,
            keep_for,
        };
        let start = LogStart {
            initial: initial(),
            token: Token {
                generation: Generation(1),
                won: false,
            },
            place: Place::START,
        };
        let (events, warnings) = tokio::sync::mpsc::channel(8);
        let recorder = Recorder::create(config, start, events).expect("a log");
        (recorder, warnings)
    }

    fn frame(index: u64) -> Batch {
        let payload = Payload::NetRx {
            frame: vec![7; 1000],
        };
        Batch::from(vec![Entry {
            index: EntryIndex(index),
            position: Position(index),
            payload,
        }])
    }

    fn warning(warnings: &mut tokio::sync::mpsc::Receiver<Event>) -> String {
        match warnings.blocking_recv() {
            Some(Event::Warning(text)) => text,
            other => panic!("{other:?} is no warning"),
        }
    }

    #[test]
    fn log_6_at_its_bound_recording_stops_once_and_aloud_and_what_is_there_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let keep = 20_000;
        let (mut recorder, mut warnings) = recorder(dir.path(), keep, None);
        let mut index = 0;
        while recorder.queue.is_some() {
            index += 1;
            recorder.append(frame(index));
        }
        let said = warning(&mut warnings);
        assert!(said.contains("bound of 20000 bytes"), "{said}");
        let space = recorder.space();
        assert!(!space.recording && space.bytes <= keep, "{space:?}");
        assert!(space.free_bytes.is_some_and(|free| free > 0), "{space:?}");
        // More changes nothing, and is not told of again.
        recorder.append(frame(index + 1));
        assert_eq!(recorder.space().bytes, space.bytes);
        drop(recorder);
        assert!(warnings.blocking_recv().is_none());
        let log = Log::open(&dir.path().join("log")).expect("a log");
        let entries: Vec<_> = log.reader().expect("readable").collect();
        assert!((15..20).contains(&entries.len()), "{}", entries.len());
        assert!(entries.iter().all(Result::is_ok));
    }

    #[test]
    fn log_6_recording_stops_at_its_age_as_well() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut recorder, mut warnings) = recorder(dir.path(), 1 << 20, Some(Duration::ZERO));
        assert!(recorder.space().recording);
        recorder.append(frame(1));
        let said = warning(&mut warnings);
        assert!(said.contains("bound of 0 s before entry 1"), "{said}");
        assert!(!recorder.space().recording);
        drop(recorder);
    }

    #[test]
    fn log_6_a_disk_that_is_too_slow_ends_the_log_and_delays_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut recorder, mut warnings) = recorder(dir.path(), 1 << 20, None);
        let waiting = MAX_WAITING_BYTES + 1;
        recorder
            .shared
            .waiting
            .fetch_add(waiting, Ordering::Relaxed);
        recorder.append(frame(1));
        assert!(warning(&mut warnings).contains("too slow"));
        recorder.append(frame(2));
        assert!(!recorder.space().recording);
        drop(recorder);
        assert!(warnings.blocking_recv().is_none(), "it is said once");
    }
}
