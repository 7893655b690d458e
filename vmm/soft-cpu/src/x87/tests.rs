//! x87 against the processor that the tests run on: every opcode, on random and on special states,
//! masked and not, in every rounding and precision; the whole FNSAVE image is compared. Of the
//! transcendental functions, see `transcendental_tests`.

use super::format::{F80, J, QUIET};
use super::state::Fpu;
use crate::core::cr0;
use crate::fault::Fault;
use crate::oracle::{Machine, Native, OPERAND, Random, Software, decides_alike};

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
        1 => F80 {
            se: sign | 0x7fff,
            sig: J,
        },
        2 => F80 {
            se: sign | 0x7fff,
            sig: J | QUIET | r.next() >> r.below(63),
        },
        3 => F80 {
            se: sign | 0x7fff,
            sig: (J | r.next() >> r.below(60)) & !QUIET | 1,
        },
        4 => F80 {
            se: sign,
            sig: r.next() >> r.below(64),
        },
        5 => F80 {
            se: sign | r.below(0x8000) as u16,
            sig: r.next(),
        },
        6 => F80 {
            se: sign | r.pick(&[0, 1, 2, 63, 64, 65, 0x7ffe, 0x7ffd, 0x7fbf]),
            sig: J | r.next(),
        },
        7 => F80 {
            se: sign | r.pick(&[0, 1, 2, 0x7ffe, 0x7ffd, 0x7fff]),
            sig: r.pick(&sigs),
        },
        8 => F80 {
            se: sign | r.below(0x8000) as u16,
            sig: r.pick(&sigs),
        },
        // Few, so that two of them often differ in the sign or the quiet bit alone.
        9 => F80 {
            se: sign | 0x7fff,
            sig: J | r.pick(&[1, 2, QUIET, QUIET | 1]),
        },
        10..13 => F80 {
            se: sign | (16383 - 4 + r.below(8)) as u16,
            sig: r.pick(&sigs),
        },
        13..16 => F80::from_i64(r.next() as i64 >> r.below(64)),
        16 => F80 {
            se: sign | (16383 + r.pick(&[-1i64, 15, 16, 31, 32, 62, 63, 64])) as u16,
            sig: r.pick(&sigs),
        },
        17 => F80 {
            se: sign | (16383 - 1080 + r.below(110)) as u16,
            sig: J | r.next(),
        },
        18 => F80 {
            se: sign | (16383 - 155 + r.below(40)) as u16,
            sig: J | r.next(),
        },
        19 => F80 {
            se: sign | (16383 + r.pick(&[126u64, 127, 128, 1022, 1023, 1024])) as u16,
            sig: J | r.next(),
        },
        20 => F80 {
            se: sign | (16383 + r.pick(&[127u64, 1023])) as u16,
            sig: u64::MAX << r.below(64),
        },
        _ => F80 {
            se: sign | (16383 - 64 + r.below(128)) as u16,
            sig: J | r.next(),
        },
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

/// A machine in this state.
fn machine(f: &Fpu, r: &mut Random) -> Machine {
    let mut m = Machine {
        flags: 2 | r.next() & 0x8d5,
        rax: r.next(),
        ..Machine::default()
    };
    f.clone().save(&mut m.saved[..108]);
    m
}

/// What must be equal. The processor has its operand elsewhere, and knows how it was addressed. A
/// kernel that switched to another task meanwhile `lost` its pointers.
fn comparable(mut m: Machine, operand: u64, lost: bool) -> Machine {
    m.flags &= 0x8d5;
    if lost {
        m.saved[12..28].fill(0);
    }
    let field = |m: &Machine, at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| m.saved[at + i]));
    if field(&m, 20) == operand as u32 {
        m.saved[20..24].copy_from_slice(&(OPERAND as u32).to_le_bytes());
    }
    if m.saved[18] < 0xc0 {
        m.saved[18] &= 0x38;
    }
    m
}

fn show(m: &Machine) -> String {
    let word = |i: usize| u16::from_le_bytes([m.saved[i], m.saved[i + 1]]);
    let mut s = format!("cw {:04x} sw {:04x} tw {:04x}", word(0), word(4), word(8));
    for reg in m.saved[28..108].chunks_exact(10) {
        let v = F80::from_bytes(reg.try_into().expect("ten bytes"));
        s += &format!(" {:04x}:{:016x}", v.se, v.sig);
    }
    s + &format!(
        " flags {:x} rax {:x} pointers {:02x?}",
        m.flags,
        m.rax,
        &m.saved[12..28]
    )
}

/// Runs an instruction natively and here on `cases` states.
fn check(
    bytes: &[u8],
    cases: u32,
    prepare: impl Fn(&mut Machine, &mut Random),
) -> Result<(), String> {
    let (native, mut software) = (Native::new(bytes), Software::new(bytes));
    let mut r = Random(bytes.iter().fold(7, |seed, &b| seed << 8 | u64::from(b)));
    for _ in 0..cases {
        let mut before = machine(&state(&mut r), &mut r);
        prepare(&mut before, &mut r);
        let (mut there, mut here) = (before, before);
        native.run(&mut there);
        let done = software.run(&mut here, native.address());
        let operand = std::ptr::from_ref(&there.memory) as u64;
        let lost = there.saved[16..18] == [0; 2];
        let (here, there) = (
            comparable(here, OPERAND, lost),
            comparable(there, operand, lost),
        );
        if done.is_err() || here != there {
            return Err(format!(
                "{bytes:02x?} {done:?} memory {:02x?}\nbefore {}\nnative {} {:02x?}\nhere   {} {:02x?}",
                &before.memory[..16],
                show(&before),
                show(&there),
                &there.memory[..16],
                show(&here),
                &here.memory[..16],
            ));
        }
    }
    Ok(())
}

/// The names of x87 opcodes, see `exec`.
fn bytes(fop: u16) -> [u8; 2] {
    [0xd8 | (fop >> 8) as u8, fop as u8]
}

fn is_transcendental(fop: u16) -> bool {
    matches!(fop, 0x1f0..=0x1f3 | 0x1f9 | 0x1fb | 0x1fe | 0x1ff)
}

#[test]
fn register_forms_equal_the_processor() {
    if !decides_alike() {
        return;
    }
    let forms = (0..0x800u16).filter(|fop| {
        fop & 0xff >= 0xc0 && !is_transcendental(*fop) && Fpu::default().register(*fop, 0).is_ok()
    });
    let checked: Vec<_> = forms
        .map(|fop| check(&bytes(fop), 1500, |_, _| {}))
        .collect();
    assert!(checked.len() > 360, "{} forms", checked.len());
    let different: Vec<String> = checked.into_iter().filter_map(Result::err).collect();
    assert!(
        different.is_empty(),
        "{} differ:\n{}",
        different.len(),
        different.join("\n")
    );
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
    if !decides_alike() {
        return;
    }
    let mut different = Vec::new();
    for fop in (0..0x800u16).filter(|fop| fop & 0xc7 == 6) {
        if Fpu::reads(fop).is_none() && Fpu::writes(fop).is_none() {
            continue;
        }
        let prepare = |m: &mut Machine, r: &mut Random| {
            m.memory[..16].copy_from_slice(&operand(r, fop).to_le_bytes());
        };
        different.extend(check(&bytes(fop), 5000, prepare).err());
    }
    assert!(
        different.is_empty(),
        "{} differ:\n{}",
        different.len(),
        different.join("\n")
    );
}

#[test]
fn environments_and_images_equal_the_processor() {
    if !decides_alike() {
        return;
    }
    let mut different = Vec::new();
    // FLDENV, FNSTENV, FRSTOR, FNSAVE, each in both sizes.
    for form in [[0xd9, 0x26], [0xd9, 0x36], [0xdd, 0x26], [0xdd, 0x36]] {
        for narrow in [false, true] {
            let mut bytes = if narrow { vec![0x66] } else { vec![] };
            bytes.extend(form);
            let prepare = |m: &mut Machine, r: &mut Random| {
                for at in (0..112).step_by(8) {
                    m.memory[at..at + 8].copy_from_slice(&r.next().to_le_bytes());
                }
            };
            different.extend(check(&bytes, 3000, prepare).err());
        }
    }
    assert!(
        different.is_empty(),
        "{} differ:\n{}",
        different.len(),
        different.join("\n")
    );
}

#[test]
fn waiting_instructions_hear_of_a_pending_exception() {
    // FADD, FLDCW, FWAIT, FRSTOR, EMMS; FNSTSW AX, FNSTCW, FNCLEX, FNINIT, FNSAVE do not wait.
    let waiting: [&[u8]; 5] = [
        &[0xd8, 0xc1],
        &[0xd9, 0x2e],
        &[0x9b],
        &[0xdd, 0x26],
        &[0x0f, 0x77],
    ];
    let others: [&[u8]; 5] = [
        &[0xdf, 0xe0],
        &[0xd9, 0x3e],
        &[0xdb, 0xe2],
        &[0xdb, 0xe3],
        &[0xdd, 0x36],
    ];
    let run = |bytes: &[u8]| {
        let mut f = Fpu::default();
        f.set_control(0x37b);
        f.set_status(4);
        assert!(f.pending());
        let mut m = Machine::default();
        f.save(&mut m.saved[..108]);
        // FNSAVE masks nothing, FNSTENV within it does: put the control word back.
        m.saved[..2].copy_from_slice(&0x37bu16.to_le_bytes());
        Software::new(bytes).run(&mut m, 0x1000)
    };
    for bytes in waiting {
        assert_eq!(run(bytes), Err(Fault::X87), "{bytes:02x?}");
    }
    for bytes in others {
        assert_eq!(run(bytes), Ok(()), "{bytes:02x?}");
    }
}

#[test]
fn ts_and_em_keep_x87_from_running() {
    for (bit, wait) in [
        (cr0::TS, Ok(())),
        (cr0::EM, Ok(())),
        (cr0::TS | cr0::MP, Err(())),
    ] {
        for bytes in [
            &[0xd8, 0xc1][..],
            &[0xd9, 0x3e],
            &[0xdb, 0xe3],
            &[0xdd, 0x36],
            &[0x9b],
        ] {
            let mut software = Software::new(bytes);
            software.core.cr0 |= bit;
            let expected = match bytes {
                [0x9b] => wait.map_err(|()| Fault::NO_FPU),
                _ => Err(Fault::NO_FPU),
            };
            assert_eq!(
                software.run(&mut Machine::default(), 0x1000),
                expected,
                "{bytes:02x?}"
            );
        }
    }
}
