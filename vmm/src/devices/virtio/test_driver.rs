//! The driver's side of the transport and of a virtqueue, for tests.

use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use super::VirtioDevice;
use super::mmio::VirtioMmio;
use crate::devices::GuestMemory;
use crate::devices::output::Output;

pub(crate) const F_NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub(crate) const F_WRITE: u16 = VRING_DESC_F_WRITE as u16;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;

/// Something with virtio-mmio registers.
pub(crate) trait Registers {
    fn read32(&mut self, offset: u64) -> u32;
    fn write32(&mut self, offset: u64, value: u32, mem: &GuestMemory);
}

/// A device by itself, with the outputs it made.
pub(crate) struct Alone<D> {
    pub(crate) mmio: VirtioMmio<D>,
    pub(crate) outputs: Vec<Output>,
}

impl<D: VirtioDevice> Alone<D> {
    pub(crate) fn new(device: D) -> Self {
        Self {
            mmio: VirtioMmio::new(device),
            outputs: Vec::new(),
        }
    }
}

impl<D: VirtioDevice> Registers for Alone<D> {
    fn read32(&mut self, offset: u64) -> u32 {
        self.mmio.read(offset, 4) as u32
    }

    fn write32(&mut self, offset: u64, value: u32, mem: &GuestMemory) {
        self.mmio
            .write(offset, 4, u64::from(value), mem, &mut self.outputs);
    }
}

/// One queue in guest memory: a page each for descriptors, driver and device area.
pub(crate) struct Ring {
    pub(crate) index: u32,
    pub(crate) size: u16,
    pub(crate) base: u64,
    next: u16,
    used: u16,
}

impl Ring {
    pub(crate) fn new(index: u32, size: u16, base: u64) -> Self {
        Self {
            index,
            size,
            base,
            next: 0,
            used: 0,
        }
    }

    pub(crate) fn descriptors(&self) -> u64 {
        self.base
    }

    pub(crate) fn driver_area(&self) -> u64 {
        self.base + 0x1000
    }

    pub(crate) fn device_area(&self) -> u64 {
        self.base + 0x2000
    }

    pub(crate) fn set_up(&self, device: &mut impl Registers, mem: &GuestMemory) {
        device.write32(0x30, self.index, mem);
        device.write32(0x38, u32::from(self.size), mem);
        for (register, address) in [
            (0x80, self.descriptors()),
            (0x90, self.driver_area()),
            (0xA0, self.device_area()),
        ] {
            device.write32(register, address as u32, mem);
            device.write32(register + 4, (address >> 32) as u32, mem);
        }
        device.write32(0x44, 1, mem);
    }

    pub(crate) fn describe(&self, mem: &GuestMemory, at: u16, fields: (u64, u32, u16, u16)) {
        let (addr, len, flags, next) = fields;
        let at = self.descriptors() + u64::from(at) * 16;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        mem.write_slice(&bytes, GuestAddress(at))
            .expect("descriptor in RAM");
    }

    /// Makes the chain that begins at `head` available.
    pub(crate) fn offer(&mut self, mem: &GuestMemory, head: u16) {
        let slot = self.driver_area() + 4 + u64::from(self.next % self.size) * 2;
        mem.write_obj(head.to_le(), GuestAddress(slot))
            .expect("driver area in RAM");
        self.next = self.next.wrapping_add(1);
        self.set_available(mem, self.next);
    }

    pub(crate) fn set_available(&self, mem: &GuestMemory, index: u16) {
        mem.write_obj(index.to_le(), GuestAddress(self.driver_area() + 2))
            .expect("in RAM");
    }

    pub(crate) fn set_used_event(&self, mem: &GuestMemory, index: u16) {
        let at = self.driver_area() + 4 + u64::from(self.size) * 2;
        mem.write_obj(index.to_le(), GuestAddress(at))
            .expect("in RAM");
    }

    pub(crate) fn avail_event(&self, mem: &GuestMemory) -> u16 {
        let at = self.device_area() + 4 + u64::from(self.size) * 8;
        mem.read_obj(GuestAddress(at)).expect("in RAM")
    }

    /// Descriptor index and length of the buffers returned since the last call.
    pub(crate) fn take_used(&mut self, mem: &GuestMemory) -> Vec<(u32, u32)> {
        let index: u16 = mem
            .read_obj(GuestAddress(self.device_area() + 2))
            .expect("in RAM");
        let mut used = Vec::new();
        while self.used != index {
            let at = self.device_area() + 4 + u64::from(self.used % self.size) * 8;
            let id: u32 = mem.read_obj(GuestAddress(at)).expect("in RAM");
            let len: u32 = mem.read_obj(GuestAddress(at + 4)).expect("in RAM");
            used.push((id, len));
            self.used = self.used.wrapping_add(1);
        }
        used
    }

    pub(crate) fn kick(&self, device: &mut impl Registers, mem: &GuestMemory) {
        device.write32(0x50, self.index, mem);
    }
}

/// Brings a device up to `DRIVER_OK` with `features` and `rings`.
pub(crate) fn start(
    device: &mut impl Registers,
    mem: &GuestMemory,
    features: u64,
    rings: &[&Ring],
) {
    device.write32(0x70, 0, mem);
    device.write32(0x70, 1, mem);
    device.write32(0x70, 3, mem);
    for (sel, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
        device.write32(0x24, sel, mem);
        device.write32(0x20, half, mem);
    }
    device.write32(0x70, 11, mem);
    assert_eq!(device.read32(0x70), 11, "features refused");
    for ring in rings {
        ring.set_up(device, mem);
        assert_eq!(device.read32(0x44), 1, "queue {} refused", ring.index);
    }
    device.write32(0x70, 15, mem);
    assert_eq!(device.read32(0x70), 15);
}
