//! The guests that ftvm carries inside its program.
//!
//! Each is a small ELF program for a machine without an operating system, with
//! a PVH entry; `build.rs` builds them from `guest/`. They use no source of
//! non-determinism that a log could not record (no TSC, no RDRAND), so they can
//! be replayed on every CPU backend.
#![forbid(unsafe_code)]

pub mod linux;

/// A guest program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// What it is called on command lines.
    pub name: &'static str,
    /// What it does, in half a line.
    pub about: &'static str,
    /// The program: a static x86-64 ELF file with a PVH entry note.
    pub elf: &'static [u8],
}

macro_rules! guest {
    ($name:literal, $about:literal) => {
        Guest {
            name: $name,
            about: $about,
            elf: include_bytes!(concat!(env!("GUEST_ELF_DIR"), "/", $name)),
        }
    };
}

/// A key-value server on TCP port 6379 of 10.0.2.15 that speaks RESP2.
pub const KV: Guest = guest!("kv", "a key-value server for redis-cli and redis-benchmark");

/// Computes without I/O for about a second a round. Options: `rounds=N`, `passes=N`,
/// `parts=N`.
pub const BENCH: Guest = guest!(
    "bench",
    "computes for seconds without I/O, prints a checksum"
);

/// Provokes interrupts, clock reads and entropy. Options: `rounds=N`, `report=N`.
pub const NOISE: Guest = guest!("noise", "timers, interrupts and entropy, prints a checksum");

/// All guests, in the order in which they are listed to people.
pub fn all() -> &'static [Guest] {
    &[KV, BENCH, NOISE]
}

/// The guest called `name`.
pub fn by_name(name: &str) -> Option<&'static Guest> {
    all().iter().find(|guest| guest.name == name)
}
