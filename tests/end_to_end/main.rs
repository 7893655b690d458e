//! The whole system, with real processes: nodes killed, stopped and cut off under load, while
//! clients note what they see over the same TCP connections.

#[path = "../harness/mod.rs"]
#[expect(dead_code, reason = "the demo's tests use the rest of it")]
mod harness;

mod arbiter;
mod boot;
mod failpoints;
mod kills;
mod linux;
mod partition;
mod pauses;
mod shutdown;
mod stops;
mod strangers;
mod tap;

/// Requests that are enough to know that a VM serves.
const ENOUGH: u64 = 300;
