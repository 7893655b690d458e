//! The verifying clients: one TCP connection each, which is never opened again.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::meter::Meter;
use super::resp::{self, Malformed, Reply};
use super::workload::{Findings, KEYS, Ledger, SHARED, SharedCounter, WrongAnswer};

/// A request without an answer for so long counts as a broken connection: longer than any takeover,
/// with TCP's retransmissions after it.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much is read at once, in bytes.
const READ_BYTES: usize = 4096;

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ClientError {
    #[error("the guest closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("no answer within {} s to {request} on the connection from {from}", PATIENCE.as_secs())]
    NoAnswer { request: String, from: SocketAddr },
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Wrong(#[from] WrongAnswer),
    #[error("the guest answered {0:?}")]
    Unexpected(Reply),
}

/// A connection to the guest's key-value server.
#[derive(Debug)]
pub(in crate::cli) struct Connection {
    stream: TcpStream,
    /// This end, by which a capture tells connections apart.
    from: SocketAddr,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub(in crate::cli) async fn open(address: SocketAddr) -> Result<Self, ClientError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            from: stream.local_addr()?,
            stream,
            inbox: Vec::with_capacity(READ_BYTES),
            outbox: Vec::new(),
        })
    }

    /// Sends a command and waits for its reply.
    pub(in crate::cli) async fn ask<W: AsRef<[u8]>>(
        &mut self,
        words: &[W],
    ) -> Result<Reply, ClientError> {
        self.outbox.clear();
        self.queue(words);
        self.send().await?;
        self.reply(words).await
    }

    /// The values of `keys`, asked for all at once: one by one each would cost the time of a round
    /// trip.
    async fn values(&mut self, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, ClientError> {
        let commands: Vec<[&str; 2]> = keys.iter().map(|key| ["GET", key]).collect();
        self.outbox.clear();
        commands.iter().for_each(|words| self.queue(words));
        self.send().await?;
        let mut values = Vec::with_capacity(keys.len());
        for words in &commands {
            match self.reply(words).await? {
                Reply::Bulk(value) => values.push(value),
                other => return Err(ClientError::Unexpected(other)),
            }
        }
        Ok(values)
    }

    fn queue<W: AsRef<[u8]>>(&mut self, words: &[W]) {
        let words: Vec<&[u8]> = words.iter().map(AsRef::as_ref).collect();
        resp::encode(&words, &mut self.outbox);
    }

    /// Hands what is queued to the kernel, whose buffer is larger than all that is ever asked at
    /// once.
    async fn send(&mut self) -> Result<(), ClientError> {
        Ok(self.stream.write_all(&self.outbox).await?)
    }

    /// The next reply, which is the one to `words`.
    async fn reply<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Result<Reply, ClientError> {
        let answer = async {
            loop {
                if let Some((reply, used)) = resp::decode(&self.inbox)? {
                    self.inbox.drain(..used);
                    return Ok(reply);
                }
                if self.stream.read_buf(&mut self.inbox).await? == 0 {
                    return Err(ClientError::Closed);
                }
            }
        };
        timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
            let text = |word: &W| String::from_utf8_lossy(word.as_ref()).into_owned();
            Err(ClientError::NoAnswer {
                request: words.iter().map(text).collect::<Vec<_>>().join(" "),
                from: self.from,
            })
        })
    }

    async fn count(&mut self, key: &str) -> Result<u64, ClientError> {
        match self.ask(&["GET", key]).await? {
            Reply::Bulk(value) => number(value),
            other => Err(ClientError::Unexpected(other)),
        }
    }
}

/// What a counter contains; one that was never incremented is not there.
fn number(value: Option<Vec<u8>>) -> Result<u64, ClientError> {
    let Some(value) = value else { return Ok(0) };
    let parsed = std::str::from_utf8(&value)
        .ok()
        .and_then(|text| text.parse().ok());
    parsed.ok_or(ClientError::Unexpected(Reply::Bulk(Some(value))))
}

/// What the clients have in common.
#[derive(Debug)]
struct Common {
    started: Instant,
    stop: AtomicBool,
    meter: Mutex<Meter>,
    shared: Mutex<SharedCounter>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Client {
    ledger: Ledger,
    connection: Connection,
    broken: Option<ClientError>,
}

impl Client {
    async fn run(mut self, common: Arc<Common>) -> Self {
        while !common.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.step(&common).await {
                self.broken = Some(error);
                break;
            }
        }
        self
    }

    async fn step(&mut self, common: &Common) -> Result<(), ClientError> {
        let request = self.ledger.next();
        let words = self.ledger.words(request);
        let sent = common.started.elapsed();
        let reply = self.connection.ask(&words).await?;
        let now = common.started.elapsed();
        self.ledger.answered(reply, &mut lock(&common.shared))?;
        lock(&common.meter).answered(sent, now, request.writes());
        Ok(())
    }
}

/// All clients at work.
#[derive(Debug)]
pub(in crate::cli) struct Load {
    common: Arc<Common>,
    tasks: JoinSet<Client>,
}

/// What the clients can say when all is over.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Verdict {
    /// What is lost or doubled.
    pub(in crate::cli) findings: Findings,
    /// Connections that did not last.
    pub(in crate::cli) broken: usize,
    /// Why the first of them broke.
    pub(in crate::cli) why_broken: Option<String>,
    /// Values and counters that were read back.
    pub(in crate::cli) checked: usize,
    /// What was measured, to the last answer of the load.
    pub(in crate::cli) meter: Meter,
    /// To read it all back once more.
    pub(in crate::cli) promised: Promised,
}

/// What all clients together were promised.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Promised {
    ledgers: Vec<Ledger>,
    shared: SharedCounter,
    /// Increments of the shared counter whose fate is unknown.
    open: u64,
}

impl Promised {
    /// Reads everything over a fresh connection to `address`: how much that was, and what is wrong
    /// that was right before.
    ///
    /// # Errors
    ///
    /// If the connection is of no use.
    pub(in crate::cli) async fn read_back(
        &mut self,
        address: SocketAddr,
    ) -> Result<(usize, Findings), ClientError> {
        let mut fresh = Connection::open(address).await?;
        let mut checked = 1;
        let mut findings = Findings::default();
        for ledger in &mut self.ledgers {
            checked += read_back(ledger, &mut fresh).await?;
            findings += ledger.take_findings();
        }
        findings += self.shared.check(fresh.count(SHARED).await?, self.open);
        Ok((checked, findings))
    }
}

impl Load {
    /// Opens `clients` connections and begins.
    pub(in crate::cli) async fn start(
        address: SocketAddr,
        clients: usize,
    ) -> Result<Self, ClientError> {
        let mut ready = Vec::with_capacity(clients);
        for number in 0..clients {
            let mut connection = Connection::open(address).await?;
            connection.ask(&["PING"]).await?;
            ready.push(Client {
                ledger: Ledger::new(number),
                connection,
                broken: None,
            });
        }
        let common = Arc::new(Common {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            meter: Mutex::default(),
            shared: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for client in ready {
            tasks.spawn(client.run(common.clone()));
        }
        Ok(Load { common, tasks })
    }

    /// When the load began.
    pub(in crate::cli) fn started(&self) -> Instant {
        self.common.started
    }

    /// What was measured so far.
    pub(in crate::cli) fn meter(&self) -> MutexGuard<'_, Meter> {
        lock(&self.common.meter)
    }

    /// Lets each client finish its request, then reads everything back: over the connections that
    /// were there all the time, and over a fresh one to `address`.
    ///
    /// # Errors
    ///
    /// If the fresh connection is of no use.
    pub(in crate::cli) async fn finish(
        mut self,
        address: SocketAddr,
    ) -> Result<Verdict, ClientError> {
        self.common.stop.store(true, Ordering::Relaxed);
        let mut clients = Vec::new();
        while let Some(client) = self.tasks.join_next().await {
            clients.push(client.expect("a client does not panic"));
        }
        let mut shared = lock(&self.common.shared).clone();
        let mut findings = Findings::default();
        let mut checked = 0;
        let open = clients
            .iter()
            .map(|client| client.ledger.shared_open())
            .sum();
        for client in &mut clients {
            let Client {
                ledger,
                connection,
                broken,
            } = client;
            if broken.is_none() {
                match read_back(ledger, connection).await {
                    Ok(count) => checked += count,
                    Err(error) => *broken = Some(error),
                }
            }
            if broken.is_none() {
                match connection.count(SHARED).await {
                    Ok(count) => findings += shared.check(count, open),
                    Err(error) => *broken = Some(error),
                }
            }
        }
        let broken: Vec<&ClientError> = clients.iter().filter_map(|c| c.broken.as_ref()).collect();
        let (broken, why_broken) = (broken.len(), broken.first().map(ToString::to_string));
        let mut promised = Promised {
            ledgers: clients.into_iter().map(|client| client.ledger).collect(),
            shared,
            open,
        };
        let (count, later) = promised.read_back(address).await?;
        findings += later;
        Ok(Verdict {
            findings,
            broken,
            why_broken,
            checked: checked + count,
            meter: lock(&self.common.meter).clone(),
            promised,
        })
    }
}

/// Reads all that a client ever wrote; returns how much that was.
async fn read_back(ledger: &mut Ledger, over: &mut Connection) -> Result<usize, ClientError> {
    let mut names: Vec<String> = (0..KEYS).map(|key| ledger.key_name(key)).collect();
    names.push(ledger.counter_name());
    let mut values = over.values(&names).await?;
    let count = values.pop().expect("as many values as names");
    for (key, value) in values.iter().enumerate() {
        ledger.check_key(key, value.as_deref());
    }
    ledger.check_counter(number(count)?);
    Ok(names.len())
}
