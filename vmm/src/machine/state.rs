//! A machine's whole state as a versioned value: what digests hash, and what can be carried to
//! another host.

use ft_logging::types::{OutputSeq, Position};
use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{Machine, PowerOff, board_config, ram};
use crate::cpu::{Cpu, CpuError, CpuState};
use crate::devices::{Board, BoardState};
use crate::sys::vm::PAGE_BYTES;

/// The version of [`MachineState`].
const MACHINE_STATE_VERSION: u32 = 2;

/// A machine at a position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineState {
    version: u32,
    position: Position,
    outputs: OutputSeq,
    halted: bool,
    paused: bool,
    cpu: CpuState,
    board: BoardState,
    ram_bytes: u64,
    /// Every page that is not zero: its number and its bytes.
    pages: Vec<(u64, serde_bytes::ByteBuf)>,
}

/// Why a state does not fit a machine.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It was written by another release.
    #[error("a machine state of version {0}; this release reads version {MACHINE_STATE_VERSION}")]
    Version(u32),
    /// It is of a machine of another shape.
    #[error("the state does not fit this machine: {0}")]
    Shape(String),
    /// The CPU cannot hold it.
    #[error(transparent)]
    Cpu(#[from] CpuError),
}

impl<C: Cpu> Machine<C> {
    /// The whole state. What runs afterwards is the same with and without the call.
    ///
    /// # Errors
    ///
    /// If the machine is off, or its CPU cannot be read.
    pub fn save(&mut self) -> Result<MachineState, StateError> {
        if let Some(off) = self.off {
            return Err(StateError::Shape(format!("it is off ({off:?})")));
        }
        let ram_bytes = self.ram.last_addr().0 + 1;
        let mut page = vec![0; PAGE_BYTES as usize];
        let pages = (0..ram_bytes / PAGE_BYTES)
            .filter_map(|number| {
                self.ram
                    .read_slice(&mut page, GuestAddress(number * PAGE_BYTES))
                    .expect("a page of RAM");
                page.iter()
                    .any(|byte| *byte != 0)
                    .then(|| (number, page.clone().into()))
            })
            .collect();
        Ok(MachineState {
            version: MACHINE_STATE_VERSION,
            position: self.position(),
            outputs: self.outputs,
            halted: self.halted,
            paused: self.paused,
            cpu: self.cpu.save()?,
            board: self.board.save(),
            ram_bytes,
            pages,
        })
    }

    /// Goes on from `state`, which a machine of the same configuration was in.
    ///
    /// # Errors
    ///
    /// [`StateError`]; the machine is not usable afterwards.
    pub fn restore(&mut self, state: &MachineState) -> Result<(), StateError> {
        if state.version != MACHINE_STATE_VERSION {
            return Err(StateError::Version(state.version));
        }
        let ram_bytes = self.ram.last_addr().0 + 1;
        if state.ram_bytes != ram_bytes {
            let why = format!("{} bytes of RAM, not {ram_bytes}", state.ram_bytes);
            return Err(StateError::Shape(why));
        }
        ram::clear(&self.ram);
        for (number, bytes) in &state.pages {
            let in_ram = bytes.len() as u64 == PAGE_BYTES && *number < ram_bytes / PAGE_BYTES;
            if !in_ram {
                return Err(StateError::Shape(format!(
                    "page {number} of {} bytes",
                    bytes.len()
                )));
            }
            self.ram
                .write_slice(bytes, GuestAddress(number * PAGE_BYTES))
                .expect("a page of RAM");
        }
        self.board = Board::restore(board_config(&self.config), state.board.clone())
            .map_err(|error| StateError::Shape(error.to_string()))?;
        self.board.issue_block_requests_again();
        self.cpu.restore(&state.cpu, state.position)?;
        self.outputs = state.outputs;
        self.halted = state.halted;
        self.paused = state.paused;
        self.off = None::<PowerOff>;
        Ok(())
    }
}
