//! The tables as an operating system reads them, and as ACPICA's disassembler does.

use std::process::Command;

use super::*;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + N]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The table at an address, by the length in its header.
fn table(memory: &[u8], address: u64) -> &[u8] {
    let at = (address - RSDP) as usize;
    let len = number::<4>(memory, at + 4) as usize;
    &memory[at..at + len]
}

const ALL: [u64; 3] = [layout::SLOT_NET, layout::SLOT_RNG, layout::SLOT_BLOCK];

#[test]
fn the_rsdp_leads_to_every_table_and_all_sums_are_zero() {
    let memory = tables(&ALL);
    assert_eq!(&memory[..8], b"RSD PTR ");
    assert_eq!((sum(&memory[..20]), sum(&memory[..36])), (0, 0));
    assert_eq!(memory[15], 2, "revision");
    let xsdt = table(&memory, number::<8>(&memory, 24));
    assert_eq!((&xsdt[..4], sum(xsdt), xsdt.len()), (&b"XSDT"[..], 0, 44));
    let fadt = table(&memory, number::<8>(xsdt, 36));
    assert_eq!((&fadt[..4], sum(fadt), fadt.len()), (&b"FACP"[..], 0, 276));
    let facs = number::<4>(fadt, 36);
    assert!(facs.is_multiple_of(64));
    assert_eq!(&table(&memory, facs)[..4], b"FACS");
    assert_eq!(number::<4>(fadt, 40), number::<8>(fadt, 140));
    let dsdt = table(&memory, number::<8>(fadt, 140));
    assert_eq!((&dsdt[..4], sum(dsdt), dsdt[8]), (&b"DSDT"[..], 0, 2));
}

/// What `layout` promises, field by field (ACPI 6.5, table 5.9).
#[test]
fn the_fadt_describes_the_fixed_hardware() {
    let memory = tables(&ALL);
    let xsdt = table(&memory, number::<8>(&memory, 24));
    let fadt = table(&memory, number::<8>(xsdt, 36));
    for (field, found, expected) in [
        ("SCI_INT", number::<2>(fadt, 46), 9),
        ("SMI_CMD", number::<4>(fadt, 48), 0),
        ("ACPI_ENABLE, ACPI_DISABLE", number::<2>(fadt, 52), 0),
        ("PM1a_EVT_BLK", number::<4>(fadt, 56), 0x600),
        ("PM1b_EVT_BLK", number::<4>(fadt, 60), 0),
        ("PM1a_CNT_BLK", number::<4>(fadt, 64), 0x604),
        ("PM_TMR_BLK", number::<4>(fadt, 76), 0x608),
        ("GPE0_BLK", number::<4>(fadt, 80), 0),
        ("PM1_EVT_LEN", number::<1>(fadt, 88), 4),
        ("PM1_CNT_LEN", number::<1>(fadt, 89), 2),
        ("PM_TMR_LEN", number::<1>(fadt, 91), 4),
        ("P_LVL2_LAT", number::<2>(fadt, 96), 101),
        ("P_LVL3_LAT", number::<2>(fadt, 98), 1001),
        ("CENTURY", number::<1>(fadt, 108), 0x32),
        ("IAPC_BOOT_ARCH", number::<2>(fadt, 109), 0b101),
        (
            // WBINVD, PROC_C1, no sleep button, no fixed RTC event, RESET_REG; a power button,
            // 24 bits of timer, and not hardware-reduced.
            "Flags",
            number::<4>(fadt, 112),
            1 << 0 | 1 << 2 | 1 << 5 | 1 << 6 | 1 << 10,
        ),
        ("RESET_REG space", number::<1>(fadt, 116), 1),
        ("RESET_REG width", number::<1>(fadt, 117), 8),
        ("RESET_REG", number::<8>(fadt, 120), 0xCF9),
        ("RESET_VALUE", number::<1>(fadt, 128), 6),
        (
            "X_PM1a_EVT_BLK space, width",
            number::<2>(fadt, 148),
            0x2001,
        ),
        ("X_PM1a_EVT_BLK", number::<8>(fadt, 152), 0x600),
        ("X_PM1a_CNT_BLK", number::<8>(fadt, 176), 0x604),
        ("X_PM_TMR_BLK", number::<8>(fadt, 212), 0x608),
    ] {
        assert_eq!(found, expected, "{field}");
    }
}

#[test]
fn each_slot_is_a_device_with_its_registers_and_interrupt() {
    let of = |slots: &[u64]| {
        let memory = tables(slots);
        let xsdt = table(&memory, number::<8>(&memory, 24)).to_vec();
        let fadt = table(&memory, number::<8>(&xsdt, 36)).to_vec();
        table(&memory, number::<8>(&fadt, 140)).to_vec()
    };
    let holds = |dsdt: &[u8], part: &[u8]| dsdt.windows(part.len()).any(|at| at == part);
    for slots in [&ALL[..], &ALL[..2]] {
        let dsdt = of(slots);
        for slot in ALL {
            let is_there = slots.contains(&slot);
            let name = format!("VIO{slot}");
            assert_eq!(holds(&dsdt, name.as_bytes()), is_there, "{name}");
            // Memory32Fixed: read and write, base, length. Extended interrupt: consumer, level,
            // active high, exclusive, one (sections 6.4.3.4 and 6.4.3.6).
            let mut registers = vec![0x86, 9, 0, 1];
            registers.extend((layout::virtio_address(slot) as u32).to_le_bytes());
            registers.extend(0x200u32.to_le_bytes());
            registers.extend([0x89, 6, 0, 0b0001, 1]);
            registers.extend(u32::from(layout::virtio_irq(slot)).to_le_bytes());
            assert_eq!(holds(&dsdt, &registers), is_there, "{name}");
        }
        let uart = [
            0x47, 1, 0xF8, 0x03, 0xF8, 0x03, 1, 8, 0x89, 6, 0, 0b0011, 1, 4,
        ];
        assert!(holds(&dsdt, &uart));
        // Name (_S5, Package (4) {5, 5, 0, 0}).
        let soft_off = b"\x08_S5_\x12\x08\x04\x0A\x05\x0A\x05\x0A\x00\x0A\x00";
        let short = b"\x08_S5_\x12\x08\x04\x0A\x05\x0A\x05\x00\x00";
        assert!(holds(&dsdt, soft_off) || holds(&dsdt, short), "{dsdt:02x?}");
    }
}

/// ACPICA, whose interpreter is Linux's, reads the tables without a complaint.
#[test]
fn acpica_takes_the_tables_apart() {
    let dir = tempfile::tempdir().expect("a directory");
    let memory = tables(&ALL);
    let xsdt = table(&memory, number::<8>(&memory, 24));
    let fadt = table(&memory, number::<8>(xsdt, 36));
    let dsdt = table(&memory, number::<8>(fadt, 140));
    for (name, bytes) in [("xsdt", xsdt), ("facp", fadt), ("dsdt", dsdt)] {
        let path = dir.path().join(format!("{name}.dat"));
        std::fs::write(&path, bytes).expect("written");
        let output = match Command::new("iasl").arg("-d").arg(&path).output() {
            Ok(output) => output,
            Err(error) => {
                eprintln!("SKIPPED: iasl (Debian package acpica-tools): {error}");
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let said = said + &String::from_utf8_lossy(&output.stdout);
        assert!(
            !said.to_lowercase().contains("error") && !said.contains("arning"),
            "{said}"
        );
        let text = std::fs::read_to_string(path.with_extension("dsl")).expect("its text");
        assert!(!text.contains("Incorrect checksum"), "{text}");
        if name != "dsdt" {
            continue;
        }
        for line in [
            "Name (_HID, EisaId (\"PNP0501\")",
            "Name (_HID, EisaId (\"PNP0B00\")",
            "Name (_HID, \"LNRO0005\")",
            "Device (VIO2)",
            "Name (_S5, Package (0x04)",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
        let compiled = Command::new("iasl")
            .arg(path.with_extension("dsl"))
            .output();
        let compiled = compiled.expect("it was there");
        let said = String::from_utf8_lossy(&compiled.stdout);
        assert!(said.contains("0 Errors, 0 Warnings"), "{said}");
    }
}
