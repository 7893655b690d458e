//! The network device, frame by frame.

use vm_memory::{Bytes, GuestAddress};

use super::super::test_driver::{
    Alone, EVENT_IDX, F_NEXT, F_WRITE, Registers, Ring, VERSION_1, start,
};
use super::*;
use crate::devices::test_memory::{is_dirty, memory};

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const BUFFERS: u64 = 0x10_000;
const MAC_STATUS_MTU: u64 = 1 << 5 | 1 << 16 | 1 << 3;

struct Guest {
    device: Alone<Net>,
    mem: GuestMemory,
    rx: Ring,
    tx: Ring,
}

impl Guest {
    fn new(features: u64) -> Self {
        let mem = memory(0x10_0000);
        let mut device = Alone::new(Net::new(MAC));
        let (rx, tx) = (Ring::new(0, 8, 0x4000), Ring::new(1, 8, 0x8000));
        start(&mut device, &mem, VERSION_1 | features, &[&rx, &tx]);
        Self {
            device,
            mem,
            rx,
            tx,
        }
    }

    fn receive(&mut self, frame: &[u8]) -> Option<bool> {
        self.device
            .mmio
            .act(RX, |net, queues| net.receive(frame, queues, &self.mem))
    }

    /// Puts header and frame into one buffer and sends it.
    fn send(&mut self, header: [u8; 12], frame: &[u8]) {
        self.mem
            .write_slice(&header, GuestAddress(BUFFERS))
            .unwrap();
        self.mem
            .write_slice(frame, GuestAddress(BUFFERS + 12))
            .unwrap();
        self.tx
            .describe(&self.mem, 0, (BUFFERS, 12 + frame.len() as u32, 0, 0));
        self.tx.offer(&self.mem, 0);
        self.tx.kick(&mut self.device, &self.mem);
    }

    fn sent(&mut self) -> Vec<Vec<u8>> {
        let frame = |output| match output {
            Output::Net { frame } => frame,
            Output::Console { .. } => panic!("a network device prints nothing"),
        };
        std::mem::take(&mut self.device.outputs)
            .into_iter()
            .map(frame)
            .collect()
    }

    fn needs_reset(&mut self) -> bool {
        self.device.read32(0x70) & 0x40 != 0
    }

    fn interrupts(&mut self) -> u32 {
        let status = self.device.read32(0x60);
        self.device.write32(0x64, status, &self.mem);
        status
    }

    fn counters(&self) -> NetCounters {
        self.device.mmio.device().counters()
    }
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7) as u8).collect()
}

#[test]
fn configuration_space() {
    let device = Alone::new(Net::new(MAC));
    let mmio = &device.mmio;
    let mac: Vec<u8> = (0..6).map(|at| mmio.read(0x100 + at, 1) as u8).collect();
    assert_eq!(mac, MAC);
    assert_eq!(mmio.read(0x100, 4), 0x0100_5452);
    assert_eq!(mmio.read(0x106, 2), 1, "link up");
    assert_eq!(mmio.read(0x10A, 2), 1500);
    assert_eq!(mmio.read(0x108, 8), 1500 << 16);
    assert_eq!(mmio.read(0x1F8, 8), 0);
    assert_eq!(mmio.device().features(), MAC_STATUS_MTU);
}

#[test]
fn frames_are_sent_without_their_header() {
    let mut guest = Guest::new(MAC_STATUS_MTU);
    for len in [MIN_FRAME_BYTES, 60, MAX_FRAME_BYTES] {
        guest.send([0; 12], &frame(len));
        assert_eq!(guest.sent(), [frame(len)]);
        assert_eq!(guest.tx.take_used(&guest.mem), [(0, 0)]);
        assert_eq!(guest.interrupts(), 1);
    }
    assert_eq!(guest.counters().sent, 3);
}

#[test]
fn a_frame_may_lie_in_many_buffers() {
    let mut guest = Guest::new(0);
    let bytes: Vec<u8> = [vec![0; 12], frame(100)].concat();
    guest
        .mem
        .write_slice(&bytes, GuestAddress(BUFFERS))
        .unwrap();
    // Header and frame cut at odd places, one buffer empty; the chain jumps about.
    for (at, from, to, next) in [(3, 0, 5, 7), (7, 5, 40, 1), (1, 40, 40, 0), (0, 40, 112, 9)] {
        let flags = if at == 0 { 0 } else { F_NEXT };
        guest.tx.describe(
            &guest.mem,
            at,
            (BUFFERS + from, (to - from) as u32, flags, next),
        );
    }
    guest.tx.offer(&guest.mem, 3);
    guest.tx.kick(&mut guest.device, &guest.mem);
    assert_eq!(guest.sent(), [frame(100)]);
    assert_eq!(guest.tx.take_used(&guest.mem), [(3, 0)]);
}

#[test]
fn one_kick_sends_all_in_order() {
    let mut guest = Guest::new(EVENT_IDX);
    for at in 0..8u16 {
        let addr = BUFFERS + u64::from(at) * 0x100;
        guest
            .mem
            .write_slice(&[at as u8; 32], GuestAddress(addr))
            .unwrap();
        guest.mem.write_slice(&[0; 12], GuestAddress(addr)).unwrap();
        guest.tx.describe(&guest.mem, at, (addr, 32, 0, 0));
        guest.tx.offer(&guest.mem, at);
    }
    guest.tx.kick(&mut guest.device, &guest.mem);
    let sent = guest.sent();
    assert_eq!(sent, (0..8).map(|at| vec![at; 20]).collect::<Vec<_>>());
    assert_eq!(
        guest.tx.avail_event(&guest.mem),
        8,
        "asks to be kicked for the next"
    );
    assert_eq!(guest.interrupts(), 1);
}

#[test]
fn frames_that_are_not_sent_are_dropped_and_counted() {
    let mut guest = Guest::new(0);
    guest.send([0; 12], &frame(MIN_FRAME_BYTES - 1));
    guest.send([0; 12], &frame(MAX_FRAME_BYTES + 1));
    let mut checksum = [0; 12];
    checksum[0] = 1;
    guest.send(checksum, &frame(60));
    let mut gso = [0; 12];
    gso[1] = 1;
    guest.send(gso, &frame(60));
    guest.tx.describe(&guest.mem, 0, (BUFFERS, u32::MAX, 0, 0));
    guest.tx.offer(&guest.mem, 0);
    guest.tx.kick(&mut guest.device, &guest.mem);
    assert!(guest.sent().is_empty());
    assert_eq!(guest.counters().sent_dropped, 5);
    assert_eq!(
        guest.tx.take_used(&guest.mem).len(),
        5,
        "their buffers come back"
    );
    assert!(!guest.needs_reset());
}

#[test]
fn a_received_frame_gets_a_header() {
    let mut guest = Guest::new(0);
    guest
        .rx
        .describe(&guest.mem, 2, (BUFFERS, 5, F_WRITE | F_NEXT, 4));
    guest
        .rx
        .describe(&guest.mem, 4, (BUFFERS + 0x1000, 2000, F_WRITE, 0));
    assert!(
        !guest
            .device
            .mmio
            .live_queue(RX)
            .unwrap()
            .has_available(&guest.mem)
    );
    assert_eq!(guest.receive(&frame(60)), Some(false), "no buffer yet");
    guest.rx.offer(&guest.mem, 2);
    assert!(
        guest
            .device
            .mmio
            .live_queue(RX)
            .unwrap()
            .has_available(&guest.mem)
    );
    assert_eq!(guest.receive(&frame(60)), Some(true));
    assert_eq!(guest.rx.take_used(&guest.mem), [(2, 72)]);
    let mut bytes = [0xEE; 80];
    guest
        .mem
        .read_slice(&mut bytes[..5], GuestAddress(BUFFERS))
        .unwrap();
    guest
        .mem
        .read_slice(&mut bytes[5..], GuestAddress(BUFFERS + 0x1000))
        .unwrap();
    assert_eq!(bytes[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(bytes[12..72], frame(60));
    assert_eq!(bytes[72..], [0; 8], "nothing is written behind the frame");
    assert_eq!(guest.interrupts(), 1);
    assert_eq!(guest.counters().received, 1);
}

/// DET-5's digests and the state deltas see what devices write.
#[test]
fn writes_to_guest_memory_are_tracked() {
    let mut guest = Guest::new(0);
    let buffer = BUFFERS + 0x3000;
    guest.rx.describe(&guest.mem, 0, (buffer, 2000, F_WRITE, 0));
    guest.rx.offer(&guest.mem, 0);
    let used = guest.rx.device_area();
    assert!(!is_dirty(&guest.mem, buffer) && !is_dirty(&guest.mem, used));
    assert_eq!(guest.receive(&frame(60)), Some(true));
    assert!(is_dirty(&guest.mem, buffer) && is_dirty(&guest.mem, used));
    assert!(!is_dirty(&guest.mem, buffer + 0x1000));
}

#[test]
fn a_buffer_without_room_comes_back_empty() {
    let mut guest = Guest::new(0);
    guest.rx.describe(&guest.mem, 0, (BUFFERS, 71, F_WRITE, 0));
    guest.rx.offer(&guest.mem, 0);
    assert_eq!(guest.receive(&frame(60)), Some(false));
    assert_eq!(guest.rx.take_used(&guest.mem), [(0, 0)]);
    assert!(!guest.needs_reset());
    assert_eq!(guest.receive(&frame(60)), Some(false));
}

#[test]
fn a_driver_is_kicked_for_only_when_buffers_run_out() {
    let mut guest = Guest::new(EVENT_IDX);
    for at in 0..3u16 {
        guest.rx.describe(
            &guest.mem,
            at,
            (BUFFERS + u64::from(at) * 0x1000, 2000, F_WRITE, 0),
        );
        guest.rx.offer(&guest.mem, at);
    }
    guest.rx.kick(&mut guest.device, &guest.mem);
    for (left, avail_event) in [(2, 0), (1, 0), (0, 3)] {
        assert_eq!(guest.receive(&frame(60)), Some(true));
        assert_eq!(guest.rx.avail_event(&guest.mem), avail_event, "{left} left");
    }
}

#[test]
fn interrupts_follow_the_used_event() {
    let mut guest = Guest::new(EVENT_IDX);
    for at in 0..4u16 {
        guest.rx.describe(
            &guest.mem,
            at,
            (BUFFERS + u64::from(at) * 0x1000, 2000, F_WRITE, 0),
        );
        guest.rx.offer(&guest.mem, at);
    }
    for (event, expected) in [(0, 1), (0, 0), (2, 1), (9, 0)] {
        guest.rx.set_used_event(&guest.mem, event);
        assert_eq!(guest.receive(&frame(60)), Some(true));
        assert_eq!(guest.interrupts(), expected, "used_event {event}");
    }
}

#[test]
fn rings_that_break_the_device() {
    type Prepare = fn(&mut Ring, &GuestMemory);
    let loops: Prepare = |ring, mem| {
        ring.describe(mem, 0, (BUFFERS, 1, F_NEXT, 1));
        ring.describe(mem, 1, (BUFFERS, 1, F_NEXT, 0));
        ring.offer(mem, 0);
    };
    let overlapping: Prepare = |ring, mem| {
        for at in 0..7 {
            ring.describe(mem, at, (BUFFERS, 4, F_NEXT, at + 1));
        }
        ring.describe(mem, 7, (BUFFERS, 4, 0, 0));
        ring.offer(mem, 0);
        ring.offer(mem, 4);
    };
    let cases: [(&str, Prepare, Broken); 8] = [
        ("loop", loops, Broken::TooManyDescriptors),
        (
            "chains that overlap",
            overlapping,
            Broken::TooManyDescriptors,
        ),
        (
            "head too large",
            |ring, mem| ring.offer(mem, 8),
            Broken::DescriptorIndex,
        ),
        (
            "next too large",
            |ring, mem| {
                ring.describe(mem, 0, (BUFFERS, 1, F_NEXT, 8));
                ring.offer(mem, 0);
            },
            Broken::DescriptorIndex,
        ),
        (
            "indirect",
            |ring, mem| {
                ring.describe(mem, 0, (BUFFERS, 64, 4, 0));
                ring.offer(mem, 0);
            },
            Broken::Indirect,
        ),
        (
            "writable",
            |ring, mem| {
                ring.describe(mem, 0, (BUFFERS, 64, F_WRITE, 0));
                ring.offer(mem, 0);
            },
            Broken::Direction,
        ),
        (
            "outside RAM",
            |ring, mem| {
                ring.describe(mem, 0, (u64::MAX - 3, 64, 0, 0));
                ring.offer(mem, 0);
            },
            Broken::Buffer,
        ),
        (
            "index too far",
            |ring, mem| ring.set_available(mem, 9),
            Broken::AvailableIndex,
        ),
    ];
    for (name, prepare, broken) in cases {
        let mut guest = Guest::new(0);
        prepare(&mut guest.tx, &guest.mem);
        guest.tx.kick(&mut guest.device, &guest.mem);
        assert!(guest.needs_reset(), "{name}");
        let expected = format!("{:?}", Some(broken));
        assert!(
            format!("{:?}", guest.device.mmio).contains(&expected),
            "{name}"
        );
    }
    // The receive queue wants writable buffers.
    let mut guest = Guest::new(0);
    guest.rx.describe(&guest.mem, 0, (BUFFERS, 2000, 0, 0));
    guest.rx.offer(&guest.mem, 0);
    assert_eq!(guest.receive(&frame(60)), None);
    assert!(guest.needs_reset());
}

/// Each buffer that the device returns moves the available index, because the rings
/// lie on top of each other: the work of one kick still ends.
#[test]
fn rings_on_top_of_each_other_end() {
    let mem = memory(0x10_0000);
    let mut device = Alone::new(Net::new(MAC));
    let rx = Ring::new(0, 8, 0x4000);
    let mut tx = Ring::new(1, 8, 0x8000);
    start(&mut device, &mem, VERSION_1, &[&rx]);
    // The same rings, but with the device area on the driver area.
    device.write32(0x70, 0, &mem);
    for (register, value) in [(0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11)] {
        device.write32(register, value, &mem);
    }
    for (register, value) in [
        (0x30, 1),
        (0x38, 8),
        (0x80, 0x8000),
        (0x90, 0x9000),
        (0xA0, 0x9000),
        (0x44, 1),
        (0x70, 15),
    ] {
        device.write32(register, value, &mem);
    }
    tx.describe(&mem, 0, (BUFFERS, 100, 0, 0));
    tx.offer(&mem, 0);
    tx.kick(&mut device, &mem);
    assert!(device.outputs.len() <= 8);
}
