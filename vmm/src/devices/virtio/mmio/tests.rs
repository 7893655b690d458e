//! The transport against virtio 1.2, sections 2.1, 3.1.1 and 4.2.

use super::super::rng::Rng;
use super::super::test_driver::{Alone, EVENT_IDX, Registers, Ring, VERSION_1, start};
use super::*;
use crate::devices::test_memory::memory;

fn device() -> (Alone<Rng>, GuestMemory) {
    (Alone::new(Rng::new()), memory(0x10_0000))
}

fn offer_features(device: &mut Alone<Rng>, mem: &GuestMemory, features: u64) -> u32 {
    device.write32(0x70, 1, mem);
    device.write32(0x70, 3, mem);
    for (sel, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
        device.write32(0x24, sel, mem);
        device.write32(0x20, half, mem);
    }
    device.write32(0x70, 11, mem);
    device.read32(0x70)
}

#[test]
fn identity() {
    let (mut device, mem) = device();
    for (offset, expected) in [
        (0x00, 0x7472_6976),
        (0x04, 2),
        (0x08, 4),
        (0x0C, 0x4D56_5446),
        (0xFC, 0),
        (0xB0, u32::MAX),
    ] {
        assert_eq!(device.read32(offset), expected, "register {offset:#x}");
    }
    for (sel, expected) in [(0, EVENT_IDX as u32), (1, 1), (2, 0), (u32::MAX, 0)] {
        device.write32(0x14, sel, &mem);
        assert_eq!(device.read32(0x10), expected, "feature word {sel}");
    }
    for (queue, expected) in [(0, 64), (1, 0), (u32::MAX, 0)] {
        device.write32(0x30, queue, &mem);
        assert_eq!(device.read32(0x34), expected, "queue {queue}");
    }
}

#[test]
fn registers_are_32_bits_wide() {
    let (mut device, mem) = device();
    for (offset, size) in [(0x00, 1), (0x00, 2), (0x00, 8), (0x01, 4), (0x02, 4)] {
        assert_eq!(device.mmio.read(offset, size), 0);
    }
    for (offset, size) in [(0x70, 1), (0x70, 2), (0x70, 8), (0x71, 4)] {
        device
            .mmio
            .write(offset, size, 1, &mem, &mut device.outputs);
        assert_eq!(device.read32(0x70), 0);
    }
}

#[test]
fn features_are_a_subset_with_version_1() {
    for (features, accepted) in [
        (VERSION_1, true),
        (VERSION_1 | EVENT_IDX, true),
        (EVENT_IDX, false),
        (0, false),
        (VERSION_1 | 1 << 28, false),
        (VERSION_1 | 1 << 63, false),
    ] {
        let (mut device, mem) = device();
        let status = offer_features(&mut device, &mem, features);
        assert_eq!(status == 11, accepted, "{features:#x}");
        // Refused, the driver may try others; accepted, they stay.
        device.write32(0x24, 1, &mem);
        device.write32(0x20, 1, &mem);
        device.write32(0x24, 0, &mem);
        device.write32(0x20, 0, &mem);
        device.write32(0x70, 11, &mem);
        assert_eq!(
            device.mmio.driver_features,
            if accepted { features } else { VERSION_1 }
        );
    }
}

#[test]
fn status_goes_step_by_step_and_back_only_to_0() {
    for (writes, expected) in [
        (vec![1], 1),
        (vec![2], 0),
        (vec![3], 3),
        (vec![4], 0),
        (vec![15], 3), // the features are not acceptable
        (vec![1, 3, 1], 3),
        (vec![1, 3, 0], 0),
        (vec![1, 0x81], 0x81),
        (vec![1, 0x81, 0x83], 0x81), // failed: only a reset helps
        (vec![1, 0x41], 1),          // DEVICE_NEEDS_RESET is the device's to set
        (vec![1, 0x103], 1),
    ] {
        let (mut device, mem) = device();
        for value in &writes {
            device.write32(0x70, *value, &mem);
        }
        assert_eq!(device.read32(0x70), expected, "{writes:?}");
        assert!(device.mmio.check().is_ok());
    }
}

#[test]
fn queues_are_set_up_between_features_ok_and_driver_ok() {
    let (mut device, mem) = device();
    let ring = Ring::new(0, 8, 0x4000);
    ring.set_up(&mut device, &mem);
    assert_eq!(device.read32(0x44), 0, "before FEATURES_OK");
    assert_eq!(offer_features(&mut device, &mem, VERSION_1), 11);
    ring.set_up(&mut device, &mem);
    assert_eq!(device.read32(0x44), 1);
    let before = device.mmio.queues.clone();
    Ring::new(0, 16, 0x8000).set_up(&mut device, &mem);
    assert_eq!(
        device.mmio.queues, before,
        "an enabled queue does not change"
    );
    device.write32(0x44, 0, &mem);
    assert_eq!(device.read32(0x44), 0);
    device.write32(0x70, 15, &mem);
    ring.set_up(&mut device, &mem);
    assert_eq!(device.read32(0x44), 0, "after DRIVER_OK");
    for (register, value) in [(0x14, 1), (0x24, 1), (0x30, 1)] {
        device.write32(register, value, &mem);
    }
    device.mmio.interrupt_status = 3;
    device.write32(0x70, 0, &mem);
    assert_eq!(
        device.mmio,
        VirtioMmio::new(Rng::new()),
        "a reset leaves nothing behind"
    );
}

#[test]
fn sizes_that_a_queue_cannot_have_are_ignored() {
    for (size, expected) in [
        (8, 8),
        (64, 64),
        (0, 64),
        (7, 64),
        (128, 64),
        (0x1_0008, 64),
    ] {
        let (mut device, mem) = device();
        offer_features(&mut device, &mem, VERSION_1);
        device.write32(0x38, size, &mem);
        let mut queue = Virtqueue::new(64);
        queue.set_size(expected);
        assert_eq!(device.mmio.queues[0], queue, "{size}");
    }
}

#[test]
fn rings_that_make_no_sense_break_the_device() {
    for (register, address) in [
        (0x80, 0x4008),           // descriptors: 16 bytes
        (0x90, 0x5001),           // driver area: 2 bytes
        (0xA0, 0x6002),           // device area: 4 bytes
        (0x80, 0x10_0000),        // the end of RAM
        (0x90, 0xF_FFFE),         // across the end of RAM
        (0xA0, 0xFFFF_FFFF_FFFC), // far out
        (0x80, u64::MAX - 15),
    ] {
        let (mut device, mem) = device();
        offer_features(&mut device, &mem, VERSION_1);
        let ring = Ring::new(0, 8, 0x4000);
        ring.set_up(&mut device, &mem);
        device.write32(0x44, 0, &mem);
        device.write32(register, address as u32, &mem);
        device.write32(register + 4, (address >> 32) as u32, &mem);
        device.write32(0x44, 1, &mem);
        assert_eq!(device.read32(0x44), 0, "{register:#x} at {address:#x}");
        assert_eq!(device.read32(0x70), 11 | 0x40);
        assert!(
            !device.mmio.line(),
            "before DRIVER_OK the driver is told nothing"
        );
        assert!(device.mmio.check().is_ok());
        start(&mut device, &mem, VERSION_1, &[&ring]);
    }
}

#[test]
fn a_broken_device_says_so_and_waits_for_a_reset() {
    let (mut device, mem) = device();
    let mut ring = Ring::new(0, 8, 0x4000);
    start(&mut device, &mem, VERSION_1, &[&ring]);
    ring.offer(&mem, 99);
    ring.kick(&mut device, &mem);
    assert_eq!(device.read32(0x70), 15 | 0x40);
    assert_eq!(device.read32(0x60), VIRTIO_MMIO_INT_CONFIG);
    assert!(device.mmio.line());
    device.write32(0x64, VIRTIO_MMIO_INT_CONFIG, &mem);
    assert!(!device.mmio.line());
    ring.kick(&mut device, &mem);
    assert!(!device.mmio.line(), "a broken device does nothing more");
    let ring = Ring::new(0, 8, 0x8000);
    start(&mut device, &mem, VERSION_1, &[&ring]);
}

#[test]
fn notifications_that_nobody_waits_for_are_ignored() {
    let (mut device, mem) = device();
    let mut ring = Ring::new(0, 8, 0x4000);
    offer_features(&mut device, &mem, VERSION_1);
    ring.set_up(&mut device, &mem);
    ring.offer(&mem, 99);
    ring.kick(&mut device, &mem); // before DRIVER_OK
    for queue in [1, 0xFFFF, u32::MAX] {
        device.write32(0x50, queue, &mem);
    }
    assert_eq!(device.read32(0x70), 11);
}

#[test]
fn interrupt_status_is_cleared_by_acknowledging() {
    let (mut device, _mem) = device();
    let mem = memory(0x1000);
    device.mmio.interrupt_status = 3;
    device.write32(0x64, 1, &mem);
    assert_eq!(device.read32(0x60), 2);
    assert!(device.mmio.line());
    device.write32(0x64, 0xFF, &mem);
    assert!(!device.mmio.line());
}

#[test]
fn damaged_states_are_refused() {
    type Damage = fn(&mut VirtioMmio<Rng>);
    let damages: [Damage; 6] = [
        |mmio| mmio.status = 2,
        |mmio| mmio.status = 7,
        |mmio| mmio.status = 11, // no features
        |mmio| mmio.queues.clear(),
        |mmio| mmio.queues[0] = Virtqueue::new(128),
        |mmio| mmio.interrupt_status = 4,
    ];
    for damage in damages {
        let (mut device, _) = device();
        assert!(device.mmio.check().is_ok());
        damage(&mut device.mmio);
        assert!(device.mmio.check().is_err());
    }
}
