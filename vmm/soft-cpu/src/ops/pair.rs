//! Two operations for one jump.
//!
//! What an operation costs is above all the jump to the next one, whose target the host must predict.
//! Where two of the most frequent kinds follow each other, the first one's handler carries out both.
//! Both stay where they are, each with its operands, and the second with its handler: that is who
//! takes over where the fast way is closed for it.

use crate::core::Core;
use crate::op::{Handler, Leave, Op, next};

use super::{alu, mov, moves, shift};

/// The kinds that are paired, and how each is carried out: false if it takes more than the fast way,
/// and then nothing has changed.
macro_rules! kinds {
    ($($number:literal $name:ident: $carry_out:expr, $alone:expr;)*) => {
        /// A kind of operation that has pairs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Kind {
            $($name = $number,)*
        }

        #[inline(always)]
        fn carry_out<const KIND: u8>(core: &mut Core, op: &Op) -> bool {
            match KIND {
                $($number => $carry_out(core, op),)*
                _ => unreachable!("kinds are numbered"),
            }
        }

        /// The handler for an operation whose fast way is closed.
        const fn alone<const KIND: u8>() -> Handler {
            match KIND {
                $($number => $alone,)*
                _ => panic!("kinds are numbered"),
            }
        }

        /// The handler of a pair.
        pub(crate) fn pair(first: Kind, second: Kind) -> Handler {
            match first {
                $(Kind::$name => with::<$number>(second),)*
            }
        }

        fn with<const FIRST: u8>(second: Kind) -> Handler {
            match second {
                $(Kind::$name => both::<FIRST, $number>,)*
            }
        }
    };
}

kinds! {
    0 Load4: mov::load_quickly::<false, 2>, mov::load::<false, true, 2>;
    1 Load8: mov::load_quickly::<false, 3>, mov::load::<false, true, 3>;
    2 LoadIndexed4: mov::load_quickly::<true, 2>, mov::load::<false, true, 2>;
    3 LoadIndexed8: mov::load_quickly::<true, 3>, mov::load::<false, true, 3>;
    4 Store4: mov::store_quickly::<false, 2>, mov::store::<false, true, false, 2>;
    5 Store8: mov::store_quickly::<false, 3>, mov::store::<false, true, false, 3>;
    6 StoreIndexed4: mov::store_quickly::<true, 2>, mov::store::<false, true, false, 2>;
    7 StoreIndexed8: mov::store_quickly::<true, 3>, mov::store::<false, true, false, 3>;
    8 Move4: mov::register::<2>, never;
    9 Move8: mov::register::<3>, never;
    10 Lea8: moves::lea_only::<3>, never;
    11 Add4: alu::registers::<{ alu::ADD }, 2>, never;
    12 Add8: alu::registers::<{ alu::ADD }, 3>, never;
    13 AddImmediate8: alu::immediate::<{ alu::ADD }, 3>, never;
    14 Sub8: alu::registers::<{ alu::SUB }, 3>, never;
    15 Xor4: alu::registers::<{ alu::XOR }, 2>, never;
    16 Xor8: alu::registers::<{ alu::XOR }, 3>, never;
    17 And4: alu::registers::<{ alu::AND }, 2>, never;
    18 And8: alu::registers::<{ alu::AND }, 3>, never;
    19 AndImmediate4: alu::immediate::<{ alu::AND }, 2>, never;
    20 Or8: alu::registers::<{ alu::OR }, 3>, never;
    21 ShiftLeft8: shift::immediate::<{ shift::SHL }, 3>, never;
    22 ShiftRight4: shift::immediate::<{ shift::SHR }, 2>, never;
    23 ShiftRight8: shift::immediate::<{ shift::SHR }, 3>, never;
    24 RotateLeft4: shift::immediate::<{ shift::ROL }, 2>, never;
    25 RotateRight4: shift::immediate::<{ shift::ROR }, 2>, never;
    26 AddWithCarry8: alu::registers::<{ alu::ADC }, 3>, never;
    27 Compare4: alu::compare::<2>, never;
    28 Compare8: alu::compare::<3>, never;
    29 SetIfBelow: moves::set_only::<BELOW>, never;
}

/// The condition's number.
pub(super) const BELOW: u8 = 2;

/// Stands for the handler of kinds that are always quick.
fn never(_: &mut Core, _: &Op, _: &[Op]) -> Leave {
    unreachable!("the fast way of registers is always open")
}

#[inline(never)]
fn both<const FIRST: u8, const SECOND: u8>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    if !carry_out::<FIRST>(core, op) {
        return alone::<FIRST>()(core, op, rest);
    }
    let [second, rest @ ..] = rest else {
        unreachable!("a pair is two operations");
    };
    if !carry_out::<SECOND>(core, second) {
        return (second.run)(core, second, rest);
    }
    next(core, rest)
}
