//! Real processes for end-to-end tests: arbiter servers, gateway, nodes, and clients whose
//! histories are checked.
//!
//! Everything waits for events that the processes print as JSON lines, never for time to pass.
//!
//! ```text
//!   process   one process of the program, and what it says
//!   world     arbiter, gateway, nodes
//!   console   the guest's console
//!   lab       namespaces, a bridge, TAP interfaces
//!   cable     TCP in between, to be cut or listened to
//!   resp      one connection to the guest
//!   clients   many, which note what they asked and what they were answered
//!   history   the specification that the notes are checked against
//!   oracle    what the nodes said, against the survivor's log
//! ```

mod cable;
mod clients;
mod console;
mod history;
mod lab;
mod oracle;
mod process;
mod resp;
mod world;

use std::time::Duration;

pub(crate) use clients::{Clients, Manner};
pub(crate) use console::Console;
pub(crate) use lab::Lab;
pub(crate) use process::{Process, first_to};
pub(crate) use resp::Client;
pub(crate) use world::{World, protected};

/// What nodes are told with `--detect`: a node that only gets no turn on a loaded machine must not
/// pass for one that a test has stopped. One that dies is noticed at once.
pub(crate) const DETECT_MS: &str = "2000";

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

/// True, loudly, where there is no such Linux image and it cannot be built.
pub(crate) fn no_image(name: &str) -> bool {
    let mut build = std::process::Command::new(env!("CARGO_BIN_EXE_ftvm"));
    let built = build.args(["image", "build", name]).output();
    let built = built.expect("the program runs");
    if !built.status.success() {
        let why = String::from_utf8_lossy(&built.stderr);
        eprintln!("SKIPPED: the image {name} cannot be built here: {why}");
    }
    !built.status.success()
}
