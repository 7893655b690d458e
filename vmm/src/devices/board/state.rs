//! Saving and restoring a board.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Board, BoardConfig};
use crate::devices::output::Output;
use crate::devices::time::MAX_TIME;
use crate::devices::uart::GATHER_BYTES;
use crate::devices::virtio::net::MAX_FRAME_BYTES;

/// Version of [`BoardState`]. It changes with every change of a device's state or
/// behaviour: two nodes with different device models would diverge.
pub const STATE_VERSION: u32 = 2;

/// A board as a value: for digests, snapshots and state transfer. It holds all that
/// later behaviour depends on and nothing else, so equal boards serialize equally.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardState {
    version: u32,
    board: Board,
}

/// Why a state was not restored.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// The state is that of another device model.
    #[error(
        "cannot restore the devices: their state has version {found}, this program has version \
         {STATE_VERSION}; run the same release on both nodes"
    )]
    Version {
        /// The version in the state.
        found: u32,
    },
    /// The state is of a machine with another configuration.
    #[error(
        "cannot restore the devices: the state is that of a machine with another {what}; start \
         with the configuration it was saved from"
    )]
    Configuration {
        /// What differs.
        what: &'static str,
    },
    /// The state is damaged: no board can come to be in it.
    #[error("cannot restore the devices: the state of the {device} is damaged: {what}")]
    Damaged {
        /// The device.
        device: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl Board {
    /// The board as a value.
    pub fn save(&self) -> BoardState {
        BoardState {
            version: STATE_VERSION,
            board: self.clone(),
        }
    }

    /// A board that goes on exactly where the saved one stopped.
    ///
    /// # Errors
    ///
    /// If the state is of another version or configuration, or holds what no board
    /// can hold (SEC-2).
    pub fn restore(config: BoardConfig, state: BoardState) -> Result<Self, RestoreError> {
        if state.version != STATE_VERSION {
            return Err(RestoreError::Version {
                found: state.version,
            });
        }
        let board = state.board;
        if board.net.device().mac() != config.mac {
            return Err(RestoreError::Configuration {
                what: "MAC address",
            });
        }
        if board.block.as_ref().map(|block| block.device().disk()) != config.disk {
            return Err(RestoreError::Configuration { what: "disk" });
        }
        let damaged = |device| move |what| RestoreError::Damaged { device, what };
        board.check().map_err(damaged("board"))?;
        board.pic.check().map_err(damaged("8259"))?;
        board.pit.check(board.time).map_err(damaged("8254"))?;
        board
            .acpi
            .check(board.time)
            .map_err(damaged("ACPI registers"))?;
        board.rtc.check(board.time).map_err(damaged("RTC"))?;
        board.uart.check(board.time).map_err(damaged("UART"))?;
        board.net.check().map_err(damaged("network device"))?;
        board.rng.check().map_err(damaged("entropy device"))?;
        board
            .rng
            .device()
            .check()
            .map_err(damaged("entropy device"))?;
        if let Some(block) = &board.block {
            block.check().map_err(damaged("block device"))?;
            block.device().check().map_err(damaged("block device"))?;
        }
        Ok(board)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.time > MAX_TIME {
            return Err("its time is beyond the end of time");
        }
        if self.reset_control & !super::RESET_WRITABLE != 0 {
            return Err("the reset register holds bits that it does not have");
        }
        let mut lines = self.clone();
        lines.sync_lines();
        if lines.pic.lines() != self.pic.lines() {
            return Err("an interrupt line is not what its device says");
        }
        let fits = |output: &Output| match output {
            Output::Net { frame } => frame.len() <= MAX_FRAME_BYTES,
            Output::Console { bytes } => bytes.len() <= GATHER_BYTES,
        };
        if !self.outputs.iter().all(fits) {
            return Err("an output is longer than outputs can be");
        }
        Ok(())
    }
}
