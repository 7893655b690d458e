//! REP, REPE and REPNE: string instructions over and over.
//!
//! Each iteration is a position of its own, so the instruction can be left between two: for the
//! limit, for a device, for a fault. Then RIP stays where it is, and the registers say how far it
//! got.
//!
//! MOVS and STOS upwards go many elements at a time while both pages are at hand in the TLB. That
//! is what the elements one by one would do: they would find the same entries, and change none.

use crate::core::{Core, reg};
use crate::flags::DF;
use crate::memory::ram::PAGE;
use crate::op::{Leave, Op, REPNE, attempt};

use super::strings::{CMPS, INS, MOVS, OUTS, SCAS, STOS, address_mask, element};

/// Iterations after which another thread's wish to stop is looked at.
const AT_ONCE: u64 = 1 << 16;

pub(super) fn repeated<const KIND: usize, const S: usize>(
    core: &mut Core,
    op: &Op,
    _: &[Op],
) -> Leave {
    if matches!(KIND, INS | OUTS) {
        // Also where nothing is left to do, the port must be allowed.
        let port = core.get::<1>(reg::RDX) as u16;
        attempt!(core, op, core.require_port(port, 1 << S));
    }
    let counter_mask = address_mask(op);
    let mut left = core.get::<3>(reg::RCX) & counter_mask;
    let allowed = (core.limit - core.position_of(op)).min(AT_ONCE);
    let mut done = 0;
    let mut over = left == 0;
    while !over && done < allowed {
        let many = if matches!(KIND, MOVS | STOS) {
            in_bulk::<KIND, S>(core, op, left.min(allowed - done))
        } else {
            0
        };
        if many > 0 {
            done += many;
            left -= many;
        } else {
            if let Err(fault) = element::<KIND, S>(core, op) {
                if done == 0 {
                    return core.stop_before(op, fault);
                }
                // The iterations so far have happened. The fault will be met again.
                break;
            }
            done += 1;
            left -= 1;
        }
        core.set_counter(left, op.extra as u8);
        over = left == 0;
        if matches!(KIND, CMPS | SCAS) {
            let equal = core.flags.holds::<4>();
            over |= equal == (op.marks & REPNE != 0);
        }
        if core.attention {
            break;
        }
    }
    let rip = if over {
        core.address_behind(op)
    } else {
        core.address_of(op)
    };
    core.stop_at(op, rip);
    // Without an iteration, the instruction itself is the position.
    core.retired = u64::from(op.number) + done.max(1);
    Leave::After
}

/// Carries out up to `wanted` iterations within one page at each end. Zero if they must go one by
/// one.
fn in_bulk<const KIND: usize, const S: usize>(core: &mut Core, op: &Op, wanted: u64) -> u64 {
    if core.system_flags & DF != 0 || wanted < 2 {
        return 0;
    }
    let in_page = |address: u64| (PAGE - address % PAGE) >> S;
    let Ok(to) = core.destination::<KIND, S>(op) else {
        return 0;
    };
    let mut many = wanted.min(in_page(to));
    let Some(to_physical) = core.tlb.open_page(to, true) else {
        return 0;
    };
    if KIND == MOVS {
        let Ok(from) = core.source::<S>(op) else {
            return 0;
        };
        many = many.min(in_page(from));
        let Some(from_physical) = core.tlb.open_page(from, false) else {
            return 0;
        };
        // Elements that overlap the next one's source go one by one.
        let distance = to_physical.wrapping_sub(from_physical);
        if many < 2 || distance < 1 << S {
            return 0;
        }
        core.ram
            .copy_upwards(from_physical, to_physical, (many as usize) << S);
        core.advance(reg::RSI, op, many << S);
    } else {
        if many < 2 {
            return 0;
        }
        let pattern = core.get::<S>(reg::RAX).to_le_bytes();
        core.ram
            .fill(to_physical, (many as usize) << S, &pattern[..1 << S]);
    }
    core.advance(reg::RDI, op, many << S);
    many
}
