//! What the clients ask, and what they hold the guest to, pure.
//!
//! ```text
//!   each round of client 3:   SET  demo:3:17   3-1401      its own keys, one after the other
//!                             GET  demo:3:49               one that it wrote half a ring ago
//!                             INCR demo:3:count            its own counter
//!                             INCR demo:shared             everybody's counter
//! ```
//!
//! A [`Ledger`] knows what a client was promised. Since it sends one request at a time, every answer
//! is known in advance: an acknowledged write that is not there is *lost*, an INCR that was counted
//! more often than it was sent is *doubled*. Each fault is counted once: what was read is believed
//! from then on. Only a connection that broke leaves a request of unknown fate, and then both
//! outcomes are right.

use std::ops::AddAssign;

use super::resp::Reply;

/// The keys that each client writes in turn.
pub(in crate::cli) const KEYS: usize = 64;

/// The counter that all clients increment.
pub(in crate::cli) const SHARED: &str = "demo:shared";

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Request {
    /// Store a value, which no other request ever stores.
    Set {
        /// Which of the client's keys.
        key: usize,
        /// The value, as a number.
        value: u64,
    },
    /// Read a key.
    Get {
        /// Which.
        key: usize,
    },
    /// Increment the client's counter.
    Count,
    /// Increment everybody's counter.
    CountShared,
}

impl Request {
    /// Whether its answer acknowledges a write.
    pub(in crate::cli) fn writes(self) -> bool {
        !matches!(self, Request::Get { .. })
    }
}

/// What was found to be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Findings {
    /// Acknowledged writes that are not there.
    pub(in crate::cli) lost: u64,
    /// Increments that were counted again.
    pub(in crate::cli) duplicated: u64,
    /// The first fault, for people.
    pub(in crate::cli) first: Option<String>,
}

impl Findings {
    fn lost(count: u64, what: String) -> Self {
        Findings {
            lost: count,
            first: Some(what),
            ..Findings::default()
        }
    }

    fn duplicated(count: u64, what: String) -> Self {
        Findings {
            duplicated: count,
            first: Some(what),
            ..Findings::default()
        }
    }
}

impl AddAssign for Findings {
    fn add_assign(&mut self, other: Findings) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        if self.first.is_none() {
            self.first = other.first;
        }
    }
}

/// An answer of the wrong kind, such as an error.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest answered {request:?} with {reply:?}")]
pub(in crate::cli) struct WrongAnswer {
    request: Request,
    reply: Reply,
}

/// What one client was promised.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Ledger {
    client: usize,
    step: u64,
    keys: [Option<u64>; KEYS],
    counter: u64,
    /// The request that has no answer yet.
    open: Option<Request>,
    findings: Findings,
}

impl Ledger {
    /// Of a client that has asked nothing yet.
    pub(in crate::cli) fn new(client: usize) -> Self {
        Ledger {
            client,
            step: 0,
            keys: [None; KEYS],
            counter: 0,
            open: None,
            findings: Findings::default(),
        }
    }

    /// The next request. Its answer goes to [`Ledger::answered`].
    ///
    /// # Panics
    ///
    /// If the one before was not answered.
    pub(in crate::cli) fn next(&mut self) -> Request {
        assert_eq!(self.open, None, "one request at a time");
        let round = self.step / 4;
        let key = (round % KEYS as u64) as usize;
        let request = match self.step % 4 {
            0 => Request::Set { key, value: round },
            1 => Request::Get {
                key: (key + KEYS / 2) % KEYS,
            },
            2 => Request::Count,
            _ => Request::CountShared,
        };
        self.step += 1;
        self.open = Some(request);
        request
    }

    /// Its words on the wire.
    pub(in crate::cli) fn words(&self, request: Request) -> Vec<Vec<u8>> {
        let text = match request {
            Request::Set { key, value } => {
                vec!["SET".to_owned(), self.key_name(key), self.value_text(value)]
            }
            Request::Get { key } => vec!["GET".to_owned(), self.key_name(key)],
            Request::Count => vec!["INCR".to_owned(), self.counter_name()],
            Request::CountShared => vec!["INCR".to_owned(), SHARED.to_owned()],
        };
        text.into_iter().map(String::into_bytes).collect()
    }

    /// The name of a key.
    pub(in crate::cli) fn key_name(&self, key: usize) -> String {
        format!("demo:{}:{key}", self.client)
    }

    /// The name of the client's counter.
    pub(in crate::cli) fn counter_name(&self) -> String {
        format!("demo:{}:count", self.client)
    }

    /// The client is part of a value, so that mixed-up clients are seen as well.
    fn value_text(&self, value: u64) -> String {
        format!("{}-{value}", self.client)
    }

    /// Takes the answer to the open request.
    ///
    /// # Errors
    ///
    /// [`WrongAnswer`]; the request's fate is unknown then.
    ///
    /// # Panics
    ///
    /// If there is no open request.
    pub(in crate::cli) fn answered(
        &mut self,
        reply: Reply,
        shared: &mut SharedCounter,
    ) -> Result<(), WrongAnswer> {
        let request = self.open.expect("an answer belongs to a request");
        match (request, reply) {
            (Request::Set { key, value }, Reply::Status(status)) if status == "OK" => {
                self.keys[key] = Some(value);
            }
            (Request::Get { key }, Reply::Bulk(found)) => {
                self.open = None;
                self.check_key(key, found.as_deref());
            }
            (Request::Count, Reply::Integer(count)) => {
                self.counter += 1;
                self.open = None;
                self.check_counter(count);
            }
            (Request::CountShared, Reply::Integer(count)) => {
                self.findings += shared.answered(count);
            }
            (request, reply) => return Err(WrongAnswer { request, reply }),
        }
        self.open = None;
        Ok(())
    }

    /// Holds what a key contains against what was acknowledged.
    pub(in crate::cli) fn check_key(&mut self, key: usize, found: Option<&[u8]>) {
        let text = found.map(String::from_utf8_lossy);
        let is =
            |value: Option<u64>| text.as_deref() == value.map(|v| self.value_text(v)).as_deref();
        let expected = self.keys[key];
        if is(expected) {
            return;
        }
        if let Some(Request::Set { key: open, value }) = self.open
            && open == key
            && is(Some(value))
        {
            self.keys[key] = Some(value);
            return;
        }
        let describe = |text: Option<&str>| text.map_or("nothing".to_owned(), str::to_owned);
        self.findings += Findings::lost(
            1,
            format!(
                "{} should be {} and is {}",
                self.key_name(key),
                describe(expected.map(|v| self.value_text(v)).as_deref()),
                describe(text.as_deref())
            ),
        );
        self.keys[key] = text.and_then(|text| {
            let (client, value) = text.split_once('-')?;
            (client == self.client.to_string()).then(|| value.parse().ok())?
        });
    }

    /// Holds the client's counter against the increments that were acknowledged.
    pub(in crate::cli) fn check_counter(&mut self, found: u64) {
        let most = self.counter + u64::from(self.open == Some(Request::Count));
        self.findings += compare(&self.counter_name(), self.counter, most, found);
        self.counter = found;
    }

    /// How many increments of the shared counter have an unknown fate.
    pub(in crate::cli) fn shared_open(&self) -> u64 {
        u64::from(self.open == Some(Request::CountShared))
    }

    /// What was wrong since this was asked last.
    pub(in crate::cli) fn take_findings(&mut self) -> Findings {
        std::mem::take(&mut self.findings)
    }
}

/// A counter that should be between `least` and `most`.
fn compare(name: &str, least: u64, most: u64, found: u64) -> Findings {
    if found < least {
        Findings::lost(
            least - found,
            format!("{name} is {found}, {least} increments were acknowledged"),
        )
    } else if found > most {
        Findings::duplicated(
            found - most,
            format!("{name} is {found}, only {most} increments were sent"),
        )
    } else {
        Findings::default()
    }
}

/// What all clients together were promised of the counter that they share: every answer is a number
/// that nobody else was given, and none is skipped.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct SharedCounter {
    acknowledged: u64,
    /// One bit for each number that was given out.
    seen: Vec<u64>,
    /// How often a number was given out again: so many increments are missing, and were reported.
    repeated: u64,
}

/// Numbers beyond this are not remembered: no demo counts so far, and what a guest says bounds
/// nothing here (SEC-2).
const MAX_SHARED: u64 = 1 << 30;

impl SharedCounter {
    fn answered(&mut self, count: u64) -> Findings {
        self.acknowledged += 1;
        if count == 0 || count > MAX_SHARED {
            return Findings::lost(1, format!("{SHARED} was said to be {count}"));
        }
        let (word, bit) = ((count / 64) as usize, 1 << (count % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.repeated += 1;
            return Findings::lost(1, format!("{SHARED} was said to be {count} twice"));
        }
        self.seen[word] |= bit;
        Findings::default()
    }

    /// Holds the counter against the increments that were acknowledged; `open` more may have
    /// happened.
    pub(in crate::cli) fn check(&mut self, found: u64, open: u64) -> Findings {
        let least = self.acknowledged - self.repeated;
        let findings = compare(SHARED, least, self.acknowledged + open, found);
        self.acknowledged = found;
        self.repeated = 0;
        findings
    }
}

#[cfg(test)]
#[path = "workload_tests.rs"]
mod tests;
