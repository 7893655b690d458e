//! The guest's network: a user-mode gateway that needs no root, and TAP.
//!
//! `ftvm gateway` is a process of its own that outlives the nodes: a small
//! learning switch with host port forwards, which the nodes of a VM dial. It
//! refuses the frames of whoever has a lower token (FAIL-6), moves the guest's
//! port when a backup goes live, and repeats what the dead primary may have
//! swallowed.
//!
//! ```text
//!   pure                                 sockets, files, clocks
//!   ───────────────────────────────      ─────────────────────────────────────
//!   packet    addresses, TCP header      gateway    configuration, start, stop
//!   fence     who may speak              driver     the one task of a gateway
//!   repeat    what may be missed         readiness  which sockets may go on
//!   switch    ports, addresses           node_port  gateway's end of a node
//!   protocol  node and gateway           clients    all forwarded connections
//!   host      the gateway's own TCP/IP   splice     one: client to guest, and back
//!   announce  "I am here now"            client     a node's end of the gateway
//!   stats     reports, as values         capture    pcap: write, read, ask
//!                                        tap        the real thing
//! ```

pub mod announce;
pub mod capture;
pub mod client;
mod clients;
mod driver;
pub mod fence;
pub mod gateway;
pub mod host;
mod node_port;
pub mod packet;
pub mod protocol;
mod readiness;
pub mod repeat;
mod splice;
pub mod stats;
pub mod switch;
pub mod tap;

#[cfg(test)]
mod tests;

pub use client::{FrameReceiver, FrameSender, GatewayLink, LinkEvent, query_stats};
pub use fence::Announcement;
pub use gateway::{Forward, Gateway, GatewayConfig};
pub use packet::MacAddress;
pub use protocol::Hello;
pub use stats::GatewayStats;
