//! The virtio-mmio transport (virtio 1.2, section 4.2), version 2.

use super::queue::{Direction, Queue};
use crate::mmio::Registers;

/// Slot *i* has its registers at `FIRST_SLOT` + *i* × 0x200 and interrupts on
/// line `FIRST_LINE` + *i*. The layout is QEMU's `microvm`'s.
pub(crate) const FIRST_SLOT: usize = 0xFEB0_0000;
pub(crate) const FIRST_LINE: u32 = 5;
/// The slots whose lines the nucleus serves.
const SLOTS: usize = 2;
const SLOT_BYTES: usize = 0x200;

mod register {
    pub(super) const MAGIC: usize = 0x00;
    pub(super) const VERSION: usize = 0x04;
    pub(super) const DEVICE_ID: usize = 0x08;
    pub(super) const DEVICE_FEATURES: usize = 0x10;
    pub(super) const DEVICE_FEATURES_SELECT: usize = 0x14;
    pub(super) const DRIVER_FEATURES: usize = 0x20;
    pub(super) const DRIVER_FEATURES_SELECT: usize = 0x24;
    pub(super) const QUEUE_SELECT: usize = 0x30;
    pub(super) const QUEUE_SIZE_MAX: usize = 0x34;
    pub(super) const QUEUE_SIZE: usize = 0x38;
    pub(super) const QUEUE_READY: usize = 0x44;
    pub(super) const QUEUE_NOTIFY: usize = 0x50;
    pub(super) const STATUS: usize = 0x70;
    pub(super) const QUEUE_DESCRIPTORS: usize = 0x80;
    pub(super) const QUEUE_DRIVER: usize = 0x90;
    pub(super) const QUEUE_DEVICE: usize = 0xA0;
    pub(super) const CONFIGURATION: usize = 0x100;
}

mod status {
    pub(super) const ACKNOWLEDGE: u32 = 1;
    pub(super) const DRIVER: u32 = 2;
    pub(super) const DRIVER_OK: u32 = 4;
    pub(super) const FEATURES_OK: u32 = 8;
}

/// The driver asks for no more interrupts or notifications than it names.
const FEATURE_EVENT_INDEX: u64 = 1 << 29;
/// No legacy interface.
const FEATURE_VERSION_1: u64 = 1 << 32;

/// Device types, as in the DeviceID register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DeviceType {
    /// A network card.
    Net = 1,
    /// A source of entropy.
    Entropy = 4,
}

/// One device, found and reset, its features agreed on.
pub struct Transport {
    registers: Registers,
    line: u8,
    features: u64,
}

impl Transport {
    /// Finds the first device of a type and agrees with it on `wanted` features
    /// as far as it offers them.
    ///
    /// Each device must be opened once at most.
    pub(crate) fn open(wanted_type: DeviceType, wanted: u64) -> Option<Self> {
        const MAGIC: u32 = u32::from_le_bytes(*b"virt");
        (0..SLOTS).find_map(|slot| {
            // SAFETY: on this machine the slots' addresses are device registers or nothing.
            let registers = unsafe { Registers::at(FIRST_SLOT + slot * SLOT_BYTES) };
            let here = registers.read(register::MAGIC) == MAGIC
                && registers.read(register::VERSION) == 2
                && registers.read(register::DEVICE_ID) == wanted_type as u32;
            here.then(|| Self::negotiate(registers, FIRST_LINE as u8 + slot as u8, wanted))
        })
    }

    /// Section 3.1.1, up to where the queues are set up.
    fn negotiate(registers: Registers, line: u8, wanted: u64) -> Self {
        registers.write(register::STATUS, 0);
        registers.write(register::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        let half = |select| {
            registers.write(register::DEVICE_FEATURES_SELECT, select);
            u64::from(registers.read(register::DEVICE_FEATURES))
        };
        let offered = half(0) | half(1) << 32;
        let features = offered & (wanted | FEATURE_EVENT_INDEX | FEATURE_VERSION_1);
        for select in 0..2 {
            registers.write(register::DRIVER_FEATURES_SELECT, select);
            registers.write(
                register::DRIVER_FEATURES,
                (features >> (32 * select)) as u32,
            );
        }
        let agreed = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        registers.write(register::STATUS, agreed);
        assert!(
            features & FEATURE_VERSION_1 != 0
                && registers.read(register::STATUS) & status::FEATURES_OK != 0,
            "a virtio device does not speak virtio 1"
        );
        Transport {
            registers,
            line,
            features,
        }
    }

    /// The features agreed on.
    pub(crate) fn features(&self) -> u64 {
        self.features
    }

    /// The device's interrupt line.
    pub(crate) fn line(&self) -> u8 {
        self.line
    }

    /// Where queues of this device are notified: write a queue's number here.
    pub(crate) fn notify_register(&self) -> usize {
        self.registers.address(register::QUEUE_NOTIFY)
    }

    /// Notifies a queue, by an access from ring 3. `nucleus::wait` is cheaper.
    pub(crate) fn notify(&self, queue: u32) {
        self.registers.write(register::QUEUE_NOTIFY, queue);
    }

    /// A byte of the device's configuration.
    pub(crate) fn configuration(&self, offset: usize) -> u8 {
        self.registers.read_byte(register::CONFIGURATION + offset)
    }

    /// Sets up a queue of up to `size` buffers of `buffer_bytes` each.
    pub(crate) fn queue(
        &self,
        index: u32,
        size: u16,
        buffer_bytes: usize,
        direction: Direction,
    ) -> Queue {
        let registers = self.registers;
        registers.write(register::QUEUE_SELECT, index);
        let most = registers.read(register::QUEUE_SIZE_MAX);
        assert!(most > 0, "a virtio device lacks queue {index}");
        // A power of two, as both are.
        let size = size.min(u16::try_from(most).unwrap_or(u16::MAX));
        let event_index = self.features & FEATURE_EVENT_INDEX != 0;
        let queue = Queue::new(size, buffer_bytes, direction, event_index);
        registers.write(register::QUEUE_SIZE, u32::from(size));
        let [descriptors, driver, device] = queue.addresses();
        for (offset, address) in [
            (register::QUEUE_DESCRIPTORS, descriptors),
            (register::QUEUE_DRIVER, driver),
            (register::QUEUE_DEVICE, device),
        ] {
            registers.write(offset, address as u32);
            registers.write(offset + 4, (address >> 32) as u32);
        }
        registers.write(register::QUEUE_READY, 1);
        queue
    }

    /// Lets the device begin.
    pub(crate) fn start(&self) {
        let all = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        self.registers.write(register::STATUS, all);
    }
}
