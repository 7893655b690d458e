//! What `ftvm demo` and `ftvm bench` play on: this program as real processes, in a directory of
//! their own, and verifying clients. Nothing of them is left when the stage is closed.
//!
//! ```text
//!   arbiter 1 2 3 ◀──── claim ────┐
//!                          ┌── primary ─┐ log
//!   clients ── gateway ────┤     │ ◀────┘ (through a proxy that can be cut, if it is wanted)
//!   (this process)         └── backup       (or no backup)
//! ```

mod again;
pub(in crate::cli) mod client;
pub(in crate::cli) mod meter;
pub(in crate::cli) mod observe;
pub(in crate::cli) mod process;
mod proxy;
pub(in crate::cli) mod resp;
mod workload;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use guest_images::linux::Recipe;
use test_and_set::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::client::{ClientError, Connection};
use self::process::{Happening, Process, Said, What, Who};
use self::proxy::Proxy;
use self::resp::Reply;
use crate::cpu::Backend;
use crate::node::NodeState;

/// How long a process may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the pair may take until it is protected: the guest boots in this time.
const PROTECT_PATIENCE: Duration = Duration::from_secs(60);

/// How long an embedded guest's server may take to answer at first.
const GUEST_PATIENCE: Duration = Duration::from_secs(20);

/// How long a Linux guest's server may, which comes after a kernel and its programs.
const LINUX_PATIENCE: Duration = Duration::from_secs(300);

/// How long to wait for one answer while the guest boots.
const PING_PATIENCE: Duration = Duration::from_secs(2);

/// How long to wait before it is asked again.
const GUEST_PAUSE: Duration = Duration::from_millis(20);

/// Where the guest's server is in the gateway's network.
const GUEST: &str = "10.0.2.15:6379";

/// The arbiter's servers. The first makes the cluster.
const ARBITERS: [u64; 3] = [1, 2, 3];

/// The guests that are key-value servers, which the clients here need.
const SERVERS: [&str; 2] = ["kv", "redis"];

/// Makes sure that `guest` is a key-value server and can be booted: builds its image if need be.
///
/// # Errors
///
/// That it is none, or what a build ends with.
pub(in crate::cli) fn prepare(guest: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        SERVERS.contains(&guest),
        "the guest {guest:?} is no key-value server, which the clients need: choose one of {}",
        SERVERS.join(", ")
    );
    match guest_images::linux::by_name(guest) {
        Some(_) => super::image::ensure_built(guest),
        None => Ok(()),
    }
}

/// A new directory for what processes write; whoever makes it takes it away.
///
/// # Errors
///
/// What to do if none can be made.
pub(in crate::cli) fn new_dir(name: &str) -> anyhow::Result<PathBuf> {
    let mut id = [0; 4];
    getrandom::fill(&mut id)
        .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    let name = format!("ftvm-{name}-{:08x}", u32::from_ne_bytes(id));
    let dir = std::env::temp_dir().join(name);
    std::fs::create_dir(&dir).with_context(|| {
        format!(
            "creating {}: set TMPDIR to a directory that can be written",
            dir.display()
        )
    })?;
    Ok(dir)
}

/// Whether ftvm carries `guest` inside itself.
pub(in crate::cli) fn is_embedded(guest: &str) -> bool {
    guest_images::by_name(guest).is_some()
}

/// What is on a stage.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Setting {
    /// The VM's name, and part of the directory's.
    pub(in crate::cli) name: &'static str,
    /// The guest: an embedded one, or an image that is built.
    pub(in crate::cli) guest: String,
    /// The CPU that runs it.
    pub(in crate::cli) cpu: Backend,
    /// Whether there is a backup.
    pub(in crate::cli) protected: bool,
    /// The arbiter's servers on another stage; without them three are started here.
    pub(in crate::cli) arbiter: Option<ClientConfig>,
    /// A peer that is silent for this long is suspected, in milliseconds.
    pub(in crate::cli) detect_ms: u64,
    /// Where clients reach the guest; 0 takes a free port.
    pub(in crate::cli) port: u16,
    /// Whether the gateway repeats what it forwarded when the guest's port moves.
    pub(in crate::cli) repeat: bool,
    /// Whether the gateway captures the frames of the guest's port.
    pub(in crate::cli) capture: bool,
    /// Whether the nodes talk through a proxy that can be cut.
    pub(in crate::cli) cable: bool,
    /// Whether the nodes write their log.
    pub(in crate::cli) log: bool,
}

impl Setting {
    /// The recipe of the guest's image, if the guest is none of the embedded ones.
    fn recipe(&self) -> Option<&'static Recipe> {
        guest_images::linux::by_name(&self.guest)
    }
}

/// Who is told what happens while a stage is raised.
pub(in crate::cli) trait Audience {
    /// Something happens now.
    fn note(&mut self, text: &str);
    /// A process said something or ended.
    fn happening(&mut self, happening: &Happening);
}

/// The processes and where they listen.
#[derive(Debug)]
pub(in crate::cli) struct Stage {
    setting: Setting,
    dir: PathBuf,
    processes: BTreeMap<Who, Process>,
    happenings: mpsc::UnboundedReceiver<Happening>,
    sender: mpsc::UnboundedSender<Happening>,
    /// Where each listens, and its forwards.
    listens: BTreeMap<Who, (SocketAddr, Vec<SocketAddr>)>,
    cable: Option<Proxy>,
    arbiters: BTreeMap<u64, SocketAddr>,
    gateway: Option<SocketAddr>,
    guest: Option<SocketAddr>,
}

impl Stage {
    /// An empty stage with a new directory.
    pub(in crate::cli) fn new(setting: Setting) -> anyhow::Result<Self> {
        let dir = new_dir(setting.name)?;
        let (sender, happenings) = mpsc::unbounded_channel();
        Ok(Stage {
            setting,
            dir,
            processes: BTreeMap::new(),
            happenings,
            sender,
            listens: BTreeMap::new(),
            cable: None,
            arbiters: BTreeMap::new(),
            gateway: None,
            guest: None,
        })
    }

    /// Where everything is written.
    pub(in crate::cli) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The capture of the guest's port.
    pub(in crate::cli) fn capture(&self) -> PathBuf {
        self.dir.join("capture.pcap")
    }

    /// Where a node writes its log.
    pub(in crate::cli) fn log(&self, who: Who) -> PathBuf {
        self.dir.join(format!("{}-log", who.stem()))
    }

    /// A node's disk, if the guest has one.
    fn disk(&self, who: Who) -> PathBuf {
        self.dir.join(format!("{}-disk.img", who.stem()))
    }

    /// The control socket of a node.
    pub(in crate::cli) fn control(&self, who: Who) -> PathBuf {
        self.dir.join(format!("{}.sock", who.stem()))
    }

    /// Where clients reach the guest.
    ///
    /// # Panics
    ///
    /// Before [`Stage::raise`].
    pub(in crate::cli) fn guest(&self) -> SocketAddr {
        self.guest.expect("the stage was raised")
    }

    /// Where the gateway answers.
    ///
    /// # Panics
    ///
    /// Before [`Stage::raise`].
    pub(in crate::cli) fn gateway(&self) -> SocketAddr {
        self.gateway.expect("the stage was raised")
    }

    /// How to ask the arbiter.
    pub(in crate::cli) fn arbiter(&self) -> ClientConfig {
        let own = || ClientConfig::new(self.arbiters.values().map(ToString::to_string));
        self.setting.arbiter.clone().unwrap_or_else(own)
    }

    /// One of the processes, dead or alive.
    pub(in crate::cli) fn process(&self, who: Who) -> Option<&Process> {
        self.processes.get(&who)
    }

    /// All processes, dead or alive.
    pub(in crate::cli) fn processes(&self) -> impl Iterator<Item = (Who, &Process)> {
        self.processes.iter().map(|(who, process)| (*who, process))
    }

    /// Cuts the cable between the nodes, if there is one.
    pub(in crate::cli) fn cut(&self) {
        if let Some(cable) = &self.cable {
            cable.cut();
        }
    }

    /// What happens next. Cancelling loses nothing.
    pub(in crate::cli) async fn next(&mut self) -> Happening {
        self.happenings
            .recv()
            .await
            .expect("this end holds a sender too")
    }

    /// Starts everything, and returns when the pair is protected, or the one node alone.
    ///
    /// # Errors
    ///
    /// If a process ends or something takes too long, with the process's last words.
    pub(in crate::cli) async fn raise(&mut self, view: &mut impl Audience) -> anyhow::Result<()> {
        if self.setting.arbiter.is_none() {
            self.raise_arbiter(view).await?;
        }
        self.spawn(Who::Gateway, self.gateway_arguments())?;
        let (address, forwards) = self.listening(Who::Gateway, view).await?;
        self.gateway = Some(address);
        self.guest = forwards.first().copied();
        let mut primary = self.node_arguments(Who::Primary, Who::Primary);
        primary.extend(words(["--listen", "127.0.0.1:0"]));
        if !self.setting.protected {
            view.note("starting the gateway and the node");
            primary.push("--alone".to_owned());
            self.spawn(Who::Primary, primary)?;
            return self
                .reached(NodeState::Alone, [Who::Primary].to_vec(), view)
                .await;
        }
        view.note("starting the gateway, the primary and its backup");
        self.spawn(Who::Primary, primary)?;
        let (mut dialled, _) = self.listening(Who::Primary, view).await?;
        if self.setting.cable {
            let cable = Proxy::start(dialled).await.context("a proxy's port")?;
            dialled = cable.address();
            self.cable = Some(cable);
        }
        let mut backup = self.node_arguments(Who::Backup, Who::Backup);
        backup.extend(["--primary".to_owned(), dialled.to_string()]);
        self.spawn(Who::Backup, backup)?;
        let pair = [Who::Primary, Who::Backup].to_vec();
        self.reached(NodeState::Protected, pair, view).await
    }

    /// Waits until all of `nodes` have said that they are in `wanted`.
    async fn reached(
        &mut self,
        wanted: NodeState,
        mut nodes: Vec<Who>,
        view: &mut impl Audience,
    ) -> anyhow::Result<()> {
        let what = match wanted {
            NodeState::Protected => "the pair is protected",
            _ => "the node runs alone",
        };
        self.until(what, PROTECT_PATIENCE, view, |happening| {
            if let What::Said(Said::State { state, .. }) = &happening.what
                && *state == wanted
            {
                nodes.retain(|who| *who != happening.who);
            }
            nodes.is_empty().then_some(())
        })
        .await
    }

    /// Waits until the guest's server answers.
    ///
    /// # Errors
    ///
    /// If it does not, which is so for a guest that is no key-value server; or if a process ends.
    pub(in crate::cli) async fn greet(&mut self, view: &mut impl Audience) -> anyhow::Result<()> {
        let patience = match self.setting.recipe() {
            Some(_) => {
                view.note("the guest boots");
                LINUX_PATIENCE
            }
            None => GUEST_PATIENCE,
        };
        let (guest, name) = (self.guest(), self.setting.guest.clone());
        let answers = async {
            let begun = Instant::now();
            loop {
                match ping(guest).await {
                    Ok(Reply::Status(_)) => return Ok(()),
                    answer if begun.elapsed() > patience => bail!(
                        "the guest {name:?} does not answer PING on its port 6379 ({answer:?}): \
                         the clients here speak to a key-value server, which the guests kv and \
                         redis are"
                    ),
                    _ => sleep(GUEST_PAUSE).await,
                }
            }
        };
        tokio::select! {
            answered = answers => answered,
            ended = self.until::<()>("the guest's server answers", 2 * patience, view, |_| None) => {
                ended
            }
        }
    }

    /// Starts the three arbiter servers, and returns when all of them listen.
    ///
    /// # Errors
    ///
    /// As [`Stage::raise`], which does this first.
    pub(in crate::cli) async fn raise_arbiter(
        &mut self,
        view: &mut impl Audience,
    ) -> anyhow::Result<()> {
        view.note("starting three arbiter servers");
        let (first, others) = ARBITERS.split_first().expect("three servers");
        for id in others {
            let mut arguments = self.arbiter_arguments(*id);
            arguments.push("--join".to_owned());
            self.spawn(Who::Arbiter(*id), arguments)?;
        }
        let mut arguments = self.arbiter_arguments(*first);
        arguments.push("--init".to_owned());
        for id in others {
            let (address, _) = self.listening(Who::Arbiter(*id), view).await?;
            self.arbiters.insert(*id, address);
            arguments.extend(["--peer".to_owned(), format!("{id}={address}")]);
        }
        self.spawn(Who::Arbiter(*first), arguments)?;
        let (address, _) = self.listening(Who::Arbiter(*first), view).await?;
        self.arbiters.insert(*first, address);
        Ok(())
    }

    fn spawn(&mut self, who: Who, arguments: Vec<String>) -> anyhow::Result<()> {
        let process = Process::spawn(who, &arguments, &self.dir, self.sender.clone())?;
        self.processes.insert(who, process);
        Ok(())
    }

    /// Waits until a process listens; returns where, and its forwards.
    async fn listening(
        &mut self,
        who: Who,
        view: &mut impl Audience,
    ) -> anyhow::Result<(SocketAddr, Vec<SocketAddr>)> {
        if !self.listens.contains_key(&who) {
            let what = format!("the {who} listens");
            self.until(&what, START_PATIENCE, view, |happening| {
                let listens = matches!(happening.what, What::Said(Said::Listening { .. }));
                (listens && happening.who == who).then_some(())
            })
            .await?;
        }
        Ok(self.listens[&who].clone())
    }

    /// Waits until `pick` finds what it looks for.
    async fn until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        view: &mut impl Audience,
        mut pick: impl FnMut(&Happening) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            let Ok(happening) = timeout_at(deadline, self.next()).await else {
                bail!(
                    "waited {} s until {what}, in vain: is this host very busy? With --keep the \
                     processes' logs stay",
                    patience.as_secs()
                );
            };
            view.happening(&happening);
            if let What::Said(Said::Listening { address, forwards }) = &happening.what {
                let listens = (*address, forwards.clone());
                self.listens.insert(happening.who, listens);
            }
            if let What::Ended(status) = happening.what
                && self.processes.contains_key(&happening.who)
            {
                bail!(self.obituary(happening.who, status));
            }
            if let Some(found) = pick(&happening) {
                return Ok(found);
            }
        }
    }

    /// Why a process ended, in its own words.
    pub(in crate::cli) fn obituary(&self, who: Who, status: std::process::ExitStatus) -> String {
        self.processes
            .get(&who)
            .map_or_else(|| format!("the {who} ended"), |p| p.obituary(status))
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn arbiter_arguments(&self, id: u64) -> Vec<String> {
        let (id, data) = (id.to_string(), self.path(&Who::Arbiter(id).stem()));
        words(["arbiter", "serve", "--json", "--listen", "127.0.0.1:0"])
            .chain(words(["--id", &id, "--data", &data]))
            .collect()
    }

    fn gateway_arguments(&self) -> Vec<String> {
        let forward = format!("127.0.0.1:{}={GUEST}", self.setting.port);
        let mut arguments: Vec<String> = words(["gateway", "--json", "--listen", "127.0.0.1:0"])
            .chain(words(["--forward", &forward]))
            .collect();
        if self.setting.capture {
            let capture = self.capture().display().to_string();
            arguments.extend(words(["--capture", &capture]));
        }
        if !self.setting.repeat {
            arguments.push("--no-repeat".to_owned());
        }
        arguments
    }

    /// What every node is told; its disk is the one of node `disk`.
    fn node_arguments(&self, who: Who, disk: Who) -> Vec<String> {
        let role = if who == Who::Backup { "backup" } else { "run" };
        let (name, guest) = (self.setting.name, &self.setting.guest);
        let console = self.path(&format!("{}-console.txt", who.stem()));
        let control = self.control(who).display().to_string();
        let mut arguments: Vec<String> = words([role, "--json", "--name", name])
            .chain(words(["--node", &who.stem(), "--guest", guest]))
            .chain(words(["--cpu", &self.setting.cpu.to_string()]))
            .chain(words(["--console", &console, "--control", &control]))
            .chain(words(["--net", &format!("gateway={}", self.gateway())]))
            .chain(words(["--detect", &self.setting.detect_ms.to_string()]))
            .collect();
        let servers = self.arbiter().servers.join(",");
        arguments.extend(words(["--arbiter", &servers]));
        if self.setting.recipe().is_some_and(Recipe::has_disk) {
            // The node makes it, from the one that comes with the image: both are equal.
            let disk = self.disk(disk).display().to_string();
            arguments.extend(words(["--disk", &disk]));
        }
        if self.setting.log {
            arguments.extend(words(["--log", &self.log(who).display().to_string()]));
        }
        arguments
    }

    /// Kills and reaps what still runs.
    pub(in crate::cli) async fn close(&mut self) {
        self.cable = None;
        for process in self.processes.values() {
            let _ = process.kill();
        }
        while let Some((_, process)) = self.processes.pop_last() {
            process.end().await;
        }
    }

    /// Takes the directory away.
    pub(in crate::cli) fn forget(&self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

async fn ping(guest: SocketAddr) -> Result<Reply, ClientError> {
    let pinged = async { Connection::open(guest).await?.ask(&["PING"]).await };
    let answer = timeout(PING_PATIENCE, pinged).await;
    answer.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

fn words<const N: usize>(words: [&str; N]) -> impl Iterator<Item = String> + use<N> {
    words.map(str::to_owned).into_iter()
}
