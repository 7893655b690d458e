//! FCOM, FUCOM, FTST and FXAM: order and class of numbers as condition bits (SDM vol. 1, 8.3.6;
//! vol. 2, tables of FCOM, FCOMI and FXAM).

use super::env::{DENORMAL, Env, INVALID};
use super::format::{Class, F80, Operand};

/// How two operands stand to one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first is greater.
    Greater,
    /// The first is less.
    Less,
    /// Equal; zeros of either sign are.
    Equal,
    /// One of them is no number.
    Unordered,
}

impl Order {
    /// C3, C2 and C0 in their places of the status word.
    pub(crate) fn conditions(self) -> u16 {
        match self {
            Order::Greater => 0,
            Order::Less => 0x100,
            Order::Equal => 0x4000,
            Order::Unordered => 0x4500,
        }
    }

    /// ZF, PF and CF in their places of RFLAGS, as FCOMI and COMISD set them.
    pub(crate) fn flags(self) -> u64 {
        match self {
            Order::Greater => 0,
            Order::Less => 1,
            Order::Equal => 0x40,
            Order::Unordered => 0x45,
        }
    }
}

/// Compares. `quiet` is the unordered comparison, which lets quiet NaNs pass.
pub(crate) fn compare(a: Operand, b: Operand, quiet: bool, env: &mut Env) -> Order {
    let (ca, cb) = (a.value.class(), b.value.class());
    let is = |c: Class| ca == c || cb == c;
    if is(Class::Unsupported) || is(Class::Signalling) || is(Class::Quiet) && !quiet {
        env.raise(INVALID);
        return Order::Unordered;
    }
    if is(Class::Quiet) {
        return Order::Unordered;
    }
    if a.denormal || b.denormal {
        env.raise(DENORMAL);
    }
    let (ka, kb) = (key(a.value), key(b.value));
    match ka.cmp(&kb) {
        std::cmp::Ordering::Less => Order::Less,
        std::cmp::Ordering::Equal => Order::Equal,
        std::cmp::Ordering::Greater => Order::Greater,
    }
}

/// A number that orders as the value does.
fn key(v: F80) -> i128 {
    // A pseudo-denormal has the exponent of the field 1, whose place a denormal shares.
    let exponent = if v.field() == 0 && v.sig >> 63 != 0 {
        1
    } else {
        v.field()
    };
    let magnitude = i128::from(exponent) << 64 | i128::from(v.sig);
    if v.sign() { -magnitude } else { magnitude }
}

/// FXAM of a register that is not empty: C3, C2, C1 (the sign) and C0 in their places.
pub(crate) fn examine(v: F80) -> u16 {
    let class = match v.class() {
        Class::Unsupported => 0,
        Class::Quiet | Class::Signalling => 0x100,
        Class::Finite(_) if v.is_denormal() => 0x4400,
        Class::Finite(_) => 0x400,
        Class::Infinity => 0x500,
        Class::Zero => 0x4000,
    };
    class | u16::from(v.sign()) << 9
}
