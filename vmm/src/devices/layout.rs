//! Where everything is: ports, interrupts, addresses. One table for the
//! devices, the ACPI tables and the boot code.
//!
//! | ports | device | interrupt |
//! | --- | --- | --- |
//! | `0x020` `0x021` | 8259A master | |
//! | `0x040`–`0x043` | 8254 timer | 0, edge |
//! | `0x060` `0x064` | no keyboard controller: all ones; `0xFE` to `0x64` resets | |
//! | `0x061` | timer channel 2 gate and output, refresh toggle | |
//! | `0x070` `0x071` | RTC and CMOS RAM | 8, edge |
//! | `0x080` | POST codes: writes vanish | |
//! | `0x092` | reads A20 enabled, writes vanish | |
//! | `0x0A0` `0x0A1` | 8259A slave, on the master's input 2 | |
//! | `0x3F8`–`0x3FF` | 16550A UART | 4, edge |
//! | `0x4D0` `0x4D1` | ELCR of the 8259 pair | |
//! | `0x600`–`0x603` | ACPI PM1a event block | 9, level |
//! | `0x604` `0x605` | ACPI PM1a control block | |
//! | `0x608`–`0x60B` | ACPI PM timer, 24 bits | 9, level |
//! | `0xCF8`–`0xCFF` | no PCI: all ones | |
//! | `0xCF9` (one byte) | reset control register | |
//!
//! | addresses | device | interrupt |
//! | --- | --- | --- |
//! | `0xFEB0_0000` + `0x200` × slot | virtio-mmio | 5 + slot, level |
//!
//! | slot | device |
//! | --- | --- |
//! | 0 | net |
//! | 1 | rng |
//! | 2 | block; without a disk it reads all ones |
//!
//! Every other port and address reads all ones and swallows writes.
//!
//! The FADT must say: `PM_TMR_LEN` 4 with `TMR_VAL_EXT` clear (the counter has
//! 24 bits), `PM1_EVT_LEN` 4, `PM1_CNT_LEN` 2, `SCI_INT` 9, `SMI_CMD` 0 (there
//! is no way out of ACPI mode), `FIX_RTC` set (the RTC alarm is no fixed event),
//! `SLP_BUTTON` set (there is none), `RESET_REG` [`PORT_RESET`] with
//! `RESET_VALUE` [`RESET_VALUE`], no 8042 in `IAPC_BOOT_ARCH`; `_S5` is
//! [`SLP_TYP_S5`].

/// Master 8259A: command and data port.
pub const PORT_PIC_MASTER: u16 = 0x20;
/// First port of the 8254; channels 0 to 2, then the control word.
pub const PORT_PIT: u16 = 0x40;
/// System control port B: gate and output of timer channel 2.
pub const PORT_SYSTEM_B: u16 = 0x61;
/// Command port of the absent keyboard controller; still takes its reset pulse.
pub const PORT_KEYBOARD_COMMAND: u16 = 0x64;
/// Index port of the RTC; its data port follows.
pub const PORT_RTC: u16 = 0x70;
/// POST code sink.
pub const PORT_POST: u16 = 0x80;
/// System control port A (A20 gate).
pub const PORT_SYSTEM_A: u16 = 0x92;
/// Slave 8259A: command and data port.
pub const PORT_PIC_SLAVE: u16 = 0xA0;
/// First of the UART's eight ports.
pub const PORT_UART: u16 = 0x3F8;
/// ELCR of the master; the slave's follows.
pub const PORT_ELCR: u16 = 0x4D0;
/// ACPI PM1a event block: status, then enable, 16 bits each.
pub const PORT_PM1_EVENT: u16 = 0x600;
/// ACPI PM1a control block, 16 bits.
pub const PORT_PM1_CONTROL: u16 = 0x604;
/// ACPI PM timer, 32-bit register of a 24-bit counter.
pub const PORT_PM_TIMER: u16 = 0x608;
/// Reset control register; only as a single byte, since `0xCF8` is PCI's.
pub const PORT_RESET: u16 = 0xCF9;

/// What the ACPI reset register wants to be written.
pub const RESET_VALUE: u8 = 0x06;
/// `SLP_TYP` of S5, soft off.
pub const SLP_TYP_S5: u8 = 5;

/// Timer channel 0.
pub const IRQ_PIT: u8 = 0;
/// The slave 8259A.
pub const IRQ_CASCADE: u8 = 2;
/// COM1.
pub const IRQ_UART: u8 = 4;
/// RTC periodic, alarm and update-ended interrupts.
pub const IRQ_RTC: u8 = 8;
/// ACPI's system control interrupt.
pub const IRQ_SCI: u8 = 9;

/// First address of the virtio-mmio slots.
pub const VIRTIO_BASE: u64 = 0xFEB0_0000;
/// Distance of two slots and size of each: registers, then configuration space.
pub const VIRTIO_STRIDE: u64 = 0x200;
/// How many slots the machine has.
pub const VIRTIO_SLOTS: u64 = 3;
/// Slot of the network device.
pub const SLOT_NET: u64 = 0;
/// Slot of the entropy device.
pub const SLOT_RNG: u64 = 1;
/// Slot of the block device, if the machine has a disk.
pub const SLOT_BLOCK: u64 = 2;

/// RAM below 4 GiB ends here at the latest; what is more lies from 4 GiB on.
pub const LOW_RAM_END: u64 = 0xC000_0000;
/// Where RAM goes on above the hole for memory-mapped devices.
pub const HIGH_RAM_START: u64 = 1 << 32;

/// First address of a virtio-mmio slot.
pub const fn virtio_address(slot: u64) -> u64 {
    VIRTIO_BASE + slot * VIRTIO_STRIDE
}

/// Interrupt of a virtio-mmio slot.
pub const fn virtio_irq(slot: u64) -> u8 {
    5 + slot as u8
}
