//! A guest made of smoltcp, and the harness of the gateway's tests.
//!
//! The guest's state is one thing and the node that it speaks through another, as
//! with a replicated machine: after a move the same guest goes on behind another
//! connection, knowing nothing of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ft_logging::types::{Generation, Incarnation, Life, Token};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpCidr};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::net::host::{GUEST_ADDRESS, Wire};
use crate::net::{
    Announcement, Forward, FrameReceiver, FrameSender, Gateway, GatewayConfig, GatewayLink,
    GatewayStats, Hello, LinkEvent, MacAddress, query_stats,
};

pub(super) const GUEST_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 15]);
pub(super) const LIFE: Life = Life([7; 16]);

/// Sends everything back, and ends when the client does.
pub(super) const ECHO: u16 = 7;
/// Resets the connection at the first byte.
pub(super) const RESETS: u16 = 9;
/// Says hello and finishes at once; takes what still comes.
pub(super) const GREETS: u16 = 10;
/// Nobody listens there: connections are refused.
pub(super) const REFUSES: u16 = 11;

const SERVICES: [u16; 3] = [ECHO, RESETS, GREETS];
/// Above the clients that any test has at once: smoltcp has no backlog.
const BACKLOG: usize = 128;
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for an event, not for ever.
pub(super) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

pub(super) fn token(generation: u64, won: bool) -> Token {
    Token {
        generation: Generation(generation),
        won,
    }
}

pub(super) fn hello(incarnation: u8, token: Token, speaking: bool) -> Hello {
    Hello {
        name: "fake".to_owned(),
        life: LIFE,
        incarnation: Incarnation([incarnation; 16]),
        announcement: Announcement { token, speaking },
    }
}

enum Command {
    Attach(FrameSender, FrameReceiver),
    /// The node dies with all that it has not given to the guest: from now on it
    /// reads its inputs and swallows them. Its connection is handed out.
    Die(oneshot::Sender<(FrameSender, FrameReceiver)>),
}

/// The guest's task.
pub(super) struct FakeGuest {
    commands: mpsc::UnboundedSender<Command>,
    task: JoinHandle<()>,
}

impl Drop for FakeGuest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeGuest {
    /// A guest that takes `backlog` connections at once on each port.
    pub(super) fn start(backlog: usize) -> FakeGuest {
        let (commands, rx) = mpsc::unbounded_channel();
        FakeGuest {
            commands,
            task: tokio::spawn(GuestTask::new(backlog).run(rx)),
        }
    }

    /// The guest goes on through this link.
    pub(super) fn attach(&self, link: GatewayLink) {
        let (sender, receiver) = link.split();
        self.attach_halves(sender, receiver);
    }

    pub(super) fn attach_halves(&self, sender: FrameSender, receiver: FrameReceiver) {
        let sent = self.commands.send(Command::Attach(sender, receiver));
        assert!(sent.is_ok(), "the guest runs");
    }

    /// The node under the guest dies; its connection stays open until it is dropped.
    pub(super) async fn die(&self) -> (FrameSender, FrameReceiver) {
        let (tx, rx) = oneshot::channel();
        let sent = self.commands.send(Command::Die(tx));
        assert!(sent.is_ok(), "the guest runs");
        soon("the guest's node to die", rx)
            .await
            .expect("the guest was attached")
    }
}

struct GuestTask {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    services: Vec<(SocketHandle, u16)>,
    backlog: usize,
    link: Option<(FrameSender, FrameReceiver)>,
    started: Instant,
}

impl GuestTask {
    fn new(backlog: usize) -> GuestTask {
        let mut wire = Wire::default();
        let config = Config::new(EthernetAddress(GUEST_MAC.0).into());
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(GUEST_ADDRESS.into(), 24))
                .expect("room");
        });
        GuestTask {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            services: Vec::new(),
            backlog,
            link: None,
            started: Instant::now(),
        }
    }

    fn listen(&mut self, port: u16) {
        let buffer = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.listen(port).expect("a new socket listens");
        self.services.push((self.sockets.add(socket), port));
    }

    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            let now =
                smoltcp::time::Instant::from_micros(self.started.elapsed().as_micros() as i64);
            self.replace_sockets();
            self.interface.poll(now, &mut self.wire, &mut self.sockets);
            while self.serve() {
                self.interface.poll(now, &mut self.wire, &mut self.sockets);
            }
            let frames: Vec<_> = self.wire.out.drain(..).collect();
            if let Some((sender, _)) = &mut self.link
                && !frames.is_empty()
            {
                // A gateway that is gone is the test's to notice.
                let _ = sender.send(frames).await;
            }
            let wait = self
                .interface
                .poll_delay(now, &self.sockets)
                .map(Duration::from);
            let timer = tokio::time::sleep(wait.unwrap_or(Duration::from_secs(60)));
            let input = async {
                match &mut self.link {
                    Some((_, receiver)) => receiver.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Attach(sender, receiver)) => self.link = Some((sender, receiver)),
                    Some(Command::Die(to)) => {
                        if let Some(halves) = self.link.take() {
                            let _ = to.send(halves);
                        }
                    }
                },
                event = input => match event {
                    Ok(event) => self.take_inputs(event),
                    Err(_) => self.link = None,
                },
                () = timer => {}
            }
        }
    }

    fn take_inputs(&mut self, first: LinkEvent) {
        let mut next = Some(first);
        while let Some(event) = next {
            if let LinkEvent::Frame(frame) = event {
                self.wire.inward.push_back(frame.into());
            }
            let receiver = self.link.as_mut().map(|(_, receiver)| receiver);
            next = receiver.and_then(|receiver| receiver.try_recv().expect("a gateway"));
        }
    }

    /// Serves every connection; whether there is something to send.
    fn serve(&mut self) -> bool {
        self.replace_sockets();
        let mut busy = false;
        for (handle, port) in &self.services {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            let connected = !matches!(socket.state(), tcp::State::Listen | tcp::State::SynReceived);
            match *port {
                ECHO => {
                    while socket.can_recv() && socket.can_send() {
                        let room = socket.send_capacity() - socket.send_queue();
                        let bytes = socket.recv(|bytes| {
                            let len = bytes.len().min(room);
                            (len, bytes[..len].to_vec())
                        });
                        socket
                            .send_slice(&bytes.expect("it can receive"))
                            .expect("there is room");
                        busy = true;
                    }
                    if socket.state() == tcp::State::CloseWait && !socket.can_recv() {
                        socket.close();
                        busy = true;
                    }
                }
                RESETS if socket.can_recv() => {
                    socket.abort();
                    busy = true;
                }
                GREETS if connected && socket.may_send() => {
                    socket.send_slice(b"hello").expect("room");
                    socket.close();
                    busy = true;
                }
                GREETS if socket.can_recv() => {
                    socket
                        .recv(|bytes| (bytes.len(), ()))
                        .expect("it can receive");
                    busy = true;
                }
                _ => {}
            }
        }
        busy
    }

    /// Forgets closed connections, and keeps enough sockets listening.
    fn replace_sockets(&mut self) {
        let mut listening = std::collections::BTreeMap::from(SERVICES.map(|port| (port, 0)));
        self.services.retain(|(handle, port)| {
            match self.sockets.get::<tcp::Socket<'_>>(*handle).state() {
                tcp::State::Closed => {
                    self.sockets.remove(*handle);
                    return false;
                }
                tcp::State::Listen => *listening.entry(*port).or_default() += 1,
                _ => {}
            }
            true
        });
        for (port, count) in listening {
            (count..self.backlog).for_each(|_| self.listen(port));
        }
    }
}

/// A gateway that runs, with a forward to each service of the guest.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) echo: SocketAddr,
    pub(super) resets: SocketAddr,
    pub(super) greets: SocketAddr,
    pub(super) refuses: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<GatewayStats>,
}

impl Running {
    pub(super) async fn start(change: impl FnOnce(&mut GatewayConfig)) -> Running {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let mut config = GatewayConfig::new(any);
        let forward = |port: u16| Forward {
            listen: any,
            guest: std::net::SocketAddrV4::new(GUEST_ADDRESS, port),
        };
        config.forwards = [ECHO, RESETS, GREETS, REFUSES].map(forward).to_vec();
        change(&mut config);
        let gateway = Gateway::bind(config).await.expect("the gateway starts");
        let (stop, stopped) = oneshot::channel();
        let address = gateway.address();
        let [echo, resets, greets, refuses] = gateway.forwards().try_into().expect("four forwards");
        let task = tokio::spawn(gateway.run(async {
            let _ = stopped.await;
        }));
        Running {
            address,
            echo,
            resets,
            greets,
            refuses,
            stop,
            task,
        }
    }

    pub(super) async fn link(&self, incarnation: u8, token: Token, speaking: bool) -> GatewayLink {
        let hello = hello(incarnation, token, speaking);
        soon(
            "the gateway's welcome",
            GatewayLink::connect(self.address, hello),
        )
        .await
        .expect("the gateway welcomes nodes")
    }

    /// A guest behind a primary of generation 1.
    pub(super) async fn guest(&self) -> FakeGuest {
        self.guest_with_backlog(BACKLOG).await
    }

    pub(super) async fn guest_with_backlog(&self, backlog: usize) -> FakeGuest {
        let guest = FakeGuest::start(backlog);
        guest.attach(self.link(1, token(1, false), true).await);
        guest
    }

    pub(super) async fn stats(&self) -> GatewayStats {
        soon("the statistics", query_stats(self.address))
            .await
            .expect("the gateway answers")
    }

    /// Asks for the statistics until they are as wanted.
    pub(super) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&GatewayStats) -> bool,
    ) -> GatewayStats {
        soon(what, async {
            loop {
                let stats = self.stats().await;
                if wanted(&stats) {
                    return stats;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }

    pub(super) async fn stop(self) -> GatewayStats {
        let _ = self.stop.send(());
        soon("the gateway to stop", self.task)
            .await
            .expect("the gateway ends well")
    }
}
