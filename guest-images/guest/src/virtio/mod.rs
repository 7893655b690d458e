//! Virtio 1.2 over memory-mapped registers: the transport, split queues, and
//! the two devices that guests use.

pub mod mmio;
pub mod net;
mod queue;
pub mod rng;
