//! SEC-3: a guest that does what no guest should. Random accesses and random rings
//! never panic, do bounded work, and keep two boards in step (DET-1).

use std::cell::Cell;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::tests::{PIC_INIT, Slot, write};
use super::*;
use crate::devices::test_memory::memory;
use crate::devices::virtio::net::TX;
use crate::devices::virtio::test_driver::{Registers, Ring, VERSION_1, start};

const RAM: usize = 0x1_0000;

/// A board with every device.
const CONFIG: BoardConfig = BoardConfig {
    disk: Some(DiskShape {
        sectors: 16,
        read_only: false,
    }),
    ..super::tests::CONFIG
};

/// Everything that can happen to a board.
#[derive(Clone, Debug)]
enum Event {
    PortRead(u16, u8),
    PortWrite(u16, u8, u32),
    MmioRead(u64, u8),
    MmioWrite(u64, u8, u64),
    /// The guest scribbles over its own memory.
    Scribble(u64, Vec<u8>),
    Time(u64),
    Frame(usize),
    Console(usize),
    Entropy(usize),
    /// The disk is done with a request, or says so of one that was never made.
    Disk(u64, bool, usize),
    Button,
    Acknowledge,
    Take,
}

fn port() -> impl Strategy<Value = u16> {
    let known = vec![
        0x20, 0x21, 0x40, 0x41, 0x42, 0x43, 0x61, 0x64, 0x70, 0x71, 0x92, 0xA0, 0xA1, 0x3F8, 0x3F9,
        0x3FA, 0x3FB, 0x3FC, 0x3FD, 0x3FE, 0x3FF, 0x4D0, 0x4D1, 0x600, 0x601, 0x602, 0x604, 0x605,
        0x608, 0xCF8, 0xCF9,
    ];
    prop_oneof![9 => prop::sample::select(known), 1 => any::<u16>()]
}

fn mmio() -> impl Strategy<Value = u64> {
    let registers = vec![
        0x14u64, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94,
        0xA0, 0xA4, 0x100,
    ];
    prop_oneof![
        8 => (0..3u64, prop::sample::select(registers)).prop_map(|(s, r)| virtio_address(s) + r),
        1 => VIRTIO_BASE..VIRTIO_BASE + 0x700,
        1 => any::<u64>(),
    ]
}

/// Values that registers care about, more often than chance would have it.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => prop::sample::select(vec![0u64, 1, 3, 11, 15, 0x11, 0x20, 0x34, 0x36, 0xFF, 8, 16]),
        2 => (0..16u64).prop_map(|page| page << 12),
        2 => any::<u64>(),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let width = || prop::sample::select(vec![1u8, 1, 1, 2, 4]);
    let mmio_width = || prop::sample::select(vec![4u8, 4, 4, 4, 1, 2, 8, 3]);
    let bytes = prop::collection::vec(prop_oneof![Just(0u8), 0..8u8, any::<u8>()], 0..64);
    let step = prop_oneof![0..1_000u64, 0..2_000_000u64, 0..1_000_000_000u64];
    prop_oneof![
        4 => (port(), width()).prop_map(|(p, s)| Event::PortRead(p, s)),
        8 => (port(), width(), value()).prop_map(|(p, s, v)| Event::PortWrite(p, s, v as u32)),
        2 => (mmio(), mmio_width()).prop_map(|(a, s)| Event::MmioRead(a, s)),
        8 => (mmio(), mmio_width(), value()).prop_map(|(a, s, v)| Event::MmioWrite(a, s, v)),
        4 => (0..RAM as u64, bytes).prop_map(|(a, b)| Event::Scribble(a, b)),
        4 => step.prop_map(Event::Time),
        2 => prop::sample::select(vec![0usize, 14, 60, 1514, 1515, 9000]).prop_map(Event::Frame),
        1 => (0..5000usize).prop_map(Event::Console),
        1 => (0..5000usize).prop_map(Event::Entropy),
        2 => (0..6u64, any::<bool>(), 0..5000usize).prop_map(|(t, ok, n)| Event::Disk(t, ok, n)),
        1 => Just(Event::Button),
        3 => Just(Event::Acknowledge),
        1 => Just(Event::Take),
    ]
}

/// What the guest and the world see of an event.
#[derive(Debug, PartialEq)]
enum Seen {
    Nothing,
    Value(u64),
    Flag(bool),
    Outputs(Vec<Output>),
    Requests(Vec<BlockRequest>),
}

fn happen(board: &mut Board, mem: &GuestMemory, event: &Event) -> Seen {
    match event {
        Event::PortRead(port, size) => {
            return Seen::Value(u64::from(board.port_read(*port, *size)));
        }
        Event::PortWrite(port, size, value) => {
            board.needs_clock(&PortAccess::Write {
                port: *port,
                size: *size,
                value: *value,
            });
            board.port_write(*port, *size, *value, mem);
        }
        Event::MmioRead(addr, size) => return Seen::Value(board.mmio_read(*addr, *size)),
        Event::MmioWrite(addr, size, value) => board.mmio_write(*addr, *size, *value, mem),
        Event::Scribble(addr, bytes) => {
            let _beyond_the_end = mem.write_slice(bytes, GuestAddress(*addr));
        }
        Event::Time(step) => board.set_time(VirtualTime(board.time().0 + step)),
        Event::Frame(len) => {
            let could = board.net_can_receive(mem);
            let taken = board.net_receive(&vec![0x5A; *len], mem);
            assert!(could || !taken);
            return Seen::Flag(taken);
        }
        Event::Console(len) => board.console_receive(&vec![b'x'; *len]),
        Event::Entropy(len) => board.entropy(&vec![0xE7; *len], mem),
        Event::Button => board.press_power_button(),
        Event::Acknowledge => {
            return Seen::Value(u64::from(board.acknowledge_interrupt()));
        }
        Event::Disk(tag, ok, bytes) => {
            let status = if *ok {
                BlockStatus::Ok
            } else {
                BlockStatus::IoError
            };
            board.block_done(*tag, status, &vec![0xD1; *bytes], mem);
            return Seen::Requests(board.take_block_requests());
        }
        Event::Take => return Seen::Outputs(board.take_outputs()),
    }
    Seen::Nothing
}

fn contents(mem: &GuestMemory) -> Vec<u8> {
    let mut bytes = vec![0; RAM];
    mem.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

fn copy(mem: &GuestMemory) -> GuestMemory {
    let copy = memory(RAM);
    copy.write_slice(&contents(mem), GuestAddress(0)).unwrap();
    copy
}

/// A board with all virtio devices running on small rings.
fn running() -> (Board, GuestMemory) {
    let mem = memory(RAM);
    let mut board = Board::new(CONFIG);
    write(&mut board, &mem, &PIC_INIT);
    let rings = [
        Ring::new(0, 8, 0x1000),
        Ring::new(1, 8, 0x4000),
        Ring::new(0, 8, 0x7000),
        Ring::new(0, 8, 0xC000),
    ];
    let [rx, tx, rng, block] = &rings;
    start(&mut Slot(&mut board, SLOT_NET), &mem, VERSION_1, &[rx, tx]);
    start(&mut Slot(&mut board, SLOT_RNG), &mem, VERSION_1, &[rng]);
    start(&mut Slot(&mut board, SLOT_BLOCK), &mem, VERSION_1, &[block]);
    (board, mem)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever happens, the board stays in a state that it would accept itself, and
    /// a board restored from it in the middle goes on the same way.
    #[test]
    fn a_restored_board_goes_on_alike(
        is_running in any::<bool>(),
        before in prop::collection::vec(event(), 0..120),
        after in prop::collection::vec(event(), 1..80),
    ) {
        let (mut board, mem) =
            if is_running { running() } else { (Board::new(CONFIG), memory(RAM)) };
        for event in &before {
            happen(&mut board, &mem, event);
        }
        let encoded = serde_json::to_vec(&board.save()).unwrap();
        let state: BoardState = serde_json::from_slice(&encoded).unwrap();
        prop_assert_eq!(&state, &board.save());
        let mut twin = Board::restore(CONFIG, state).unwrap();
        let twin_mem = copy(&mem);
        for event in &after {
            let seen = happen(&mut board, &mem, event);
            prop_assert_eq!(seen, happen(&mut twin, &twin_mem, event), "{:?}", event);
            prop_assert_eq!(board.next_timer(), twin.next_timer());
            prop_assert_eq!(board.interrupt_pending(), twin.interrupt_pending());
            prop_assert!(board.next_timer().is_none_or(|due| due > board.time()));
        }
        prop_assert_eq!(board.save(), twin.save());
        prop_assert_eq!(serde_json::to_vec(&board.save()).unwrap(), serde_json::to_vec(&twin.save()).unwrap());
        prop_assert_eq!(contents(&mem), contents(&twin_mem));
        prop_assert_eq!(board.take_outputs(), twin.take_outputs());
        prop_assert!(Board::restore(CONFIG, board.save()).is_ok());
    }

    /// Rings full of random bytes: the device sends a bounded number of frames, and
    /// after a reset it works again.
    #[test]
    fn random_rings(
        areas in prop::collection::vec(prop::collection::vec(prop_oneof![
            3 => Just(0u8), 2 => 0..10u8, 1 => any::<u8>(),
        ], 160), 9),
        kicks in prop::collection::vec(0..4u8, 1..12),
    ) {
        let (mut board, mem) = running();
        for (at, area) in areas.iter().enumerate() {
            mem.write_slice(area, GuestAddress(0x1000 * (at as u64 + 1))).unwrap();
        }
        let most = Cell::new(0);
        for kick in kicks {
            match kick {
                0 => Slot(&mut board, SLOT_NET).write32(0x50, RX as u32, &mem),
                1 => Slot(&mut board, SLOT_NET).write32(0x50, TX as u32, &mem),
                2 => {
                    board.net_receive(&[1; 100], &mem);
                }
                _ => {
                    Slot(&mut board, SLOT_RNG).write32(0x50, REQUESTS as u32, &mem);
                    board.entropy(&[1; 100], &mem);
                }
            }
            most.set(most.get().max(board.take_outputs().len()));
        }
        prop_assert!(most.get() <= 8, "a queue of 8 sends at most 8 frames a kick");
        mem.write_slice(&[0; 0x9000], GuestAddress(0x1000)).unwrap();
        let mut tx = Ring::new(1, 8, 0x4000);
        start(&mut Slot(&mut board, SLOT_NET), &mem, VERSION_1, &[&tx]);
        tx.describe(&mem, 0, (0xB000, 100, 0, 0));
        tx.offer(&mem, 0);
        tx.kick(&mut Slot(&mut board, SLOT_NET), &mem);
        prop_assert_eq!(board.take_outputs().len(), 1);
    }
}

/// The largest queue with the longest chains: no more descriptors than the queue has
/// are looked at for one kick.
#[test]
fn one_kick_looks_at_a_queue_of_descriptors_at_most() {
    let mem = memory(0x10_0000);
    let mut board = Board::new(CONFIG);
    let mut tx = Ring::new(1, 256, 0x1_0000);
    start(&mut Slot(&mut board, SLOT_NET), &mem, VERSION_1, &[&tx]);
    for at in 0..256u16 {
        tx.describe(&mem, at, (0x2_0000, 1, u16::from(at != 255), at + 1));
    }
    for _ in 0..256 {
        tx.offer(&mem, 0); // the same 256 descriptors, 256 times
    }
    tx.kick(&mut Slot(&mut board, SLOT_NET), &mem);
    assert_eq!(
        board.net_counters().sent,
        1,
        "the second chain is one too many"
    );
    assert_eq!(Slot(&mut board, SLOT_NET).read32(0x70) & 0x40, 0x40);
}
