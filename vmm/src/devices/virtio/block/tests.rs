//! The block device, request by request, and with a disk beside it.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::test_driver::{Alone, F_NEXT, F_WRITE, Registers, Ring, VERSION_1, start};
use super::*;
use crate::devices::test_memory::memory;

const SECTORS: u64 = 64;
const SHAPE: DiskShape = DiskShape {
    sectors: SECTORS,
    read_only: false,
};
const READ_ONLY: DiskShape = DiskShape {
    sectors: SECTORS,
    read_only: true,
};

/// Each request of the driver has a page for header, status and data.
const PAGES: u64 = 0x2_0000;
const STATUS: u64 = 0x10;
const DATA: u64 = 0x200;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;

struct Guest {
    device: Alone<Block>,
    mem: GuestMemory,
    ring: Ring,
}

impl Guest {
    fn new(disk: DiskShape) -> Self {
        let mem = memory(0x100_0000);
        let mut device = Alone::new(Block::new(disk, 0));
        let ring = Ring::new(0, 128, 0x4000);
        start(&mut device, &mem, VERSION_1 | 1 << 9, &[&ring]);
        Guest { device, mem, ring }
    }

    fn page(at: u16) -> u64 {
        PAGES + u64::from(at) * 0x1000
    }

    fn header(&self, page: u64, kind: u32, sector: u64) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.mem.write_slice(&header, GuestAddress(page)).unwrap();
        self.mem
            .write_obj(0xEEu8, GuestAddress(page + STATUS))
            .unwrap();
    }

    /// Offers a request of three descriptors, from descriptor `at` on.
    fn offer(&mut self, at: u16, kind: u32, sector: u64, bytes: u32) {
        let page = Self::page(at);
        self.header(page, kind, sector);
        let writable = if kind == OUT { 0 } else { F_WRITE };
        let status = (page + STATUS, 1, F_WRITE, 0);
        if bytes == 0 {
            self.ring
                .describe(&self.mem, at, (page, 16, F_NEXT, at + 1));
            self.ring.describe(&self.mem, at + 1, status);
        } else {
            let data = (page + DATA, bytes, writable | F_NEXT, at + 2);
            self.ring
                .describe(&self.mem, at, (page, 16, F_NEXT, at + 1));
            self.ring.describe(&self.mem, at + 1, data);
            self.ring.describe(&self.mem, at + 2, status);
        }
        self.ring.offer(&self.mem, at);
    }

    fn kick(&mut self) {
        self.ring.kick(&mut self.device, &self.mem);
    }

    /// Offers one request and says which ones the disk is asked for.
    fn ask(&mut self, at: u16, kind: u32, sector: u64, bytes: u32) -> Vec<BlockRequest> {
        self.offer(at, kind, sector, bytes);
        self.kick();
        self.device.mmio.device_mut().take_requests()
    }

    fn done(&mut self, tag: u64, status: BlockStatus, data: &[u8]) {
        self.device.mmio.act(REQUESTS, |device, queues| {
            device.complete(tag, status, data, queues, &self.mem)
        });
    }

    fn status(&self, at: u16) -> u8 {
        let at = GuestAddress(Self::page(at) + STATUS);
        self.mem.read_obj(at).unwrap()
    }

    fn data(&self, at: u16, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let at = GuestAddress(Self::page(at) + DATA);
        self.mem.read_slice(&mut bytes, at).unwrap();
        bytes
    }

    fn used(&mut self) -> Vec<(u32, u32)> {
        self.ring.take_used(&self.mem)
    }

    fn needs_reset(&mut self) -> bool {
        self.device.read32(0x70) & 0x40 != 0
    }
}

fn request(tag: u64, operation: BlockOperation) -> BlockRequest {
    BlockRequest { tag, operation }
}

fn read(sector: u64, bytes: u32) -> BlockOperation {
    BlockOperation::Read { sector, bytes }
}

#[test]
fn the_configuration_space_says_what_the_disk_is() {
    let mut guest = Guest::new(SHAPE);
    assert_eq!(guest.device.read32(0x008), 2, "a block device");
    let words = [0x100, 0x104, 0x108, 0x10C, 0x114].map(|at| guest.device.read32(at));
    assert_eq!(words, [64, 0, 32 << 10, 126, 512]);
    let features = |disk| Block::new(disk, 0).features();
    let (size_max, seg_max, read_only, block_size, flush) = (1, 2, 5, 6, 9);
    let usual = 1 << size_max | 1 << seg_max | 1 << block_size | 1 << flush;
    assert_eq!(features(SHAPE), usual);
    assert_eq!(features(READ_ONLY), usual | 1 << read_only);
}

#[test]
fn a_read_is_answered_when_the_disk_is_done() {
    let mut guest = Guest::new(SHAPE);
    assert_eq!(guest.ask(0, IN, 5, 1024), [request(1, read(5, 1024))]);
    assert_eq!((guest.used(), guest.status(0)), (vec![], 0xEE));
    assert!(!guest.device.mmio.line());
    guest.done(1, BlockStatus::Ok, &[0x5A; 1024]);
    assert_eq!((guest.used(), guest.status(0)), (vec![(0, 1025)], 0));
    assert_eq!(guest.data(0, 1025), [vec![0x5A; 1024], vec![0]].concat());
    assert!(guest.device.mmio.line());
}

#[test]
fn a_write_carries_its_data_and_a_flush_nothing() {
    let mut guest = Guest::new(SHAPE);
    let at = GuestAddress(Guest::page(0) + DATA);
    guest.mem.write_slice(&[7; 512], at).unwrap();
    let data = vec![7; 512];
    let write = BlockOperation::Write { sector: 63, data };
    assert_eq!(guest.ask(0, OUT, 63, 512), [request(1, write)]);
    // What the guest writes there afterwards is another request's.
    guest.mem.write_slice(&[8; 512], at).unwrap();
    guest.done(1, BlockStatus::Ok, &[]);
    assert_eq!((guest.used(), guest.status(0)), (vec![(0, 1)], 0));
    assert_eq!(
        guest.ask(3, FLUSH, 0, 0),
        [request(2, BlockOperation::Flush)]
    );
    guest.done(2, BlockStatus::Ok, &[]);
    assert_eq!((guest.used(), guest.status(3)), (vec![(3, 1)], 0));
}

#[test]
fn an_error_reaches_the_guest_without_data() {
    let mut guest = Guest::new(SHAPE);
    guest.ask(0, IN, 0, 512);
    guest.done(1, BlockStatus::IoError, &[0x5A; 512]);
    assert_eq!((guest.used(), guest.status(0)), (vec![(0, 1)], 1));
    assert_eq!(guest.data(0, 512), [0; 512]);
}

#[test]
fn what_needs_no_disk_is_answered_at_once() {
    let mut guest = Guest::new(READ_ONLY);
    let last = SECTORS - 1;
    for (name, kind, sector, bytes, status) in [
        ("beyond the end", IN, SECTORS, 512, 1),
        ("across the end", IN, last, 1024, 1),
        ("past all sectors", IN, u64::MAX, 512, 1),
        ("not whole sectors", IN, 0, 511, 1),
        ("nothing", IN, 0, 0, 1),
        ("a write to what can only be read", OUT, 0, 512, 1),
        ("an unknown type", 3, 0, 512, 2),
        ("discard, not offered", 11, 0, 512, 2),
    ] {
        assert_eq!(guest.ask(0, kind, sector, bytes), [], "{name}");
        assert_eq!(
            (guest.used(), guest.status(0)),
            (vec![(0, 1)], status),
            "{name}"
        );
        assert!(guest.device.mmio.line(), "{name}");
    }
    assert_eq!(guest.ask(0, GET_ID, 0, 20), []);
    assert_eq!((guest.used(), guest.status(0)), (vec![(0, 21)], 0));
    assert_eq!(guest.data(0, 20), b"ftvm-disk\0\0\0\0\0\0\0\0\0\0\0");
    assert_eq!(guest.ask(0, IN, last, 512), [request(1, read(last, 512))]);
}

/// The driver may cut a request as it likes (section 2.7.4).
#[test]
fn any_layout_of_buffers_will_do() {
    let mut guest = Guest::new(SHAPE);
    let page = Guest::page(0);
    guest.header(page, OUT, 2);
    guest
        .mem
        .write_slice(&[3; 512], GuestAddress(page + 16))
        .unwrap();
    // Header and data in pieces of 7, 300 and 221 bytes; the status behind an empty buffer.
    for (at, fields) in [
        (0, (page, 7, F_NEXT, 1)),
        (1, (page + 7, 300, F_NEXT, 2)),
        (2, (page + 307, 221, F_NEXT, 3)),
        (3, (page + 0x800, 1, F_WRITE | F_NEXT, 4)),
        (4, (page + 0x900, 0, F_WRITE, 0)),
    ] {
        guest.ring.describe(&guest.mem, at, fields);
    }
    guest.ring.offer(&guest.mem, 0);
    guest.kick();
    let data = vec![3; 512];
    let write = BlockOperation::Write { sector: 2, data };
    assert_eq!(
        guest.device.mmio.device_mut().take_requests(),
        [request(1, write)]
    );
    guest
        .mem
        .write_obj(9u8, GuestAddress(page + 0x800))
        .unwrap();
    guest.done(1, BlockStatus::Ok, &[]);
    let status: u8 = guest.mem.read_obj(GuestAddress(page + 0x800)).unwrap();
    assert_eq!((guest.used(), status), (vec![(0, 1)], 0));
}

#[test]
fn requests_that_break_the_device() {
    type Lay = fn(u64) -> Vec<(u64, u32, u16, u16)>;
    let cases: [(&str, Lay); 6] = [
        ("no header", |p| {
            vec![(p, 15, F_NEXT, 1), (p + STATUS, 1, F_WRITE, 0)]
        }),
        ("no status", |p| vec![(p, 16, 0, 0)]),
        ("no room for a status", |p| {
            vec![(p, 16, F_NEXT, 1), (p, 0, F_WRITE, 0)]
        }),
        ("an answer before the request", |p| {
            vec![(p + STATUS, 1, F_WRITE | F_NEXT, 1), (p, 16, 0, 0)]
        }),
        ("a header outside of RAM", |p| {
            vec![(u64::MAX - 8, 16, F_NEXT, 1), (p + STATUS, 1, F_WRITE, 0)]
        }),
        ("a loop", |p| vec![(p, 16, F_NEXT, 1), (p, 16, F_NEXT, 0)]),
    ];
    for (name, lay) in cases {
        let mut guest = Guest::new(SHAPE);
        guest.header(Guest::page(0), FLUSH, 0);
        for (at, fields) in (0..).zip(lay(Guest::page(0))) {
            guest.ring.describe(&guest.mem, at, fields);
        }
        guest.ring.offer(&guest.mem, 0);
        guest.kick();
        assert!(guest.needs_reset(), "{name}");
        assert_eq!(guest.device.mmio.device_mut().take_requests(), [], "{name}");
    }
}

#[test]
fn a_request_larger_than_allowed_is_an_error_and_no_memory() {
    let mut guest = Guest::new(SHAPE);
    let page = Guest::page(0);
    guest.header(page, IN, 0);
    for (at, fields) in [
        (0, (page, 16, F_NEXT, 1)),
        (1, (page, u32::MAX, F_WRITE | F_NEXT, 2)),
        (2, (page + STATUS, 1, F_WRITE, 0)),
    ] {
        guest.ring.describe(&guest.mem, at, fields);
    }
    guest.ring.offer(&guest.mem, 0);
    guest.kick();
    assert_eq!(guest.status(0), 1);
}

/// A buffer that is gone when the disk is done harms nobody else.
#[test]
fn a_guest_may_change_its_mind_to_its_own_harm_only() {
    let mut guest = Guest::new(SHAPE);
    guest.ask(0, IN, 0, 512);
    let page = Guest::page(0);
    guest
        .ring
        .describe(&guest.mem, 1, (page + DATA, 100, F_WRITE | F_NEXT, 2));
    guest.done(1, BlockStatus::Ok, &[6; 512]);
    assert_eq!(guest.used(), [(0, 101)]);
    assert_eq!(guest.data(0, 101), [vec![6; 100], vec![0]].concat());
    guest.ask(0, IN, 0, 512);
    guest.ring.describe(&guest.mem, 0, (page, 16, 0, 0));
    guest.done(2, BlockStatus::Ok, &[6; 512]);
    assert!(guest.needs_reset());
    guest.done(2, BlockStatus::Ok, &[6; 512]);
}

#[test]
fn a_reset_forgets_requests_and_their_numbers_are_not_used_again() {
    let mut guest = Guest::new(SHAPE);
    guest.ask(0, IN, 0, 512);
    guest.device.write32(0x70, 0, &guest.mem);
    assert!(!guest.device.mmio.device().is_in_flight(1));
    guest.ring = Ring::new(0, 128, 0x4000);
    let zeros = vec![0; 0x3000];
    guest.mem.write_slice(&zeros, GuestAddress(0x4000)).unwrap();
    start(&mut guest.device, &guest.mem, VERSION_1, &[&guest.ring]);
    assert_eq!(guest.ask(0, IN, 1, 512), [request(2, read(1, 512))]);
    guest.done(1, BlockStatus::Ok, &[1; 512]);
    assert_eq!((guest.used(), guest.data(0, 1)), (vec![], vec![0]));
    guest.done(2, BlockStatus::Ok, &[2; 512]);
    assert_eq!((guest.used(), guest.data(0, 1)), (vec![(0, 513)], vec![2]));
}

#[test]
fn only_so_many_are_in_flight_and_the_rest_wait_in_the_ring() {
    let mut guest = Guest::new(SHAPE);
    // One header and status for all: two descriptors would do, but chains may not overlap.
    for at in 0..42 {
        guest.offer(at * 3, IN, 0, 512);
    }
    guest.kick();
    let first = guest.device.mmio.device_mut().take_requests();
    assert_eq!(first.len(), 42);
    guest.done(1, BlockStatus::Ok, &[0; 512]);
    let again = guest.ask(0, IN, 1, 512);
    assert_eq!(again, [request(43, read(1, 512))]);

    let mut guest = Guest::new(SHAPE);
    for at in 0..64 {
        guest.offer(at * 2, FLUSH, 0, 0);
    }
    guest.kick();
    assert_eq!(
        guest.device.mmio.device_mut().take_requests().len(),
        MAX_IN_FLIGHT
    );
    guest.done(1, BlockStatus::Ok, &[]);
    guest.offer(0, FLUSH, 0, 0);
    guest.done(2, BlockStatus::Ok, &[]);
    let taken = guest.device.mmio.device_mut().take_requests();
    assert_eq!(
        taken,
        [request(65, BlockOperation::Flush)],
        "without a kick"
    );
}

#[test]
fn the_bytes_in_flight_are_bounded() {
    let mut disk = SHAPE;
    disk.sectors = 1 << 20;
    let mut guest = Guest::new(disk);
    for at in 0..10u16 {
        let page = Guest::page(at * 3);
        guest.header(page, OUT, 0);
        let head = at * 3;
        for (at, fields) in [
            (head, (page, 16, F_NEXT, head + 1)),
            (head + 1, (0x10_0000, MAX_REQUEST_BYTES, F_NEXT, head + 2)),
            (head + 2, (page + STATUS, 1, F_WRITE, 0)),
        ] {
            guest.ring.describe(&guest.mem, at, fields);
        }
        guest.ring.offer(&guest.mem, head);
    }
    guest.kick();
    let most = (MAX_IN_FLIGHT_BYTES / u64::from(MAX_REQUEST_BYTES)) as usize;
    assert_eq!(guest.device.mmio.device_mut().take_requests().len(), most);
    guest.done(2, BlockStatus::Ok, &[]);
    assert_eq!(guest.device.mmio.device_mut().take_requests().len(), 1);
}

#[test]
fn a_restored_device_asks_its_disk_once_more_and_goes_on() {
    let mut guest = Guest::new(SHAPE);
    guest.ask(0, IN, 0, 512);
    guest.ask(3, FLUSH, 0, 0);
    let saved = serde_json::to_value(&guest.device.mmio).unwrap();
    guest.device.mmio = serde_json::from_value(saved).unwrap();
    let device = guest.device.mmio.device_mut();
    device.check().expect("a state that it can be in");
    assert_eq!(device.take_requests(), []);
    device.issue_again();
    let expected = [request(1, read(0, 512)), request(2, BlockOperation::Flush)];
    assert_eq!(device.take_requests(), expected);
    guest.done(2, BlockStatus::Ok, &[]);
    guest.done(1, BlockStatus::Ok, &[4; 512]);
    assert_eq!(guest.used(), [(3, 1), (0, 513)]);
}

#[test]
fn states_that_no_device_can_be_in_are_refused() {
    let mut guest = Guest::new(SHAPE);
    guest.ask(0, IN, 0, 512);
    guest.ask(3, IN, 1, 512);
    let good = serde_json::to_value(guest.device.mmio.device()).unwrap();
    for (path, value) in [
        ("/last_tag", serde_json::json!(1)),
        ("/in_flight/0/request/tag", serde_json::json!(0)),
        ("/in_flight/0/request/tag", serde_json::json!(2)),
        (
            "/in_flight/0/request/operation/Read/bytes",
            serde_json::json!(5),
        ),
        (
            "/in_flight/0/request/operation/Read/sector",
            serde_json::json!(64),
        ),
        (
            "/fresh",
            serde_json::json!([{ "tag": 9, "operation": "Flush" }]),
        ),
    ] {
        let mut damaged = good.clone();
        *damaged.pointer_mut(path).expect(path) = value;
        let device: Block = serde_json::from_value(damaged).expect(path);
        assert!(device.check().is_err(), "{path}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// SEC-3: rings, headers and answers of any kind. The device never panics, asks only for what
    /// lies on the disk, numbers without a gap, keeps its bounds, and is in a state that it accepts.
    #[test]
    fn hostile_drivers_harm_themselves_only(
        descriptors in prop::collection::vec(
            (
                prop_oneof![4 => (0..16u64).prop_map(|page| PAGES + page * 0x100), 1 => any::<u64>()],
                prop_oneof![4 => prop::sample::select(vec![0u32, 1, 16, 17, 512, 1024, 4096]), 1 => any::<u32>()],
                0..8u16,
                0..18u16,
            ),
            16,
        ),
        memory in prop::collection::vec(prop_oneof![5 => Just(0u8), 3 => 0..9u8, 1 => any::<u8>()], 0x1000),
        steps in prop::collection::vec((0..20u16, 0..40u64, any::<bool>(), 0..2000usize), 1..40),
        read_only in any::<bool>(),
    ) {
        let mut guest = Guest::new(DiskShape { sectors: SECTORS, read_only });
        guest.mem.write_slice(&memory, GuestAddress(PAGES)).unwrap();
        for (at, (addr, len, flags, next)) in (0..).zip(descriptors) {
            guest.ring.describe(&guest.mem, at, (addr, len, flags, next));
        }
        let mut tag = 0;
        for (head, done, ok, bytes) in steps {
            guest.ring.offer(&guest.mem, head);
            guest.kick();
            let status = if ok { BlockStatus::Ok } else { BlockStatus::IoError };
            guest.done(done, status, &vec![0xDD; bytes]);
            for request in guest.device.mmio.device_mut().take_requests() {
                tag += 1;
                prop_assert_eq!(request.tag, tag);
                let shape = if read_only { READ_ONLY } else { SHAPE };
                prop_assert!(request.operation.fits(shape));
            }
            prop_assert_eq!(guest.device.mmio.device().check(), Ok(()));
        }
        // After a reset it works as ever.
        let zeros = vec![0; 0x3000];
        guest.device.write32(0x70, 0, &guest.mem);
        guest.mem.write_slice(&zeros, GuestAddress(0x4000)).unwrap();
        guest.ring = Ring::new(0, 128, 0x4000);
        start(&mut guest.device, &guest.mem, VERSION_1, &[&guest.ring]);
        prop_assert_eq!(guest.ask(0, IN, 0, 512), [request(tag + 1, read(0, 512))]);
    }

    /// DET-1: when the disk is done makes no difference to what is on it, nor to what a guest reads
    /// that waits for its answers; two devices with disks of their own stay in step.
    #[test]
    fn det_1_two_disks_that_see_the_same_requests_stay_equal(
        steps in prop::collection::vec((prop::bool::ANY, 0..60u64, 1..4u32, any::<u8>()), 1..60),
        delays in prop::collection::vec(1..5usize, 60),
    ) {
        let run = |delays: &[usize]| {
            let mut guest = Guest::new(SHAPE);
            let mut disk = vec![0u8; (SECTORS * SECTOR_BYTES) as usize];
            let mut waiting = VecDeque::new();
            let mut seen = Vec::new();
            for (step, (is_write, sector, sectors, byte)) in steps.iter().enumerate() {
                let bytes = sectors * 512;
                let at = (step % 30 * 3) as u16;
                // A slot is used again once its answer is there.
                while waiting.len() >= 30 || (waiting.len() >= delays[step] && !waiting.is_empty()) {
                    let (tag, data): (u64, Vec<u8>) = waiting.pop_front().expect("not empty");
                    guest.done(tag, BlockStatus::Ok, &data);
                }
                let page = GuestAddress(Guest::page(at) + DATA);
                guest.mem.write_slice(&vec![*byte; bytes as usize], page).unwrap();
                let kind = if *is_write { OUT } else { IN };
                for BlockRequest { tag, operation } in guest.ask(at, kind, *sector, bytes) {
                    let data = match operation {
                        BlockOperation::Read { sector, bytes } => {
                            let at = (sector * SECTOR_BYTES) as usize;
                            disk[at..at + bytes as usize].to_vec()
                        }
                        BlockOperation::Write { sector, data } => {
                            let at = (sector * SECTOR_BYTES) as usize;
                            disk[at..at + data.len()].copy_from_slice(&data);
                            vec![]
                        }
                        BlockOperation::Flush => vec![],
                    };
                    seen.push((tag, data.clone()));
                    waiting.push_back((tag, data));
                }
            }
            (disk, seen)
        };
        prop_assert_eq!(run(&delays), run(&[1; 60]));
    }
}
