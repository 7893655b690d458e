//! MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS: one element of each.
//!
//! [`super::strings_rep`] repeats them.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::core::{CodeSize, Core, reg, seg};
use crate::decode::{Lowering, segment_number};
use crate::devices::{Access, Target};
use crate::fault::Fault;
use crate::flags::{DF, kind};
use crate::op::{Handler, Leave, Op, REP, REPNE, attempt, next_after_write};

use super::by_size;
use super::strings_rep::repeated;

pub(super) const MOVS: usize = 0;
pub(super) const STOS: usize = 1;
pub(super) const LODS: usize = 2;
pub(super) const CMPS: usize = 3;
pub(super) const SCAS: usize = 4;
pub(super) const INS: usize = 5;
pub(super) const OUTS: usize = 6;

/// What stands in an operation's fields for string instructions.
pub(super) fn address_mask(op: &Op) -> u64 {
    !0 >> (64 - 8 * u32::from(op.extra))
}

impl Core {
    /// The linear address of the element at RSI, in the segment of number `src`.
    pub(super) fn source<const S: usize>(&self, op: &Op) -> Result<u64, Fault> {
        let offset = self.get::<3>(reg::RSI) & address_mask(op);
        self.string_address(usize::from(op.src), offset, 1 << S, false)
    }

    /// The linear address of the element at RDI, in ES.
    pub(super) fn destination<const KIND: usize, const S: usize>(
        &self,
        op: &Op,
    ) -> Result<u64, Fault> {
        let offset = self.get::<3>(reg::RDI) & address_mask(op);
        let writes = matches!(KIND, MOVS | STOS | INS);
        self.string_address(seg::ES, offset, 1 << S, writes)
    }

    /// Moves RSI or RDI on by so many bytes, up or down as DF says.
    pub(super) fn advance(&mut self, register: u8, op: &Op, bytes: u64) {
        let from = self.get::<3>(register);
        let to = if self.system_flags & DF == 0 {
            from.wrapping_add(bytes)
        } else {
            from.wrapping_sub(bytes)
        };
        match op.extra {
            2 => self.set::<1>(register, to),
            4 => self.set::<2>(register, to),
            _ => self.set::<3>(register, to),
        }
    }
}

/// One element.
#[inline(always)]
pub(super) fn element<const KIND: usize, const S: usize>(
    core: &mut Core,
    op: &Op,
) -> Result<(), Fault> {
    match KIND {
        MOVS => {
            let (from, to) = (core.source::<S>(op)?, core.destination::<KIND, S>(op)?);
            let value = core.load::<S>(from)?;
            core.store::<S>(to, value)?;
        }
        STOS => {
            let to = core.destination::<KIND, S>(op)?;
            core.store::<S>(to, core.get::<S>(reg::RAX))?;
        }
        LODS => {
            let value = core.load::<S>(core.source::<S>(op)?)?;
            core.set::<S>(reg::RAX, value);
        }
        CMPS => {
            let (first, second) = (core.source::<S>(op)?, core.destination::<KIND, S>(op)?);
            // In this order, as the faults of processors show.
            let b = core.load::<S>(second)?;
            let a = core.load::<S>(first)?;
            core.flags.set::<S>(kind::SUB, a.wrapping_sub(b), b);
        }
        SCAS => {
            let b = core.load::<S>(core.destination::<KIND, S>(op)?)?;
            let a = core.get::<S>(reg::RAX);
            core.flags.set::<S>(kind::SUB, a.wrapping_sub(b), b);
        }
        INS => {
            let port = core.get::<1>(reg::RDX) as u16;
            core.require_port(port, 1 << S)?;
            // What a port has given must find its place: so that is looked at first.
            let to = core.destination::<KIND, S>(op)?;
            core.probe_write(to, 1 << S)?;
            let value = core.devices.read(Target::Port(port), 1 << S)?;
            core.store::<S>(to, value)?;
        }
        _ => {
            let port = core.get::<1>(reg::RDX) as u16;
            core.require_port(port, 1 << S)?;
            let value = core.load::<S>(core.source::<S>(op)?)?;
            core.post(Access {
                target: Target::Port(port),
                size: 1 << S,
                write: Some(value),
            });
        }
    }
    if matches!(KIND, MOVS | LODS | CMPS | OUTS) {
        core.advance(reg::RSI, op, 1 << S);
    }
    if matches!(KIND, MOVS | STOS | CMPS | SCAS | INS) {
        core.advance(reg::RDI, op, 1 << S);
    }
    Ok(())
}

fn once<const KIND: usize, const S: usize>(core: &mut Core, op: &Op, rest: &[Op]) -> Leave {
    attempt!(core, op, element::<KIND, S>(core, op));
    next_after_write(core, op, rest)
}

fn forms<const KIND: usize>(repeats: bool, size: usize) -> Handler {
    if repeats {
        by_size!(size, repeated, KIND)
    } else {
        by_size!(size, once, KIND)
    }
}

pub(super) fn select(instruction: &Instruction, _: CodeSize, op: &mut Op) -> Option<Lowering> {
    use Mnemonic::*;
    let (kind, size) = match instruction.mnemonic() {
        Movsb => (MOVS, 0),
        Movsw => (MOVS, 1),
        Movsd if instruction.is_string_instruction() => (MOVS, 2),
        Movsq => (MOVS, 3),
        Stosb => (STOS, 0),
        Stosw => (STOS, 1),
        Stosd => (STOS, 2),
        Stosq => (STOS, 3),
        Lodsb => (LODS, 0),
        Lodsw => (LODS, 1),
        Lodsd => (LODS, 2),
        Lodsq => (LODS, 3),
        Cmpsb => (CMPS, 0),
        Cmpsw => (CMPS, 1),
        Cmpsd if instruction.is_string_instruction() => (CMPS, 2),
        Cmpsq => (CMPS, 3),
        Scasb => (SCAS, 0),
        Scasw => (SCAS, 1),
        Scasd => (SCAS, 2),
        Scasq => (SCAS, 3),
        Insb => (INS, 0),
        Insw => (INS, 1),
        Insd => (INS, 2),
        Outsb => (OUTS, 0),
        Outsw => (OUTS, 1),
        Outsd => (OUTS, 2),
        _ => return None,
    };
    let mut address_bytes = 8;
    for i in 0..instruction.op_count() {
        address_bytes = match instruction.op_kind(i) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => 2,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => 4,
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => 8,
            _ => address_bytes,
        };
    }
    op.extra = address_bytes;
    let segment = match instruction.segment_prefix() {
        Register::None => Register::DS,
        prefix => prefix,
    };
    op.src = segment_number(segment) as u8;
    // Bare REP comes as REPE.
    if instruction.has_repe_prefix() || instruction.has_rep_prefix() {
        op.marks |= REP;
    }
    if instruction.has_repne_prefix() {
        op.marks |= REPNE;
    }
    let repeats = op.marks & (REP | REPNE) != 0;
    let run = match kind {
        MOVS => forms::<MOVS>(repeats, size),
        STOS => forms::<STOS>(repeats, size),
        LODS => forms::<LODS>(repeats, size),
        CMPS => forms::<CMPS>(repeats, size),
        SCAS => forms::<SCAS>(repeats, size),
        INS => forms::<INS>(repeats, size),
        _ => forms::<OUTS>(repeats, size),
    };
    Some(if repeats {
        Lowering::last(run)
    } else {
        Lowering::of(run)
    })
}
