//! Decimal arithmetic and BOUND of 32-bit code: AAA, AAS, AAM, AAD, DAA, DAS, BOUND, SALC.

use iced_x86::{Instruction, Mnemonic};

use crate::core::{Core, reg};
use crate::decode::Lowering;
use crate::fault::{Fault, vector};
use crate::flags::{AF, CF, flag, of_result};
use crate::op::{Op, handler};

const AL: u8 = reg::RAX;
const AH: u8 = 0x20;

/// AAA if `sign` is 1, AAS if it is -1.
fn adjust_unpacked(core: &mut Core, sign: i64) {
    let bits = core.flags.bits();
    let ax = core.get::<1>(reg::RAX);
    let adjusts = ax & 15 > 9 || bits & AF != 0;
    let ax = if adjusts {
        ax.wrapping_add((sign * 0x106) as u64)
    } else {
        ax
    };
    core.set::<1>(reg::RAX, ax & 0xFF0F);
    core.flags.change(AF | CF, flag(AF | CF, adjusts));
}

fn aaa(core: &mut Core, _: &Op) -> Result<(), Fault> {
    adjust_unpacked(core, 1);
    Ok(())
}

fn aas(core: &mut Core, _: &Op) -> Result<(), Fault> {
    adjust_unpacked(core, -1);
    Ok(())
}

/// DAA if `sign` is 1, DAS if it is -1.
fn adjust_packed(core: &mut Core, sign: i64) {
    let bits = core.flags.bits();
    let old = core.get::<0>(AL);
    let low = old & 15 > 9 || bits & AF != 0;
    let high = old > 0x99 || bits & CF != 0;
    let by = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let result = old.wrapping_add((sign * by) as u64) & 0xFF;
    // DAS also borrows where the adjustment of the low digit does.
    let borrows = sign < 0 && low && old < 6;
    core.set::<0>(AL, result);
    core.flags
        .set_bits(of_result::<0>(result) | flag(AF, low) | flag(CF, high || borrows));
}

fn daa(core: &mut Core, _: &Op) -> Result<(), Fault> {
    adjust_packed(core, 1);
    Ok(())
}

fn das(core: &mut Core, _: &Op) -> Result<(), Fault> {
    adjust_packed(core, -1);
    Ok(())
}

fn aam(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let base = op.imm & 0xFF;
    if base == 0 {
        return Err(Fault::DIVIDE);
    }
    let al = core.get::<0>(AL);
    core.set::<0>(AH, al / base);
    core.set::<0>(AL, al % base);
    core.flags.set_bits(of_result::<0>(al % base));
    Ok(())
}

fn aad(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let result = core
        .get::<0>(AL)
        .wrapping_add(core.get::<0>(AH).wrapping_mul(op.imm))
        & 0xFF;
    core.set::<1>(reg::RAX, result);
    core.flags.set_bits(of_result::<0>(result));
    Ok(())
}

fn salc(core: &mut Core, _: &Op) -> Result<(), Fault> {
    let value = if core.flags.carry() { 0xFF } else { 0 };
    core.set::<0>(AL, value);
    Ok(())
}

/// Two accesses of `1 << S` bytes, as processors check their alignment.
fn bounds<const S: usize>(core: &mut Core, op: &Op) -> Result<[u64; 2], Fault> {
    let at = core.address(op);
    Ok([
        core.load::<S>(at)?,
        core.load::<S>(at.wrapping_add(1 << S))?,
    ])
}

fn bound_16(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let [lower, upper] = bounds::<1>(core, op)?;
    let index = core.get::<1>(op.dst) as i16;
    in_bounds(index < lower as i16 || index > upper as i16)
}

fn bound_32(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let [lower, upper] = bounds::<2>(core, op)?;
    let index = core.get::<2>(op.dst) as i32;
    in_bounds(index < lower as i32 || index > upper as i32)
}

fn in_bounds(outside: bool) -> Result<(), Fault> {
    if outside {
        Err(Fault::Plain(vector::BR))
    } else {
        Ok(())
    }
}

pub(super) fn select(instruction: &Instruction) -> Option<Lowering> {
    Some(Lowering::of(match instruction.mnemonic() {
        Mnemonic::Aaa => handler!(aaa),
        Mnemonic::Aas => handler!(aas),
        Mnemonic::Aam => handler!(aam),
        Mnemonic::Aad => handler!(aad),
        Mnemonic::Daa => handler!(daa),
        Mnemonic::Das => handler!(das),
        Mnemonic::Salc => handler!(salc),
        Mnemonic::Bound if instruction.op0_register().size() == 2 => handler!(bound_16),
        Mnemonic::Bound => handler!(bound_32),
        _ => return None,
    }))
}
