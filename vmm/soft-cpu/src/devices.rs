//! Accesses that leave the CPU: ports, and physical addresses outside RAM.
//!
//! A write is posted: the instruction goes on and retires, and `run` returns the access right
//! behind it. A read stops the instruction; with the answer it is carried out again from its
//! beginning, and finds the answers so far in order. That way no handler knows of devices.

use std::collections::VecDeque;

use crate::core::Core;
use crate::fault::Fault;

/// The two address spaces of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An I/O port.
    Port(u16),
    /// A guest-physical address outside RAM.
    Memory(u64),
}

/// One access to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where to.
    pub target: Target,
    /// Bytes: 1, 2, 4, and for memory any number up to 8.
    pub size: u8,
    /// What the guest writes; `None` for a read, which wants [`crate::SoftCpu::answer`].
    pub write: Option<u64>,
}

/// What the current instruction and its devices have said so far.
#[derive(Default)]
pub(crate) struct Devices {
    /// Answers to the reads of the instruction at RIP.
    pub(crate) answers: Vec<u64>,
    /// How many of them this attempt has used.
    pub(crate) used: usize,
    /// The read that `run` is about to return.
    pub(crate) wanted: Option<Access>,
    /// `run` has returned a read, and waits for its answer.
    pub(crate) waiting: bool,
    /// Writes that `run` has not returned yet.
    pub(crate) posted: VecDeque<Access>,
}

impl Devices {
    /// Reads `size` bytes.
    ///
    /// # Errors
    ///
    /// [`Fault::Device`] if the answer is not there yet.
    #[cold]
    pub(crate) fn read(&mut self, target: Target, size: u8) -> Result<u64, Fault> {
        if let Some(answer) = self.answers.get(self.used) {
            self.used += 1;
            return Ok(answer & (!0 >> (64 - 8 * u32::from(size))));
        }
        self.wanted = Some(Access {
            target,
            size,
            write: None,
        });
        Err(Fault::Device)
    }

    /// What `run` returns next.
    pub(crate) fn next_access(&mut self) -> Option<Access> {
        if let Some(write) = self.posted.pop_front() {
            return Some(write);
        }
        let read = self.wanted.take();
        self.waiting = read.is_some();
        read
    }

    /// The instruction is over, or begins anew.
    pub(crate) fn forget_answers(&mut self) {
        self.answers.clear();
        self.used = 0;
    }
}

impl Core {
    /// Lets a write leave behind the current instruction.
    #[cold]
    pub(crate) fn post(&mut self, access: Access) {
        self.devices.posted.push_back(access);
        self.attention = true;
    }
}
