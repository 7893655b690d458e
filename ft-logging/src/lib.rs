//! The log and the protocol of a fault-tolerant VM.
#![forbid(unsafe_code)]
