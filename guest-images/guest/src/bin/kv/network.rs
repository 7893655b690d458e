//! The guest's IP address and smoltcp's interface over the network card.

use alloc::{vec, vec::Vec};
use ftvm_guest::{clock::Micros, heap, nucleus::Before, virtio::net::NetDevice};
use resp_kv::server::HEAP_RESERVE_BYTES;
use smoltcp::{
    iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet},
    socket::{Socket, tcp},
    time::Instant,
    wire::{EthernetAddress, IpCidr, Ipv4Address},
};

/// The guest's address, as user-mode networks give it to their only guest.
pub(crate) const ADDRESS: Ipv4Address = Ipv4Address::new(10, 0, 2, 15);
const PREFIX_BITS: u8 = 24;
const GATEWAY: Ipv4Address = Ipv4Address::new(10, 0, 2, 2);

/// Redis's port.
pub(crate) const PORT: u16 = 6379;

/// Clients at one time, those whose connections are closing included.
const MAX_SOCKETS: usize = 256;
/// Buffers of a connection. The first bounds what a client may send before it is
/// heard, the second how much is under way to it.
const RECEIVE_BYTES: usize = 16 << 10;
const TRANSMIT_BYTES: usize = 32 << 10;

/// The network card, the interface on it and its sockets.
///
/// The last socket always listens, as long as there may be another: smoltcp
/// gives a SYN to the first socket that listens, so the last one is taken last,
/// and a look at it after each frame is enough to have one for the next. So a
/// burst of connects finds a socket each, and few clients cost few sockets.
pub(crate) struct Network {
    device: NetDevice,
    interface: Interface,
    sockets: SocketSet<'static>,
    handles: Vec<SocketHandle>,
}

impl Network {
    pub(crate) fn new(mut device: NetDevice, seed: u64, now: Micros) -> Self {
        let mut config = Config::new(EthernetAddress(device.mac()).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, instant(now));
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(ADDRESS.into(), PREFIX_BITS);
            addresses.push(address).expect("room for one address");
        });
        let routed = interface.routes_mut().add_default_ipv4_route(GATEWAY);
        routed.expect("room for one route");
        let sockets = SocketSet::new(Vec::new());
        let mut network = Network {
            device,
            interface,
            sockets,
            handles: Vec::new(),
        };
        network.keep_listening();
        network
    }

    /// How many sockets there are. They are numbered from 0 and never become fewer.
    pub(crate) fn sockets(&self) -> usize {
        self.handles.len()
    }

    pub(crate) fn socket(&mut self, index: usize) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handles[index])
    }

    /// Whether the next client would find no socket.
    pub(crate) fn is_full(&self) -> bool {
        self.handles.len() == MAX_SOCKETS
            && !self.sockets.iter().any(|(_, socket)| match socket {
                Socket::Tcp(socket) => socket.is_listening(),
            })
    }

    fn keep_listening(&mut self) {
        let last_listens = match self.handles.last() {
            Some(&last) => self.sockets.get::<tcp::Socket>(last).is_listening(),
            None => false,
        };
        let room = heap::figures().free > HEAP_RESERVE_BYTES;
        if !last_listens && self.handles.len() < MAX_SOCKETS && room {
            self.add_socket();
        }
    }

    fn add_socket(&mut self) {
        let buffer = |bytes| tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(RECEIVE_BYTES), buffer(TRANSMIT_BYTES));
        // An answer is written as a whole and wanted at once, and there is nothing that an
        // acknowledgement could wait for once the answers of a round are written.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        listen(&mut socket);
        self.handles.push(self.sockets.add(socket));
    }

    /// Works off all frames that have come in.
    pub(crate) fn take_in(&mut self, now: Micros) {
        let now = instant(now);
        self.interface.poll_maintenance(now);
        loop {
            let (interface, device) = (&mut self.interface, &mut self.device);
            match interface.poll_ingress_single(now, device, &mut self.sockets) {
                PollIngressSingleResult::None => return,
                PollIngressSingleResult::PacketProcessed => {}
                PollIngressSingleResult::SocketStateChanged => self.keep_listening(),
            }
        }
    }

    /// Queues all frames that are due. The device is told by [`before_wait`](Self::before_wait),
    /// or here, if they are more than it has room for.
    pub(crate) fn send_out(&mut self, now: Micros) {
        let (interface, device) = (&mut self.interface, &mut self.device);
        loop {
            // One frame of each socket a time.
            let sent = interface.poll_egress(instant(now), device, &mut self.sockets);
            if !device.transmitter.ready() {
                device.send_now();
                if !device.transmitter.ready() {
                    // The device interrupts when it has room again.
                    return;
                }
            } else if sent == PollResult::None {
                return;
            }
        }
    }

    /// When smoltcp next has something to do without being asked.
    pub(crate) fn next_deadline(&mut self, now: Micros) -> Option<Micros> {
        if !self.device.transmitter.ready() {
            return None;
        }
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Micros(u64::try_from(at.total_micros()).unwrap_or(0)))
    }

    /// What the device must be told before the next wait.
    pub(crate) fn before_wait(&mut self) -> Before {
        self.device.before_wait()
    }
}

/// Makes a closed socket wait for a client.
pub(crate) fn listen(socket: &mut tcp::Socket<'_>) {
    socket
        .listen(PORT)
        .expect("the socket is closed and the port is not zero");
}

fn instant(time: Micros) -> Instant {
    Instant::from_micros(i64::try_from(time.0).expect("290,000 years"))
}
