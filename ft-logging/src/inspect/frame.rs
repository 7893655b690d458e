//! One line on an Ethernet frame, for people who read a log.
//!
//! The frame comes from the world and may be anything: every field is looked for, none is trusted
//! (SEC-2). Formats: IEEE 802.3, RFC 826 (ARP), 791 (IPv4), 792 (ICMP), 768 (UDP), 9293 (TCP),
//! 8200 (IPv6).

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

const VLAN: u16 = 0x8100;

/// What a frame is: addresses, protocol, and for TCP ports, flags, sequence numbers and length.
#[must_use]
pub fn summary(frame: &[u8]) -> String {
    ethernet(frame).unwrap_or_else(|| "no Ethernet frame: too short".to_owned())
}

fn ethernet(frame: &[u8]) -> Option<String> {
    let (to, from) = (mac(frame)?, mac(frame.get(6..)?)?);
    let mut kind = u16_at(frame, 12)?;
    let mut packet = &frame[14..];
    let mut vlan = String::new();
    if kind == VLAN {
        vlan = format!("VLAN {} ", u16_at(packet, 0)? & 0xFFF);
        kind = u16_at(packet, 2)?;
        packet = &packet[4..];
    }
    let inner = match kind {
        0x0806 => arp(packet).unwrap_or_else(|| "ARP, truncated".to_owned()),
        0x0800 => ipv4(packet).unwrap_or_else(|| "IPv4, truncated".to_owned()),
        0x86DD => ipv6(packet).unwrap_or_else(|| "IPv6, truncated".to_owned()),
        ..0x0600 => format!("IEEE 802.3, length {kind}"),
        other => format!("type 0x{other:04x}"),
    };
    Some(format!("{from} > {to} {vlan}{inner}"))
}

fn arp(packet: &[u8]) -> Option<String> {
    let operation = u16_at(packet, 6)?;
    let (sender, sender_ip) = (mac(packet.get(8..)?)?, ipv4_at(packet, 14)?);
    let target_ip = ipv4_at(packet, 24)?;
    Some(match operation {
        1 if sender_ip == target_ip => format!("ARP {sender_ip} announces itself at {sender}"),
        1 => format!("ARP who has {target_ip}, tell {sender_ip}"),
        2 => format!("ARP {sender_ip} is at {sender}"),
        other => format!("ARP operation {other}"),
    })
}

fn ipv4(packet: &[u8]) -> Option<String> {
    let header_len = usize::from(packet.first()? & 0x0F) * 4;
    let total_len = usize::from(u16_at(packet, 2)?);
    let fragment_offset = u16_at(packet, 6)? & 0x1FFF;
    let protocol = *packet.get(9)?;
    let (from, to) = (ipv4_at(packet, 12)?, ipv4_at(packet, 16)?);
    if fragment_offset != 0 {
        let offset = u32::from(fragment_offset) * 8;
        return Some(format!("IPv4 {from} > {to} fragment at {offset}"));
    }
    let len = total_len.saturating_sub(header_len);
    let segment = packet.get(header_len..).unwrap_or_default();
    Some(match protocol {
        1 => match (segment.first(), segment.get(1)) {
            (Some(8), _) => format!("ICMP {from} > {to} echo request"),
            (Some(0), _) => format!("ICMP {from} > {to} echo reply"),
            (Some(kind), Some(code)) => format!("ICMP {from} > {to} type {kind} code {code}"),
            _ => format!("ICMP {from} > {to}, truncated"),
        },
        6 => tcp(from, to, segment, len).unwrap_or_else(|| format!("TCP {from} > {to}, truncated")),
        17 => match (u16_at(segment, 0), u16_at(segment, 2)) {
            (Some(a), Some(b)) => {
                format!("UDP {from}:{a} > {to}:{b} len {}", len.saturating_sub(8))
            }
            _ => format!("UDP {from} > {to}, truncated"),
        },
        other => format!("IPv4 {from} > {to} protocol {other}"),
    })
}

fn tcp(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8], len: usize) -> Option<String> {
    let (from_port, to_port) = (u16_at(segment, 0)?, u16_at(segment, 2)?);
    let (seq, ack) = (u32_at(segment, 4)?, u32_at(segment, 8)?);
    let header_len = usize::from(segment.get(12)? >> 4) * 4;
    let bits = *segment.get(13)?;
    let window = u16_at(segment, 14)?;
    let flags: String = [
        (0x02, 'S'),
        (0x01, 'F'),
        (0x04, 'R'),
        (0x08, 'P'),
        (0x20, 'U'),
    ]
    .into_iter()
    .filter_map(|(bit, letter)| (bits & bit != 0).then_some(letter))
    .collect();
    let mut line = format!("TCP {from}:{from_port} > {to}:{to_port} [{flags}] seq {seq}");
    if bits & 0x10 != 0 {
        let _ = write!(line, " ack {ack}");
    }
    let _ = write!(line, " win {window} len {}", len.saturating_sub(header_len));
    Some(line)
}

fn ipv6(packet: &[u8]) -> Option<String> {
    let address = |at: usize| {
        let bytes = packet.get(at..)?.first_chunk::<16>()?;
        Some(Ipv6Addr::from(*bytes))
    };
    let (from, to) = (address(8)?, address(24)?);
    Some(format!("IPv6 {from} > {to} next header {}", packet[6]))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn ipv4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn mac(bytes: &[u8]) -> Option<String> {
    let bytes: &[u8; 6] = bytes.first_chunk()?;
    Some(bytes.map(|byte| format!("{byte:02x}")).join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame from its parts in hexadecimal, blanks ignored.
    fn frame(parts: &str) -> Vec<u8> {
        let digits: Vec<u8> = parts
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_digit(16).expect("hexadecimal") as u8)
            .collect();
        digits
            .chunks(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    const TO: &str = "525400123456 02000000000a";
    const IPS: &str = "0a000202 0a00020f";

    #[test]
    fn frames_are_told_in_a_line() {
        let cases = [
            (
                "ffffffffffff 02000000000a 0806 0001080006040001 02000000000a 0a000202 000000000000 0a00020f".to_owned(),
                "02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff ARP who has 10.0.2.15, tell 10.0.2.2",
            ),
            (
                format!("{TO} 0806 0001080006040002 02000000000a 0a000202 525400123456 0a00020f"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 ARP 10.0.2.2 is at 02:00:00:00:00:0a",
            ),
            (
                format!("{TO} 0806 0001080006040001 02000000000a 0a000202 000000000000 0a000202"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 ARP 10.0.2.2 announces itself at 02:00:00:00:00:0a",
            ),
            (
                format!("{TO} 0800 45000028 00000000 40060000 {IPS} 9c4018eb 00000007 00000000 5002faf0 00000000"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 TCP 10.0.2.2:40000 > 10.0.2.15:6379 [S] seq 7 win 64240 len 0",
            ),
            (
                format!("{TO} 0800 4500002d 00000000 40060000 {IPS} 9c4018eb 00000008 00000002 50180100 00000000 6869210d0a"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 TCP 10.0.2.2:40000 > 10.0.2.15:6379 [P] seq 8 ack 2 win 256 len 5",
            ),
            (
                format!("{TO} 8100 0005 0800 45000020 00000000 40110000 {IPS} 00350035 000c0000 00000000"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 VLAN 5 UDP 10.0.2.2:53 > 10.0.2.15:53 len 4",
            ),
            (
                format!("{TO} 0800 4500001c 00000000 40010000 {IPS} 08000000 00000000"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 ICMP 10.0.2.2 > 10.0.2.15 echo request",
            ),
            (
                format!("{TO} 0800 4500001c 00002001 40060000 {IPS}"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 IPv4 10.0.2.2 > 10.0.2.15 fragment at 8",
            ),
            (
                format!("{TO} 86dd 60000000 0000 3aff fe800000000000000000000000000001 ff020000000000000000000000000002"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 IPv6 fe80::1 > ff02::2 next header 58",
            ),
            (
                format!("{TO} 88cc 0000"),
                "02:00:00:00:00:0a > 52:54:00:12:34:56 type 0x88cc",
            ),
        ];
        for (parts, expected) in cases {
            assert_eq!(summary(&frame(&parts)), expected);
        }
    }

    /// SEC-2: a frame cut anywhere, or with any byte changed, still gives a line.
    #[test]
    fn sec_2_no_frame_is_too_odd() {
        let whole = frame(&format!(
            "{TO} 0800 4500002d 00000000 40060000 {IPS} 9c4018eb 00000008 00000002 50180100 00000000 6869210d0a"
        ));
        for end in 0..whole.len() {
            assert!(!summary(&whole[..end]).is_empty());
        }
        for at in 0..whole.len() {
            for value in 0..=u8::MAX {
                let mut changed = whole.clone();
                changed[at] = value;
                assert!(summary(&changed).len() < 200);
            }
        }
    }
}
