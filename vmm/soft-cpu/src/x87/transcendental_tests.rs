//! The transcendental functions against the processor: special operands to the bit, numbers to one
//! unit in the last place.

use super::format::{Class, F80};
use super::state::{C1, Fpu};
use super::tests::value;
use crate::oracle::{Machine, Native, Random, decides_alike};

/// Runs D9 `modrm` on two operands: what is left in ST(0) and ST(1), and the status word.
fn native(code: &Native, f: &Fpu) -> Fpu {
    let mut m = Machine::default();
    f.clone().save(&mut m.saved[..108]);
    code.run(&mut m);
    let mut after = Fpu::default();
    after.restore(&m.saved[..108]);
    after
}

fn here(modrm: u8, f: &Fpu) -> Fpu {
    let mut f = f.clone();
    f.register(0x100 | u16::from(modrm), 0)
        .expect("it is defined");
    f
}

/// A stack with `x` on top of `y`, and room.
fn stack(x: F80, y: F80, control: u16) -> Fpu {
    let mut f = Fpu::default();
    f.set_control(control);
    f.push(y);
    f.push(x);
    f
}

/// How many units in the last place two numbers are apart; none if they are not both numbers of
/// one sign.
fn distance(a: F80, b: F80) -> Option<u64> {
    let line = |v: F80| i128::from(v.field()) << 63 | i128::from(v.sig & !(1 << 63));
    let number = |v: F80| matches!(v.class(), Class::Finite(_));
    (number(a) && number(b) && a.sign() == b.sign())
        .then(|| line(a).abs_diff(line(b)).try_into().unwrap_or(u64::MAX))
}

/// The functions, by the second byte of their opcode.
const FUNCTIONS: [u8; 8] = [0xf0, 0xf1, 0xf2, 0xf3, 0xf9, 0xfb, 0xfe, 0xff];

/// Registers and status words, but for C1, which tells the rounding of one result or the other.
fn check(modrm: u8, cases: u32, unmasked: bool) -> Result<(), String> {
    let code = Native::new(&[0xd9, modrm]);
    let mut r = Random(u64::from(modrm));
    for _ in 0..cases {
        let masks = if unmasked { r.below(64) as u16 } else { 0x3f };
        let control = 0x340 | masks | (r.below(4) << 10) as u16;
        let mut f = stack(value(&mut r), value(&mut r), control);
        if unmasked && r.below(3) == 0 {
            f.full = r.next() as u8;
        }
        let (there, here) = (native(&code, &f), here(modrm, &f));
        let close = (0..8).all(|i| {
            let (a, b) = (there.st(i), here.st(i));
            a == b || distance(a, b).is_some_and(|units| units <= 1)
        });
        let same = (there.status() ^ here.status()) & !C1 == 0 && there.tags() == here.tags();
        if !close || !same {
            let show = |f: &Fpu| {
                let (a, b) = (f.st(0), f.st(1));
                format!("{:x} {:x} {a:x?} {b:x?}", f.control, f.status())
            };
            let (f, there, here) = (show(&f), show(&there), show(&here));
            return Err(format!(
                "D9 {modrm:X}\nbefore {f}\nnative {there}\nhere   {here}"
            ));
        }
    }
    Ok(())
}

#[test]
fn functions_are_within_one_unit_of_the_processor() {
    if !decides_alike() {
        return;
    }
    for modrm in FUNCTIONS {
        check(modrm, 30_000, false).unwrap_or_else(|different| panic!("{different}"));
    }
}

#[test]
fn unmasked_exceptions_keep_operands_as_on_the_processor() {
    if !decides_alike() {
        return;
    }
    for modrm in FUNCTIONS {
        check(modrm, 10_000, true).unwrap_or_else(|different| panic!("{different}"));
    }
}
