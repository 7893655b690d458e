//! The ACPI tables: how Linux learns what the machine has (ACPI 6.5, chapter 5).
//!
//! ```text
//!   RSDP ──► XSDT ──► FADT ──► DSDT (AML)
//!                       └────► FACS
//! ```
//!
//! They lie where a BIOS has them, between 0xE0000 and 1 MiB, so that a kernel finds the RSDP by
//! searching even if its boot protocol cannot say where it is. The machine has the fixed hardware
//! of the specification without SMI: it is in ACPI mode from the start and cannot leave it. There
//! is no MADT, since there is neither a local APIC nor an I/O APIC: interrupts are the 8259s'.
//! Ports, addresses and interrupts are those of [`layout`].

mod dsdt;

use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};

use crate::devices::layout;

/// Where the RSDP is: on a multiple of 16 (ACPI 6.5, section 5.2.5.1).
pub(super) const RSDP: u64 = 0xE_0000;

/// The end of what tables may fill.
const END: u64 = 0x10_0000;

const OEM: [u8; 6] = *b"FTVM  ";
const OEM_TABLE: [u8; 8] = *b"FTVM    ";
const OEM_REVISION: u32 = 1;

/// Tables begin on multiples of this, which is what the FACS wants (section 5.2.10).
const ALIGNMENT: u64 = 64;

/// Values that say: there is no such power state (section 5.2.9).
const NO_C2_US: u16 = 101;
const NO_C3_US: u16 = 1001;

/// `IAPC_BOOT_ARCH`: there are devices on the ISA bus, and no VGA. No bit for an 8042, since there
/// is none.
const LEGACY_DEVICES: u16 = 1 << 0;
const NO_VGA: u16 = 1 << 2;

/// Where the century stands in CMOS RAM.
const RTC_CENTURY: u8 = 0x32;

/// The tables as they lie from [`RSDP`] on, for a machine with these virtio-mmio slots.
pub(super) fn tables(slots: &[u64]) -> Vec<u8> {
    let mut memory = Memory::default();
    let rsdp_room = memory.place(&vec![0; Rsdp::len()]);
    assert_eq!(rsdp_room, RSDP);
    let facs = memory.place(&bytes(&FACS::new()));
    let dsdt = memory.place(&dsdt::dsdt(slots));
    let fadt = memory.place(&bytes(&fadt(facs, dsdt)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    let xsdt = memory.place(&bytes(&xsdt));
    let rsdp = bytes(&Rsdp::new(OEM, xsdt));
    memory.0[..rsdp.len()].copy_from_slice(&rsdp);
    memory.0
}

fn fadt(facs: u64, dsdt: u64) -> impl Aml {
    let port = |port: u16| u32::from(port).into();
    let block = |port: u16, bits: u8, size| {
        GAS::new(AddressSpace::SystemIo, bits, 0, size, u64::from(port))
    };
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // Set means: not as fixed hardware. The power button is.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup);
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = u16::from(layout::IRQ_SCI).into();
    fadt.pm1a_evt_blk = port(layout::PORT_PM1_EVENT);
    fadt.pm1a_cnt_blk = port(layout::PORT_PM1_CONTROL);
    fadt.pm_tmr_blk = port(layout::PORT_PM_TIMER);
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.pm_tmr_len = 4;
    fadt.x_pm1a_evt_blk = block(layout::PORT_PM1_EVENT, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = block(layout::PORT_PM1_CONTROL, 16, AccessSize::WordAccess);
    fadt.x_pm_tmr_blk = block(layout::PORT_PM_TIMER, 32, AccessSize::DwordAccess);
    fadt.p_lvl2_lat = NO_C2_US.into();
    fadt.p_lvl3_lat = NO_C3_US.into();
    fadt.century = RTC_CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA).into();
    fadt.reset_reg = block(layout::PORT_RESET, 8, AccessSize::ByteAccess);
    fadt.reset_value = layout::RESET_VALUE;
    fadt.finalize()
}

/// Bytes from [`RSDP`] on.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Memory {
    /// Puts a table behind the others and returns its address.
    fn place(&mut self, table: &[u8]) -> u64 {
        let at = (self.0.len() as u64).next_multiple_of(ALIGNMENT);
        self.0.resize(at as usize, 0);
        self.0.extend_from_slice(table);
        assert!(
            RSDP + self.0.len() as u64 <= END,
            "the tables of a few devices fit below 1 MiB"
        );
        RSDP + at
    }
}

/// What a table or object writes.
fn bytes(table: &dyn Aml) -> Vec<u8> {
    struct Sink(Vec<u8>);
    impl AmlSink for Sink {
        fn byte(&mut self, byte: u8) {
            self.0.push(byte);
        }
    }
    let mut sink = Sink(Vec::new());
    table.to_aml_bytes(&mut sink);
    sink.0
}

#[cfg(test)]
mod tests;
