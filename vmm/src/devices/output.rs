//! What leaves the machine.

use serde::{Deserialize, Serialize};

/// One output of the machine. All devices share one sequence (OUT-5), in the
/// order in which the outputs were created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// An Ethernet frame without its frame check sequence.
    Net {
        /// From the destination address on, at most
        /// [`MAX_FRAME_BYTES`](super::MAX_FRAME_BYTES) long.
        #[serde(with = "serde_bytes")]
        frame: Vec<u8>,
    },
    /// Bytes that the guest wrote to its serial console.
    Console {
        /// At least one byte, at most [`GATHER_BYTES`](super::GATHER_BYTES).
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
}
