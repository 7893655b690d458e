//! The gateway over real sockets, with a guest made of smoltcp.

mod fake_guest;
mod forwarding;
mod measure;
mod moving;
mod strangers;
