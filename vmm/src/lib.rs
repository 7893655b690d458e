//! The deterministic machine and everything that keeps it running.

pub mod net;
pub mod sys;
