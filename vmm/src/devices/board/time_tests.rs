//! Time on the whole board: timers fall due exactly when the board says, and it
//! makes no difference how time is cut into steps.

use proptest::prelude::*;

use super::tests::{board, write};
use super::*;

/// Programs timers of all kinds; the ports are written at the board's current time.
fn set_up() -> impl Strategy<Value = Vec<(u16, u8)>> {
    let pit = (0..6u8, 2..=0xFFFFu16).prop_map(|(mode, count)| {
        let [low, high] = count.to_le_bytes();
        vec![(0x43, 0x30 | mode << 1), (0x40, low), (0x40, high)]
    });
    let rtc = (
        0..16u8,
        any::<u8>(),
        prop::array::uniform3(prop_oneof![Just(0xFFu8), 0..0x5Au8]),
    )
        .prop_map(|(rate, b, alarm)| {
            vec![
                (0x70, 0x01),
                (0x71, alarm[0]),
                (0x70, 0x03),
                (0x71, alarm[1]),
                (0x70, 0x05),
                (0x71, alarm[2]),
                (0x70, 0x0A),
                (0x71, 0x20 | rate),
                (0x70, 0x0B),
                (0x71, b & 0x76),
            ]
        });
    let acpi = any::<bool>().prop_map(|enable| vec![(0x602, u8::from(enable))]);
    let masks = prop::sample::select(vec![(0x00, 0x00), (0x01, 0x00), (0x00, 0x01), (0x04, 0x00)])
        .prop_map(|(master, slave)| vec![(0x21, master), (0xA1, slave)]);
    let text = prop::collection::vec(prop::sample::select(b"abc\n".to_vec()), 0..4)
        .prop_map(|text| text.into_iter().map(|byte| (0x3F8, byte)).collect());
    prop::collection::vec(prop_oneof![pit, rtc, acpi, masks, text], 1..8)
        .prop_map(|writes| writes.concat())
}

/// What a timer can do to the world outside of the board.
fn effects(board: &Board) -> (bool, usize, u16) {
    let requests = [0x20, 0xA0].map(|port| {
        let mut copy = board.clone();
        let mem = crate::devices::test_memory::memory(0x1000);
        copy.port_write(port, 1, 0x0A, &mem);
        copy.port_read(port, 1) as u8
    });
    (
        board.interrupt_pending(),
        board.outputs.len(),
        u16::from_le_bytes(requests),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Just before the timer that the board names nothing happens; at it something
    /// does. Requests of masked inputs do not count.
    #[test]
    fn next_timer_is_exact(at in 0..3_000_000_000u64, writes in set_up()) {
        let (mut board, mem) = board();
        board.set_time(VirtualTime(at));
        write(&mut board, &mem, &writes);
        let masked = {
            let mut copy = board.clone();
            copy.port_read(0x21, 1) as u16 | (copy.port_read(0xA1, 1) as u16) << 8
        };
        // With the cascade masked, nothing of the slave counts.
        let masked = if masked & 4 != 0 { masked | 0xFF00 } else { masked };
        let visible = |board: &Board| {
            let (pending, outputs, requests) = effects(board);
            (pending, outputs, requests & !masked & !4)
        };
        for _ in 0..20 {
            let before = visible(&board);
            let Some(due) = board.next_timer() else {
                board.set_time(VirtualTime(board.time().0 + 100_000_000_000));
                prop_assert_eq!(visible(&board), before, "no timer, yet something happened");
                return Ok(());
            };
            prop_assert!(due > board.time());
            board.set_time(VirtualTime(due.0 - 1));
            prop_assert_eq!(visible(&board), before, "before {:?}", due);
            prop_assert_eq!(board.next_timer(), Some(due));
            board.set_time(due);
            prop_assert_ne!(visible(&board), before, "at {:?}", due);
            // Serve what is pending, so that the next one counts.
            while board.interrupt_pending() {
                let vector = board.acknowledge_interrupt();
                let irq = vector - 0x20;
                write(&mut board, &mem, &[(0x70, 0x0C)]);
                board.port_read(0x71, 1);
                write(&mut board, &mem, &[(0x600, 0x01)]);
                if irq >= 8 {
                    write(&mut board, &mem, &[(0xA0, 0x20)]);
                }
                write(&mut board, &mem, &[(0x20, 0x20)]);
            }
        }
    }

    /// DET-1, for time: one long step ends in the state of many short ones. The one
    /// difference that hardware makes as well cannot occur here, since nobody
    /// acknowledges on the way: edges that meet a request collapse into it.
    #[test]
    fn steps_do_not_matter(
        at in 0..3_000_000_000u64,
        writes in set_up(),
        steps in prop::collection::vec(prop_oneof![1..2_000u64, 1..1_000_000_000u64], 1..30),
    ) {
        let (mut long, mem) = board();
        long.set_time(VirtualTime(at));
        write(&mut long, &mem, &writes);
        let mut short = long.clone();
        for step in steps {
            short.set_time(VirtualTime(short.time().0 + step));
        }
        long.set_time(short.time());
        prop_assert_eq!(long.save(), short.save());
    }

    /// Masking only saves wake-ups: whoever unmasks finds the tick.
    #[test]
    fn a_tick_while_masked_is_found_after_unmasking(count in 100..0xFFFFu16, late in 1..50u64) {
        let (mut board, mem) = board();
        let [low, high] = count.to_le_bytes();
        write(&mut board, &mem, &[(0x43, 0x34), (0x40, low), (0x40, high)]);
        let due = board.next_timer().unwrap();
        write(&mut board, &mem, &[(0x21, 0x01)]);
        prop_assert_eq!(board.next_timer(), None);
        // Nobody sets the time meanwhile. Then, long after the tick:
        write(&mut board, &mem, &[(0x21, 0x00)]);
        prop_assert_eq!(board.next_timer(), Some(due));
        board.set_time(VirtualTime(due.0 * late));
        prop_assert!(board.interrupt_pending());
    }
}
