//! The guest's links to the world: network and console.
//!
//! One task writes everything that was released, in its one sequence (OUT-5), and says so once it
//! is written (OUT-3). A node that halts ends the task: nothing more leaves (FAIL-3).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ft_logging::entry::{Output, OutputDevice};
use ft_logging::types::{Incarnation, Life, OutputSeq, Token};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::Event;
use super::console::ConsoleHub;
use super::failpoint::{Failpoint, Fuse};
use super::vcpu::Vcpu;
use crate::net::announce::{Announcer, schedule};
use crate::net::tap::Tap;
use crate::net::{
    Announcement, FrameReceiver, FrameSender, GatewayLink, Hello, LinkEvent, MacAddress,
};

/// How long to wait before a lost gateway is dialled again.
const REDIAL: Duration = Duration::from_millis(50);

/// How long a cable may be out before frames are lost on it, as they are on a real one.
const CABLE_PATIENCE: Duration = Duration::from_secs(5);

/// Room for any frame.
const FRAME_ROOM: usize = 1 << 16;

/// What the guest's network device is plugged into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetLink {
    /// Nothing: frames vanish.
    None,
    /// The user-mode gateway at this address.
    Gateway(SocketAddr),
    /// A TAP interface of the host.
    Tap(String),
}

/// Where the guest's console output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConsoleSink {
    /// Nowhere.
    None,
    /// To standard output.
    Stdout,
    /// To the end of a file.
    File(PathBuf),
}

/// Who speaks.
#[derive(Clone, Debug)]
pub(super) struct Speaker {
    pub(super) vm: String,
    pub(super) life: Life,
    pub(super) incarnation: Incarnation,
    pub(super) mac: [u8; 6],
}

#[derive(Debug)]
enum ToWorld {
    Speak { token: Token, announce: bool },
    Output(OutputSeq, Output),
}

/// The node's end of the task.
#[derive(Debug)]
pub(super) struct World {
    queue: mpsc::UnboundedSender<ToWorld>,
    task: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    /// Plugs the guest in. It is heard only after [`World::speak`].
    pub(super) async fn open(
        net: NetLink,
        console: ConsoleSink,
        readers: ConsoleHub,
        speaker: Speaker,
        vcpu: Vcpu,
        events: mpsc::Sender<Event>,
        fuse: Fuse,
    ) -> anyhow::Result<Self> {
        let link = match net {
            NetLink::None => Link::None,
            NetLink::Tap(name) => Link::Tap(Tap::open(&name)?),
            NetLink::Gateway(address) => {
                let hello = hello(&speaker, Token::default(), false);
                let link = GatewayLink::connect_within(address, hello, CABLE_PATIENCE).await?;
                let (sender, receiver) = link.split();
                Link::Gateway {
                    address,
                    ends: Some((sender, receiver)),
                }
            }
        };
        // Last, so that a network that is not there leaves no empty file behind.
        let console = Console::open(console).await?;
        let (queue, orders) = mpsc::unbounded_channel();
        let task = Task {
            link,
            console,
            readers,
            announcer: Announcer::new(MacAddress(speaker.mac)),
            speaker,
            vcpu,
            events,
            fuse,
            orders,
            token: None,
            announcements: None,
        };
        Ok(World {
            queue,
            task: tokio::spawn(task.run()),
        })
    }

    /// From now on this node speaks, with this token. `announce` says that it has gone live, and
    /// that switches must learn where the guest is (FAIL-7).
    pub(super) fn speak(&self, token: Token, announce: bool) {
        let _ = self.queue.send(ToWorld::Speak { token, announce });
    }

    /// Writes what was sent so far, and unplugs the guest.
    pub(super) async fn close(mut self) {
        drop(std::mem::replace(
            &mut self.queue,
            mpsc::unbounded_channel().0,
        ));
        let _ = timeout(CABLE_PATIENCE, &mut self.task).await;
    }

    /// Sends an output. What waits here has passed the gate, which bounds it.
    pub(super) fn send(&self, seq: OutputSeq, output: Output) {
        let _ = self.queue.send(ToWorld::Output(seq, output));
    }
}

fn hello(speaker: &Speaker, token: Token, speaking: bool) -> Hello {
    Hello {
        name: speaker.vm.clone(),
        life: speaker.life,
        incarnation: speaker.incarnation,
        announcement: Announcement { token, speaking },
    }
}

enum Link {
    None,
    Tap(Tap),
    Gateway {
        address: SocketAddr,
        ends: Option<(FrameSender, FrameReceiver)>,
    },
}

/// What came in from the network.
enum Incoming {
    Frame(Vec<u8>),
    Fenced(Token),
    Lost(String),
}

impl Link {
    /// The next frame for the guest. Cancelling loses nothing.
    async fn receive(&mut self) -> Incoming {
        match self {
            Link::None | Link::Gateway { ends: None, .. } => std::future::pending().await,
            Link::Tap(tap) => {
                let mut frame = vec![0; FRAME_ROOM];
                match tap.recv(&mut frame).await {
                    Ok(len) => {
                        frame.truncate(len);
                        Incoming::Frame(frame)
                    }
                    Err(error) => Incoming::Lost(error.to_string()),
                }
            }
            Link::Gateway {
                ends: Some((_, receiver)),
                ..
            } => match receiver.recv().await {
                Ok(LinkEvent::Frame(frame)) => Incoming::Frame(frame),
                Ok(LinkEvent::Refused { highest }) => Incoming::Fenced(highest),
                Err(error) => Incoming::Lost(error.to_string()),
            },
        }
    }
}

struct Task {
    link: Link,
    console: Console,
    readers: ConsoleHub,
    announcer: Announcer,
    speaker: Speaker,
    vcpu: Vcpu,
    events: mpsc::Sender<Event>,
    fuse: Fuse,
    orders: mpsc::UnboundedReceiver<ToWorld>,
    /// Set from the moment that this node speaks.
    token: Option<Token>,
    /// When the node went live, and the announcements that are still to come.
    announcements: Option<(Instant, Box<dyn Iterator<Item = Duration> + Send>, Instant)>,
}

impl Task {
    async fn run(mut self) {
        loop {
            let next_announcement = self.announcements.as_ref().map(|(_, _, due)| *due);
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                incoming = self.link.receive() => match incoming {
                    Incoming::Frame(frame) => {
                        if self.token.is_some() {
                            self.vcpu.frame(frame);
                        }
                    }
                    Incoming::Fenced(highest) => {
                        let _ = self.events.send(Event::Fenced(highest)).await;
                    }
                    Incoming::Lost(why) => self.lost(&why).await,
                },
                () = sleep_until(next_announcement.unwrap_or_else(Instant::now)),
                    if next_announcement.is_some() => self.announce().await,
            }
        }
    }

    async fn obey(&mut self, order: ToWorld) {
        let mut frames = Vec::new();
        let mut last = None;
        let mut next = Some(order);
        // Whatever has piled up leaves in as few writes as possible.
        while let Some(order) = next.take() {
            match order {
                ToWorld::Output(
                    seq,
                    Output {
                        device: OutputDevice::Net,
                        bytes,
                    },
                ) => {
                    self.announcer.handle_output(&bytes);
                    frames.push(bytes);
                    last = Some(seq);
                }
                ToWorld::Output(
                    seq,
                    Output {
                        device: OutputDevice::Console,
                        bytes,
                    },
                ) => {
                    // OUT-5: what came before leaves before.
                    self.send_frames(std::mem::take(&mut frames)).await;
                    self.readers.say(&bytes);
                    self.console.write(&bytes).await;
                    last = Some(seq);
                }
                ToWorld::Speak { token, announce } => {
                    self.send_frames(std::mem::take(&mut frames)).await;
                    self.speak(token, announce).await;
                }
            }
            next = self.orders.try_recv().ok();
        }
        if last.is_some() {
            self.fuse.reach(Failpoint::BeforeWrite);
        }
        self.send_frames(frames).await;
        if let Some(last) = last {
            self.fuse.reach(Failpoint::AfterWrite);
            let _ = self.events.send(Event::Released(last)).await;
        }
    }

    async fn speak(&mut self, token: Token, announce: bool) {
        self.token = Some(token);
        if let Link::Gateway {
            ends: Some((sender, _)),
            ..
        } = &mut self.link
            && let Err(error) = sender.announce(token, true).await
        {
            self.lost(&error.to_string()).await;
        }
        if announce {
            let now = Instant::now();
            self.announcements = Some((now, Box::new(schedule()), now));
            self.announce().await;
        }
    }

    /// FAIL-7: switches learn where the guest is now.
    async fn announce(&mut self) {
        let frames = self.announcer.frames();
        self.send_frames(frames).await;
        if let Some((since, times, due)) = &mut self.announcements {
            // The first is the one just sent.
            let next = times.find(|at| *since + *at > *due).expect("without end");
            *due = *since + next;
        }
    }

    /// Returns once the frames are written, or lost on a cable that is out for long.
    async fn send_frames(&mut self, frames: Vec<Vec<u8>>) {
        if frames.is_empty() {
            return;
        }
        let failed = match &mut self.link {
            Link::None | Link::Gateway { ends: None, .. } => return,
            Link::Tap(tap) => {
                let mut failed = None;
                for frame in &frames {
                    if let Err(error) = tap.send(frame).await {
                        failed = Some(error.to_string());
                    }
                }
                failed
            }
            Link::Gateway {
                ends: Some((sender, _)),
                ..
            } => sender
                .send(&frames)
                .await
                .err()
                .map(|error| error.to_string()),
        };
        if let Some(why) = failed {
            self.lost(&why).await;
            // Once more over the new connection: Ethernet takes duplicates.
            if let Link::Gateway {
                ends: Some((sender, _)),
                ..
            } = &mut self.link
            {
                let _ = sender.send(&frames).await;
            }
        }
    }

    /// The link broke: plug in again.
    async fn lost(&mut self, why: &str) {
        let Link::Gateway { address, ends } = &mut self.link else {
            let _ = self.events.send(Event::Warning(why.to_owned())).await;
            tokio::time::sleep(REDIAL).await;
            return;
        };
        *ends = None;
        let _ = self.events.send(Event::Warning(why.to_owned())).await;
        let hello = hello(
            &self.speaker,
            self.token.unwrap_or_default(),
            self.token.is_some(),
        );
        let dial = GatewayLink::connect_within(*address, hello, CABLE_PATIENCE);
        match timeout(CABLE_PATIENCE, dial).await {
            Ok(Ok(link)) => *ends = Some(link.split()),
            Ok(Err(error)) => {
                let _ = self.events.send(Event::Warning(error.to_string())).await;
            }
            Err(_) => {}
        }
    }
}

enum Console {
    None,
    Stdout(tokio::io::Stdout),
    File(tokio::fs::File),
}

impl Console {
    async fn open(sink: ConsoleSink) -> anyhow::Result<Self> {
        Ok(match sink {
            ConsoleSink::None => Console::None,
            ConsoleSink::Stdout => Console::Stdout(tokio::io::stdout()),
            ConsoleSink::File(path) => {
                let file = tokio::fs::File::options()
                    .create(true)
                    .append(true)
                    .open(&path)
                    .await;
                Console::File(file.map_err(|error| {
                    anyhow::anyhow!("opening the console file {}: {error}", path.display())
                })?)
            }
        })
    }

    async fn write(&mut self, bytes: &[u8]) {
        let result = match self {
            Console::None => return,
            Console::Stdout(out) => write_all(out, bytes).await,
            Console::File(out) => write_all(out, bytes).await,
        };
        if let Err(error) = result {
            tracing::warn!(%error, "the console output is lost");
            *self = Console::None;
        }
    }
}

async fn write_all(
    out: &mut (impl tokio::io::AsyncWrite + Unpin),
    bytes: &[u8],
) -> std::io::Result<()> {
    out.write_all(bytes).await?;
    out.flush().await
}
