//! What the gateway reads in an Ethernet frame: addresses, and the TCP header.
//!
//! Frames come from guests and peers, so every accessor checks its bounds and
//! answers `None` for what is too short or is something else (SEC-2).

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A frame on its way through the gateway: shared, since it may be queued for a
/// node and kept for repeating at the same time.
pub type FrameBuf = Arc<[u8]>;

/// Destination, source and type: the shortest thing that is an Ethernet frame.
pub const HEADER_LEN: usize = 14;

/// The longest frame that the gateway carries: what a virtio-net device without
/// segmentation offload sends is far below; with the message's kind byte this
/// stays within the protocol's 64 KiB.
pub const MAX_FRAME_LEN: usize = 65_535;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const IP_PROTOCOL_TCP: u8 = 6;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The address that every station on the segment listens to.
    pub const BROADCAST: MacAddress = MacAddress([0xff; 6]);

    /// Whether this names a group of stations, which a source never is
    /// (IEEE 802.3, the I/G bit).
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address that a frame is for.
pub fn destination(frame: &[u8]) -> Option<MacAddress> {
    array(frame, 0).map(MacAddress)
}

/// The address that a frame says it is from.
pub fn source(frame: &[u8]) -> Option<MacAddress> {
    array(frame, 6).map(MacAddress)
}

/// The EtherType (802.1Q tags are not looked through).
pub fn ether_type(frame: &[u8]) -> Option<[u8; 2]> {
    array(frame, 12)
}

pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The flags of a TCP header that matter here (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// The sender will send nothing more.
    pub fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }

    /// The sender opens a connection.
    pub fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }

    /// The sender knows of no such connection, or aborts it.
    pub fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }

    /// The acknowledgement number counts.
    pub fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
}

/// The header of a TCP segment over IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    /// The sender's address and port.
    pub source: SocketAddrV4,
    /// The receiver's address and port.
    pub destination: SocketAddrV4,
    /// The sequence number of the first byte (or of the SYN).
    pub seq: u32,
    /// The next sequence number that the sender waits for, if `flags.ack()`.
    pub ack: u32,
    /// The header's flags.
    pub flags: TcpFlags,
    /// Bytes of payload.
    pub payload_len: u32,
}

impl TcpSegment {
    /// Reads the TCP header of an untagged, unfragmented IPv4 frame; `None` for
    /// everything else. Checksums are not looked at: the receiver does that.
    pub fn parse(frame: &[u8]) -> Option<TcpSegment> {
        if ether_type(frame)? != ETHERTYPE_IPV4 {
            return None;
        }
        let ip = &frame[HEADER_LEN..];
        let first = *ip.first()?;
        let header_len = usize::from(first & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes(array(ip, 2)?));
        // More-fragments flag or an offset: only the first fragment has a TCP
        // header, and none has all of the payload.
        let fragment = u16::from_be_bytes(array(ip, 6)?) & 0x3fff;
        if first >> 4 != 4
            || header_len < 20
            || fragment != 0
            || *ip.get(9)? != IP_PROTOCOL_TCP
            || total_len < header_len
        {
            return None;
        }
        // Ethernet pads short frames, so the length is IP's word, not the frame's.
        let tcp = ip.get(header_len..total_len)?;
        let data_offset = usize::from(*tcp.get(12)? >> 4) * 4;
        if data_offset < 20 || tcp.len() < data_offset {
            return None;
        }
        let port = |at| array(tcp, at).map(u16::from_be_bytes);
        Some(TcpSegment {
            source: SocketAddrV4::new(Ipv4Addr::from(array::<4>(ip, 12)?), port(0)?),
            destination: SocketAddrV4::new(Ipv4Addr::from(array::<4>(ip, 16)?), port(2)?),
            seq: u32::from_be_bytes(array(tcp, 4)?),
            ack: u32::from_be_bytes(array(tcp, 8)?),
            flags: TcpFlags(*tcp.get(13)?),
            payload_len: (tcp.len() - data_offset) as u32,
        })
    }

    /// How much sequence space the segment takes: its payload, and one each for
    /// SYN and FIN.
    pub fn sequence_len(&self) -> u32 {
        self.payload_len + u32::from(self.flags.syn()) + u32::from(self.flags.fin())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Builds a frame with a TCP segment, for the tests of this directory.
    pub(in crate::net) struct TcpFrame {
        pub(in crate::net) macs: (MacAddress, MacAddress),
        pub(in crate::net) from: (&'static str, u16),
        pub(in crate::net) to: (&'static str, u16),
        pub(in crate::net) seq: u32,
        pub(in crate::net) ack: u32,
        pub(in crate::net) flags: u8,
        pub(in crate::net) payload: &'static [u8],
    }

    impl TcpFrame {
        pub(in crate::net) fn build(&self) -> Vec<u8> {
            let octets = |ip: &str| ip.parse::<Ipv4Addr>().expect("an address").octets();
            let mut frame = Vec::new();
            frame.extend(self.macs.1.0);
            frame.extend(self.macs.0.0);
            frame.extend(ETHERTYPE_IPV4);
            frame.extend([0x45, 0]);
            frame.extend((40 + self.payload.len() as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, IP_PROTOCOL_TCP, 0, 0]);
            frame.extend(octets(self.from.0));
            frame.extend(octets(self.to.0));
            frame.extend(self.from.1.to_be_bytes());
            frame.extend(self.to.1.to_be_bytes());
            frame.extend(self.seq.to_be_bytes());
            frame.extend(self.ack.to_be_bytes());
            frame.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
            frame.extend(self.payload);
            frame
        }
    }

    pub(in crate::net) const SYN: u8 = 0x02;
    pub(in crate::net) const RST: u8 = 0x04;
    pub(in crate::net) const ACK: u8 = 0x10;

    const A: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
    const B: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);

    fn segment() -> TcpFrame {
        TcpFrame {
            macs: (A, B),
            from: ("10.0.2.2", 50_000),
            to: ("10.0.2.15", 6379),
            seq: 7,
            ack: 9,
            flags: ACK,
            payload: b"ping",
        }
    }

    #[test]
    fn reads_addresses_and_the_tcp_header() {
        let frame = segment().build();
        assert_eq!(source(&frame), Some(A));
        assert_eq!(destination(&frame), Some(B));
        let tcp = TcpSegment::parse(&frame).expect("a segment");
        assert_eq!(tcp.source.to_string(), "10.0.2.2:50000");
        assert_eq!(tcp.destination.to_string(), "10.0.2.15:6379");
        assert_eq!((tcp.seq, tcp.ack, tcp.payload_len), (7, 9, 4));
        assert!(tcp.flags.ack() && !tcp.flags.syn() && !tcp.flags.rst() && !tcp.flags.fin());
    }

    #[test]
    fn padding_after_the_packet_is_not_payload() {
        let mut frame = TcpFrame {
            payload: b"",
            ..segment()
        }
        .build();
        frame.resize(60, 0);
        assert_eq!(TcpSegment::parse(&frame).expect("a segment").payload_len, 0);
    }

    #[test]
    fn what_is_no_whole_segment_is_none() {
        let frame = segment().build();
        for len in 0..frame.len() {
            assert_eq!(TcpSegment::parse(&frame[..len]), None, "cut at {len}");
        }
        let with = |at: usize, byte: u8| {
            let mut changed = frame.clone();
            changed[at] = byte;
            TcpSegment::parse(&changed)
        };
        assert_eq!(with(12, 0x86), None, "another EtherType");
        assert_eq!(with(14, 0x65), None, "another IP version");
        assert_eq!(with(14, 0x44), None, "an IP header below 20 bytes");
        assert_eq!(with(20, 0x20), None, "a first fragment");
        assert_eq!(with(21, 0x01), None, "a later fragment");
        assert_eq!(with(23, 17), None, "UDP");
        assert_eq!(with(46, 0x40), None, "a TCP header below 20 bytes");
        assert_eq!(with(46, 0xf0), None, "a TCP header beyond the packet");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = TcpSegment::parse(&bytes);
            let _ = (source(&bytes), destination(&bytes));
        }
    }
}
