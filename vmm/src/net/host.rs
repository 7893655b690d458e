//! The gateway's own station on the guests' network: ARP, ping, and the TCP
//! connections of the host port forwards. No sockets of the host here: frames in,
//! frames out, time given in (smoltcp is sans-IO).
//!
//! The connections never time out by themselves and send no keep-alives: a guest
//! that is silent for seconds while its port moves must find them as they were.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Packet, Icmpv4Repr, IpCidr, IpProtocol,
    Ipv4Packet, Ipv4Repr,
};

use super::packet::{FrameBuf, MacAddress};

/// The gateway's Ethernet address (the one that user-mode networks have used
/// since slirp, with the address in its last four bytes).
pub const HOST_MAC: MacAddress = MacAddress([0x52, 0x55, 10, 0, 2, 2]);

/// The gateway's address.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

/// The length of the network's prefix: 10.0.2.0/24.
pub const PREFIX_LEN: u8 = 24;

/// The address of a guest that is alone on the network.
pub const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// Bytes that a connection buffers in each direction: a full TCP window, so that
/// throughput is bounded by the guest and not by this.
pub const SOCKET_BUFFER: usize = 64 << 10;

/// IP packets of up to 1500 bytes, and the Ethernet header.
const MTU: usize = 1514;

/// Ports that the gateway's ends of connections have (RFC 6335, section 6).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Ended connections remembered in TIME-WAIT. They only answer repeated FINs, so
/// under a storm of short connections the oldest are forgotten early.
const MAX_TIME_WAIT: usize = 64;

/// A connection of the stack.
pub type ConnectionHandle = SocketHandle;

/// The stack.
pub struct HostStack {
    interface: Interface,
    sockets: SocketSet<'static>,
    wire: Wire,
    time_wait: VecDeque<SocketHandle>,
    next_port: u16,
    ack_delay: Duration,
}

impl HostStack {
    /// A stack without connections. `seed` makes its sequence numbers and ports
    /// unlike those of an earlier gateway. `ack_delay` is how long an
    /// acknowledgement may wait for data to go with; zero sends it at once.
    pub fn new(now: Duration, seed: u64, ack_delay: Duration) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(EthernetAddress(HOST_MAC.0).into());
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, instant(now));
        interface.update_ip_addrs(|addresses| {
            let own = IpCidr::new(HOST_ADDRESS.into(), PREFIX_LEN);
            addresses.push(own).expect("the first address has room");
        });
        let ports = EPHEMERAL.end() - EPHEMERAL.start() + 1;
        HostStack {
            interface,
            sockets: SocketSet::new(Vec::new()),
            wire,
            time_wait: VecDeque::new(),
            next_port: EPHEMERAL.start() + (seed % u64::from(ports)) as u16,
            ack_delay,
        }
    }

    /// A frame for the gateway, or for everybody.
    pub fn handle_frame(&mut self, frame: FrameBuf) {
        match echo_reply(&frame) {
            Some(reply) => self.wire.out.push_back(reply.into()),
            None => self.wire.inward.push_back(frame),
        }
    }

    /// Processes frames and timers. Whether any connection may have changed.
    pub fn poll(&mut self, now: Duration) -> bool {
        let result = self
            .interface
            .poll(instant(now), &mut self.wire, &mut self.sockets);
        result == PollResult::SocketStateChanged
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self) -> Option<FrameBuf> {
        self.wire.out.pop_front()
    }

    /// When [`poll`](Self::poll) should be called next, if nothing happens before.
    pub fn poll_timeout(&mut self, now: Duration) -> Option<Duration> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Duration::from_micros(
            u64::try_from(at.total_micros()).unwrap_or(0),
        ))
    }

    /// Begins a connection to a guest. `None` if the address cannot be connected
    /// to (port 0, no unicast address), or if every port is taken.
    pub fn connect(&mut self, guest: SocketAddrV4) -> Option<ConnectionHandle> {
        let buffer = || tcp::SocketBuffer::new(vec![0; SOCKET_BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let delay = (!self.ack_delay.is_zero()).then(|| self.ack_delay.into());
        socket.set_ack_delay(delay);
        let port = self.unused_port()?;
        let remote = (*guest.ip(), guest.port());
        socket
            .connect(self.interface.context(), remote, port)
            .ok()?;
        Some(self.sockets.add(socket))
    }

    fn unused_port(&mut self) -> Option<u16> {
        for _ in EPHEMERAL {
            let port = self.next_port;
            self.next_port = if port == *EPHEMERAL.end() {
                *EPHEMERAL.start()
            } else {
                port + 1
            };
            let taken = |socket: &tcp::Socket<'_>| {
                socket.local_endpoint().is_some_and(|end| end.port == port)
            };
            let mut sockets = self.sockets.iter();
            if !sockets.any(|(_, smoltcp::socket::Socket::Tcp(socket))| taken(socket)) {
                return Some(port);
            }
        }
        None
    }

    /// A connection's socket.
    ///
    /// # Panics
    /// If it was released.
    pub fn socket(&mut self, connection: ConnectionHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(connection)
    }

    /// The owner is done with a connection that is closed or in TIME-WAIT.
    ///
    /// # Panics
    /// If it was released before.
    pub fn release(&mut self, connection: ConnectionHandle) {
        if self.socket(connection).state() != tcp::State::TimeWait {
            self.sockets.remove(connection);
            return;
        }
        self.time_wait.push_back(connection);
        if self.time_wait.len() > MAX_TIME_WAIT {
            self.forget_oldest();
        }
        while let Some(&oldest) = self.time_wait.front()
            && self.socket(oldest).state() == tcp::State::Closed
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.time_wait.pop_front() {
            self.sockets.remove(oldest);
        }
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// The answer to an ICMP echo request for the gateway.
fn echo_reply(frame: &[u8]) -> Option<Vec<u8>> {
    let checksums = ChecksumCapabilities::default();
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.dst_addr() != EthernetAddress(HOST_MAC.0)
        || ethernet.ethertype() != EthernetProtocol::Ipv4
    {
        return None;
    }
    let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    if packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let asked = Ipv4Repr::parse(&packet, &checksums).ok()?;
    if asked.dst_addr != HOST_ADDRESS || asked.next_header != IpProtocol::Icmp {
        return None;
    }
    let request = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    let Icmpv4Repr::EchoRequest {
        ident,
        seq_no,
        data,
    } = Icmpv4Repr::parse(&request, &checksums).ok()?
    else {
        return None;
    };

    let echo = Icmpv4Repr::EchoReply {
        ident,
        seq_no,
        data,
    };
    let ip = Ipv4Repr {
        src_addr: HOST_ADDRESS,
        dst_addr: asked.src_addr,
        next_header: IpProtocol::Icmp,
        payload_len: echo.buffer_len(),
        hop_limit: 64,
    };
    let header_len = EthernetFrame::<&[u8]>::header_len();
    let mut reply = vec![0; header_len + ip.buffer_len() + echo.buffer_len()];
    let mut out = EthernetFrame::new_unchecked(&mut reply[..]);
    out.set_dst_addr(ethernet.src_addr());
    out.set_src_addr(EthernetAddress(HOST_MAC.0));
    out.set_ethertype(EthernetProtocol::Ipv4);
    let mut out = Ipv4Packet::new_unchecked(out.payload_mut());
    ip.emit(&mut out, &checksums);
    echo.emit(
        &mut Icmpv4Packet::new_unchecked(out.payload_mut()),
        &checksums,
    );
    Some(reply)
}

/// The stack's end of the wire: frames to it, and frames from it.
#[derive(Default)]
pub(super) struct Wire {
    pub(super) inward: VecDeque<FrameBuf>,
    pub(super) out: VecDeque<FrameBuf>,
}

/// A received frame.
pub(super) struct RxToken(FrameBuf);

/// Room for a frame to send.
pub(super) struct TxToken<'a>(&'a mut VecDeque<FrameBuf>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.push_back(frame.into());
        result
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        Some((RxToken(self.inward.pop_front()?), TxToken(&mut self.out)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.out))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST_MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 15]);

    fn ping(to: Ipv4Addr) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let echo = Icmpv4Repr::EchoRequest {
            ident: 7,
            seq_no: 1,
            data: b"are you there",
        };
        let ip = Ipv4Repr {
            src_addr: GUEST_ADDRESS,
            dst_addr: to,
            next_header: IpProtocol::Icmp,
            payload_len: echo.buffer_len(),
            hop_limit: 64,
        };
        let mut frame = vec![0; 14 + ip.buffer_len() + echo.buffer_len()];
        let mut out = EthernetFrame::new_unchecked(&mut frame[..]);
        out.set_dst_addr(EthernetAddress(HOST_MAC.0));
        out.set_src_addr(GUEST_MAC);
        out.set_ethertype(EthernetProtocol::Ipv4);
        let mut out = Ipv4Packet::new_unchecked(out.payload_mut());
        ip.emit(&mut out, &checksums);
        echo.emit(
            &mut Icmpv4Packet::new_unchecked(out.payload_mut()),
            &checksums,
        );
        frame
    }

    #[test]
    fn answers_a_ping_for_itself_only() {
        let mut stack = HostStack::new(Duration::ZERO, 1, Duration::ZERO);
        stack.handle_frame(ping(HOST_ADDRESS).into());
        let reply = stack.poll_frame().expect("an echo reply");
        let ethernet = EthernetFrame::new_checked(&reply[..]).expect("a frame");
        assert_eq!(ethernet.dst_addr(), GUEST_MAC);
        let ip = Ipv4Packet::new_checked(ethernet.payload()).expect("a packet");
        assert_eq!(
            (ip.src_addr(), ip.dst_addr()),
            (HOST_ADDRESS, GUEST_ADDRESS)
        );
        let icmp = Icmpv4Packet::new_checked(ip.payload()).expect("a message");
        let checksums = ChecksumCapabilities::default();
        let expected = Icmpv4Repr::EchoReply {
            ident: 7,
            seq_no: 1,
            data: b"are you there",
        };
        assert_eq!(Icmpv4Repr::parse(&icmp, &checksums), Ok(expected));

        stack.handle_frame(ping(Ipv4Addr::new(10, 0, 2, 99)).into());
        stack.poll(Duration::ZERO);
        assert_eq!(stack.poll_frame(), None);
    }

    #[test]
    fn answers_arp() {
        let mut stack = HostStack::new(Duration::ZERO, 1, Duration::ZERO);
        let mut request =
            super::super::announce::gratuitous_arp(MacAddress(GUEST_MAC.0), GUEST_ADDRESS);
        request[38..42].copy_from_slice(&HOST_ADDRESS.octets());
        stack.handle_frame(request.into());
        stack.poll(Duration::ZERO);
        let reply = stack.poll_frame().expect("an ARP reply");
        assert_eq!(super::super::packet::source(&reply), Some(HOST_MAC));
        assert_eq!(reply[20..22], [0, 2], "the operation: reply");
    }

    #[test]
    fn a_connection_asks_for_the_guest_and_needs_a_real_address() {
        let mut stack = HostStack::new(Duration::ZERO, u64::MAX, Duration::ZERO);
        assert!(stack.connect(SocketAddrV4::new(GUEST_ADDRESS, 0)).is_none());
        let connection = stack
            .connect(SocketAddrV4::new(GUEST_ADDRESS, 80))
            .expect("a socket");
        stack.poll(Duration::ZERO);
        let arp = stack.poll_frame().expect("an ARP request");
        assert_eq!(arp[12..14], [0x08, 0x06]);
        assert!(
            stack.poll_timeout(Duration::ZERO).is_some(),
            "the question is repeated"
        );
        stack.socket(connection).abort();
        stack.release(connection);
    }

    #[test]
    fn every_connection_has_a_port_of_its_own() {
        let mut stack = HostStack::new(Duration::ZERO, u64::from(u16::MAX), Duration::ZERO);
        let guest = SocketAddrV4::new(GUEST_ADDRESS, 80);
        let handles: Vec<_> = (0..100)
            .map(|_| stack.connect(guest).expect("a socket"))
            .collect();
        let ports: std::collections::BTreeSet<_> = handles
            .into_iter()
            .map(|handle| stack.socket(handle).local_endpoint().expect("bound").port)
            .collect();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| EPHEMERAL.contains(port)));
    }
}
