//! All processes of a run: three arbiter servers, the gateway and the two nodes, in a directory of
//! their own. Nothing of them is left when the stage is closed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use test_and_set::ClientConfig;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Plan;
use super::process::{Happening, Process, Said, What, Who};
use super::proxy::Proxy;
use super::view::View;
use crate::node::NodeState;

/// How long a process may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the pair may take until it is protected: the guest boots in this time.
const PROTECT_PATIENCE: Duration = Duration::from_secs(60);

/// Where the guest's server is in the gateway's network.
const GUEST: &str = "10.0.2.15:6379";

/// The arbiter's servers. The first makes the cluster.
const ARBITERS: [u64; 3] = [1, 2, 3];

/// The processes and where they listen.
#[derive(Debug)]
pub(super) struct Stage {
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
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut id = [0; 4];
        getrandom::fill(&mut id)
            .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
        let name = format!("ftvm-demo-{:08x}", u32::from_ne_bytes(id));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).with_context(|| {
            format!(
                "creating {}: set TMPDIR to a directory that can be written",
                dir.display()
            )
        })?;
        let (sender, happenings) = mpsc::unbounded_channel();
        Ok(Stage {
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
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The capture of the guest's port.
    pub(super) fn capture(&self) -> PathBuf {
        self.dir.join("capture.pcap")
    }

    /// The control socket of a node.
    pub(super) fn control(&self, who: Who) -> PathBuf {
        self.dir.join(format!("{}.sock", who.stem()))
    }

    /// Where clients reach the guest.
    ///
    /// # Panics
    ///
    /// Before [`Stage::raise`].
    pub(super) fn guest(&self) -> SocketAddr {
        self.guest.expect("the stage was raised")
    }

    /// Where the gateway answers.
    ///
    /// # Panics
    ///
    /// Before [`Stage::raise`].
    pub(super) fn gateway(&self) -> SocketAddr {
        self.gateway.expect("the stage was raised")
    }

    /// How to ask the arbiter.
    pub(super) fn arbiter(&self) -> ClientConfig {
        ClientConfig::new(self.arbiters.values().map(ToString::to_string))
    }

    /// One of the processes, dead or alive.
    pub(super) fn process(&self, who: Who) -> Option<&Process> {
        self.processes.get(&who)
    }

    /// All processes, dead or alive.
    pub(super) fn processes(&self) -> impl Iterator<Item = (Who, &Process)> {
        self.processes.iter().map(|(who, process)| (*who, process))
    }

    /// Cuts the cable between the nodes, if there is one.
    pub(super) fn cut(&self) {
        if let Some(cable) = &self.cable {
            cable.cut();
        }
    }

    /// What happens next. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Happening {
        self.happenings
            .recv()
            .await
            .expect("this end holds a sender too")
    }

    /// Starts everything, and returns when the pair is protected.
    ///
    /// # Errors
    ///
    /// If a process ends or something takes too long, with the process's last words.
    pub(super) async fn raise(&mut self, plan: &Plan, view: &mut View) -> anyhow::Result<()> {
        self.raise_arbiter(view).await?;
        let gateway = self.gateway_arguments(plan);
        self.spawn(Who::Gateway, gateway)?;
        let (address, forwards) = self.listening(Who::Gateway, view).await?;
        self.gateway = Some(address);
        self.guest = forwards.first().copied();
        view.note("starting the primary and its backup");
        let mut primary = self.node_arguments(plan, Who::Primary);
        primary.extend(words(["--listen", "127.0.0.1:0"]));
        self.spawn(Who::Primary, primary)?;
        let (mut dialled, _) = self.listening(Who::Primary, view).await?;
        if plan.kill.needs_cable() {
            let cable = Proxy::start(dialled).await.context("a proxy's port")?;
            dialled = cable.address();
            self.cable = Some(cable);
        }
        let mut backup = self.node_arguments(plan, Who::Backup);
        backup.extend(["--primary".to_owned(), dialled.to_string()]);
        self.spawn(Who::Backup, backup)?;
        let mut protected = [Who::Primary, Who::Backup].to_vec();
        self.until(
            "the pair is protected",
            PROTECT_PATIENCE,
            view,
            |happening| {
                if let What::Said(Said::State { state, .. }) = &happening.what
                    && *state == NodeState::Protected
                {
                    protected.retain(|who| *who != happening.who);
                }
                protected.is_empty().then_some(())
            },
        )
        .await
    }

    async fn raise_arbiter(&mut self, view: &mut View) -> anyhow::Result<()> {
        view.note("starting three arbiter servers and the gateway");
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
        view: &mut View,
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
        view: &mut View,
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
            if let What::Ended(status) = happening.what {
                bail!(self.obituary(happening.who, status));
            }
            if let Some(found) = pick(&happening) {
                return Ok(found);
            }
        }
    }

    /// Why a process ended, in its own words.
    pub(super) fn obituary(&self, who: Who, status: std::process::ExitStatus) -> String {
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

    fn gateway_arguments(&self, plan: &Plan) -> Vec<String> {
        let capture = self.capture().display().to_string();
        let forward = format!("127.0.0.1:{}={GUEST}", plan.port);
        words(["gateway", "--json", "--listen", "127.0.0.1:0"])
            .chain(words(["--forward", &forward, "--capture", &capture]))
            .chain((!plan.repeat).then(|| "--no-repeat".to_owned()))
            .collect()
    }

    /// What both nodes are told.
    fn node_arguments(&self, plan: &Plan, who: Who) -> Vec<String> {
        let role = if who == Who::Primary { "run" } else { "backup" };
        let servers: Vec<String> = self.arbiters.values().map(ToString::to_string).collect();
        let console = self.path(&format!("{}-console.txt", who.stem()));
        let log = self.path(&format!("{}-log", who.stem()));
        words([role, "--json", "--name", "demo", "--node", &who.stem()])
            .chain(words(["--guest", &plan.guest, "--console", &console]))
            .chain(words(["--cpu", &plan.cpu.to_string()]))
            .chain(words(["--net", &format!("gateway={}", self.gateway())]))
            .chain(words(["--arbiter", &servers.join(",")]))
            .chain(words(["--detect", &plan.detect_ms.to_string()]))
            .chain(words([
                "--control",
                &self.control(who).display().to_string(),
            ]))
            .chain(
                plan.keep
                    .then(|| words(["--log", &log]))
                    .into_iter()
                    .flatten(),
            )
            .collect()
    }

    /// Kills and reaps what still runs.
    pub(super) async fn close(&mut self) {
        self.cable = None;
        for process in self.processes.values() {
            let _ = process.kill();
        }
        while let Some((_, process)) = self.processes.pop_last() {
            process.end().await;
        }
    }

    /// Takes the directory away.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn words<const N: usize>(words: [&str; N]) -> impl Iterator<Item = String> + use<N> {
    words.map(str::to_owned).into_iter()
}
