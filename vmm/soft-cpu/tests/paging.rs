//! Page walks against a model of their own, and what the translation buffers keep.

mod lab;

use iced_x86::code_asm::*;
use lab::{DATA, assemble, machine, put_word, run_to_halt, word};
use proptest::prelude::*;
use soft_cpu::SoftCpu;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;

/// The tables of the tested address: one of each level, from the lowest.
const TABLES: [u64; 4] = [0xA_0000, 0xA_1000, 0xA_2000, lab::PAGE_TABLES];
/// An address with a different index at each level.
const LINEAR: u64 = 1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x678;
const RAM: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Fetch,
}

#[derive(Clone, Copy, Debug)]
struct Setting {
    /// From the lowest level.
    entries: [u64; 4],
    kind: Kind,
    user: bool,
    write_protect: bool,
    no_execute: bool,
}

fn place(level: usize) -> u64 {
    TABLES[level] + (LINEAR >> (12 + 9 * level) & 511) * 8
}

/// What the manual says (SDM vol. 3, 5.5 to 5.8), in the words of a table: the physical address and
/// the entries afterwards, or an error code.
fn model(setting: &Setting) -> Result<(u64, [u64; 4]), u64> {
    let mut code = 0;
    if setting.kind == Kind::Write {
        code |= 2;
    }
    if setting.user {
        code |= 4;
    }
    if setting.kind == Kind::Fetch && setting.no_execute {
        code |= 16;
    }
    let mut lowest = 0;
    for level in (0..4).rev() {
        let entry = setting.entries[level];
        if entry & PRESENT == 0 {
            return Err(code);
        }
        let large = entry & LARGE != 0 && level > 0;
        let mut reserved = 0xF_FF00_0000_0000;
        if !setting.no_execute {
            reserved |= NO_EXECUTE;
        }
        if large {
            reserved |= match level {
                1 => 0x1F_E000,
                2 => 0x3FFF_E000,
                _ => !0,
            };
        }
        if entry & reserved != 0 {
            return Err(code | 9);
        }
        if large {
            lowest = level;
            break;
        }
    }
    let used = &setting.entries[lowest..];
    let all = |bit: u64| used.iter().all(|entry| entry & bit != 0);
    let any = |bit: u64| used.iter().any(|entry| entry & bit != 0);
    let may = match setting.kind {
        Kind::Fetch if any(NO_EXECUTE) => false,
        Kind::Write if !all(WRITABLE) => !setting.user && !setting.write_protect,
        _ => true,
    };
    if !may || setting.user && !all(USER) {
        return Err(code | 1);
    }
    let mut after = setting.entries;
    for entry in &mut after[lowest..] {
        *entry |= ACCESSED;
    }
    if setting.kind == Kind::Write {
        after[lowest] |= DIRTY;
    }
    let size = 1u64 << (12 + 9 * lowest);
    let base = setting.entries[lowest] & 0xFF_FFFF_F000 & !(size - 1);
    Ok((base | LINEAR & (size - 1), after))
}

/// An entry that is present mostly, and leads to the next table or to RAM.
fn entry(level: usize) -> impl Strategy<Value = u64> {
    let bits = any::<u64>();
    let odds = (0..16u32, 0..12u32, 0..12u32, 0..4u32);
    (bits, odds).prop_map(move |(bits, (absent, reserved, no_execute, large))| {
        let mut entry = bits & (WRITABLE | USER | ACCESSED | DIRTY | GLOBAL | 0xE18);
        // Rights are given more often than not.
        entry |= bits >> 32 & (WRITABLE | USER);
        if absent > 0 {
            entry |= PRESENT;
        }
        if no_execute == 0 {
            entry |= NO_EXECUTE;
        }
        let leaf = level == 0 || large == 0;
        if level > 0 && leaf {
            entry |= LARGE;
        }
        entry |= match (leaf, level) {
            (false, _) => TABLES[level - 1],
            (_, 0) => 0x30_0000 + (bits >> 40 & 0xFF) * 0x1000,
            (_, 1) => (bits >> 40 & 7) * 0x20_0000,
            _ => 0,
        };
        if reserved == 0 {
            entry |= 1 << (40 + (bits >> 50) % 12);
        }
        if reserved == 1 && leaf && level > 0 {
            entry |= 1 << (13 + (bits >> 50) % 8);
        }
        entry
    })
}

fn setting() -> impl Strategy<Value = Setting> {
    let entries = (entry(0), entry(1), entry(2), entry(3));
    let kind = prop_oneof![Just(Kind::Read), Just(Kind::Write), Just(Kind::Fetch)];
    (entries, kind, any::<[bool; 3]>()).prop_map(|((a, b, c, d), kind, flags)| Setting {
        entries: [a, b, c, d],
        kind,
        user: flags[0],
        write_protect: flags[1],
        no_execute: flags[2],
    })
}

/// Does the access at [`LINEAR`]. Data come from or go to RBX; a fetch meets `mov bl, 0x5A; hlt`,
/// or `int3` for user mode, which cannot halt.
fn access(setting: &Setting) -> (SoftCpu, Option<u8>) {
    let code = assemble(|a| {
        a.mov(rcx, LINEAR)?;
        match setting.kind {
            Kind::Read => a.mov(bl, byte_ptr(rcx))?,
            Kind::Write => a.mov(byte_ptr(rcx), 0x5A)?,
            Kind::Fetch => a.jmp(rcx)?,
        }
        a.int3()
    });
    let mut cpu = machine(RAM, &code);
    for (level, entry) in setting.entries.iter().enumerate() {
        put_word(&mut cpu, place(level), *entry);
    }
    // A large page that covers the tables is written into as well, so its content may be anything.
    if setting.kind != Kind::Write
        && let Ok((physical, _)) = model(setting)
        && physical < RAM - 4
    {
        lab::put(&mut cpu, physical, &[0xB3, 0x5A, 0xCC]);
    }
    let mut state = if setting.user {
        lab::user_state()
    } else {
        lab::kernel_state()
    };
    if !setting.write_protect {
        state.cr0 &= !(1 << 16);
    }
    if !setting.no_execute {
        state.efer &= !(1 << 11);
    }
    cpu.restore(&state, 0);
    let vector = run_to_halt(&mut cpu);
    (cpu, vector)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn walks_do_what_the_manual_says(setting in setting()) {
        let expected = model(&setting);
        if let Ok((physical, _)) = expected {
            // Not where the test's own tables and code are, and not outside RAM.
            prop_assume!((0x20_0000..RAM - 16).contains(&physical));
        }
        let (cpu, vector) = access(&setting);
        match expected {
            Ok((physical, after)) => {
                prop_assert_eq!(vector, Some(3));
                match setting.kind {
                    Kind::Read => prop_assert_eq!(cpu.state().general[3] as u8, 0xB3),
                    Kind::Write => prop_assert_eq!(word(&cpu, physical) as u8, 0x5A),
                    Kind::Fetch => prop_assert_eq!(cpu.state().general[3] as u8, 0x5A),
                }
                for (level, entry) in after.iter().enumerate() {
                    prop_assert_eq!(word(&cpu, place(level)), *entry, "level {}", level);
                }
            }
            Err(code) => {
                prop_assert_eq!(vector, Some(14));
                prop_assert_eq!(word(&cpu, cpu.state().general[4]), code);
                prop_assert_eq!(cpu.state().cr2, LINEAR);
                for (level, entry) in setting.entries.iter().enumerate() {
                    prop_assert_eq!(word(&cpu, place(level)), *entry, "level {}", level);
                }
            }
        }
    }
}

/// Maps [`LINEAR`]'s page to `physical` with the rights `bits` at the last level.
fn map(cpu: &mut SoftCpu, physical: u64, bits: u64) {
    for level in 1..4 {
        put_word(
            cpu,
            place(level),
            TABLES[level - 1] | PRESENT | WRITABLE | USER,
        );
    }
    put_word(cpu, place(0), physical | bits | PRESENT);
}

/// Reads [`LINEAR`], changes its entry to `DATA + 0x1000` by a store, does `between`, reads again.
fn read_twice(
    bits: u64,
    between: fn(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>,
) -> (u64, u64) {
    let code = assemble(|a| {
        a.mov(rbx, LINEAR & !0xFFF)?;
        a.mov(rsi, qword_ptr(rbx))?;
        a.mov(rax, (DATA + 0x1000) | bits | PRESENT)?;
        a.mov(qword_ptr(place(0)), rax)?;
        between(a)?;
        a.mov(rdi, qword_ptr(rbx))?;
        a.hlt()
    });
    let mut cpu = machine(RAM, &code);
    map(&mut cpu, DATA, bits);
    put_word(&mut cpu, DATA, 1);
    put_word(&mut cpu, DATA + 0x1000, 2);
    assert_eq!(run_to_halt(&mut cpu), None);
    let state = cpu.state();
    (state.general[6], state.general[7])
}

#[test]
fn a_translation_stays_until_it_is_flushed() {
    let plain = WRITABLE | ACCESSED;
    assert_eq!(read_twice(plain, |_| Ok(())), (1, 1), "nothing flushes");
    let invlpg = |a: &mut CodeAssembler| a.invlpg(byte_ptr(rbx + 0x123));
    assert_eq!(read_twice(plain, invlpg), (1, 2));
    let reload = |a: &mut CodeAssembler| {
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)
    };
    assert_eq!(read_twice(plain, reload), (1, 2));
    assert_eq!(
        read_twice(plain | GLOBAL, reload),
        (1, 1),
        "global pages stay"
    );
    let toggle = |a: &mut CodeAssembler| {
        a.mov(rax, cr4)?;
        a.xor(rax, 0x80)?;
        a.mov(cr4, rax)
    };
    assert_eq!(read_twice(plain | GLOBAL, toggle), (1, 2));
}

#[test]
fn a_save_flushes() {
    let code = assemble(|a| {
        a.mov(rbx, LINEAR & !0xFFF)?;
        a.mov(rsi, qword_ptr(rbx))?;
        a.mov(qword_ptr(place(0)), 0)?;
        a.mov(rdi, qword_ptr(rbx))?;
        a.hlt()
    });
    let mut cpu = machine(RAM, &code);
    map(&mut cpu, DATA, WRITABLE);
    assert_eq!(run_to_halt(&mut cpu), None);
    let mut cpu = machine(RAM, &code);
    map(&mut cpu, DATA, WRITABLE);
    cpu.run(3);
    let state = cpu.save();
    assert_eq!(state.rip, cpu.state().rip);
    assert_eq!(run_to_halt(&mut cpu), Some(14));
}

#[test]
fn the_first_write_through_a_clean_translation_sets_the_dirty_bit() {
    let code = assemble(|a| {
        a.mov(rbx, LINEAR & !0xFFF)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rsi, qword_ptr(place(0)))?;
        a.mov(qword_ptr(rbx), rax)?;
        a.mov(rdi, qword_ptr(place(0)))?;
        a.hlt()
    });
    let mut cpu = machine(RAM, &code);
    map(&mut cpu, DATA, WRITABLE);
    assert_eq!(run_to_halt(&mut cpu), None);
    let state = cpu.state();
    assert_eq!(state.general[6] & (ACCESSED | DIRTY), ACCESSED);
    assert_eq!(state.general[7] & (ACCESSED | DIRTY), ACCESSED | DIRTY);
}

#[test]
fn the_kernel_and_its_user_do_not_share_rights() {
    // The kernel reads its page, then user mode tries the same address.
    let code = assemble(|a| {
        a.mov(rbx, LINEAR & !0xFFF)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.push(lab::USER_DATA as i32)?;
        a.push(lab::STACK as i32 - 0x100)?;
        a.push(2)?;
        a.push(lab::USER_CODE as i32)?;
        let mut user = a.create_label();
        a.lea(rcx, ptr(user))?;
        a.push(rcx)?;
        a.iretq()?;
        a.set_label(&mut user)?;
        a.mov(rax, qword_ptr(rbx))?;
        a.int3()
    });
    let mut cpu = machine(RAM, &code);
    map(&mut cpu, DATA, WRITABLE);
    assert_eq!(run_to_halt(&mut cpu), Some(14));
    assert_eq!(word(&cpu, cpu.state().general[4]), 5);
}

#[test]
fn an_access_across_pages_is_whole_or_not_at_all() {
    let at = LINEAR & !0xFFF | 0xFFC;
    let code = assemble(|a| {
        a.mov(rbx, at)?;
        a.mov(rax, -1i64)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.hlt()
    });
    let mut cpu = machine(RAM, &code);
    map(&mut cpu, DATA, WRITABLE);
    assert_eq!(run_to_halt(&mut cpu), Some(14));
    assert_eq!(cpu.state().cr2, at + 4);
    assert_eq!(word(&cpu, DATA + 0xFF8), 0, "nothing of it was written");

    let mut cpu = machine(RAM, &code);
    map(&mut cpu, DATA, WRITABLE);
    put_word(&mut cpu, place(0) + 8, (DATA + 0x8000) | PRESENT | WRITABLE);
    assert_eq!(run_to_halt(&mut cpu), None);
    assert_eq!(word(&cpu, DATA + 0xFF8) >> 32, 0xFFFF_FFFF);
    assert_eq!(word(&cpu, DATA + 0x8000), 0xFFFF_FFFF);
}

#[test]
fn sec_3_tables_and_code_outside_ram_end_in_exceptions() {
    let code = assemble(|a| {
        a.mov(rax, 0xFF_FFFF_F000u64)?;
        a.mov(cr3, rax)?;
        a.hlt()
    });
    let mut cpu = machine(RAM, &code);
    assert_eq!(cpu.run(100), soft_cpu::Exit::TripleFault);

    // A jump to a mapped page that is no RAM: undefined code, not a crash.
    let mut cpu = machine(
        RAM,
        &assemble(|a| {
            a.mov(eax, 0x2000_0000)?;
            a.jmp(rax)
        }),
    );
    assert_eq!(run_to_halt(&mut cpu), Some(6));
    assert_eq!(word(&cpu, cpu.state().general[4]), 0x2000_0000);
}
