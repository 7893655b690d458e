//! Clients that ask and note what they were answered, each in its own manner.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use porcupine_rs::Operation;

use super::PATIENCE;
use super::history::{Asked, Kv, What, check};
use super::resp::{Client, Reply};

/// Keys that all clients write and read; each has another of its own.
const SHARED_KEYS: u64 = 3;

/// How long a hasty client waits for a reply. A failover takes longer.
const HASTE: Duration = Duration::from_millis(100);

/// How a client goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// One request at a time, over one connection that must hold.
    Steady,
    /// Hangs up on a server that takes long: that request stays open, and it connects anew.
    Hasty,
    /// So many requests at a time, mostly writes, over one connection that must hold.
    Pipelined(usize),
}

/// Opens a connection to the guest's server.
pub(crate) type Dial = Arc<dyn Fn() -> io::Result<TcpStream> + Send + Sync>;

#[derive(Default)]
struct Notes {
    history: Vec<Operation<Kv>>,
    /// Calls and returns, in the order of one clock.
    clock: i64,
    answered: u64,
    ended: usize,
    stop: bool,
}

#[derive(Default)]
struct Shared {
    notes: Mutex<Notes>,
    news: Condvar,
}

/// Running clients.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    /// Reads back what all have written.
    reader: Asker,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// The usual mix: most must see their connection hold, one hangs up.
    pub(crate) fn start(forward: SocketAddr) -> Self {
        use Manner::{Hasty, Pipelined, Steady};
        Self::of(forward, &[Steady, Steady, Steady, Pipelined(4), Hasty])
    }

    pub(crate) fn of(forward: SocketAddr, manners: &[Manner]) -> Self {
        Self::over(Arc::new(move || TcpStream::connect(forward)), manners)
    }

    pub(crate) fn over(dial: Dial, manners: &[Manner]) -> Self {
        let shared = Arc::new(Shared::default());
        let asker = |id, manner| Asker {
            id,
            manner,
            dial: dial.clone(),
            shared: shared.clone(),
            dice: u64::from(id) + 1,
        };
        let threads = (1..).zip(manners).map(|(id, manner)| {
            let asker = asker(id, *manner);
            std::thread::spawn(move || asker.run())
        });
        Clients {
            threads: threads.collect(),
            reader: asker(0, Manner::Steady),
            shared,
        }
    }

    /// Waits until so many more requests were answered.
    ///
    /// # Panics
    ///
    /// If that takes too long, or a client's connection broke that must hold.
    pub(crate) fn wait_for(&self, more: u64) {
        let mut notes = self.shared.notes.lock().expect("no client panics in here");
        let wanted = notes.answered + more;
        let deadline = Instant::now() + PATIENCE;
        while notes.answered < wanted {
            assert_eq!(notes.ended, 0, "a client has ended");
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the guest does not answer");
            (notes, _) = self
                .shared
                .news
                .wait_timeout(notes, left)
                .expect("as above");
        }
    }

    /// Stops the clients, reads everything back, and checks what all of them saw.
    pub(crate) fn finish(mut self) {
        self.shared.notes.lock().expect("as above").stop = true;
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        // One after the other: many reads at once could be ordered in too many ways to check.
        let mut client = self.reader.connect();
        for key in (0..SHARED_KEYS).map(|n| format!("shared-{n}")) {
            let read = self.reader.ask(&mut client, vec![(key, What::Get(None))]);
            read.expect("everything is read back");
        }
        let notes = std::mem::take(&mut *self.shared.notes.lock().expect("nobody left"));
        if let Err(why) = check(&notes.history) {
            panic!("{why}");
        }
    }
}

struct Asker {
    id: u32,
    manner: Manner,
    dial: Dial,
    shared: Arc<Shared>,
    dice: u64,
}

/// Counts a client's end, however it ends.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Ok(mut notes) = self.0.notes.lock() {
            notes.ended += 1;
        }
        self.0.news.notify_all();
    }
}

impl Asker {
    fn run(mut self) {
        let _ending = Ending(self.shared.clone());
        let mut client = self.connect();
        while !self.shared.notes.lock().expect("as above").stop {
            let batch = match self.manner {
                Manner::Pipelined(many) => (0..many).map(|n| self.write(n)).collect(),
                Manner::Steady | Manner::Hasty => vec![self.anything()],
            };
            if let Err(error) = self.ask(&mut client, batch) {
                assert_eq!(self.manner, Manner::Hasty, "the connection broke: {error}");
                client = self.connect();
            }
        }
        client.set_patience(PATIENCE);
        let own = vec![(self.own(), What::Get(None))];
        self.ask(&mut client, own).expect("it is read back");
    }

    fn connect(&self) -> Client {
        let client = Client::over((self.dial)().expect("somebody listens"));
        if self.manner == Manner::Hasty {
            client.set_patience(HASTE);
        }
        client
    }

    /// Asks all of a batch at once and notes the answers; those that are missing stay open.
    fn ask(&mut self, client: &mut Client, batch: Vec<(String, What)>) -> io::Result<()> {
        let requests: Vec<Vec<String>> = batch.iter().map(request).collect();
        let call_time = self.tick();
        let mut result = client.send(&requests);
        for (key, what) in batch {
            let seen = match &result {
                Ok(()) => client.receive(),
                Err(error) => Err(error.kind().into()),
            };
            match seen {
                Ok(reply) => self.note(call_time, key, answered(what, &reply)),
                Err(error) => {
                    self.note_open(call_time, key, what);
                    result = Err(error);
                }
            }
        }
        result
    }

    fn tick(&self) -> i64 {
        let mut notes = self.shared.notes.lock().expect("as above");
        notes.clock += 1;
        notes.clock
    }

    fn note(&self, call_time: i64, key: String, what: What) {
        let mut notes = self.shared.notes.lock().expect("as above");
        notes.clock += 1;
        notes.answered += 1;
        let return_time = notes.clock;
        notes
            .history
            .push(self.operation(call_time, return_time, key, what));
        drop(notes);
        self.shared.news.notify_all();
    }

    fn note_open(&self, call_time: i64, key: String, what: What) {
        // A read that nobody answered says nothing.
        if !matches!(what, What::Get(_)) {
            let operation = self.operation(call_time, i64::MAX, key, what);
            let mut notes = self.shared.notes.lock().expect("as above");
            notes.history.push(operation);
        }
    }

    fn operation(
        &self,
        call_time: i64,
        return_time: i64,
        key: String,
        what: What,
    ) -> Operation<Kv> {
        Operation {
            client_id: Some(self.id),
            call_time,
            return_time,
            op: Asked { key, what },
            metadata: None,
        }
    }

    // ---- what is asked -------------------------------------------------------------------------

    /// Xorshift (Marsaglia, 2003): the same questions in every run.
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % sides
    }

    fn own(&self) -> String {
        format!("own-{}", self.id)
    }

    fn key(&mut self) -> String {
        match self.roll(SHARED_KEYS + 1) {
            SHARED_KEYS => self.own(),
            shared => format!("shared-{shared}"),
        }
    }

    /// A value that nobody else sets, far from what counting reaches.
    fn value(&mut self) -> i64 {
        let number = self.roll(1 << 31);
        (i64::from(self.id) << 48) | (number as i64) << 16
    }

    fn anything(&mut self) -> (String, What) {
        let key = self.key();
        let what = match self.roll(4) {
            0 => What::Get(None),
            1 => What::Set(self.value()),
            _ => What::Incr(None),
        };
        (key, what)
    }

    /// Of a pipeline: what many set at once could be ordered in too many ways to check.
    fn write(&mut self, n: usize) -> (String, What) {
        match n % 4 {
            0 => ("shared-0".to_owned(), What::Incr(None)),
            1 => (self.own(), What::Set(self.value())),
            2 => (self.own(), What::Get(None)),
            _ => (self.own(), What::Incr(None)),
        }
    }
}

fn request((key, what): &(String, What)) -> Vec<String> {
    let key = key.clone();
    match what {
        What::Set(value) => vec!["SET".to_owned(), key, value.to_string()],
        What::Get(_) => vec!["GET".to_owned(), key],
        What::Incr(_) => vec!["INCR".to_owned(), key],
    }
}

/// What was asked, with its answer.
fn answered(what: What, reply: &Reply) -> What {
    match (what, reply) {
        (What::Set(value), Reply::Status(ok)) if ok == "OK" => What::Set(value),
        (What::Get(_), Reply::Bulk(value)) => {
            let number = |text: &String| text.parse().expect("only integers are set");
            What::Get(value.as_ref().map(number))
        }
        (What::Incr(_), Reply::Integer(value)) => What::Incr(Some(*value)),
        (what, reply) => panic!("{reply:?} to {what:?}"),
    }
}
