//! What the gateway tells about itself: values that `ftvm status` and the demo
//! read over the gateway's port, as JSON.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::switch::{Move, PortReport};

/// The gateway's statistics since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStats {
    /// The gateway's random id, in hexadecimal.
    pub gateway: String,
    /// How long it runs.
    pub uptime_ms: u64,
    /// Whether frames are kept and repeated when a guest's port moves.
    pub repeat: bool,
    /// The VMs that it has seen: those spoken for first (at most [`MAX_VMS`]).
    pub vms: Vec<VmStats>,
    /// Nodes attached now.
    pub nodes: u64,
    /// Frames accepted from guests.
    pub frames_from_guests: u64,
    /// Frames sent to guests, repeated ones included.
    pub frames_to_guests: u64,
    /// Frames refused from nodes that do not speak for their guest (FAIL-6).
    pub frames_refused: u64,
    /// Frames that were none, or had a source address that is not their sender's.
    pub frames_malformed: u64,
    /// Frames sent again to a new speaker.
    pub frames_repeated: u64,
    /// Frames that came while nobody spoke for the guest and were delivered late.
    pub frames_held: u64,
    /// Frames lost because nobody spoke, or because a node did not take them.
    pub frames_dropped: u64,
    /// The last moves of guests' ports (at most [`MAX_MOVES`]), oldest first.
    pub port_moves: Vec<PortMove>,
    /// Forwarded connections open now.
    pub connections_open: u64,
    /// Forwarded connections opened.
    pub connections_opened: u64,
    /// Forwarded connections reset by either side.
    pub connections_reset: u64,
    /// Forwarded connections that the guest never answered.
    pub connections_unanswered: u64,
    /// Connections closed because their first bytes were not an ftvm node's.
    pub strangers: u64,
    /// The capture, if one is taken.
    pub capture: Option<CaptureStats>,
}

/// How many moves the statistics remember. With [`MAX_VMS`] it keeps the whole
/// within one message of the protocol.
pub const MAX_MOVES: usize = 64;

/// How many VMs the statistics tell of.
pub const MAX_VMS: usize = 64;

/// A VM at the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStats {
    /// Its name.
    pub name: String,
    /// Its life, in hexadecimal.
    pub life: String,
    /// The generation of the highest token spoken with.
    pub generation: Option<u64>,
    /// Whether that token was won.
    pub won: Option<bool>,
    /// The incarnation that spoke with it, in hexadecimal.
    pub speaker: Option<String>,
    /// Whether it is connected and speaks now.
    pub speaking: bool,
}

/// A guest's port moved to another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMove {
    /// When, in milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    /// The VM's life, in hexadecimal.
    pub life: String,
    /// The new token's generation.
    pub generation: u64,
    /// Whether it was won.
    pub won: bool,
    /// Frames sent again.
    pub frames_repeated: u64,
    /// Frames delivered late.
    pub frames_held: u64,
    /// Kept frames not sent again, since the guest had acknowledged them.
    pub frames_handled: u64,
}

/// The state of a capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureStats {
    /// Frames recorded.
    pub frames: u64,
    /// Why it has stopped, if it has.
    pub error: Option<String>,
}

impl VmStats {
    /// Those of the switch's ports that matter most.
    pub(super) fn of(ports: impl Iterator<Item = PortReport>) -> Vec<VmStats> {
        let mut ports: Vec<PortReport> = ports.collect();
        ports.sort_by_key(|port| !port.speaking);
        ports.truncate(MAX_VMS);
        let stats = |port: PortReport| VmStats {
            name: port.name,
            life: port.life.to_string(),
            generation: port.highest.map(|token| token.generation.0),
            won: port.highest.map(|token| token.won),
            speaker: port.holder.map(|holder| holder.to_string()),
            speaking: port.speaking,
        };
        ports.into_iter().map(stats).collect()
    }
}

impl PortMove {
    /// `started` is when the gateway started, since the Unix epoch.
    pub(super) fn new(moved: &Move, started: Duration) -> PortMove {
        PortMove {
            at_unix_ms: (started + moved.at).as_millis() as u64,
            life: moved.life.to_string(),
            generation: moved.token.generation.0,
            won: moved.token.won,
            frames_repeated: moved.repeated,
            frames_held: moved.held,
            frames_handled: moved.handled,
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use ft_logging::types::{Generation, Incarnation, Life, Token};

    use super::super::protocol::{MAX_MESSAGE_LEN, MAX_NAME_LEN, Message, ToNode};
    use super::*;

    const HIGHEST: Token = Token {
        generation: Generation(u64::MAX),
        won: false,
    };

    fn port(n: usize, speaking: bool) -> PortReport {
        PortReport {
            // Every byte of it is escaped in JSON.
            name: "\"".repeat(MAX_NAME_LEN),
            life: Life([n as u8; 16]),
            highest: Some(HIGHEST),
            holder: Some(Incarnation([0xff; 16])),
            speaking,
            kept_dropped: u64::MAX,
        }
    }

    #[test]
    fn sec_2_the_largest_statistics_fit_one_message() {
        let counts = u64::MAX;
        let moved = Move {
            at: Duration::from_secs(1 << 50),
            life: Life([0xff; 16]),
            token: HIGHEST,
            repeated: counts,
            held: counts,
            handled: counts,
        };
        let stats = GatewayStats {
            vms: VmStats::of((0..1000).map(|n| port(n, n == 999))),
            port_moves: vec![PortMove::new(&moved, Duration::ZERO); MAX_MOVES],
            ..GatewayStats::default()
        };
        assert!(stats.vms[0].speaking, "whoever speaks comes first");
        let json = serde_json::to_vec(&stats).expect("plain data");
        // The counters at their largest, and some room for more of them.
        assert!(json.len() + 4096 < MAX_MESSAGE_LEN, "{} bytes", json.len());
        ToNode::Stats(&json).encode(&mut Vec::new());
        assert_eq!(
            serde_json::from_slice::<GatewayStats>(&json).expect("read back"),
            stats
        );
    }
}
