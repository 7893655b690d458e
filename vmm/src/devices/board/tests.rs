//! The board's wiring: ports, addresses, interrupts, outputs, ends.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::devices::BlockOperation;
use crate::devices::test_memory::memory;
use crate::devices::virtio::test_driver::{F_NEXT, F_WRITE, Registers, Ring, VERSION_1, start};

pub(super) const CONFIG: BoardConfig = BoardConfig {
    mac: [0x52, 0x54, 0, 0xAA, 0xBB, 0xCC],
    rtc_epoch_s: 1_700_000_000,
    ram_bytes: 1 << 20,
    disk: None,
};

/// The registers of one virtio slot of a board.
pub(super) struct Slot<'a>(pub(super) &'a mut Board, pub(super) u64);

impl Registers for Slot<'_> {
    fn read32(&mut self, offset: u64) -> u32 {
        self.0.mmio_read(virtio_address(self.1) + offset, 4) as u32
    }

    fn write32(&mut self, offset: u64, value: u32, mem: &GuestMemory) {
        self.0
            .mmio_write(virtio_address(self.1) + offset, 4, u64::from(value), mem);
    }
}

pub(super) fn write(board: &mut Board, mem: &GuestMemory, writes: &[(u16, u8)]) {
    for (port, value) in writes {
        board.port_write(*port, 1, u32::from(*value), mem);
    }
}

/// Vectors 0x20 to 0x2F, all unmasked, virtio and SCI level-triggered.
pub(super) const PIC_INIT: [(u16, u8); 10] = [
    (0x20, 0x11),
    (0x21, 0x20),
    (0x21, 0x04),
    (0x21, 0x01),
    (0xA0, 0x11),
    (0xA1, 0x28),
    (0xA1, 0x02),
    (0xA1, 0x01),
    (0x4D0, 0xE0),
    (0x4D1, 0x02),
];

pub(super) fn board() -> (Board, GuestMemory) {
    let mem = memory(0x10_0000);
    let mut board = Board::new(CONFIG);
    write(&mut board, &mem, &PIC_INIT);
    (board, mem)
}

fn take_vector(board: &mut Board) -> Option<u8> {
    board
        .interrupt_pending()
        .then(|| board.acknowledge_interrupt())
}

#[test]
fn unknown_ports_and_addresses_read_ones_and_swallow_writes() {
    let (mut board, mem) = board();
    let before = board.save();
    for port in [
        0x00, 0x64, 0x72, 0x80, 0xED, 0x2F8, 0x4D2, 0x60C, 0xCF8, 0xCFC, 0xFFFF,
    ] {
        for (size, ones) in [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFF_FFFF)] {
            // 0x64 and 0xFFFF have neighbours that are unknown as well.
            board.port_write(port, size, 0, &mem);
            assert_eq!(
                board.port_read(port, size),
                ones,
                "port {port:#x} size {size}"
            );
        }
    }
    for addr in [
        0,
        VIRTIO_BASE - 1,
        virtio_address(SLOT_BLOCK),
        virtio_address(3),
        u64::MAX,
    ] {
        for (size, ones) in [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFF_FFFF), (8, u64::MAX)] {
            board.mmio_write(addr, size, 0, &mem);
            assert_eq!(
                board.mmio_read(addr, size),
                ones,
                "address {addr:#x} size {size}"
            );
        }
    }
    assert_eq!(board.save(), before);
    assert_eq!(board.port_read(0x60, 1), 0xFF);
    assert_eq!(board.port_read(0x92, 1), 0x02);
}

#[test]
fn slots_have_their_devices() {
    let (mut board, _) = board();
    assert_eq!(board.mmio_read(virtio_address(SLOT_NET), 4), 0x7472_6976);
    assert_eq!(board.mmio_read(virtio_address(SLOT_NET) + 8, 4), 1);
    assert_eq!(board.mmio_read(virtio_address(SLOT_RNG) + 8, 4), 4);
    assert_eq!(
        board.mmio_read(virtio_address(SLOT_NET) + 0x100, 4),
        0xAA00_5452
    );
}

#[test]
fn wide_port_accesses_are_made_of_bytes() {
    let (mut board, mem) = board();
    board.set_time(VirtualTime(5_000_000_000));
    let ticks = 5 * 3_579_545 % (1 << 24);
    assert_eq!(board.port_read(0x608, 4), ticks);
    assert_eq!(board.port_read(0x609, 2), ticks >> 8 & 0xFFFF);
    board.port_write(0x602, 2, 0x0101, &mem);
    assert_eq!(board.port_read(0x602, 2), 0x0101);
    assert_eq!(board.port_read(0x600, 4), 0x0101_0001);
    // Index and data of the RTC in one access.
    board.port_write(0x70, 2, 0xAB40, &mem);
    assert_eq!(board.port_read(0x71, 1), 0xAB);
}

#[test]
fn every_device_has_its_interrupt() {
    // Timer: channel 0, mode 2.
    let (mut board, mem) = self::board();
    write(
        &mut board,
        &mem,
        &[(0x43, 0x34), (0x40, 0xA9), (0x40, 0x04)],
    );
    let due = board.next_timer().unwrap();
    board.set_time(due);
    assert_eq!(take_vector(&mut board), Some(0x20 + IRQ_PIT));

    // UART: received data, with OUT2.
    let (mut board, mem) = self::board();
    write(&mut board, &mem, &[(0x3FC, 0x08), (0x3F9, 0x01)]);
    board.console_receive(b"x");
    assert_eq!(take_vector(&mut board), Some(0x20 + IRQ_UART));
    assert_eq!(board.port_read(0x3F8, 1), u32::from(b'x'));

    // RTC: update ended. The timer stands.
    let (mut board, mem) = self::board();
    let stops = (0x43, 0x30);
    write(&mut board, &mem, &[stops, (0x70, 0x0B), (0x71, 0x12)]);
    assert_eq!(board.next_timer(), Some(VirtualTime(1_000_000_000)));
    board.set_time(VirtualTime(1_000_000_000));
    assert_eq!(take_vector(&mut board), Some(0x20 + IRQ_RTC));

    // SCI: power button, a level.
    let (mut board, mem) = self::board();
    write(&mut board, &mem, &[(0x603, 0x01)]);
    board.press_power_button();
    assert_eq!(take_vector(&mut board), Some(0x20 + IRQ_SCI));
    write(&mut board, &mem, &[(0xA0, 0x20), (0x20, 0x20)]);
    assert_eq!(take_vector(&mut board), Some(0x20 + IRQ_SCI), "still high");
    write(
        &mut board,
        &mem,
        &[(0x601, 0x01), (0xA0, 0x20), (0x20, 0x20)],
    );
    assert_eq!(take_vector(&mut board), None);
}

#[test]
fn frames_go_through_the_board_both_ways() {
    let (mut board, mem) = self::board();
    let (mut rx, mut tx) = (Ring::new(0, 8, 0x4000), Ring::new(1, 8, 0x8000));
    assert!(!board.net_can_receive(&mem));
    assert!(!board.net_receive(&[1; 60], &mem));
    start(
        &mut Slot(&mut board, SLOT_NET),
        &mem,
        VERSION_1,
        &[&rx, &tx],
    );
    assert!(!board.net_can_receive(&mem));
    rx.describe(&mem, 0, (0x1_0000, 2000, F_WRITE, 0));
    rx.offer(&mem, 0);
    assert!(board.net_can_receive(&mem));
    assert!(!board.net_receive(&[1; MIN_FRAME_BYTES - 1], &mem));
    assert!(!board.net_receive(&[1; MAX_FRAME_BYTES + 1], &mem));
    assert!(board.net_receive(&[1; 60], &mem));
    assert!(!board.net_can_receive(&mem));
    assert_eq!(take_vector(&mut board), Some(0x25));
    assert_eq!(rx.take_used(&mem), [(0, 72)]);
    assert_eq!(Slot(&mut board, SLOT_NET).read32(0x60), 1);
    Slot(&mut board, SLOT_NET).write32(0x64, 1, &mem);
    write(&mut board, &mem, &[(0x20, 0x20)]);
    assert_eq!(take_vector(&mut board), None);

    mem.write_slice(&[5; 72], GuestAddress(0x2_0000)).unwrap();
    mem.write_slice(&[0; 12], GuestAddress(0x2_0000)).unwrap();
    tx.describe(&mem, 0, (0x2_0000, 72, 0, 0));
    tx.offer(&mem, 0);
    tx.kick(&mut Slot(&mut board, SLOT_NET), &mem);
    assert!(board.has_outputs());
    assert_eq!(board.take_outputs(), [Output::Net { frame: vec![5; 60] }]);
    assert!(!board.has_outputs());
    let counters = NetCounters {
        sent: 1,
        sent_dropped: 0,
        received: 1,
        received_dropped: 3,
    };
    assert_eq!(board.net_counters(), counters);
}

#[test]
fn entropy_goes_through_the_board() {
    let (mut board, mem) = self::board();
    let mut ring = Ring::new(0, 8, 0x4000);
    start(&mut Slot(&mut board, SLOT_RNG), &mem, VERSION_1, &[&ring]);
    assert_eq!(board.entropy_wanted(), None);
    ring.describe(&mem, 0, (0x1_0000, 32, F_WRITE, 0));
    ring.offer(&mem, 0);
    ring.kick(&mut Slot(&mut board, SLOT_RNG), &mem);
    assert_eq!(board.entropy_wanted(), Some(32));
    board.entropy(&[0xEE; 32], &mem);
    assert_eq!(board.entropy_wanted(), None);
    assert_eq!(take_vector(&mut board), Some(0x26));
}

#[test]
fn a_disk_goes_through_the_board_and_outlives_a_reset() {
    let disk = DiskShape {
        sectors: 8,
        read_only: false,
    };
    let config = BoardConfig {
        disk: Some(disk),
        ..CONFIG
    };
    let (mut board, mem) = self::board();
    assert_eq!(
        board.mmio_read(virtio_address(SLOT_BLOCK), 4),
        0xFFFF_FFFF,
        "no disk"
    );
    board = Board::new(config);
    write(&mut board, &mem, &PIC_INIT);
    let flush = |board: &mut Board| {
        let mut ring = Ring::new(0, 8, 0x4000);
        mem.write_slice(&[0; 0x3000], GuestAddress(0x4000)).unwrap();
        start(&mut Slot(board, SLOT_BLOCK), &mem, VERSION_1, &[&ring]);
        mem.write_slice(&[4, 0, 0, 0], GuestAddress(0x1_0000))
            .unwrap();
        ring.describe(&mem, 0, (0x1_0000, 16, F_NEXT, 1));
        ring.describe(&mem, 1, (0x1_0800, 1, F_WRITE, 0));
        ring.offer(&mem, 0);
        ring.kick(&mut Slot(board, SLOT_BLOCK), &mem);
        board.take_block_requests()
    };
    let request = |tag| BlockRequest {
        tag,
        operation: BlockOperation::Flush,
    };
    assert_eq!(flush(&mut board), [request(1)]);
    assert!(board.block_in_flight(1));
    board.block_done(1, BlockStatus::Ok, &[], &mem);
    assert!(!board.block_in_flight(1));
    assert_eq!(take_vector(&mut board), Some(0x27));
    assert_eq!(flush(&mut board), [request(2)]);
    board.set_time(VirtualTime(5));
    board.reset(config);
    assert_eq!(board.time(), VirtualTime(5));
    assert!(!board.block_in_flight(2));
    assert_eq!(flush(&mut board), [request(3)]);
    let saved = board.save();
    let mut restored = Board::restore(config, saved.clone()).expect("its own state");
    assert_eq!(restored.take_block_requests(), []);
    restored.issue_block_requests_again();
    assert_eq!(restored.take_block_requests(), [request(3)]);
    assert_eq!(
        Board::restore(CONFIG, saved),
        Err(RestoreError::Configuration { what: "disk" })
    );
}

#[test]
fn out_5_outputs_of_all_devices_are_one_sequence() {
    let (mut board, mem) = self::board();
    let mut tx = Ring::new(1, 8, 0x8000);
    start(&mut Slot(&mut board, SLOT_NET), &mem, VERSION_1, &[&tx]);
    tx.describe(&mem, 0, (0x2_0000, 26, 0, 0));
    let console = |text: &[u8]| Output::Console {
        bytes: text.to_vec(),
    };
    let net = || Output::Net { frame: vec![0; 14] };
    write(
        &mut board,
        &mem,
        &[(0x3F8, b'a'), (0x3F8, b'\n'), (0x3F8, b'b')],
    );
    tx.offer(&mem, 0);
    tx.kick(&mut Slot(&mut board, SLOT_NET), &mem);
    board.set_time(VirtualTime(1_000_000));
    tx.offer(&mem, 0);
    tx.kick(&mut Slot(&mut board, SLOT_NET), &mem);
    assert_eq!(
        board.take_outputs(),
        [console(b"a\n"), net(), console(b"b"), net()]
    );
}

#[test]
fn how_the_machine_ends() {
    type End = fn(&mut Board, &GuestMemory);
    let cases: [(&str, End, Option<PowerRequest>); 9] = [
        (
            "S5",
            |b, m| b.port_write(0x604, 2, 0x3400, m),
            Some(PowerRequest::PowerOff),
        ),
        (
            "S5 by bytes",
            |b, m| b.port_write(0x605, 1, 0x34, m),
            Some(PowerRequest::PowerOff),
        ),
        ("S3", |b, m| b.port_write(0x604, 2, 0x2C00, m), None),
        (
            "ACPI reset",
            |b, m| b.port_write(PORT_RESET, 1, u32::from(RESET_VALUE), m),
            Some(PowerRequest::Reset),
        ),
        (
            "reset prepared",
            |b, m| b.port_write(PORT_RESET, 1, 0x02, m),
            None,
        ),
        (
            "PCI address",
            |b, m| b.port_write(0xCF8, 4, 0x8000_0600, m),
            None,
        ),
        (
            "keyboard",
            |b, m| b.port_write(0x64, 1, 0xFE, m),
            Some(PowerRequest::Reset),
        ),
        (
            "keyboard, other",
            |b, m| b.port_write(0x64, 1, 0xD1, m),
            None,
        ),
        (
            "the first counts",
            |b, m| {
                b.port_write(0x604, 2, 0x3400, m);
                b.port_write(0x64, 1, 0xFE, m);
            },
            Some(PowerRequest::PowerOff),
        ),
    ];
    for (name, end, expected) in cases {
        let (mut board, mem) = self::board();
        write(&mut board, &mem, &[(0x3F8, b'!')]);
        end(&mut board, &mem);
        assert_eq!(board.power_request(), expected, "{name}");
        // The last words are not lost.
        assert_eq!(board.has_outputs(), expected.is_some(), "{name}");
    }
    let (mut board, mem) = self::board();
    board.port_write(PORT_RESET, 1, 0x02, &mem);
    assert_eq!(board.port_read(PORT_RESET, 1), 0x02);
}

#[test]
fn what_needs_the_clock() {
    let read = |port| PortAccess::Read { port, size: 1 };
    let wide = |port, size| PortAccess::Read { port, size };
    let write = |port, value| PortAccess::Write {
        port,
        size: 1,
        value,
    };
    let (mut board, mem) = self::board();
    board.port_write(0x20, 1, 0x0B, &mem);
    for (access, expected) in [
        (read(0x608), true),
        (wide(0x608, 4), true),
        (wide(0x600, 2), true),
        (wide(0x602, 2), false),
        (write(0x601, 1), true),
        (write(0x602, 1), false),
        (read(0x40), true),
        (write(0x40, 0), false), // the low byte of two
        (write(0x43, 0), true),
        (read(0x43), false),
        (read(0x61), true),
        (write(0x61, 0), false),
        (write(0x61, 1), true),
        (read(0x20), false), // the in-service register
        (read(0xA0), true),  // requests
        (read(0x21), false),
        (write(0x20, 0x20), false),
        (read(0x71), true), // seconds
        (write(0x70, 0), false),
        (wide(0x70, 2), true),
        (write(0x3F8, u32::from(b'a')), true),
        (write(0x3F8, u32::from(b'\n')), false),
        (read(0x3F8), false),
        (read(0x80), false),
        (wide(0xFFFF, 4), false),
    ] {
        assert_eq!(board.needs_clock(&access), expected, "{access:x?}");
    }
}

#[test]
fn states_of_another_version_or_machine_are_refused() {
    let (board, _) = self::board();
    let state = serde_json::to_value(board.save()).unwrap();
    let restore = |config, state: serde_json::Value| {
        Board::restore(config, serde_json::from_value(state).unwrap())
    };
    assert_eq!(restore(CONFIG, state.clone()).as_ref(), Ok(&board));
    let mut other = state.clone();
    other["version"] = 99.into();
    assert_eq!(
        restore(CONFIG, other),
        Err(RestoreError::Version { found: 99 })
    );
    let config = BoardConfig {
        mac: [0; 6],
        ..CONFIG
    };
    let error = restore(config, state.clone()).unwrap_err();
    assert!(error.to_string().contains("MAC address"), "{error}");

    for (path, value) in [
        ("/board/time", 5.into()),
        ("/board/reset_control", 1.into()),
        ("/board/pic/master/lowest", 8.into()),
        ("/board/pic/slave/role", "Master".into()),
        ("/board/pic/slave/lines", 1.into()),
        ("/board/pit/tick", 7.into()),
        ("/board/pit/system_b", 1.into()),
        ("/board/acpi/status", 2.into()),
        ("/board/rtc/ram", serde_json::json!([1, 2])),
        ("/board/rtc/weekday_shift", 7.into()),
        ("/board/rtc/origin_ns", (-1_000_000_000_i64).into()),
        ("/board/rtc/b", 0x80.into()),
        ("/board/uart/fifo", serde_json::json!([1, 2])),
        (
            "/board/uart/gathered",
            serde_json::json!({ "bytes": [], "due": 5 }),
        ),
        ("/board/net/status", 2.into()),
        ("/board/rng/interrupt_status", 1.into()), // its line is low
        (
            "/board/rng/device/wanted",
            serde_json::json!({ "head": 0, "bytes": 0 }),
        ),
        (
            "/board/outputs",
            serde_json::json!([{ "Net": { "frame": vec![0; 1515] } }]),
        ),
    ] {
        let mut damaged = state.clone();
        *damaged
            .pointer_mut(path)
            .unwrap_or_else(|| panic!("no {path}")) = value;
        let error = restore(CONFIG, damaged);
        assert!(
            matches!(error, Err(RestoreError::Damaged { .. })),
            "{path}: {error:?}"
        );
    }
}

#[test]
#[should_panic(expected = "virtual time went back")]
fn time_does_not_go_back() {
    let (mut board, _) = self::board();
    board.set_time(VirtualTime(2));
    board.set_time(VirtualTime(1));
}
