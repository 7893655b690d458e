//! Real processes for end-to-end tests: arbiter servers, gateway, nodes, and clients that count.
//!
//! Everything waits for events that the processes print as JSON lines, never for time to pass.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// True, loudly, where there is no KVM to test with.
pub(crate) fn no_kvm() -> bool {
    let missing = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err();
    if missing {
        eprintln!("SKIPPED: /dev/kvm cannot be opened here");
    }
    missing
}

/// A running process of the program.
pub(crate) struct Process {
    pub(crate) name: String,
    child: Child,
    events: mpsc::Receiver<Value>,
    seen: Vec<Value>,
    stderr: PathBuf,
}

impl Process {
    pub(crate) fn spawn(dir: &Path, name: &str, args: &[String]) -> Self {
        let stderr = dir.join(format!("{name}.stderr"));
        let mut child = Command::new(env!("CARGO_BIN_EXE_ftvm"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&stderr).expect("a file for stderr"))
            .spawn()
            .expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Ok(event) = serde_json::from_str(&line) {
                    let _ = sender.send(event);
                }
            }
        });
        Process {
            name: name.to_owned(),
            child,
            events,
            seen: Vec::new(),
            stderr,
        }
    }

    /// What it printed on standard error.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Waits for an event; those before it are kept and can still be asked for.
    pub(crate) fn wait_for(&mut self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        if let Some(event) = self.seen.iter().find(|event| matches(event)) {
            return event.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if matches(&event) {
                        return event;
                    }
                }
                Err(error) => panic!(
                    "{}: no {what} ({error}); it said {:?} and {}",
                    self.name,
                    self.seen,
                    self.stderr()
                ),
            }
        }
    }

    pub(crate) fn wait_for_state(&mut self, state: &str) {
        self.wait_for(state, |event| {
            event["event"] == "state" && event["state"] == state
        });
    }

    pub(crate) fn address(&mut self) -> SocketAddr {
        let event = self.wait_for("listening", |event| event["event"] == "listening");
        event["address"]
            .as_str()
            .expect("an address")
            .parse()
            .expect("an address")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the process is ours");
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("our child");
    }

    /// Waits for it to end by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not end: {}",
                self.name,
                self.stderr()
            );
            // Its output ends with it; until then what it says is kept.
            match self.events.recv_timeout(PATIENCE) {
                Ok(event) => self.seen.push(event),
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- {}: {:?}\n{}", self.name, self.seen, self.stderr());
        }
    }
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

/// An arbiter, a gateway, and room for nodes.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) arbiters: Vec<Process>,
    servers: Vec<SocketAddr>,
    _gateway: Process,
    gateway_address: SocketAddr,
    pub(crate) forward: SocketAddr,
    pub(crate) detect_ms: u64,
}

impl World {
    /// With `servers` arbiter servers: 1 or 3.
    pub(crate) fn new(servers: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let serve = |id: usize, rest: &[String]| {
            let data = dir.path().join(format!("arbiter-{id}"));
            let mut args = strings(&["arbiter", "serve", "--json", "--listen", "127.0.0.1:0"]);
            args.extend(strings(&[
                "--id",
                &id.to_string(),
                "--data",
                data.to_str().expect("UTF-8"),
            ]));
            args.extend_from_slice(rest);
            Process::spawn(dir.path(), &format!("arbiter-{id}"), &args)
        };
        let mut joiners: Vec<Process> = (2..=servers)
            .map(|id| serve(id, &strings(&["--join"])))
            .collect();
        let mut first = strings(&["--init"]);
        let mut addresses = vec![];
        for (i, joiner) in joiners.iter_mut().enumerate() {
            addresses.push(joiner.address());
            first.extend([
                String::from("--peer"),
                format!("{}={}", i + 2, addresses[i]),
            ]);
        }
        let mut arbiters = vec![serve(1, &first)];
        addresses.insert(0, arbiters[0].address());
        arbiters.extend(joiners);

        let capture = dir.path().join("gateway.pcap");
        let args = strings(&[
            "gateway",
            "--json",
            "--listen",
            "127.0.0.1:0",
            "--forward",
            "127.0.0.1:0=10.0.2.15:6379",
            "--capture",
            capture.to_str().expect("UTF-8"),
        ]);
        let mut gateway = Process::spawn(dir.path(), "gateway", &args);
        let gateway_address = gateway.address();
        let listening = gateway.wait_for("listening", |event| event["event"] == "listening");
        let forward = listening["forwards"][0]
            .as_str()
            .expect("one")
            .parse()
            .expect("an address");
        World {
            dir,
            arbiters,
            servers: addresses,
            _gateway: gateway,
            gateway_address,
            forward,
            detect_ms: 500,
        }
    }

    /// Starts a killed arbiter server again, on its store and its port.
    pub(crate) fn restart_arbiter(&mut self, index: usize) {
        let id = index + 1;
        let data = self.dir.path().join(format!("arbiter-{id}"));
        let args = strings(&[
            "arbiter",
            "serve",
            "--json",
            "--listen",
            &self.servers[index].to_string(),
            "--id",
            &id.to_string(),
            "--data",
            data.to_str().expect("UTF-8"),
        ]);
        self.arbiters[index] =
            Process::spawn(self.dir.path(), &format!("arbiter-{id}-again"), &args);
        self.arbiters[index].address();
    }

    fn node_args(&self, command: &str, name: &str) -> Vec<String> {
        let servers: Vec<String> = self.servers.iter().map(ToString::to_string).collect();
        strings(&[
            command,
            "--json",
            "--arbiter",
            &servers.join(","),
            "--net",
            &format!("gateway={}", self.gateway_address),
            "--control",
            self.control(name).to_str().expect("UTF-8"),
            "--log",
            self.dir
                .path()
                .join(format!("{name}.log"))
                .to_str()
                .expect("UTF-8"),
            "--detect",
            &self.detect_ms.to_string(),
            "--node",
            name,
        ])
    }

    /// A node's control socket.
    pub(crate) fn control(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.sock"))
    }

    pub(crate) fn primary(&self, name: &str, more: &[&str]) -> Process {
        let mut args = self.node_args("run", name);
        args.extend(strings(&["--listen", "127.0.0.1:0"]));
        args.extend(strings(more));
        Process::spawn(self.dir.path(), name, &args)
    }

    pub(crate) fn backup(&self, name: &str, primary: SocketAddr) -> Process {
        let mut args = self.node_args("backup", name);
        args.extend(strings(&["--primary", &primary.to_string()]));
        Process::spawn(self.dir.path(), name, &args)
    }

    /// A protected pair, node-a and node-b.
    pub(crate) fn pair(&self) -> (Process, Process) {
        self.pair_of("node-a", "node-b")
    }

    /// A protected pair of these names.
    pub(crate) fn pair_of(&self, primary: &str, backup: &str) -> (Process, Process) {
        let mut primary = self.primary(primary, &[]);
        let mut backup = self.backup(backup, primary.address());
        primary.wait_for_state("PROTECTED");
        backup.wait_for_state("PROTECTED");
        (primary, backup)
    }

    /// Runs the program to its end.
    pub(crate) fn ftvm(&self, args: &[&str]) -> (ExitStatus, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_ftvm"))
            .args(args)
            .output()
            .expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status, text)
    }
}

/// One connection that speaks RESP2, and never makes another.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Client {
            stream: BufReader::new(stream),
        }
    }

    /// Asks, and returns the reply as text; an error if the connection breaks.
    pub(crate) fn ask(&mut self, words: &[&str]) -> std::io::Result<String> {
        let mut request = format!("*{}\r\n", words.len());
        words
            .iter()
            .for_each(|word| request += &format!("${}\r\n{word}\r\n", word.len()));
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at(1);
        match (kind, rest.parse::<i64>()) {
            ("$", Ok(-1)) => Ok("(nil)".to_owned()),
            ("$", Ok(len)) => {
                let mut bytes = vec![0; len as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(len as usize);
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            _ => Ok(rest.to_owned()),
        }
    }
}

/// Clients that count, each on its own connection: every reply must be one more than the last.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    pub(crate) fn start(forward: SocketAddr, clients: usize) -> Self {
        let (stop, done) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let clients = (0..clients)
            .map(|i| {
                let (stop, done) = (stop.clone(), done.clone());
                std::thread::spawn(move || {
                    let mut client = Client::connect(forward);
                    let key = format!("counter-{i}");
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let reply = client.ask(&["INCR", &key]).expect("the connection holds");
                        count += 1;
                        assert_eq!(reply, count.to_string(), "exactly once");
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    let reply = client.ask(&["GET", &key]).expect("the connection holds");
                    assert_eq!(reply, count.to_string(), "nothing acknowledged is lost");
                    count
                })
            })
            .collect();
        Load {
            stop,
            done,
            clients,
        }
    }

    /// Waits until so many more requests were answered.
    pub(crate) fn wait_for(&self, more: u64) {
        let wanted = self.done.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + PATIENCE;
        while self.done.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "the guest does not answer");
            assert!(
                self.clients.iter().all(|client| !client.is_finished()),
                "a client failed"
            );
            std::thread::yield_now();
        }
    }

    /// How many requests were answered so far.
    pub(crate) fn answered(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops the clients and checks what they counted.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.clients
            .into_iter()
            .map(|client| client.join().expect("a client's checks"))
            .sum()
    }
}
