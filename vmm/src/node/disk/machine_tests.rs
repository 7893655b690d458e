//! A machine with a disk on the real threads: recorded, replayed on another image, gone live, and
//! with disks that fail. The guest is a script, so that it needs no CPU of the host.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ft_logging::entry::{BlockStatus, Entry, Output, Payload};
use ft_logging::message::Batch;
use ft_logging::types::{EntryIndex, Position, VirtualTime};
use tokio::sync::mpsc::Receiver;
use vm_memory::{Bytes, GuestAddress};

use super::super::vcpu::{FromVcpu, Start, Vcpu};
use super::{DiskImage, Overlay};
use crate::cpu::{Access, Cpu, CpuError, CpuState, Exit, Limit, Target};
use crate::determinism::{Inputs, LogLink, Order, Report};
use crate::devices::layout::{SLOT_BLOCK, SLP_TYP_S5, virtio_address};
use crate::devices::{DiskShape, SECTOR_BYTES};
use crate::machine::{BootImages, BuildError, Machine, MachineConfig, Stop, run};
use crate::sys::vm::GuestMemory;

const SECTORS: u64 = 64;

/// Where the guest keeps its ring and its one buffer.
const RING: u64 = 0x4_0000;
const HEADER: u64 = 0x5_0000;
const STATUS: u64 = 0x5_0010;
const DATA: u64 = 0x5_0200;

/// What the guest does, one after the other.
#[derive(Clone, Debug)]
enum Step {
    /// Writes to RAM: no exit.
    Poke(u64, Vec<u8>),
    Write(Target, u8, u64),
    /// Waits for an interrupt.
    Halt,
    /// Says a byte of RAM on the console.
    Echo(u64),
}

/// A CPU that plays a script and takes interrupts only while it is halted.
#[derive(Debug)]
struct Script {
    steps: Arc<[Step]>,
    ram: GuestMemory,
    state: Option<CpuState>,
    next: usize,
    position: Position,
    is_halted: bool,
}

impl Cpu for Script {
    fn run(&mut self, _limit: Limit) -> Result<Exit, CpuError> {
        self.is_halted = false;
        loop {
            let step = self.steps[self.next].clone();
            self.next += 1;
            let (target, size, value) = match step {
                Step::Poke(at, bytes) => {
                    self.ram.write_slice(&bytes, GuestAddress(at)).expect("RAM");
                    continue;
                }
                Step::Halt => {
                    self.position = self.position.next();
                    self.is_halted = true;
                    return Ok(Exit::Halt);
                }
                Step::Write(target, size, value) => (target, size, value),
                Step::Echo(at) => {
                    let byte: u8 = self.ram.read_obj(GuestAddress(at)).expect("RAM");
                    (Target::Port(0x3F8), 1, u64::from(byte))
                }
            };
            self.position = self.position.next();
            let write = Some(value);
            return Ok(Exit::Access(Access {
                target,
                size,
                write,
            }));
        }
    }

    fn slice(&self) -> Option<u64> {
        None
    }

    fn position(&self) -> Position {
        self.position
    }

    fn answer(&mut self, _value: u64) {}

    fn at_boundary(&self) -> bool {
        true
    }

    fn set_time(&mut self, _now: VirtualTime) {}

    fn expect_interrupt(&mut self, _pending: bool) {}

    fn takes_interrupts(&mut self) -> bool {
        self.is_halted
    }

    fn interrupt(&mut self, _vector: u8) -> Result<(), CpuError> {
        self.is_halted = false;
        Ok(())
    }

    fn save(&mut self) -> Result<CpuState, CpuError> {
        let mut state = self.state.clone().expect("restored before");
        state.rip = self.next as u64;
        Ok(state)
    }

    fn restore(&mut self, state: &CpuState, position: Position) -> Result<(), CpuError> {
        self.state = Some(state.clone());
        self.position = position;
        Ok(())
    }

    fn executed(
        &self,
        _: usize,
        _: &dyn Fn(u64) -> Option<u8>,
    ) -> Option<Vec<crate::cpu::Executed>> {
        None
    }

    fn take_dirty(&mut self, _dirty: &mut Vec<u64>) -> Result<(), CpuError> {
        // RAM itself notes what a script writes.
        Ok(())
    }
}

fn register(offset: u64, value: u64) -> Step {
    Step::Write(
        Target::Memory(virtio_address(SLOT_BLOCK) + offset),
        4,
        value,
    )
}

fn port(port: u16, value: u8) -> Step {
    Step::Write(Target::Port(port), 1, u64::from(value))
}

/// Finds the block device and sets up a ring of 8.
fn set_up() -> Vec<Step> {
    let pic = [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xA0, 0x11),
        (0xA1, 0x28),
        (0xA1, 0x02),
        (0xA1, 0x01),
        (0x4D0, 0x80), // input 7: a level
        (0x21, 0x7F),
    ];
    let registers = [
        (0x70, 0),
        (0x70, 1),
        (0x70, 3),
        (0x24, 1),
        (0x20, 1), // VIRTIO_F_VERSION_1
        (0x70, 11),
        (0x30, 0),
        (0x38, 8),
        (0x80, RING),
        (0x90, RING + 0x1000),
        (0xA0, RING + 0x2000),
        (0x44, 1),
        (0x70, 15),
    ];
    let pic = pic.into_iter().map(|(at, value)| port(at, value));
    let registers = registers.into_iter().map(|(at, value)| register(at, value));
    pic.chain(registers).collect()
}

/// Asks for something, waits for the answer, and says its status and the first byte of the data.
fn request(number: u16, kind: u8, sector: u8, byte: u8) -> Vec<Step> {
    let mut header = vec![0; 16];
    (header[0], header[8]) = (kind, sector);
    let descriptor = |at: u64, len: u32, flags: u16, next: u16| {
        let parts = [at.to_le_bytes().to_vec(), len.to_le_bytes().to_vec()];
        [
            parts.concat(),
            flags.to_le_bytes().to_vec(),
            next.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let (next, write) = (1, 2);
    let data_flags = if kind == READ { next | write } else { next };
    let chain = [
        descriptor(HEADER, 16, next, 1),
        descriptor(DATA, 512, data_flags, 2),
        descriptor(STATUS, 1, write, 0),
    ];
    let slot = RING + 0x1004 + u64::from(number % 8) * 2;
    vec![
        Step::Poke(HEADER, header),
        Step::Poke(DATA, vec![byte; 512]),
        Step::Poke(STATUS, vec![0xEE]),
        Step::Poke(RING, chain.concat()),
        Step::Poke(slot, vec![0, 0]),
        Step::Poke(RING + 0x1002, (number + 1).to_le_bytes().to_vec()),
        register(0x50, 0),
        Step::Halt,
        register(0x64, 1),
        port(0x20, 0x20),
        Step::Echo(STATUS),
        Step::Echo(DATA),
        port(0x3F8, b'\n'),
    ]
}

const READ: u8 = 0;
const WRITE: u8 = 1;
const FLUSH: u8 = 4;

/// Writes and reads back, with a flush amid.
fn script() -> Arc<[Step]> {
    let requests = [
        (WRITE, 3, b'a'),
        (WRITE, 9, b'b'),
        (READ, 3, b'.'),
        (FLUSH, 0, b'.'),
        (WRITE, 3, b'c'),
        (READ, 9, b'.'),
        (READ, 3, b'.'),
        (READ, 40, b'.'),
    ];
    let mut steps = set_up();
    for (number, (kind, sector, byte)) in (0..).zip(requests) {
        steps.extend(request(number, kind, sector, byte));
    }
    steps.push(Step::Write(
        Target::Port(0x604),
        2,
        u64::from(SLP_TYP_S5) << 10 | 1 << 13,
    ));
    steps.into()
}

/// What the console shows: a status and a byte for each request.
const SAID: &[u8] = b"\0a\n\0b\n\0a\n\0.\n\0c\n\0b\n\0c\n\0@\n";

fn image(dir: &Path, name: &str) -> (PathBuf, Arc<DiskImage>) {
    let path = dir.join(name);
    fs::write(&path, vec![b'@'; (SECTORS * SECTOR_BYTES) as usize]).expect("written");
    let image = DiskImage::open(&path, false).expect("an image");
    (path, Arc::new(image))
}

fn build() -> Result<Machine<Script>, BuildError> {
    let config = MachineConfig {
        memory_mib: 16,
        mac: [2; 6],
        rtc_epoch_s: 0,
        seed: [0; 32],
        disk: Some(DiskShape {
            sectors: SECTORS,
            read_only: false,
        }),
    };
    // Its kernel is never run.
    let images = BootImages {
        name: "a script".to_owned(),
        kernel: guest_images::NOISE.elf.into(),
        initrd: None,
        command_line: String::new(),
    };
    Machine::build(config, images, |ram| {
        Ok(Script {
            steps: script(),
            ram: ram.clone(),
            state: None,
            next: 0,
            position: Position(0),
            is_halted: false,
        })
    })
}

fn spawn(start: Start, disk: &Arc<DiskImage>) -> (Vcpu, Receiver<FromVcpu>) {
    let (vcpu, mut reports) = Vcpu::spawn(start, Some(disk.clone()), build);
    let built = reports.blocking_recv();
    assert!(matches!(built, Some(FromVcpu::Built(_))), "{built:?}");
    (vcpu, reports)
}

/// Everything until the machine stands: entries from number `first` on, and what was said.
fn collect(reports: &mut Receiver<FromVcpu>, first: u64) -> (Vec<Entry>, Vec<u8>, Stop) {
    let (mut entries, mut said): (Vec<Entry>, Vec<u8>) = Default::default();
    let mut say = |output: Output| said.extend(output.bytes);
    loop {
        match reports.blocking_recv().expect("the thread ends aloud") {
            FromVcpu::Report(Report::Records(records)) => {
                for record in records {
                    record.output.into_iter().for_each(&mut say);
                    entries.push(Entry {
                        index: EntryIndex(first + entries.len() as u64),
                        position: record.position,
                        payload: record.payload,
                    });
                }
            }
            FromVcpu::Report(Report::Replayed { outputs, .. }) => {
                outputs.into_iter().for_each(|(_, output)| say(output));
            }
            FromVcpu::Warning(_) => {}
            FromVcpu::Ended(stop) => return (entries, said, stop),
            other => panic!("{other:?}"),
        }
    }
}

fn record(disk: &Arc<DiskImage>) -> (Vec<Entry>, Vec<u8>, Stop) {
    let (vcpu, mut reports) = spawn(Start::Live, disk);
    vcpu.run();
    collect(&mut reports, 1)
}

fn replay(disk: &Arc<DiskImage>, entries: &[Entry], then: Order) -> (Vec<Entry>, Vec<u8>, Stop) {
    let (vcpu, mut reports) = spawn(Start::Replay, disk);
    vcpu.order(Order::Entries(Batch::from(entries)));
    vcpu.order(then);
    collect(&mut reports, entries.len() as u64 + 1)
}

fn done(entries: &[Entry]) -> Vec<(u64, BlockStatus)> {
    let done = |entry: &Entry| match entry.payload {
        Payload::BlockDone { tag, status } => Some((tag, status)),
        _ => None,
    };
    entries.iter().filter_map(done).collect()
}

fn all_done() -> Vec<(u64, BlockStatus)> {
    (1..=8).map(|tag| (tag, BlockStatus::Ok)).collect()
}

#[test]
fn det_1_two_nodes_with_equal_images_have_equal_images_afterwards() {
    let dir = tempfile::tempdir().expect("a directory");
    let ((a, first), (b, second)) = (image(dir.path(), "a"), image(dir.path(), "b"));
    assert_eq!(first.identity().unwrap(), second.identity().unwrap());
    let (entries, said, stop) = record(&first);
    assert!(matches!(stop, Stop::Off(_)), "{stop}");
    assert_eq!(
        String::from_utf8_lossy(&said),
        String::from_utf8_lossy(SAID)
    );
    assert_eq!(done(&entries), all_done());
    let (_, said, stop) = replay(&second, &entries, Order::End);
    assert!(matches!(stop, Stop::EndOfLog | Stop::Off(_)), "{stop}");
    assert_eq!(said, SAID);
    let bytes = fs::read(&a).expect("readable");
    assert_eq!(
        (bytes[3 * 512], bytes[9 * 512], bytes[0]),
        (b'c', b'b', b'@')
    );
    assert!(bytes == fs::read(&b).expect("readable"));
}

/// Replays `entries` as `ftvm replay` does, over the image at `path`; what was said, and the end.
fn replay_offline(path: &Path, entries: &[Entry]) -> (Vec<u8>, Stop) {
    let mut disk = Overlay::new(DiskImage::open(path, true).expect("an image"));
    let mut said = Vec::new();
    let batches = [Batch::from(entries)].into_iter();
    let link = LogLink::new(batches, |_, output: Output| said.extend(output.bytes))
        .with_disk(move |request| disk.serve(request));
    let mut inputs = Inputs::replay(link);
    let stop = run(&mut build().expect("a machine"), &mut inputs);
    drop(inputs);
    (said, stop)
}

/// The log says when requests were done, not what was read: that is in the image as it was at first.
#[test]
fn det_1_a_log_is_replayed_offline_over_the_first_image_and_over_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let (written, disk) = image(dir.path(), "a");
    let (entries, ..) = record(&disk);
    drop(disk);
    let (first, _) = image(dir.path(), "first");
    for _ in 0..2 {
        let (said, stop) = replay_offline(&first, &entries);
        assert!(matches!(stop, Stop::EndOfLog | Stop::Off(_)), "{stop}");
        assert_eq!(said, SAID);
        assert!(
            fs::read(&first)
                .expect("readable")
                .iter()
                .all(|byte| *byte == b'@')
        );
    }
    // Sectors that are read before they are written show another disk at once.
    let mut bytes = fs::read(&written).expect("readable");
    bytes[40 * 512] = b'!';
    fs::write(&written, bytes).expect("written");
    let (_, stop) = replay_offline(&written, &entries);
    assert!(matches!(stop, Stop::Diverged { .. }), "{stop}");

    // With errors among them.
    let (full, said, _) = record(&Arc::new(DiskImage::full(SECTORS)));
    let (again, stop) = replay_offline(&first, &full);
    assert!(matches!(stop, Stop::EndOfLog | Stop::Off(_)), "{stop}");
    assert_eq!(again, said);
}

/// Wherever the log ends: what the disk was asked for is awaited and delivered, and nothing is
/// asked for twice.
#[test]
fn fail_7_requests_under_way_are_delivered_after_going_live() {
    let dir = tempfile::tempdir().expect("a directory");
    let (a, first) = image(dir.path(), "a");
    let (entries, ..) = record(&first);
    let expected = fs::read(&a).expect("readable");
    let is_done = |entry: &Entry| matches!(entry.payload, Payload::BlockDone { .. });
    let mut ends: VecDeque<usize> = (0..entries.len())
        .filter(|at| is_done(&entries[*at]))
        .collect();
    ends.extend([1, entries.len() / 2, entries.len() - 1]);
    for (at, end) in ends.into_iter().enumerate() {
        let (path, disk) = image(dir.path(), &format!("backup-{at}"));
        let (live, said, stop) = replay(&disk, &entries[..end], Order::GoLive);
        assert!(matches!(stop, Stop::Off(_)), "{end}: {stop}");
        let together = [done(&entries[..end]), done(&live)].concat();
        assert_eq!(together, all_done(), "{end}");
        assert_eq!(said, SAID, "{end}");
        assert!(fs::read(&path).expect("readable") == expected, "{end}");
    }
}

/// Cuts an image short behind its node's back, so that most of it cannot be read.
fn damage(path: &Path) {
    let file = File::options().write(true).open(path).expect("opened");
    file.set_len(4 * SECTOR_BYTES).expect("cut");
}

#[test]
fn a_node_whose_disk_fails_where_the_log_says_success_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let (entries, ..) = record(&image(dir.path(), "a").1);
    let (path, disk) = image(dir.path(), "b");
    damage(&path);
    let (_, _, stop) = replay(&disk, &entries, Order::End);
    let Stop::Disk(what) = stop else {
        panic!("{stop}");
    };
    // Writes make the file longer again; sector 40 is beyond all of them.
    assert!(what.contains("request 8"), "{what}");
}

#[test]
fn an_error_of_the_primarys_disk_is_one_to_both_guests() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, disk) = image(dir.path(), "a");
    damage(&path);
    let (entries, said, stop) = record(&disk);
    assert!(matches!(stop, Stop::Off(_)), "{stop}");
    let mut expected = all_done();
    expected[7].1 = BlockStatus::IoError;
    assert_eq!(done(&entries), expected);
    assert_eq!(said, [&SAID[..SAID.len() - 3], b"\x01.\n"].concat());
    // The backup's own disk is whole.
    let (_, again, stop) = replay(&image(dir.path(), "b").1, &entries, Order::End);
    assert!(matches!(stop, Stop::EndOfLog | Stop::Off(_)), "{stop}");
    assert_eq!(again, said);
}

/// DET-1: the backup has room, and could read what the primary could not write.
#[test]
fn det_1_a_primary_whose_disk_is_full_has_the_same_guest_as_its_backup() {
    let dir = tempfile::tempdir().expect("a directory");
    let (entries, said, stop) = record(&Arc::new(DiskImage::full(SECTORS)));
    assert!(matches!(stop, Stop::Off(_)), "{stop}");
    assert!(
        done(&entries)
            .iter()
            .all(|(_, status)| *status == BlockStatus::IoError)
    );
    // A status of 1 after each; what was asked for first was to be written, or read into the guest's
    // own bytes.
    assert_eq!(
        String::from_utf8_lossy(&said),
        "\x01a\n\x01b\n\x01.\n\x01.\n\x01c\n\x01.\n\x01.\n\x01.\n"
    );
    let (_, again, stop) = replay(&image(dir.path(), "b").1, &entries, Order::End);
    assert!(matches!(stop, Stop::EndOfLog | Stop::Off(_)), "{stop}");
    assert_eq!(again, said);
}

/// DET-5: a log of another guest is noticed before the disk is waited for.
#[test]
fn det_5_a_completion_of_a_request_that_was_not_made_is_a_divergence() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut entries, ..) = record(&image(dir.path(), "a").1);
    for entry in &mut entries {
        if let Payload::BlockDone { tag: tag @ 3, .. } = &mut entry.payload {
            *tag = 9;
        }
    }
    let (_, _, stop) = replay(&image(dir.path(), "b").1, &entries, Order::End);
    let Stop::Diverged { what, .. } = stop else {
        panic!("{stop}");
    };
    assert!(what.contains("no request 9"), "{what}");
}
