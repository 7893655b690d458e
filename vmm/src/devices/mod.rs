//! Every device of the machine, as pure deterministic state machines (DET-2).
//!
//! A device here has no clock, no socket, no file, no thread and no source of
//! randomness. What it knows of the world comes in through the methods of
//! [`Board`]: port and memory-mapped accesses of the guest, the inputs of the
//! log, and virtual time as [`Board::set_time`] moves it. What it says leaves
//! through [`Board::take_outputs`], one sequence for all devices (OUT-5).
//! Guest memory is written only inside those calls, while the vCPU is stopped
//! (DET-3).
//!
//! ```text
//!   guest access ──┐                       ┌── interrupt_pending / acknowledge
//!   log inputs  ───┼──► Board ──► 8259 ────┤
//!   set_time    ───┘      │                └── power_request
//!                         └──► take_outputs: frames and console bytes, in order
//! ```
//!
//! Nothing a guest does makes these models panic, loop or grow without a bound
//! (SEC-3): what a register cannot hold is ignored, what a ring must not contain
//! puts the virtio device into `DEVICE_NEEDS_RESET`.

mod acpi;
mod board;
pub mod layout;
mod output;
mod pic;
mod pit;
mod rtc;
mod time;
mod uart;
mod virtio;

#[cfg(test)]
mod test_memory;

pub use board::{
    Board, BoardConfig, BoardState, PortAccess, PowerRequest, RestoreError, STATE_VERSION,
};
pub use output::Output;
pub use time::{MAX_TIME, VirtualTime};
pub use uart::{CONSOLE_LINE_BYTES, GATHER_BYTES, GATHER_NS};
pub use virtio::block::{
    BlockOperation, BlockRequest, DiskShape, MAX_IN_FLIGHT, MAX_REQUEST_BYTES, SECTOR_BYTES,
};
pub use virtio::net::{MAX_FRAME_BYTES, MIN_FRAME_BYTES, MTU, NetCounters};
pub use virtio::rng::MAX_ENTROPY_BYTES;

pub use crate::sys::vm::GuestMemory;
