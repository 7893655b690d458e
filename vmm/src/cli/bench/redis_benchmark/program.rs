//! The program redis-benchmark: one test as a process of its own, and what it prints.
//!
//! ```text
//!   "test","rps","avg_latency_ms", … ,"p99_latency_ms","max_latency_ms"     with --csv
//!   "SET","16233.77","2.729", … ,"4.175","10.399"
//! ```
//!
//! It ends with status 1 at the first error reply and when the server closes a connection. When it
//! cannot connect it tries again for ever, as fast as it can: every run here has an end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use crate::sys::child::die_with_parent;

/// What it is called.
pub(in crate::cli::bench) const NAME: &str = "redis-benchmark";

/// The package that has it, in Debian.
const PACKAGE: &str = "redis-tools";

/// A run says a few hundred bytes; more than this is something else.
const MOST_SAID: u64 = 16 << 10;

/// The most requests of a run: the program counts in an `int`.
const MOST_REQUESTS: u64 = i32::MAX as u64;

/// How much of what it said last is shown when it fails, in characters.
const LAST_WORDS: usize = 300;

/// The name and version of the one that is installed.
///
/// # Errors
///
/// Why there is none, for people.
pub(in crate::cli::bench) fn look() -> Result<String, String> {
    match Command::new(NAME).arg("--version").output() {
        Ok(Output { status, stdout, .. }) if status.success() => {
            let version = String::from_utf8_lossy(&stdout);
            Ok(version.lines().next().unwrap_or(NAME).trim().to_owned())
        }
        Ok(Output { status, .. }) => Err(format!("{NAME} --version ends with {status}")),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(format!(
            "it is not installed; Debian's package {PACKAGE} has it"
        )),
        Err(error) => Err(format!("{NAME} cannot be started: {error}")),
    }
}

/// A test that it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Set,
    Get,
}

impl Test {
    /// What it prints for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Test::Set => "SET",
            Test::Get => "GET",
        }
    }
}

/// What one run of it is asked to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    pub(super) test: Test,
    /// Connections.
    pub(super) clients: usize,
    /// Requests that each sends at once.
    pub(super) pipeline: u32,
    /// Requests of all clients together.
    pub(super) requests: u64,
    /// How many keys there are.
    pub(super) keys: u32,
    /// The size of a value.
    pub(super) value_bytes: u32,
    /// When it is given up.
    pub(super) patience: Duration,
}

/// What it measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) requests_per_s: f64,
    pub(super) median_ms: f64,
    pub(super) p99_ms: f64,
}

impl Order {
    fn arguments(&self, server: SocketAddr) -> Vec<String> {
        let Order {
            test,
            clients,
            pipeline,
            keys,
            value_bytes,
            ..
        } = self;
        let (host, port) = (server.ip(), server.port());
        let requests = self.requests.min(MOST_REQUESTS);
        format!(
            "--csv -h {host} -p {port} -t {} -c {clients} -P {pipeline} -n {requests} \
             -r {keys} -d {value_bytes}",
            test.name().to_lowercase()
        )
        .split(' ')
        .map(str::to_owned)
        .collect()
    }

    /// Has it done to `server`. Cancelling kills the process.
    ///
    /// # Errors
    ///
    /// With the process's own words, if it fails, does not end or says what is not understood.
    pub(super) async fn run(&self, server: SocketAddr) -> anyhow::Result<Measured> {
        let arguments = self.arguments(server);
        let mut command = Command::new(NAME);
        command
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        die_with_parent(&mut command);
        let mut child = tokio::process::Command::from(command)
            // Ctrl-C is for this process, which ends the others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {NAME}"))?;
        let stdout = child.stdout.take().context("it is piped")?;
        let stderr = child.stderr.take().context("it is piped")?;
        let what = || format!("{NAME} {}", arguments.join(" "));
        let ended = async {
            let (answer, words) = tokio::try_join!(said(stdout), said(stderr))?;
            anyhow::Ok((child.wait().await?, answer, words))
        };
        let Ok(ended) = timeout(self.patience, ended).await else {
            bail!("no end after {:.1?} of {}", self.patience, what());
        };
        let (status, answer, words) = ended.with_context(what)?;
        ensure!(
            status.success(),
            "{} ended with {status}: {}",
            what(),
            last_of(&format!("{answer}\n{words}"))
        );
        measured(&answer, self.test).with_context(what)
    }
}

/// All that comes, if it is not too much.
async fn said(from: impl AsyncRead + Unpin) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(MOST_SAID + 1).read_to_end(&mut bytes).await?;
    ensure!(
        bytes.len() as u64 <= MOST_SAID,
        "it says more than {MOST_SAID} bytes"
    );
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last line that says something, or its beginning.
fn last_of(words: &str) -> String {
    let mut lines = words.lines().map(str::trim).rev();
    let last = lines.find(|line| !line.is_empty());
    last.unwrap_or("nothing was said")
        .chars()
        .take(LAST_WORDS)
        .collect()
}

/// Reads what `--csv` prints of one test. The header says which column is which.
fn measured(output: &str, test: Test) -> anyhow::Result<Measured> {
    let mut lines = output.lines().filter(|line| !line.trim().is_empty());
    let head = fields(lines.next().context("it printed nothing")?)?;
    let row = lines.next().context("it printed a head and no figures")?;
    if let Some(more) = lines.next() {
        bail!("it printed more than one test: {}", last_of(more));
    }
    let row = fields(row)?;
    ensure!(
        row.len() == head.len(),
        "{} figures below {} names",
        row.len(),
        head.len()
    );
    let column = |name: &str| {
        let at = head.iter().position(|head| *head == name);
        let at = at.with_context(|| format!("it has no column {name}"))?;
        Ok::<_, anyhow::Error>(row[at])
    };
    let figure = |name: &str| {
        let text = column(name)?;
        let number = text.parse().ok().filter(|n: &f64| n.is_finite());
        number.with_context(|| format!("{name} is {text:?}, which is no number"))
    };
    let name = column("test")?;
    ensure!(
        name == test.name(),
        "it measured {name:?} for {}",
        test.name()
    );
    let requests_per_s = figure("rps")?;
    ensure!(requests_per_s > 0.0, "it counted no request");
    Ok(Measured {
        requests_per_s,
        median_ms: figure("p50_latency_ms")?,
        p99_ms: figure("p99_latency_ms")?,
    })
}

/// The fields of a line, each in quotes, none with a quote in it.
fn fields(line: &str) -> anyhow::Result<Vec<&str>> {
    let inner = line
        .trim()
        .strip_prefix('"')
        .and_then(|line| line.strip_suffix('"'));
    let fields: Option<Vec<&str>> = inner.map(|inner| inner.split("\",\"").collect());
    fields
        .filter(|fields| fields.iter().all(|field| !field.contains('"')))
        .with_context(|| format!("it printed no line of quoted fields: {}", last_of(line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of redis-benchmark 7.0.15, Debian 12.
    const HEAD: &str = r#""test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms""#;
    const SET: &str = r#""SET","16233.77","2.729","0.552","2.567","3.639","4.175","10.399""#;
    const GET: &str = r#""GET","49875.31","15.422","1.160","14.519","22.095","23.423","23.439""#;

    #[test]
    fn a_test_s_figures_are_found_by_their_names() {
        let set = Measured {
            requests_per_s: 16233.77,
            median_ms: 2.567,
            p99_ms: 4.175,
        };
        let get = Measured {
            requests_per_s: 49875.31,
            median_ms: 14.519,
            p99_ms: 23.423,
        };
        let moved = concat!(
            "\"p99_latency_ms\",\"test\",\"p50_latency_ms\",\"rps\",\"news\"\r\n",
            "\"4.175\",\"SET\",\"2.567\",\"16233.77\",\"\"\r\n",
        );
        let cases = [
            (format!("{HEAD}\n{SET}\n"), Test::Set, set),
            (format!("{HEAD}\n{GET}"), Test::Get, get),
            (format!("\n{HEAD}\n\n{SET}\n\n"), Test::Set, set),
            (moved.to_owned(), Test::Set, set),
        ];
        for (output, test, expected) in cases {
            let found = measured(&output, test).unwrap_or_else(|e| panic!("{output}: {e:#}"));
            assert_eq!(found, expected, "{output}");
        }
    }

    #[test]
    fn what_is_not_one_test_s_figures_is_an_error_that_says_so() {
        let without = |column: &str| format!("{}\n{SET}\n", HEAD.replace(column, "other"));
        let with = |rps: &str| format!("{HEAD}\n{}\n", SET.replace("16233.77", rps));
        let cases = [
            (String::new(), "printed nothing"),
            (format!("{HEAD}\n"), "a head and no figures"),
            (format!("{HEAD}\n{SET}\n{GET}\n"), "more than one test"),
            (format!("{HEAD}\n{GET}\n"), "it measured \"GET\" for SET"),
            (
                format!("{HEAD}\nError: Server closed the connection\n"),
                "quoted fields: Error: Server closed the connection",
            ),
            (
                "Error from server: OOM command not allowed\n".to_owned(),
                "quoted fields: Error from server: OOM",
            ),
            (
                format!("{HEAD}\n\"SET\",\"16233.77\"\n"),
                "2 figures below 8",
            ),
            (format!("{HEAD}\n{SET}\"\n"), "quoted fields"),
            (without("rps"), "no column rps"),
            (without("p99_latency_ms"), "no column p99_latency_ms"),
            (with("-nan"), "rps is \"-nan\", which is no number"),
            (with("inf"), "rps is \"inf\", which is no number"),
            (with("much"), "rps is \"much\", which is no number"),
            (with("0.00"), "counted no request"),
        ];
        for (output, expected) in cases {
            let error = measured(&output, Test::Set).expect_err(&output);
            let said = format!("{error:#}");
            assert!(said.contains(expected), "{output}: {said}");
        }
    }

    #[test]
    fn of_a_long_line_the_beginning_is_shown() {
        let words = format!("first\nlast {}\n\n", "é".repeat(1000));
        assert_eq!(last_of(&words).chars().count(), LAST_WORDS);
        assert!(last_of(&words).starts_with("last éé"));
        assert_eq!(last_of("\n"), "nothing was said");
    }

    #[tokio::test]
    async fn a_run_that_would_never_end_is_given_up() {
        if let Err(why) = look() {
            eprintln!("skipped: {NAME}: {why}");
            return;
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let nobody = listener.local_addr().expect("its address");
        drop(listener);
        let order = Order {
            test: Test::Set,
            clients: 1,
            pipeline: 1,
            requests: 1,
            keys: 1,
            value_bytes: 1,
            patience: Duration::from_millis(200),
        };
        let error = order.run(nobody).await.expect_err("nobody listens");
        let said = format!("{error:#}");
        assert!(
            said.contains("no end after 200.0ms of redis-benchmark --csv"),
            "{said}"
        );
    }

    #[tokio::test]
    async fn too_many_words_are_not_read_to_their_end() {
        let all = vec![b'x'; MOST_SAID as usize];
        assert_eq!(said(&all[..]).await.expect("not too many").len(), all.len());
        let error = said(tokio::io::repeat(b'x')).await.expect_err("endless");
        assert!(error.to_string().contains("more than"), "{error}");
    }
}
