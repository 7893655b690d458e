//! ACPI fixed hardware against ACPI 6.5, section 4.8.

use super::*;
use crate::devices::time::SECOND_NS;

fn read_u16(acpi: &Acpi, offset: u16) -> u16 {
    u16::from_le_bytes([acpi.read_event(offset), acpi.read_event(offset + 1)])
}

fn timer(acpi: &Acpi) -> u32 {
    (0..4)
        .rev()
        .fold(0, |value, at| value << 8 | u32::from(acpi.read_timer(at)))
}

/// The nanosecond at which the timer's highest bit changes for the `n`th time.
const fn carry_ns(n: u128) -> u64 {
    (n * (1 << 23) * SECOND_NS as u128).div_ceil(3_579_545) as u64
}
const CARRY_NS: u64 = carry_ns(1);

#[test]
fn the_timer_counts_3_579545_mhz_in_24_bits() {
    let mut acpi = Acpi::new();
    assert_eq!(timer(&acpi), 0);
    for (ns, expected) in [
        (279, 0),
        (280, 1),
        (SECOND_NS, 3_579_545),
        (10 * SECOND_NS, 35_795_450 % (1 << 24)),
        (
            86_400 * SECOND_NS,
            (86_400 * 3_579_545u64 % (1 << 24)) as u32,
        ),
    ] {
        acpi.advance(VirtualTime(ns));
        assert_eq!(timer(&acpi), expected, "at {ns} ns");
    }
}

#[test]
fn a_carry_sets_tmr_sts_at_each_change_of_the_highest_bit() {
    for step in [carry_ns(1), carry_ns(2)] {
        let mut acpi = Acpi::new();
        acpi.advance(VirtualTime(step - 1));
        let already = step > CARRY_NS;
        assert_eq!(read_u16(&acpi, 0) & TIMER != 0, already);
        acpi.write_event(0, 0x01);
        assert_eq!(read_u16(&acpi, 0), 0);
        acpi.advance(VirtualTime(step));
        assert_eq!(read_u16(&acpi, 0), TIMER);
    }
}

#[test]
fn the_carry_interrupts_only_if_enabled() {
    let mut acpi = Acpi::new();
    assert_eq!(acpi.next_timer(), None);
    acpi.write_event(2, 0x01);
    assert_eq!(acpi.next_timer(), Some(VirtualTime(CARRY_NS)));
    acpi.advance(VirtualTime(CARRY_NS - 1));
    assert!(!acpi.line());
    acpi.advance(VirtualTime(CARRY_NS));
    assert!(acpi.line());
    assert_eq!(acpi.next_timer(), None, "raised already");
    acpi.write_event(0, 0x01);
    assert!(!acpi.line());
    assert!(
        acpi.next_timer()
            .is_some_and(|due| due > VirtualTime(CARRY_NS))
    );
}

#[test]
fn the_power_button_interrupts_when_enabled() {
    let mut acpi = Acpi::new();
    acpi.press_power_button();
    assert!(!acpi.line());
    assert_eq!(read_u16(&acpi, 0), POWER_BUTTON);
    acpi.write_event(3, 0x01);
    assert!(acpi.line());
    acpi.write_event(0, 0xFF);
    assert!(acpi.line(), "the other byte of the status register");
    acpi.write_event(1, 0x01);
    assert!(!acpi.line());
}

#[test]
fn enable_bits_that_exist_can_be_written() {
    let mut acpi = Acpi::new();
    acpi.write_event(2, 0xFF);
    acpi.write_event(3, 0xFF);
    assert_eq!(read_u16(&acpi, 2), 0x0721);
    acpi.write_event(2, 0x00);
    assert_eq!(read_u16(&acpi, 2), 0x0700);
}

#[test]
fn control_is_always_in_acpi_mode_and_s5_turns_off() {
    let mut acpi = Acpi::new();
    assert_eq!(acpi.read_control(0), 0x01);
    assert!(!acpi.write_control(0, 0xFF));
    assert_eq!(acpi.read_control(0), 0x03, "GBL_RLS reads 0, SCI_EN 1");
    for slp_typ in 0..8 {
        assert!(!acpi.write_control(1, slp_typ << 2), "no SLP_EN");
        assert_eq!(acpi.read_control(1), slp_typ << 2);
        assert_eq!(
            acpi.write_control(1, slp_typ << 2 | 0x20),
            slp_typ == SLP_TYP_S5
        );
        assert_eq!(acpi.read_control(1), slp_typ << 2, "SLP_EN reads 0");
    }
}
