//! How switches learn that a guest has moved (FAIL-7), pure.
//!
//! A switch sends a guest's frames to where it last saw the guest's address as a
//! source. So the node that goes live sends frames from that address: a RARP
//! request that everybody ignores (what QEMU sends after a migration, since it
//! does not know the guest's IP address either), and a gratuitous ARP once the
//! guest's own frames have told its IP address (RFC 5227, section 1.1).

use std::net::Ipv4Addr;
use std::time::Duration;

use super::packet::{HEADER_LEN, MacAddress, array, ether_type, source};

/// When to announce, counted from going live. Repeated, since a switch may lose
/// the first ones or be taught otherwise by a stale node (FAIL-9).
pub const ANNOUNCE_AT: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
];

/// The interval of announcements after the last of [`ANNOUNCE_AT`].
pub const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);

/// Addresses that a guest may have announced for it; one that uses more is
/// announced by its first ones.
pub const MAX_ADDRESSES: usize = 8;

/// Ethernet pads to this length (without the checksum).
const MIN_FRAME_LEN: usize = 60;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_RARP: [u8; 2] = [0x80, 0x35];

/// The moments of all announcements, counted from going live, without end.
pub fn schedule() -> impl Iterator<Item = Duration> {
    let last = ANNOUNCE_AT[ANNOUNCE_AT.len() - 1];
    let later = (1..).map(move |n| last + ANNOUNCE_EVERY * n);
    ANNOUNCE_AT.into_iter().chain(later)
}

/// An ARP-shaped broadcast from and about `mac` (RFC 826, RFC 903).
fn arp_broadcast(mac: MacAddress, ether_type: [u8; 2], operation: u16, ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(MIN_FRAME_LEN);
    frame.extend(MacAddress::BROADCAST.0);
    frame.extend(mac.0);
    frame.extend(ether_type);
    frame.extend([0x00, 0x01]); // hardware: Ethernet
    frame.extend(ETHERTYPE_IPV4); // protocol: IPv4
    frame.extend([6, 4]); // lengths of their addresses
    frame.extend(operation.to_be_bytes());
    for _sender_then_target in 0..2 {
        frame.extend(mac.0);
        frame.extend(ip.octets());
    }
    frame.resize(MIN_FRAME_LEN, 0);
    frame
}

/// A RARP request ("who am I?") from `mac`: moves the switches' entries and
/// changes nothing else.
pub fn announcement(mac: MacAddress) -> Vec<u8> {
    const REVERSE_REQUEST: u16 = 3;
    arp_broadcast(mac, ETHERTYPE_RARP, REVERSE_REQUEST, Ipv4Addr::UNSPECIFIED)
}

/// A gratuitous ARP request: `ip` is at `mac`.
pub fn gratuitous_arp(mac: MacAddress, ip: Ipv4Addr) -> Vec<u8> {
    const REQUEST: u16 = 1;
    arp_broadcast(mac, ETHERTYPE_ARP, REQUEST, ip)
}

/// Knows a guest's address and learns its IP addresses from its own frames.
#[derive(Debug, Clone)]
pub struct Announcer {
    mac: MacAddress,
    addresses: Vec<Ipv4Addr>,
}

impl Announcer {
    /// For the guest whose device has the address `mac`.
    pub fn new(mac: MacAddress) -> Self {
        Announcer {
            mac,
            addresses: Vec::new(),
        }
    }

    /// A frame that the guest sends, or would send if it were live: a backup
    /// learns from the outputs that it drops.
    pub fn handle_output(&mut self, frame: &[u8]) {
        if source(frame) != Some(self.mac) {
            return;
        }
        let sender = match ether_type(frame) {
            Some(ETHERTYPE_IPV4) => array::<4>(frame, HEADER_LEN + 12),
            Some(ETHERTYPE_ARP) => array::<4>(frame, HEADER_LEN + 14),
            _ => None,
        };
        let Some(ip) = sender.map(Ipv4Addr::from) else {
            return;
        };
        // A guest that has no address yet (DHCP, an ARP probe) says 0.0.0.0.
        let usable = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
        if usable && self.addresses.len() < MAX_ADDRESSES && !self.addresses.contains(&ip) {
            self.addresses.push(ip);
        }
    }

    /// The frames to send at each moment of [`schedule`].
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let arps = self
            .addresses
            .iter()
            .map(|ip| gratuitous_arp(self.mac, *ip));
        std::iter::once(announcement(self.mac))
            .chain(arps)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::{ACK, TcpFrame};
    use super::*;

    const GUEST: MacAddress = MacAddress([0x02, 0xf7, 0, 0, 0, 0x15]);

    #[test]
    fn fail_7_announcements_come_at_0_50_200_ms_1_s_then_every_10_s() {
        let ms: Vec<_> = schedule().take(6).map(|at| at.as_millis()).collect();
        assert_eq!(ms, [0, 50, 200, 1000, 11_000, 21_000]);
    }

    #[test]
    fn golden_bytes() {
        let mut rarp = vec![0xff; 6];
        rarp.extend([0x02, 0xf7, 0, 0, 0, 0x15, 0x80, 0x35]);
        rarp.extend([0, 1, 8, 0, 6, 4, 0, 3]);
        rarp.extend([0x02, 0xf7, 0, 0, 0, 0x15, 0, 0, 0, 0]);
        rarp.extend([0x02, 0xf7, 0, 0, 0, 0x15, 0, 0, 0, 0]);
        rarp.resize(60, 0);
        assert_eq!(announcement(GUEST), rarp);

        let mut arp = rarp;
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        arp[21] = 1;
        arp[28..32].copy_from_slice(&[10, 0, 2, 15]);
        arp[38..42].copy_from_slice(&[10, 0, 2, 15]);
        assert_eq!(gratuitous_arp(GUEST, Ipv4Addr::new(10, 0, 2, 15)), arp);
    }

    #[test]
    fn learns_the_guests_addresses_from_arp_and_ipv4() {
        let mut announcer = Announcer::new(GUEST);
        assert_eq!(announcer.frames(), [announcement(GUEST)]);

        let tcp = TcpFrame {
            macs: (GUEST, MacAddress::BROADCAST),
            from: ("192.168.7.9", 1),
            to: ("192.168.7.1", 2),
            seq: 0,
            ack: 0,
            flags: ACK,
            payload: b"",
        };
        announcer.handle_output(&tcp.build());
        announcer.handle_output(&tcp.build());
        announcer.handle_output(&gratuitous_arp(GUEST, Ipv4Addr::new(10, 0, 2, 15)));
        announcer.handle_output(&gratuitous_arp(GUEST, Ipv4Addr::UNSPECIFIED));
        announcer.handle_output(&gratuitous_arp(
            MacAddress([6; 6]),
            Ipv4Addr::new(10, 0, 2, 16),
        ));
        assert_eq!(
            announcer.frames(),
            [
                announcement(GUEST),
                gratuitous_arp(GUEST, Ipv4Addr::new(192, 168, 7, 9)),
                gratuitous_arp(GUEST, Ipv4Addr::new(10, 0, 2, 15)),
            ]
        );
    }

    #[test]
    fn sec_2_a_guest_with_many_addresses_costs_no_more_than_the_bound() {
        let mut announcer = Announcer::new(GUEST);
        for last in 1..=100 {
            announcer.handle_output(&gratuitous_arp(GUEST, Ipv4Addr::new(10, 0, 2, last)));
        }
        assert_eq!(announcer.frames().len(), 1 + MAX_ADDRESSES);
    }

    proptest::proptest! {
        #[test]
        fn any_frame_is_learned_from_without_a_panic(rest: Vec<u8>) {
            let mut frame = vec![0xff; 6];
            frame.extend(GUEST.0);
            frame.extend(rest);
            Announcer::new(GUEST).handle_output(&frame);
        }
    }
}
