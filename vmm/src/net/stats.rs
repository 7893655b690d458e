//! What the gateway tells about itself: values that `ftvm status` and the demo
//! read over the gateway's port, as JSON.

use serde::{Deserialize, Serialize};

/// The gateway's statistics since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStats {
    /// The gateway's random id, in hexadecimal.
    pub gateway: String,
    /// How long it runs.
    pub uptime_ms: u64,
    /// Whether frames are kept and repeated when a guest's port moves.
    pub repeat: bool,
    /// The VMs that it has seen.
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

/// How many moves the statistics remember.
pub const MAX_MOVES: usize = 64;

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
