//! A queue as a value.

use proptest::prelude::*;

use super::*;
use crate::devices::test_memory::memory;

fn enabled() -> (Virtqueue, GuestMemory) {
    let mem = memory(0x1_0000);
    let mut queue = Virtqueue::new(16);
    queue.set_size(8);
    *queue.registers() = Registers {
        descriptors: 0x1000,
        driver: 0x2000,
        device: 0x3000,
    };
    queue.enable(true, &mem).unwrap();
    (queue, mem)
}

#[test]
fn saving_and_restoring_changes_nothing() {
    let (mut queue, mem) = enabled();
    queue.finish(&mem, 3, 7).unwrap();
    queue.wants_interrupt(&mem).unwrap();
    let copy: Virtqueue = serde_json::from_str(&serde_json::to_string(&queue).unwrap()).unwrap();
    assert_eq!(copy, queue);
    assert!(copy.ready() && copy.queue.event_idx_enabled());
    assert_eq!(copy.queue, queue.queue);
}

#[test]
fn states_that_no_queue_has_are_refused() {
    let (queue, _) = enabled();
    let good = queue.state();
    type Damage = fn(&mut VirtqueueState);
    let damages: [Damage; 5] = [
        |state| state.max_size = 15,
        |state| state.size = 32,
        |state| state.size = 0,
        |state| state.registers.descriptors = 8,
        |state| state.registers.device = 1,
    ];
    for damage in damages {
        let mut state = good.clone();
        damage(&mut state);
        assert!(Virtqueue::try_from(state).is_err());
    }
}

#[test]
fn a_restored_queue_with_rings_outside_of_ram_fails_softly() {
    let (queue, _) = enabled();
    let mut state = queue.state();
    let far = u64::MAX - 15;
    state.registers = Registers {
        descriptors: far,
        driver: far + 6,
        device: far + 4,
    };
    let mut queue = Virtqueue::try_from(state).unwrap();
    let mem = memory(0x1_0000);
    let direction = Direction::DeviceReads;
    assert!(!queue.has_available(&mem));
    assert!(queue.pop(&mem, &mut queue.walk(), direction).is_err());
    assert!(queue.chain(7, &mem, &mut queue.walk(), direction).is_err());
    assert!(queue.finish(&mem, 0, 0).is_err());
    assert!(queue.want_kick(&mem).is_err());
    assert!(queue.wants_interrupt(&mem).is_err());
}

proptest! {
    /// Parts written into a chain arrive in order, and nothing else is touched.
    #[test]
    fn a_chain_is_one_buffer(
        cuts in prop::collection::vec(0..9u32, 1..8),
        parts in prop::collection::vec(prop::collection::vec(1..255u8, 0..12), 0..5),
    ) {
        let mem = memory(0x1_0000);
        let segments: Vec<Segment> = cuts
            .iter()
            .enumerate()
            .map(|(at, len)| Segment { addr: GuestAddress(at as u64 * 0x100), len: *len })
            .collect();
        let chain = Chain { head: 0, segments };
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        chain.write(&mem, &slices).unwrap();
        let mut bytes = Vec::new();
        chain.read(&mem, &mut bytes).unwrap();
        let mut expected = parts.concat();
        expected.resize(chain.len() as usize, 0);
        prop_assert_eq!(bytes, expected);
        for (at, len) in cuts.iter().enumerate() {
            let behind: u8 = mem.read_obj(GuestAddress(at as u64 * 0x100 + u64::from(*len))).unwrap();
            prop_assert_eq!(behind, 0);
        }
    }
}
