//! The 8259 pair against Intel's data sheet.

use super::*;

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xA0;
const NONSPECIFIC_EOI: u8 = 0x20;

/// Both chips as a PC's kernel sets them up: vectors 0x20 and 0x28, all unmasked.
fn pic() -> Pic {
    pic_with_icw4(0x01, 0x01)
}

fn pic_with_icw4(master: u8, slave: u8) -> Pic {
    let mut pic = Pic::new();
    for (port, base, icw3, icw4) in [(MASTER, 0x20, 0x04, master), (SLAVE, 0x28, 0x02, slave)] {
        pic.write(port, 0x11);
        pic.write(port + 1, base);
        pic.write(port + 1, icw3);
        pic.write(port + 1, icw4);
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_line(irq, true);
    pic.set_line(irq, false);
}

fn read_isr(pic: &mut Pic, port: u16) -> u8 {
    pic.write(port, 0x0B);
    pic.read(port)
}

fn read_irr(pic: &mut Pic, port: u16) -> u8 {
    pic.write(port, 0x0A);
    pic.read(port)
}

/// The vectors that a CPU takes now without ever sending an EOI.
fn take_all(pic: &mut Pic) -> Vec<u8> {
    let mut vectors = Vec::new();
    while pic.interrupt_pending() {
        vectors.push(pic.acknowledge());
        assert!(vectors.len() < 32);
    }
    vectors
}

#[test]
fn nothing_is_requested_before_initialization() {
    let mut pic = Pic::new();
    pic.set_line(0, true);
    assert!(!pic.interrupt_pending() && !pic.listens(0));
    // Linux probes for the chip by writing and reading the mask.
    pic.write(0x21, 0xFB);
    assert_eq!(pic.read(0x21), 0xFB);
}

#[test]
fn every_input_has_its_vector() {
    for irq in (0..16).filter(|irq| *irq != IRQ_CASCADE) {
        let mut pic = pic();
        pic.set_line(irq, true);
        assert!(pic.interrupt_pending(), "irq {irq}");
        assert_eq!(pic.acknowledge(), 0x20 + irq);
        assert!(!pic.interrupt_pending());
        let (master, slave) = (read_isr(&mut pic, MASTER), read_isr(&mut pic, SLAVE));
        let expected = if irq < 8 {
            (1 << irq, 0)
        } else {
            (CASCADE, 1 << (irq - 8))
        };
        assert_eq!((master, slave), expected, "irq {irq}");
    }
}

#[test]
fn icw1_clears_mask_service_and_edges_but_not_lines() {
    let mut pic = pic();
    pic.write(0x21, 0xF0);
    pic.set_line(4, true);
    pic.set_line(1, true);
    assert_eq!(pic.acknowledge(), 0x21);
    pic.write(MASTER, 0x11);
    assert_eq!(
        pic.read(MASTER),
        0,
        "IRR is read after ICW1, and the edges are forgotten"
    );
    for data in [0x40, 0x04, 0x01] {
        pic.write(0x21, data);
    }
    assert_eq!(pic.read(0x21), 0);
    assert_eq!(read_isr(&mut pic, MASTER), 0);
    assert!(
        !pic.interrupt_pending(),
        "line 4 is high still, but must rise anew"
    );
    pulse(&mut pic, 4);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x44);
}

#[test]
fn single_mode_and_no_icw4_shorten_the_sequence() {
    for (icw1, data) in [
        (0x10, vec![0x48, 0x04]),
        (0x12, vec![0x48]),
        (0x13, vec![0x48, 0x01]),
    ] {
        let mut pic = pic();
        pic.write(MASTER, icw1);
        for value in data {
            assert!(!pic.listens(0));
            pic.write(0x21, value);
        }
        pic.write(0x21, 0xFE); // OCW1 now
        assert_eq!(pic.read(0x21), 0xFE);
        pulse(&mut pic, 0);
        assert_eq!(pic.acknowledge(), 0x48);
    }
}

#[test]
fn fixed_priority_and_nesting() {
    let mut pic = pic();
    for irq in [15, 8, 7, 3, 1] {
        pulse(&mut pic, irq);
    }
    // Without an EOI only what is higher gets through.
    assert_eq!(take_all(&mut pic), [0x21]);
    pulse(&mut pic, 0);
    assert_eq!(take_all(&mut pic), [0x20]);
    // Each EOI ends the highest; then the next one is served.
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert_eq!(read_isr(&mut pic, MASTER), 0x02);
    assert!(!pic.interrupt_pending());
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert_eq!(take_all(&mut pic), [0x28]);
    pic.write(SLAVE, NONSPECIFIC_EOI);
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert_eq!(take_all(&mut pic), [0x2F]);
    pic.write(SLAVE, NONSPECIFIC_EOI);
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert_eq!(take_all(&mut pic), [0x23]);
    pic.write(MASTER, 0x63); // specific EOI of 3
    assert_eq!(take_all(&mut pic), [0x27]);
}

#[test]
fn an_edge_input_requests_once_for_each_rise() {
    let mut pic = pic();
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x24);
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert!(!pic.interrupt_pending(), "high still, but no new edge");
    pulse(&mut pic, 4);
    pulse(&mut pic, 4);
    assert_eq!(read_irr(&mut pic, MASTER), 0x10);
    assert_eq!(pic.acknowledge(), 0x24);
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert!(
        !pic.interrupt_pending(),
        "two edges before the acknowledgement are one request"
    );
}

#[test]
fn a_level_input_requests_as_long_as_it_is_high() {
    let mut pic = pic();
    pic.write(0x4D0, 0x20);
    pic.set_line(5, true);
    assert_eq!(pic.acknowledge(), 0x25);
    assert!(!pic.interrupt_pending());
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert_eq!(pic.acknowledge(), 0x25);
    pic.set_line(5, false);
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert!(!pic.interrupt_pending());
}

#[test]
fn elcr_has_fixed_edge_inputs() {
    let mut pic = pic();
    for (port, fixed) in [(0x4D0, 0xF8), (0x4D1, 0xDE)] {
        pic.write(port, 0xFF);
        assert_eq!(pic.read(port), fixed);
        pic.write(port, 0x00);
        assert_eq!(pic.read(port), 0x00);
    }
    // A latched edge does not survive that its input becomes a level input.
    pulse(&mut pic, 9);
    pic.write(0x4D1, 0x02);
    assert_eq!(read_irr(&mut pic, SLAVE), 0);
    assert!(pic.listens(9));
}

#[test]
fn a_withdrawn_level_ends_as_spurious_7() {
    let mut pic = pic();
    pic.write(0x4D0, 0x20);
    pic.set_line(5, true);
    assert!(pic.interrupt_pending());
    pic.set_line(5, false);
    assert!(!pic.interrupt_pending());
    assert_eq!(pic.acknowledge(), 0x27);
    assert_eq!(
        read_isr(&mut pic, MASTER),
        0,
        "a spurious interrupt is not in service"
    );
}

#[test]
fn a_withdrawn_slave_level_ends_as_spurious_15() {
    let mut pic = pic();
    pic.write(0x4D1, 0x02);
    pic.set_line(9, true);
    pic.set_line(9, false);
    assert!(pic.interrupt_pending());
    assert_eq!(pic.acknowledge(), 0x2F);
    assert_eq!(read_isr(&mut pic, SLAVE), 0);
    assert_eq!(
        read_isr(&mut pic, MASTER),
        CASCADE,
        "the master served its input 2"
    );
}

#[test]
fn the_mask_holds_requests_back_and_loses_none() {
    let mut pic = pic();
    pic.write(0x21, 0x10);
    pulse(&mut pic, 4);
    assert!(!pic.interrupt_pending());
    assert_eq!(read_irr(&mut pic, MASTER), 0x10);
    pic.write(0x21, 0x00);
    assert_eq!(pic.acknowledge(), 0x24);
}

#[test]
fn automatic_end_of_interrupt_sets_no_service_bit() {
    let mut pic = pic_with_icw4(0x03, 0x03);
    pulse(&mut pic, 14);
    pulse(&mut pic, 15);
    pulse(&mut pic, 3);
    assert_eq!(take_all(&mut pic), [0x2E, 0x2F, 0x23]);
    assert_eq!(
        (read_isr(&mut pic, MASTER), read_isr(&mut pic, SLAVE)),
        (0, 0)
    );
}

/// OCW2 with the rotations of the data sheet's section "Automatic rotation".
#[test]
fn rotation() {
    struct Case {
        name: &'static str,
        icw4: u8,
        before: &'static [u8],
        served: u8,
        after: &'static [u8],
        /// Then all inputs request; who is served first?
        first: u8,
    }
    for case in [
        Case {
            name: "none",
            icw4: 1,
            before: &[],
            served: 4,
            after: &[0x20],
            first: 0,
        },
        Case {
            name: "on non-specific EOI",
            icw4: 1,
            before: &[],
            served: 4,
            after: &[0xA0],
            first: 5,
        },
        Case {
            name: "on specific EOI",
            icw4: 1,
            before: &[],
            served: 4,
            after: &[0xE4],
            first: 5,
        },
        Case {
            name: "set priority",
            icw4: 1,
            before: &[0xC2],
            served: 4,
            after: &[0x20],
            first: 3,
        },
        Case {
            name: "in AEOI mode",
            icw4: 3,
            before: &[0x80],
            served: 4,
            after: &[],
            first: 5,
        },
        Case {
            name: "AEOI, cleared",
            icw4: 3,
            before: &[0x80, 0x00],
            served: 4,
            after: &[],
            first: 0,
        },
        Case {
            name: "no operation",
            icw4: 1,
            before: &[],
            served: 4,
            after: &[0x64, 0x40],
            first: 0,
        },
        Case {
            name: "EOI of nobody",
            icw4: 1,
            before: &[],
            served: 4,
            after: &[0x64, 0xA0],
            first: 0,
        },
    ] {
        let mut pic = pic_with_icw4(case.icw4, 1);
        for command in case.before {
            pic.write(MASTER, *command);
        }
        pulse(&mut pic, case.served);
        assert_eq!(pic.acknowledge(), 0x20 + case.served);
        for command in case.after {
            pic.write(MASTER, *command);
        }
        for irq in [0, 1, 3, 4, 5, 6, 7] {
            pulse(&mut pic, irq);
        }
        assert_eq!(pic.acknowledge(), 0x20 + case.first, "{}", case.name);
    }
}

#[test]
fn special_mask_mode_lets_lower_inputs_through() {
    let mut pic = pic();
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x23);
    pulse(&mut pic, 6);
    pic.write(0x21, 0x08);
    assert!(
        !pic.interrupt_pending(),
        "masking what is in service changes nothing yet"
    );
    pic.write(MASTER, 0x68);
    assert_eq!(pic.acknowledge(), 0x26);
    // A non-specific EOI passes by the masked service bit.
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert_eq!(read_isr(&mut pic, MASTER), 0x08);
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert_eq!(read_isr(&mut pic, MASTER), 0x08);
    pic.write(MASTER, 0x48);
    pic.write(MASTER, NONSPECIFIC_EOI);
    assert_eq!(read_isr(&mut pic, MASTER), 0x00);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    for (icw4, nests) in [(0x01, false), (0x11, true)] {
        let mut pic = pic_with_icw4(icw4, 0x01);
        pulse(&mut pic, 12);
        assert_eq!(pic.acknowledge(), 0x2C);
        pulse(&mut pic, 10);
        assert_eq!(pic.interrupt_pending(), nests);
        if nests {
            assert_eq!(pic.acknowledge(), 0x2A);
        }
        pulse(&mut pic, 5);
        assert!(
            !pic.interrupt_pending(),
            "lower inputs of the master stay blocked"
        );
    }
}

#[test]
fn poll_acknowledges_by_a_read() {
    let mut pic = pic();
    pic.write(MASTER, 0x0C);
    assert!(pic.reads_requests(MASTER));
    assert_eq!(pic.read(MASTER), 0x00);
    pulse(&mut pic, 6);
    pic.write(MASTER, 0x0C);
    assert_eq!(pic.read(MASTER), 0x86);
    assert_eq!(read_isr(&mut pic, MASTER), 0x40);
    assert!(!pic.interrupt_pending());
}

#[test]
fn ocw3_chooses_what_is_read() {
    let mut pic = pic();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 6);
    assert!(pic.reads_requests(MASTER));
    assert_eq!(pic.read(MASTER), 0x40);
    pic.write(MASTER, 0x0B);
    assert!(!pic.reads_requests(MASTER));
    assert_eq!(pic.read(MASTER), 0x02);
    pic.write(MASTER, 0x08); // neither: the choice stays
    assert_eq!(pic.read(MASTER), 0x02);
    pic.write(MASTER, 0x0A);
    assert_eq!(pic.read(MASTER), 0x40);
}

#[test]
fn listens_where_an_edge_would_be_news() {
    let mut pic = pic();
    assert!(pic.listens(0) && pic.listens(8));
    pic.write(0x21, 0x01);
    pic.write(0xA1, 0x01);
    assert!(!pic.listens(0) && !pic.listens(8));
    pic.write(0x21, CASCADE);
    pic.write(0xA1, 0x00);
    assert!(pic.listens(0) && !pic.listens(8), "the cascade is masked");
    pic.write(0x21, 0x00);
    pulse(&mut pic, 0);
    assert!(!pic.listens(0), "already requested");
    pic.acknowledge();
    assert!(
        pic.listens(0),
        "in service: the next edge will be served after the EOI"
    );
}
