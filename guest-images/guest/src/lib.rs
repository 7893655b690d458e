//! The runtime under ftvm's bare-metal guests: a machine without an operating
//! system, from the loader's jump to Rust's `main`.
//!
//! ```text
//!   ring 3   a guest's main · smoltcp · virtqueues · heap · drivers     (Rust)
//!   ───────────────────────── int3: one of a few calls ────────────────────────
//!   ring 0   boot · interrupt and fault entries · in/out · sti; hlt     (assembly)
//! ```
//!
//! Both rings share one address space, mapped one to one, and trust each other:
//! the rings are there for speed. A KVM without hardware virtualisation below it
//! runs ring 3 natively but ring 0 in an instruction emulator, a thousand times
//! slower; so ring 0 is a nucleus of a few hundred bytes and everything that
//! computes is in ring 3. On such a KVM a call costs about as much as one port
//! access made from ring 0, and a port access made from ring 3 several times
//! that, which is why the calls do their port accesses inside.
//!
//! The guests use nothing whose result a log could not repeat: no TSC, no
//! RDRAND, no CPUID. Time comes from devices, entropy from virtio-rng. They use
//! no floating point and no SSE either, so there is no such state to keep.
#![no_std]

extern crate alloc;

pub mod clock;
pub mod console;
pub mod heap;
pub mod mmio;
pub mod net;
pub mod nucleus;
mod panic;
pub mod pic;
pub mod pit;
pub mod power;
pub mod rtc;
mod runtime;
pub mod start_info;
mod string;
pub mod virtio;

pub use runtime::Boot;
