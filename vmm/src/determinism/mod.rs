//! Where a machine's inputs come from: decided and recorded live, or read from the log.
//!
//! A backup that goes live does not change machines or loops: its [`Inputs`] turn from
//! [`replay`] to [`live`], at whatever point of a step the log ends.

mod clock;
mod inputs;
mod live;
mod offline;
mod replay;

pub use inputs::{DiskDone, Inputs, Link, Order, Report};
pub use offline::LogLink;
