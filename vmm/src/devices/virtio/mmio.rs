//! The virtio-mmio transport (virtio 1.2, section 4.2), version 2 only.
//!
//! ```text
//!   0 ──ACKNOWLEDGE──► 1 ──DRIVER──► 3 ──FEATURES_OK──► 11 ──DRIVER_OK──► 15
//!   ▲     features are written ──────┘     queues are set up ┘  │  buffers move
//!   └──────────────── write 0: reset ◄──────────────────────────┘
//! ```
//!
//! A status write that clears a bit, or that jumps ahead in this order, is ignored;
//! so is a write to a register whose time is not now. A ring that makes no sense
//! sets `DEVICE_NEEDS_RESET`: the device does nothing more until the driver resets
//! it.
//!
//! Registers answer to aligned 32-bit accesses, configuration space to any size.

use serde::{Deserialize, Serialize};
use virtio_bindings::bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
    VIRTIO_F_VERSION_1,
};
use virtio_bindings::bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING,
    VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_MAGIC_VALUE,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NOTIFY, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL,
    VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_SHM_BASE_HIGH,
    VIRTIO_MMIO_SHM_BASE_LOW, VIRTIO_MMIO_SHM_LEN_HIGH, VIRTIO_MMIO_SHM_LEN_LOW,
    VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};

use super::queue::{Broken, Virtqueue};
use super::{Signal, VirtioDevice};
use crate::devices::GuestMemory;
use crate::devices::output::Output;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"FTVM");
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;

const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;
/// The order in which a driver sets them, each after all before it.
const STEPS: [u8; 4] = [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK];

const VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;

/// A device of type `D` in its register block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VirtioMmio<D> {
    device: D,
    queues: Vec<Virtqueue>,
    /// What the driver wrote; `DEVICE_NEEDS_RESET` follows from `broken`.
    status: u8,
    broken: Option<Broken>,
    driver_features: u64,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    interrupt_status: u32,
}

impl<D: VirtioDevice> VirtioMmio<D> {
    pub(crate) fn new(device: D) -> Self {
        Self {
            device,
            queues: (0..D::QUEUES)
                .map(|_| Virtqueue::new(D::QUEUE_SIZE))
                .collect(),
            status: 0,
            broken: None,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            interrupt_status: 0,
        }
    }

    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    pub(crate) fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// The interrupt line, a level.
    pub(crate) fn line(&self) -> bool {
        self.interrupt_status != 0
    }

    fn features(&self) -> u64 {
        self.device.features() | VERSION_1 | EVENT_IDX
    }

    fn has(&self, step: u8) -> bool {
        self.status & step != 0
    }

    /// May buffers move?
    fn is_live(&self) -> bool {
        self.has(DRIVER_OK) && self.broken.is_none()
    }

    /// A queue whose buffers may move.
    pub(crate) fn live_queue(&self, index: usize) -> Option<&Virtqueue> {
        self.queues
            .get(index)
            .filter(|queue| self.is_live() && queue.ready())
    }

    /// Lets `act` move buffers of queue `index`, if they may move, and tells the
    /// driver what came of it.
    pub(crate) fn act<T>(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut D, &mut [Virtqueue]) -> Result<(T, Signal), Broken>,
    ) -> Option<T> {
        self.live_queue(index)?;
        match act(&mut self.device, &mut self.queues) {
            Ok((value, signal)) => {
                if signal == Signal::UsedBuffers {
                    self.interrupt_status |= VIRTIO_MMIO_INT_VRING;
                }
                Some(value)
            }
            Err(broken) => {
                self.break_down(broken);
                None
            }
        }
    }

    /// Section 2.1.2: the driver is told by a configuration change interrupt.
    fn break_down(&mut self, broken: Broken) {
        self.broken = Some(broken);
        if self.has(DRIVER_OK) {
            self.interrupt_status |= VIRTIO_MMIO_INT_CONFIG;
        }
    }

    /// Reads `size` bytes at `offset` of the slot.
    pub(crate) fn read(&self, offset: u64, size: u8) -> u64 {
        if offset >= CONFIG {
            return (0..u64::from(size)).rev().fold(0, |value, at| {
                value << 8 | u64::from(self.device.config_byte(offset - CONFIG + at))
            });
        }
        if size != 4 || !offset.is_multiple_of(4) {
            return 0;
        }
        u64::from(self.read_register(offset as u32))
    }

    fn read_register(&self, offset: u32) -> u32 {
        let queue = self.queues.get(self.queue_sel as usize);
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => D::DEVICE_ID,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.features(), self.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |queue| u32::from(queue.max_size())),
            VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |queue| u32::from(queue.ready())),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            VIRTIO_MMIO_STATUS => {
                let needs_reset = if self.broken.is_some() {
                    NEEDS_RESET
                } else {
                    0
                };
                u32::from(self.status | needs_reset)
            }
            // No shared memory regions: their length reads -1 (section 4.2.2).
            VIRTIO_MMIO_SHM_LEN_LOW
            | VIRTIO_MMIO_SHM_LEN_HIGH
            | VIRTIO_MMIO_SHM_BASE_LOW
            | VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // Configuration space never changes.
            VIRTIO_MMIO_CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    /// Writes `size` bytes at `offset` of the slot. Configuration space is read-only.
    pub(crate) fn write(
        &mut self,
        offset: u64,
        size: u8,
        value: u64,
        mem: &GuestMemory,
        outputs: &mut Vec<Output>,
    ) {
        if offset >= CONFIG || size != 4 || !offset.is_multiple_of(4) {
            return;
        }
        let value = value as u32;
        match offset as u32 {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => {
                if self.has(DRIVER) && !self.has(FEATURES_OK) {
                    set_half(&mut self.driver_features, self.driver_features_sel, value);
                }
            }
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value, mem, outputs),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            VIRTIO_MMIO_STATUS => self.write_status(value),
            register => self.write_queue_register(register, value, mem),
        }
    }

    fn notify(&mut self, queue: u32, mem: &GuestMemory, outputs: &mut Vec<Output>) {
        let queue = queue as usize;
        self.act(queue, |device, queues| {
            device
                .notify(queue, queues, mem, outputs)
                .map(|signal| ((), signal))
        });
    }

    /// Section 2.1: bits are set one after the other; only 0 clears.
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let Ok(value) = u8::try_from(value) else {
            return;
        };
        let value = value & !NEEDS_RESET;
        if self.status & !value != 0 {
            return;
        }
        for (at, step) in STEPS.into_iter().enumerate() {
            let before = STEPS[..at].iter().all(|step| self.has(*step));
            if value & step == 0 || !before || self.has(FAILED) {
                break;
            }
            if step == FEATURES_OK && !self.features_acceptable() {
                break;
            }
            self.status |= step;
        }
        self.status |= value & FAILED;
    }

    /// A driver takes a subset of what is offered, and is no legacy driver.
    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.features() == 0 && self.driver_features & VERSION_1 != 0
    }

    fn reset(&mut self) {
        self.device.reset();
        for queue in &mut self.queues {
            queue.reset();
        }
        self.status = 0;
        self.broken = None;
        self.driver_features = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        self.interrupt_status = 0;
    }

    /// Queues are set up between `FEATURES_OK` and `DRIVER_OK`, and not changed
    /// while enabled. Any other write has no effect, except that a queue can be
    /// disabled at all times.
    fn write_queue_register(&mut self, register: u32, value: u32, mem: &GuestMemory) {
        let setting_up = self.status & (FEATURES_OK | DRIVER_OK | FAILED) == FEATURES_OK
            && self.broken.is_none();
        let event_idx = self.driver_features & EVENT_IDX != 0;
        let Some(queue) = self.queues.get_mut(self.queue_sel as usize) else {
            return;
        };
        if register == VIRTIO_MMIO_QUEUE_READY && value == 0 {
            return queue.disable();
        }
        if !setting_up || queue.ready() {
            return;
        }
        let registers = queue.registers();
        match register {
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(value),
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut registers.descriptors, 0, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut registers.descriptors, 1, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut registers.driver, 0, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut registers.driver, 1, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut registers.device, 0, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut registers.device, 1, value),
            VIRTIO_MMIO_QUEUE_READY if value == 1 => {
                if let Err(broken) = queue.enable(event_idx, mem) {
                    self.break_down(broken);
                }
            }
            _ => {}
        }
    }

    /// Checks a restored value (SEC-2).
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        const REACHED: [u8; 5] = [
            0,
            ACKNOWLEDGE,
            ACKNOWLEDGE | DRIVER,
            ACKNOWLEDGE | DRIVER | FEATURES_OK,
            ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK,
        ];
        if !REACHED.contains(&(self.status & !FAILED)) {
            return Err("its status cannot be reached");
        }
        if self.has(FEATURES_OK) && !self.features_acceptable() {
            return Err("its features were not offered");
        }
        if self.queues.len() != D::QUEUES
            || self
                .queues
                .iter()
                .any(|queue| queue.max_size() != D::QUEUE_SIZE)
        {
            return Err("its queues are not those of its device type");
        }
        if self.interrupt_status & !(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG) != 0 {
            return Err("its interrupt status has unknown bits");
        }
        Ok(())
    }
}

/// The 32 bits of `value` that selector `sel` shows; beyond 64 bits there are none.
fn half(value: u64, sel: u32) -> u32 {
    match sel {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, sel: u32, half: u32) {
    match sel {
        0 => *value = *value & !0xFFFF_FFFF | u64::from(half),
        1 => *value = *value & 0xFFFF_FFFF | u64::from(half) << 32,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
