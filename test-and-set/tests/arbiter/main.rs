//! The arbiter as its users meet it: clusters of real servers, lost, cut off, wiped
//! and brought back, asked by real clients.

mod claims;
mod common;
mod histories;
mod membership;
mod processes;
mod reads;
mod strangers;
