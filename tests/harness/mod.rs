//! Real processes for end-to-end tests: arbiter servers, gateway, nodes, and clients whose
//! histories are checked.
//!
//! Everything waits for events that the processes print as JSON lines, never for time to pass.
//!
//! ```text
//!   process   one process of the program, and what it says
//!   world     arbiter, gateway, nodes
//!   lab       namespaces, a bridge, TAP interfaces
//!   cable     TCP in between, to be cut or listened to
//!   resp      one connection to the guest
//!   clients   many, which note what they asked and what they were answered
//!   history   the specification that the notes are checked against
//!   oracle    what the nodes said, against the survivor's log
//! ```

mod cable;
mod clients;
mod history;
mod lab;
mod oracle;
mod process;
mod resp;
mod world;

use std::time::Duration;

pub(crate) use clients::{Clients, Manner};
pub(crate) use lab::Lab;
pub(crate) use process::{Process, first_to};
pub(crate) use resp::Client;
pub(crate) use world::{World, protected};

/// How long anything may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// True, loudly, where there is no KVM to test with.
pub(crate) fn no_kvm() -> bool {
    let missing = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err();
    if missing {
        eprintln!("SKIPPED: /dev/kvm cannot be opened here");
    }
    missing
}
