//! What the nodes said to the gateway, held against the offline replay of the survivor's log.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use vmm::net::capture::CaptureReader;
use vmm::net::packet::{self, MacAddress};
use vmm::net::protocol::{Inbox, ToGateway};

use super::cable::{Cable, Listener};

/// The guest's own address, unless it is told otherwise.
const GUEST_MAC: MacAddress = MacAddress([0x52, 0x54, 0x00, 0x12, 0x34, 0x56]);

const RARP: [u8; 2] = [0x80, 0x35];
const ARP: [u8; 2] = [0x08, 0x06];

/// A node's cable to the gateway, which notes every frame that the node says, whether the gateway
/// lets it pass or not.
pub(crate) struct Wire {
    cable: Cable,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Wire {
    pub(crate) fn to(gateway: SocketAddr) -> Self {
        let frames = Arc::new(Mutex::new(Vec::new()));
        let noted = frames.clone();
        let cable = Cable::with(gateway, move || listener(noted.clone()));
        Wire { cable, frames }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.cable.address()
    }

    /// Every frame that the guest said here, in order. The node must have ended or halted.
    pub(crate) fn said(&self) -> Vec<Vec<u8>> {
        self.cable.wait_until_idle();
        let frames = self.frames.lock().expect("no panic in here");
        frames
            .iter()
            .filter(|f| !is_announcement(f))
            .cloned()
            .collect()
    }
}

fn listener(frames: Arc<Mutex<Vec<Vec<u8>>>>) -> Listener {
    let mut inbox = Inbox::default();
    Box::new(move |mut bytes| {
        while !bytes.is_empty() {
            let room = inbox.room();
            let len = room.len().min(bytes.len());
            room[..len].copy_from_slice(&bytes[..len]);
            inbox.filled(len);
            bytes = &bytes[len..];
            while let Some(message) = inbox.next().expect("a node speaks the gateway's protocol") {
                if let ToGateway::Frame(frame) = message {
                    frames
                        .lock()
                        .expect("no panic in here")
                        .push(frame.to_vec());
                }
            }
        }
    })
}

/// FAIL-7: a RARP request, or a gratuitous ARP (who has X? tell X), which no entry of the log causes.
fn is_announcement(frame: &[u8]) -> bool {
    match packet::ether_type(frame) {
        Some(RARP) => true,
        Some(ARP) => frame.get(28..32) == frame.get(38..42),
        _ => false,
    }
}

/// The frames of a capture.
fn read(path: &Path) -> Vec<Vec<u8>> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reader = CaptureReader::new(file).expect("a capture");
    reader
        .map(|frame| frame.expect("a whole frame").frame)
        .collect()
}

/// ONE-1: what two nodes said is one history. `replayed` are the guest's outputs in the replay of
/// the survivor's log, of its whole life.
///
/// * What the other node said are the first of them, in their order (OUT-5), each once: nothing that
///   the survivor does not know of.
/// * What the survivor said are the last of them, and it began no later than where the other ended:
///   perhaps twice, never lost (OUT-4).
/// * Whatever the gateway let pass to the clients is among them.
pub(crate) fn check_one_history(
    replayed: &Path,
    survivor: &Wire,
    other: &Wire,
    captured: &Path,
) -> Overlap {
    let outputs = read(replayed);
    let overlap = overlap(&outputs, &survivor.said(), &other.said());
    let overlap = overlap.unwrap_or_else(|why| panic!("ONE-1: {why}"));
    let known: BTreeSet<&[u8]> = outputs.iter().map(Vec::as_slice).collect();
    let heard = read(captured);
    let heard = heard
        .iter()
        .filter(|frame| packet::source(frame) == Some(GUEST_MAC) && !is_announcement(frame));
    let mut count = 0;
    for frame in heard {
        count += 1;
        assert!(
            known.contains(frame.as_slice()),
            "heard, but in no log: {frame:x?}"
        );
    }
    assert!(count > 0, "the capture heard nothing of the guest");
    overlap
}

/// Where two nodes' words lie in a guest's outputs: `before` must be their beginning, and `said`
/// their end.
fn overlap(outputs: &[Vec<u8>], said: &[Vec<u8>], before: &[Vec<u8>]) -> Result<Overlap, String> {
    if !outputs.starts_with(before) {
        return Err("the other node said what the survivor's log does not have".to_owned());
    }
    if !outputs.ends_with(said) {
        return Err("the survivor said something else than its log has".to_owned());
    }
    let from = outputs.len() - said.len();
    let Some(twice) = before.len().checked_sub(from) else {
        return Err(format!(
            "OUT-4: outputs {} to {from} were lost",
            before.len() + 1
        ));
    };
    Ok(Overlap {
        before: before.len(),
        after: said.len(),
        twice,
    })
}

/// How many outputs each node said.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overlap {
    /// The other node.
    pub(crate) before: usize,
    /// The survivor.
    pub(crate) after: usize,
    /// Both of them (OUT-4).
    pub(crate) twice: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_1_words_that_are_in_no_log_or_out_of_order_or_lost_are_told() {
        let frames = |said: &str| -> Vec<Vec<u8>> { said.bytes().map(|b| vec![b]).collect() };
        // (the survivor said, the other said, how many twice)
        let cases = [
            ("defg", "abc", Ok(0)),
            ("cdefg", "abcd", Ok(2)),
            ("abcdefg", "", Ok(0)),
            ("", "abcdefg", Ok(0)),
            ("efg", "abc", Err("lost")),
            ("defg", "abx", Err("does not have")),
            ("defg", "acb", Err("does not have")),
            ("defg", "aabc", Err("does not have")),
            ("", "abcdefgh", Err("does not have")),
            ("dxefg", "abc", Err("something else")),
            ("def", "abc", Err("something else")),
        ];
        for (said, before, expected) in cases {
            let found = overlap(&frames("abcdefg"), &frames(said), &frames(before));
            match (found, expected) {
                (Ok(found), Ok(twice)) => assert_eq!(found.twice, twice, "{said} {before}"),
                (Err(why), Err(word)) => assert!(why.contains(word), "{said} {before}: {why}"),
                (found, _) => panic!("{said} {before}: {found:?}"),
            }
        }
    }

    #[test]
    fn fail_7_announcements_are_told_from_what_a_guest_says() {
        use vmm::net::announce::{announcement, gratuitous_arp};
        let address = "10.0.2.15".parse().expect("an address");
        assert!(is_announcement(&announcement(GUEST_MAC)));
        let gratuitous = gratuitous_arp(GUEST_MAC, address);
        assert!(is_announcement(&gratuitous));
        let mut question = gratuitous.clone();
        question[41] = 2; // who has 10.0.2.2?
        assert!(!is_announcement(&question));
        assert!(!is_announcement(&[0; 60]));
    }
}
