//! x87 against the processor that the tests run on: every opcode that is exact, on random and on
//! special states, masked and unmasked, in every rounding and precision; the whole FNSAVE image is
//! compared.

use super::exec::{Effect, Undefined};
use super::format::{F80, J, QUIET};
use super::state::Fpu;
use crate::oracle::{Machine, Native, Random};

/// A register's content: special values, neighbours of limits, and everything between.
pub(crate) fn value(r: &mut Random) -> F80 {
    let sign = (r.below(2) as u16) << 15;
    let sigs = [
        J,
        J | 1,
        J | 2,
        J | 1 << 10,
        J | 1 << 11,
        J | 1 << 39,
        J | 1 << 40,
        J | 0x3ff,
        J | 0x400,
        J | 0xc00,
        J | 0x80_0000_0000,
        u64::MAX,
        u64::MAX - 1,
        u64::MAX << 11,
        u64::MAX << 40,
        J | QUIET,
    ];
    match r.below(32) {
        0 => F80 { se: sign, sig: 0 },
        1 => F80 { se: sign | 0x7fff, sig: J },
        2 => F80 { se: sign | 0x7fff, sig: J | QUIET | r.next() >> r.below(63) },
        3 => F80 { se: sign | 0x7fff, sig: (J | r.next() >> r.below(60)) & !QUIET | 1 },
        4 => F80 { se: sign, sig: r.next() >> r.below(64) },
        5 => F80 { se: sign | r.below(0x8000) as u16, sig: r.next() },
        6 => F80 { se: sign | r.pick(&[0, 1, 2, 63, 64, 65, 0x7ffe, 0x7ffd, 0x7fbf]), sig: J | r.next() },
        7 => F80 { se: sign | r.pick(&[0, 1, 2, 0x7ffe, 0x7ffd, 0x7fff]), sig: r.pick(&sigs) },
        8 => F80 { se: sign | r.below(0x8000) as u16, sig: r.pick(&sigs) },
        9..13 => F80 { se: sign | (16383 - 4 + r.below(8)) as u16, sig: r.pick(&sigs) },
        13..16 => F80::from_i64(r.next() as i64 >> r.below(64)),
        16 => F80 { se: sign | (16383 + r.pick(&[-1i64, 15, 16, 31, 32, 62, 63, 64])) as u16, sig: r.pick(&sigs) },
        17 => F80 { se: sign | (16383 - 1080 + r.below(110)) as u16, sig: J | r.next() },
        18 => F80 { se: sign | (16383 - 155 + r.below(40)) as u16, sig: J | r.next() },
        19 => F80 { se: sign | (16383 + r.pick(&[126u64, 127, 128, 1022, 1023, 1024])) as u16, sig: J | r.next() },
        20 => F80 { se: sign | (16383 + r.pick(&[127u64, 1023])) as u16, sig: u64::MAX << r.below(64) },
        _ => F80 { se: sign | (16383 - 64 + r.below(128)) as u16, sig: J | r.next() },
    }
}

/// A state whose pending exceptions are all masked, with most of the stack in use.
fn state(r: &mut Random) -> Fpu {
    let mut f = Fpu::default();
    f.set_control((r.pick(&[0, 2, 3, 3]) << 8 | r.below(4) << 10) as u16 | 0x3f);
    if r.below(3) == 0 {
        f.control &= !(r.below(64) as u16);
    }
    f.set_status(r.next() as u16);
    f.bits &= f.control | !0x3f;
    f.full = match r.below(4) {
        0 => r.next() as u8,
        // Room for one push.
        _ => !(1 << ((f.top + 7) & 7)),
    };
    for reg in &mut f.regs {
        *reg = value(r);
    }
    f
}

fn image(f: &Fpu) -> [u8; 108] {
    let mut b = [0; 108];
    f.clone().save(&mut b);
    b
}

fn machine(f: &Fpu) -> Machine {
    let mut m = Machine::default();
    m.saved[..108].copy_from_slice(&image(f));
    m
}

fn saved(m: &Machine) -> [u8; 108] {
    let mut b = [0; 108];
    b.copy_from_slice(&m.saved[..108]);
    b
}

/// The image without pointers and opcode, which are not recorded, and without the selectors.
fn comparable(mut b: [u8; 108]) -> [u8; 108] {
    b[12..28].fill(0);
    b
}

fn show(b: &[u8; 108]) -> String {
    let word = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
    let mut s = format!("cw {:04x} sw {:04x} tw {:04x}", word(0), word(4), word(8));
    for reg in b[28..].chunks_exact(10) {
        let mut v = [0; 10];
        v.copy_from_slice(reg);
        let v = F80::from_bytes(v);
        s += &format!(" {:04x}:{:016x}", v.se, v.sig);
    }
    s
}

/// Runs `fop` natively and here on `cases` states.
fn check_registers(fop: u16, cases: u32, ignore_conditions: u16, seed: u64) -> Result<(), String> {
    let code = [0xd8 | (fop >> 8) as u8, fop as u8];
    let native = Native::new(&code);
    let mut r = Random(seed ^ u64::from(fop) << 32);
    for _ in 0..cases {
        let before = state(&mut r);
        let mut f = before.clone();
        let mut n = machine(&before);
        n.flags = 2 | r.next() & 0x8d5;
        n.rax = r.next();
        let (flags, rax) = (n.flags, n.rax);
        native.run(&mut n);
        let effect = f.register(fop, flags).map_err(|Undefined| "undefined here".to_string())?;
        let (flags, rax) = match effect {
            Effect::None => (flags, rax),
            Effect::Flags(new) => (flags & !0x8d5 | new, rax),
            Effect::Ax(ax) => (flags, rax & !0xffff | u64::from(ax)),
        };
        let mut here = comparable(image(&f));
        let mut there = comparable(saved(&n));
        for b in [&mut here, &mut there] {
            b[5] &= !(ignore_conditions >> 8) as u8;
        }
        if here != there || flags != n.flags & !0x200 || rax != n.rax {
            return Err(format!(
                "{:02x} {:02x}\nbefore {}\nnative {} flags {:x}\nhere   {} flags {:x}",
                code[0],
                code[1],
                show(&image(&before)),
                show(&there),
                n.flags,
                show(&here),
                flags,
            ));
        }
    }
    Ok(())
}

fn transcendental(fop: u16) -> bool {
    matches!(fop, 0x1f0..=0x1f3 | 0x1f9 | 0x1fb | 0x1fe | 0x1ff)
}

#[test]
fn register_forms_equal_the_processor() {
    let mut bad = Vec::new();
    for fop in 0..0x800u16 {
        let modrm = fop & 0xff;
        if modrm < 0xc0 || transcendental(fop) {
            continue;
        }
        if Fpu::default().register(fop, 0) == Err(Undefined) {
            continue;
        }
        let cases = std::env::var("CASES").map_or(3000, |c| c.parse().unwrap_or(3000));
        if let Err(e) = check_registers(fop, cases, 0, 1) {
            bad.push(e);
        }
    }
    assert!(bad.is_empty(), "{} differ:\n{}", bad.len(), bad.join("\n"));
}

/// A memory operand: numbers of each format, and noise.
fn operand(r: &mut Random, fop: u16) -> u128 {
    let noise = u128::from(r.next()) << 64 | u128::from(r.next());
    match fop >> 8 & 7 {
        0 | 1 => {
            let (any, noise) = (r.below(256) as u32, r.next() as u32 & 0x7f_ffff);
            let exp = r.pick(&[0, 1, 0x7f, 0x80, 0xfe, 0xff, any]);
            let frac = r.pick(&[0, 1, 0x40_0000, 0x3f_ffff, 0x7f_ffff, noise]);
            u128::from((r.next() as u32) << 31 | exp << 23 | frac)
        }
        4 | 5 => {
            let all = (1 << 52) - 1;
            let (any, noise) = (r.below(2048), r.next() & all);
            let exp = r.pick(&[0, 1, 0x3ff, 0x400, 0x7fe, 0x7ff, any]);
            let frac = r.pick(&[0, 1, 1 << 51, all >> 1, all, noise]);
            u128::from(r.next() << 63 | exp << 52 | frac)
        }
        3 if fop >> 3 & 7 == 5 => {
            let v = value(r);
            u128::from(v.se) << 64 | u128::from(v.sig)
        }
        7 if fop >> 3 & 7 == 4 => {
            let digits = (0..18).fold(0u128, |v, _| v << 4 | u128::from(r.below(10)));
            digits >> (4 * r.below(18)) | noise >> 72 << 72
        }
        _ => u128::from((r.next() as i64 >> r.below(64)) as u64),
    }
}

#[test]
fn memory_forms_equal_the_processor() {
    let mut bad = Vec::new();
    for fop in (0..0x800u16).filter(|fop| fop & 0xc7 == 6) {
        let (reads, writes) = (Fpu::reads(fop), Fpu::writes(fop));
        if reads.is_none() && writes.is_none() {
            continue;
        }
        let native = Native::new(&[0xd8 | (fop >> 8) as u8, fop as u8]);
        let mut r = Random(2 ^ u64::from(fop) << 32);
        for _ in 0..6000 {
            let before = state(&mut r);
            let data = operand(&mut r, fop);
            let mut f = before.clone();
            let mut n = machine(&before);
            // FLDCW that unmasks a pending exception is another test's.
            let data = if fop == 0x12e { data | 0x3f } else { data };
            n.memory[..16].copy_from_slice(&data.to_le_bytes());
            let mut memory = n.memory;
            native.run(&mut n);
            if reads.is_some() {
                f.memory_load(fop, data);
            }
            if let Some(size) = writes {
                let store = f.memory_store(fop);
                if let Some(bytes) = store.bytes {
                    memory[..size].copy_from_slice(&bytes.to_le_bytes()[..size]);
                }
                f.stored(fop, &store);
            }
            let (here, there) = (comparable(image(&f)), comparable(saved(&n)));
            if here != there || memory != n.memory {
                bad.push(format!(
                    "{:02x} {:02x} data {data:x}\nbefore {}\nnative {} {:x?}\nhere   {} {:x?}",
                    0xd8 | fop >> 8,
                    fop & 0xff,
                    show(&image(&before)),
                    show(&there),
                    &n.memory[..10],
                    show(&here),
                    &memory[..10],
                ));
                break;
            }
        }
    }
    assert!(bad.is_empty(), "{} differ:\n{}", bad.len(), bad.join("\n"));
}
