//! The differentiated system description: devices that cannot be found by asking, in AML (ACPI
//! 6.5, chapters 6, 7 and 20).

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, ONE, Package, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::devices::layout;

/// The length of a table's header (section 5.2.6).
const HEADER_BYTES: u32 = 36;

/// 2: integers have 64 bits.
const REVISION: u8 = 2;

/// What virtio-mmio devices are called (virtio 1.2 names no ACPI id; this is the one that Linux's
/// `virtio_mmio` driver has registered).
const VIRTIO_MMIO: &str = "LNRO0005";

/// The DSDT of a machine with these virtio-mmio slots.
pub(super) fn dsdt(slots: &[u64]) -> Vec<u8> {
    let soft_off = layout::SLP_TYP_S5;
    let mut aml = bytes(&Name::new(
        "_S5_".into(),
        // SLP_TYP for the PM1a and PM1b control blocks, and two that are reserved.
        &Package::new(vec![&soft_off, &soft_off, &0u8, &0u8]),
    ));
    let uart = isa_device("COM1", "PNP0501", (layout::PORT_UART, 8), layout::IRQ_UART);
    let rtc = isa_device("RTC_", "PNP0B00", (layout::PORT_RTC, 2), layout::IRQ_RTC);
    let mut devices = [uart, rtc].concat();
    for slot in slots {
        devices.extend(virtio_device(*slot));
    }
    aml.extend(Scope::raw("_SB_".into(), devices));

    let mut table = Sdt::new(
        *b"DSDT",
        HEADER_BYTES,
        REVISION,
        OEM,
        OEM_TABLE,
        OEM_REVISION,
    );
    table.append_slice(&aml);
    table.as_slice().to_vec()
}

/// A device at ports of the ISA bus, with an edge-triggered interrupt of its own.
fn isa_device(name: &str, id: &str, (port, ports): (u16, u8), irq: u8) -> Vec<u8> {
    bytes(&Device::new(
        name.into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(port, port, 1, ports),
                    &Interrupt::new(true, true, false, false, u32::from(irq)),
                ]),
            ),
        ],
    ))
}

/// A virtio-mmio device: its registers, and a level-triggered interrupt that is active high.
fn virtio_device(slot: u64) -> Vec<u8> {
    let address = u32::try_from(layout::virtio_address(slot)).expect("below 4 GiB");
    let irq = u32::from(layout::virtio_irq(slot));
    let uid = slot as u8;
    let registers = Memory32Fixed::new(true, address, layout::VIRTIO_STRIDE as u32);
    let interrupt = Interrupt::new(true, false, false, false, irq);
    bytes(&Device::new(
        format!("VIO{slot}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &VIRTIO_MMIO) as &dyn Aml,
            &Name::new("_UID".into(), &uid),
            // It reads and writes memory coherently with the CPU's caches.
            &Name::new("_CCA".into(), &ONE),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&registers, &interrupt]),
            ),
        ],
    ))
}
