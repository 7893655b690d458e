//! kv: a key-value server that speaks RESP2 on TCP port 6379 of 10.0.2.15.
//!
//! ```text
//!   wait ──► frames in ──► connections: requests → replies ──► frames out ──► wait
//!     (smoltcp ingress)        (resp-kv)                  (smoltcp egress)
//! ```
//!
//! One round a wake-up. What comes in is worked off as a whole before anything
//! goes out, so an answer carries the acknowledgement of its request, and all
//! frames of a round cost one notification of the device.
#![no_std]
#![no_main]

extern crate alloc;

mod connections;
mod host;
mod network;

use connections::Connections;
use ftvm_guest::{
    Boot,
    clock::Clock,
    pic, pit, println,
    virtio::{net::NetDevice, rng::RngDevice},
};
use host::Machine;
use network::Network;
use resp_kv::server::Server;

ftvm_guest::guest!(main);

fn main(boot: Boot) -> ! {
    println!("kv: {} MiB of memory", boot.memory_bytes.div_ceil(1 << 20));
    let net = NetDevice::open();
    let mut rng = RngDevice::open();
    let rng_line = rng.as_ref().map_or(0, |rng| 1 << rng.line());
    pic::enable(1 << pit::LINE | 1 << net.line() | rng_line);

    let mut machine = Machine {
        clock: Clock::start(),
    };
    let mut network = Network::new(net, seed(rng.as_mut()), machine.clock.last_known());
    let mut server = Server::new(&mut machine);
    let mut connections = Connections::default();
    println!("kv: listening on {}:{}", network::ADDRESS, network::PORT);

    loop {
        let now = machine.clock.last_known();
        network.take_in(now);
        connections.serve(&mut network, &mut server, &mut machine, now);
        network.send_out(now);

        let expiry = server
            .next_expiry_micros()
            .map(|at| machine.clock.from_unix_micros(at));
        let deadline = [network.next_deadline(now), expiry]
            .into_iter()
            .flatten()
            .min();
        machine.clock.wait(deadline, network.before_wait());
        if expiry.is_some_and(|at| at <= machine.clock.last_known()) {
            server.expire(&mut machine);
        }
    }
}

/// What makes this boot's TCP sequence numbers hard to guess: the only entropy
/// that the guest takes, once, so that it can be logged.
fn seed(rng: Option<&mut RngDevice>) -> u64 {
    let mut bytes = [0; 32];
    match rng {
        Some(rng) => rng.fill(&mut bytes),
        None => println!("kv: no virtio-rng: TCP sequence numbers are the same at each boot"),
    }
    bytes.chunks_exact(8).fold(0, |seed, chunk| {
        seed ^ u64::from_le_bytes(chunk.try_into().expect("chunks of eight"))
    })
}
