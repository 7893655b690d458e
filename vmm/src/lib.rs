//! The deterministic machine and everything that keeps it running.
//!
//! ```text
//!   sys ◀── cpu, devices ◀── machine ◀── determinism ◀── node ◀── cli
//! ```

pub mod cli;
pub mod cpu;
pub mod determinism;
pub mod devices;
pub mod machine;
pub mod net;
pub mod node;
pub mod sys;
