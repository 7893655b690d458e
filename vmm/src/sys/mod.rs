//! Every unsafe block of the machine and its network.

pub mod tap;
