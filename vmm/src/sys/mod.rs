//! Every unsafe block of the program: KVM's structures, signals, child processes, TAP.
//!
//! What is exported is safe to call; the argument for each block stands beside it.
#![allow(unsafe_code)]

pub mod child;
pub mod kick;
pub mod tap;
pub mod tracker;
pub mod vcpu;
pub mod vm;
