//! The entropy device, request by request.

use vm_memory::{Bytes, GuestAddress};

use super::super::test_driver::{Alone, F_NEXT, F_WRITE, Registers, Ring, VERSION_1, start};
use super::*;
use crate::devices::test_memory::memory;

const BUFFER: u64 = 0x10_000;

struct Guest {
    device: Alone<Rng>,
    mem: GuestMemory,
    ring: Ring,
}

impl Guest {
    fn new() -> Self {
        let mem = memory(0x10_0000);
        let mut device = Alone::new(Rng::new());
        let ring = Ring::new(0, 8, 0x4000);
        start(&mut device, &mem, VERSION_1, &[&ring]);
        Self { device, mem, ring }
    }

    fn ask(&mut self, at: u16, len: u32) {
        self.ring.describe(
            &self.mem,
            at,
            (BUFFER + u64::from(at) * 0x1000, len, F_WRITE, 0),
        );
        self.ring.offer(&self.mem, at);
        self.ring.kick(&mut self.device, &self.mem);
    }

    fn wanted(&self) -> Option<usize> {
        self.device.mmio.device().wanted()
    }

    fn fill(&mut self, bytes: &[u8]) {
        self.device
            .mmio
            .act(REQUESTS, |rng, queues| rng.fill(bytes, queues, &self.mem));
    }

    fn bytes(&self, at: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let addr = BUFFER + u64::from(at) * 0x1000;
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    fn needs_reset(&mut self) -> bool {
        self.device.read32(0x70) & 0x40 != 0
    }
}

#[test]
fn a_request_waits_for_its_bytes() {
    let mut guest = Guest::new();
    assert_eq!(guest.wanted(), None);
    guest.fill(&[9; 16]); // nobody asked
    assert!(!guest.device.mmio.line());
    guest.ask(0, 16);
    assert_eq!(guest.wanted(), Some(16));
    assert!(guest.ring.take_used(&guest.mem).is_empty());
    guest.fill(&[]);
    assert_eq!(guest.wanted(), Some(16), "no bytes are no answer");
    guest.fill(&[7; 16]);
    assert_eq!(guest.bytes(0, 17), [[7; 16].as_slice(), &[0]].concat());
    assert_eq!(guest.ring.take_used(&guest.mem), [(0, 16)]);
    assert_eq!(guest.wanted(), None);
    assert!(guest.device.mmio.line());
}

#[test]
fn fewer_bytes_complete_it_and_more_are_left_out() {
    for (given, used) in [(1, 1), (15, 15), (16, 16), (17, 16)] {
        let mut guest = Guest::new();
        guest.ask(0, 16);
        guest.fill(&vec![7; given]);
        assert_eq!(guest.ring.take_used(&guest.mem), [(0, used)]);
        assert_eq!(guest.bytes(0, 17)[16], 0);
    }
}

#[test]
fn one_request_after_the_other() {
    let mut guest = Guest::new();
    guest.ask(0, 10);
    guest.ask(1, 20);
    guest.ask(2, 1_000_000);
    for (wanted, used) in [(10, (0, 10)), (20, (1, 20)), (MAX_ENTROPY_BYTES, (2, 4096))] {
        assert_eq!(guest.wanted(), Some(wanted));
        guest.fill(&vec![3; wanted]);
        assert_eq!(guest.ring.take_used(&guest.mem), [used]);
    }
    assert_eq!(guest.wanted(), None);
}

#[test]
fn a_guest_may_change_its_mind_to_its_own_harm_only() {
    // A smaller buffer: only as much is written.
    let mut guest = Guest::new();
    guest.ask(0, 16);
    guest.ring.describe(&guest.mem, 0, (BUFFER, 4, F_WRITE, 0));
    guest.fill(&[7; 16]);
    assert_eq!(guest.ring.take_used(&guest.mem), [(0, 4)]);
    assert_eq!(guest.bytes(0, 5), [7, 7, 7, 7, 0]);
    // No buffer at all.
    for (addr, flags) in [
        (BUFFER, 0),
        (u64::MAX - 100, F_WRITE),
        (BUFFER, F_WRITE | F_NEXT),
    ] {
        let mut guest = Guest::new();
        guest.ask(0, 16);
        guest.ring.describe(&guest.mem, 0, (addr, 16, flags, 0));
        guest.fill(&[7; 16]);
        assert!(guest.needs_reset());
        assert_eq!(guest.wanted(), None);
    }
}

#[test]
fn requests_that_break_the_device() {
    let mut guest = Guest::new();
    guest.ask(0, 0);
    assert!(guest.needs_reset(), "no room for an answer");
    let mut guest = Guest::new();
    guest.ring.describe(&guest.mem, 0, (BUFFER, 16, 0, 0));
    guest.ring.offer(&guest.mem, 0);
    guest.ring.kick(&mut guest.device, &guest.mem);
    assert!(guest.needs_reset(), "not writable");
}

#[test]
fn a_reset_forgets_the_request() {
    let mut guest = Guest::new();
    guest.ask(0, 16);
    guest.device.write32(0x70, 0, &guest.mem);
    assert_eq!(guest.wanted(), None);
    guest.fill(&[7; 16]);
    assert_eq!(guest.bytes(0, 1), [0]);
}
