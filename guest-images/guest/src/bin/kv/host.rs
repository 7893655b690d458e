//! What the server asks of the machine: time and memory.

use ftvm_guest::{clock::Clock, heap};
use resp_kv::server::{Heap, Host};

/// The machine under the server.
pub(crate) struct Machine {
    pub(crate) clock: Clock,
}

impl Host for Machine {
    fn unix_micros(&mut self) -> u64 {
        self.clock.unix_micros()
    }

    fn heap(&self) -> Heap {
        let heap::Figures { used, free } = heap::figures();
        Heap { used, free }
    }
}
