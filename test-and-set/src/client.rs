//! Asking the arbiter: tries every server, follows the leader, and says honestly how
//! far a question came.
//!
//! A question that was sent and not answered may have been done, or may be done yet.
//! Such a claim is [`ClaimOutcome::Unknown`], never lost (TAS-4), also when a later
//! attempt is refused: a refusal says nothing about an attempt that is still under
//! way. An answer of the register itself (won, lost, stopped, deleted) holds for
//! ever, whichever attempt it answers.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::register::{Answer, Command, Record, Refusal};
use crate::status::{ChangeRefusal, Status};
use crate::types::{
    Address, ClusterId, Generation, Incarnation, Life, Member, Members, Reason, ServerId, VmName,
};
use crate::wire::{self, Hello, MAX_FRAME_BYTES, Request, Response, WireError};

/// How long to wait between rounds in which no server was the leader: a small part
/// of an election.
const NEXT_ROUND: Duration = Duration::from_millis(20);

/// How long a change of the servers may take: a new one receives the whole state.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

/// Which arbiter to ask, and how patiently.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The servers, as `host:port`. Some of them are enough: the leader is found
    /// through any.
    pub servers: Vec<String>,
    /// The cluster that is meant; without one, the first that answers is pinned
    /// (TAS-5).
    pub cluster: Option<ClusterId>,
    /// How long one server may take to answer before another is asked.
    pub attempt_timeout: Duration,
    /// How long a question may take altogether.
    pub total_timeout: Duration,
}

impl ClientConfig {
    /// Asks these servers, 500 ms each and 5 s altogether.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            cluster: None,
            attempt_timeout: Duration::from_millis(500),
            total_timeout: Duration::from_secs(5),
        }
    }
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The generation is the caller's.
    Won,
    /// The generation is somebody else's, for ever.
    Lost {
        /// Whose it is.
        to: Incarnation,
    },
    /// The life was stopped in good order: nothing takes over.
    Stopped,
    /// The life was deleted.
    Deleted,
    /// The claim does not fit the record, and was not granted.
    Refused(Refusal),
    /// The claim was sent, and its fate is not known (TAS-4). Ask again.
    Unknown(String),
    /// Nothing was done: no server could act on the claim. Ask again.
    Unreachable(String),
}

/// What became of another change of the register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// It was done, now or when it was asked before.
    Done,
    /// The life was stopped in good order: now, if that was asked.
    Stopped,
    /// The life was deleted: now, if that was asked.
    Deleted,
    /// It does not fit the record, and was not done.
    Refused(Refusal),
    /// It was sent, and its fate is not known. Ask again.
    Unknown(String),
    /// Nothing was done: no server could act on it. Ask again.
    Unreachable(String),
}

/// No server could answer. Reading changes nothing, so there is no more to know.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the arbiter does not answer: {0}")]
pub struct NoAnswer(pub String);

/// Why the servers were not changed as asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// They cannot be; nothing was changed.
    #[error(transparent)]
    Refused(#[from] ChangeRefusal),
    /// It is not known how far the change came. Asking again completes it.
    #[error("the arbiter may or may not have changed its servers: {0}")]
    Unknown(String),
    /// Nothing was changed: no server could act on it.
    #[error("the arbiter does not answer: {0}")]
    Unreachable(String),
}

/// A connection to the arbiter, kept open to the leader so that a claim is one round
/// trip. One question at a time; whoever asks several at once has several clients.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    /// The last server that answered, taken out while it is asked.
    connection: Option<(String, TcpStream)>,
    /// Where the leader was said to be.
    hint: Option<Address>,
}

/// A question without an answer of the register.
enum Silence {
    /// It was sent at least once.
    Unknown(String),
    /// It never was.
    Unreachable(String),
}

/// An answer, and whether an earlier attempt may still be done.
struct Answered {
    response: Response,
    doubt: Option<String>,
}

impl Client {
    /// A client that has not asked anything yet.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            connection: None,
            hint: None,
        }
    }

    /// The cluster that is pinned: the configured one, or the first that answered.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.config.cluster
    }

    /// Begins a life at generation 1. See [`Command::Create`].
    pub async fn create(&mut self, vm: VmName, life: Life, members: Members) -> ChangeOutcome {
        self.command(Command::Create { vm, life, members }).await
    }

    /// Opens the generation after the one that `by` won. See [`Command::Open`].
    pub async fn open(
        &mut self,
        vm: VmName,
        life: Life,
        generation: Generation,
        by: Incarnation,
        members: Members,
    ) -> ChangeOutcome {
        let open = Command::Open {
            vm,
            life,
            generation,
            by,
            members,
        };
        self.command(open).await
    }

    /// Ends a life in good order. See [`Command::Stop`].
    pub async fn stop(
        &mut self,
        vm: VmName,
        life: Life,
        generation: Generation,
        by: Incarnation,
        reason: Reason,
    ) -> ChangeOutcome {
        let stop = Command::Stop {
            vm,
            life,
            generation,
            by,
            reason,
        };
        self.command(stop).await
    }

    /// Gives a VM to one node, a person's decision. When it is done, `by` is the
    /// only member and the winner of the generation after `generation`. See
    /// [`Command::Recover`].
    pub async fn recover(
        &mut self,
        vm: VmName,
        life: Life,
        generation: Generation,
        by: Member,
    ) -> ChangeOutcome {
        let recover = Command::Recover {
            vm,
            life,
            generation,
            by,
        };
        self.command(recover).await
    }

    /// Ends a life whatever its state. See [`Command::Delete`].
    pub async fn delete(&mut self, vm: VmName, life: Life) -> ChangeOutcome {
        self.command(Command::Delete { vm, life }).await
    }

    /// Asks for a generation. See [`Command::Claim`].
    pub async fn claim(
        &mut self,
        vm: VmName,
        life: Life,
        generation: Generation,
        by: Incarnation,
    ) -> ClaimOutcome {
        let claim = Command::Claim {
            vm,
            life,
            generation,
            by,
        };
        match self.answer(claim).await {
            Ok(Answer::Won) => ClaimOutcome::Won,
            Ok(Answer::Lost { to }) => ClaimOutcome::Lost { to },
            Ok(Answer::Stopped) => ClaimOutcome::Stopped,
            Ok(Answer::Deleted) => ClaimOutcome::Deleted,
            Ok(Answer::Refused(refusal)) => ClaimOutcome::Refused(refusal),
            Ok(other @ (Answer::Created | Answer::Opened | Answer::Recovered { .. })) => {
                ClaimOutcome::Unknown(format!("a claim was answered with {other:?}"))
            }
            Err(Silence::Unknown(why)) => ClaimOutcome::Unknown(why),
            Err(Silence::Unreachable(why)) => ClaimOutcome::Unreachable(why),
        }
    }

    /// The record of a VM as it is now (TAS-1); none if it was never created or is
    /// deleted.
    ///
    /// # Errors
    /// When no majority of the servers answers in time.
    pub async fn read(&mut self, vm: VmName) -> Result<Option<Record>, NoAnswer> {
        match self.look(Request::Read(vm)).await? {
            Response::Record(record) => Ok(record),
            other => Err(confused(&other)),
        }
    }

    /// All VMs that have a record, by name. Each is as it was at some moment of the
    /// asking; they are not all of one moment where there are hundreds.
    ///
    /// # Errors
    /// When no majority of the servers answers in time.
    pub async fn list(&mut self) -> Result<Vec<(VmName, Record)>, NoAnswer> {
        let mut records: Vec<(VmName, Record)> = Vec::new();
        loop {
            let after = records.last().map(|(name, _)| name.clone());
            match self.look(Request::List(after)).await? {
                Response::Page(page) if page.is_empty() => return Ok(records),
                Response::Page(page) => records.extend(page),
                other => return Err(confused(&other)),
            }
        }
    }

    /// Asks every server how it is: those that are configured, and those that they
    /// name. Takes no longer than two attempts.
    pub async fn status_all(&mut self) -> BTreeMap<String, Result<Status, NoAnswer>> {
        let mut statuses = BTreeMap::new();
        let mut unasked = self.config.servers.clone();
        while !unasked.is_empty() {
            let mut asked = JoinSet::new();
            for server in unasked.drain(..) {
                let (cluster, limit) = (self.config.cluster, self.config.attempt_timeout);
                asked.spawn(async move {
                    let status = timeout(limit, status(&server, cluster)).await;
                    let status = match status {
                        Ok(Ok(status)) => Ok(status),
                        Ok(Err(error)) => Err(NoAnswer(error.to_string())),
                        Err(_) => Err(NoAnswer("no answer in time".into())),
                    };
                    (server, status)
                });
            }
            let first = statuses.is_empty();
            statuses.extend(asked.join_all().await);
            if first {
                let named = statuses
                    .values()
                    .flatten()
                    .flat_map(|status| &status.servers);
                unasked = named.map(|server| server.address.to_string()).collect();
                unasked.sort();
                unasked.dedup();
                unasked.retain(|server| !statuses.contains_key(server));
            }
        }
        statuses
    }

    /// Makes a server part of the cluster, which was started to join: returns when
    /// it has caught up and votes. Asking again is harmless.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn add_server(&mut self, id: ServerId, address: Address) -> Result<(), ChangeError> {
        self.change(Request::AddServer(id, address)).await
    }

    /// Takes a server out of the cluster, for ever: its id is not used again.
    /// Returns when the others decide without it. Asking again is harmless.
    ///
    /// # Errors
    /// See [`ChangeError`].
    pub async fn remove_server(&mut self, id: ServerId) -> Result<(), ChangeError> {
        self.change(Request::RemoveServer(id)).await
    }

    async fn command(&mut self, command: Command) -> ChangeOutcome {
        match self.answer(command).await {
            Ok(Answer::Created | Answer::Opened | Answer::Recovered { .. }) => ChangeOutcome::Done,
            Ok(Answer::Stopped) => ChangeOutcome::Stopped,
            Ok(Answer::Deleted) => ChangeOutcome::Deleted,
            Ok(Answer::Refused(refusal)) => ChangeOutcome::Refused(refusal),
            Ok(other @ (Answer::Won | Answer::Lost { .. })) => {
                ChangeOutcome::Unknown(format!("no claim, but answered with {other:?}"))
            }
            Err(Silence::Unknown(why)) => ChangeOutcome::Unknown(why),
            Err(Silence::Unreachable(why)) => ChangeOutcome::Unreachable(why),
        }
    }

    async fn answer(&mut self, command: Command) -> Result<Answer, Silence> {
        let (attempt, total) = (self.config.attempt_timeout, self.config.total_timeout);
        let Answered { response, doubt } =
            self.ask(Request::Command(command), attempt, total).await?;
        match (response, doubt) {
            // The attempt that is in doubt may be done later, when it fits.
            (Response::Answer(Answer::Refused(_)), Some(doubt)) => Err(Silence::Unknown(doubt)),
            (Response::Answer(answer), _) => Ok(answer),
            (other, _) => Err(Silence::Unknown(confused(&other).0)),
        }
    }

    async fn look(&mut self, request: Request) -> Result<Response, NoAnswer> {
        let (attempt, total) = (self.config.attempt_timeout, self.config.total_timeout);
        match self.ask(request, attempt, total).await {
            Ok(answered) => Ok(answered.response),
            Err(Silence::Unknown(why) | Silence::Unreachable(why)) => Err(NoAnswer(why)),
        }
    }

    async fn change(&mut self, request: Request) -> Result<(), ChangeError> {
        match self.ask(request, CHANGE_TIMEOUT, CHANGE_TIMEOUT).await {
            Ok(Answered { response, .. }) => match response {
                Response::Changed => Ok(()),
                Response::ChangeRefused(refusal) => Err(refusal.into()),
                other => Err(ChangeError::Unknown(confused(&other).0)),
            },
            Err(Silence::Unknown(why)) => Err(ChangeError::Unknown(why)),
            Err(Silence::Unreachable(why)) => Err(ChangeError::Unreachable(why)),
        }
    }

    /// Asks server after server until one has an answer or the time is over.
    async fn ask(
        &mut self,
        request: Request,
        attempt: Duration,
        total: Duration,
    ) -> Result<Answered, Silence> {
        let deadline = Instant::now() + total;
        let mut doubt = None;
        let mut why = None;
        let mut round = self.round();
        let mut asked = Vec::new();
        loop {
            let server = match round.pop_front() {
                Some(server) => server,
                None => {
                    if Instant::now() + NEXT_ROUND >= deadline {
                        break;
                    }
                    sleep(NEXT_ROUND).await;
                    round = self.round();
                    asked.clear();
                    continue;
                }
            };
            asked.push(server.clone());
            let mut sent = false;
            let until = deadline.min(Instant::now() + attempt);
            let answered = timeout_at(until, self.attempt(&server, &request, &mut sent)).await;
            self.demote(&server);
            // That the time was over says less than what an earlier attempt met.
            let cut_off = answered.is_err() && until == deadline;
            let (perhaps_done, what) = match answered {
                Ok(Ok(Response::NotLeader(hint))) => {
                    let hinted = hint.as_ref().map(|hint| hint.to_string());
                    if let Some(hinted) = hinted.filter(|hinted| !asked.contains(hinted)) {
                        round.retain(|server| *server != hinted);
                        round.push_front(hinted);
                    }
                    self.hint = hint;
                    (false, "there is no leader".to_owned())
                }
                Ok(Ok(Response::Unavailable(why))) => (false, why),
                Ok(Ok(Response::Undecided(why))) => (true, why),
                Ok(Ok(response)) => return Ok(Answered { response, doubt }),
                Ok(Err(error)) => (sent, error.to_string()),
                Err(_) => (sent, "no answer in time".to_owned()),
            };
            let what = format!("{server}: {what}");
            if perhaps_done {
                doubt = Some(what);
            } else if !cut_off || why.is_none() {
                why = Some(what);
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        match doubt {
            Some(doubt) => Err(Silence::Unknown(doubt)),
            None => {
                let why = why.unwrap_or_else(|| "no server is configured".to_owned());
                Err(Silence::Unreachable(why))
            }
        }
    }

    /// The servers to ask, the likeliest leader first.
    fn round(&self) -> VecDeque<String> {
        let connected = self.connection.as_ref().map(|(server, _)| server.clone());
        let hinted = self.hint.as_ref().map(Address::to_string);
        let likely = connected.or(hinted);
        let others = self
            .config
            .servers
            .iter()
            .filter(|server| Some(*server) != likely.as_ref());
        likely.iter().chain(others).cloned().collect()
    }

    /// Asks other servers first from now on, unless this one turns out to lead: a
    /// server that does not answer must not use up the time of every question.
    fn demote(&mut self, server: &str) {
        self.config.servers.sort_by_key(|other| other == server);
        if self
            .hint
            .as_ref()
            .is_some_and(|hint| hint.as_str() == server)
        {
            self.hint = None;
        }
    }

    /// Asks one server. Sets `sent` before the question leaves.
    async fn attempt(
        &mut self,
        server: &str,
        request: &Request,
        sent: &mut bool,
    ) -> Result<Response, WireError> {
        let mut stream = match self.connection.take() {
            Some((connected, stream)) if connected == server => stream,
            Some(_) | None => self.dial(server).await?,
        };
        *sent = true;
        wire::write_frame(&mut stream, request).await?;
        let response = wire::read_frame(&mut stream, MAX_FRAME_BYTES).await?;
        if !matches!(response, Response::NotLeader(_)) {
            self.connection = Some((server.to_owned(), stream));
        }
        Ok(response)
    }

    /// Dials a server and makes sure that it belongs to the pinned cluster.
    async fn dial(&mut self, server: &str) -> Result<TcpStream, WireError> {
        let (stream, cluster) = dial(server, self.config.cluster).await?;
        match cluster {
            Some(cluster) => self.config.cluster = Some(cluster),
            None => return Err(WireError::Unjoined),
        }
        Ok(stream)
    }
}

/// Dials a server; answers with its cluster, which is the pinned one if there is one
/// and the server is in any.
async fn dial(
    server: &str,
    pinned: Option<ClusterId>,
) -> Result<(TcpStream, Option<ClusterId>), WireError> {
    let hello = Hello::Client { cluster: pinned };
    let (stream, whois) = wire::dial(server, &hello).await?;
    match (pinned, whois.cluster) {
        (Some(pinned), Some(found)) if pinned != found => {
            Err(wire::HelloRefusal::OtherCluster(found).into())
        }
        (_, found) => Ok((stream, found)),
    }
}

async fn status(server: &str, pinned: Option<ClusterId>) -> Result<Status, WireError> {
    let (mut stream, _) = dial(server, pinned).await?;
    wire::write_frame(&mut stream, &Request::Status).await?;
    match wire::read_frame(&mut stream, MAX_FRAME_BYTES).await? {
        Response::Status(status) => Ok(*status),
        _ => Err(WireError::Malformed),
    }
}

fn confused(response: &Response) -> NoAnswer {
    NoAnswer(format!("the answer to another question: {response:?}"))
}
