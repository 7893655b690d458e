//! Segment registers, and the descriptors that they are loaded from (SDM vol. 3, chapter 3).

use crate::core::{Core, efer, seg};
use crate::fault::{Fault, vector};
use crate::op::SEGMENT_BASES;
use crate::state::{Segment, UNUSABLE};

/// Bits of a segment's access rights.
pub(super) mod access {
    /// Code or data, not a system segment.
    pub(crate) const CODE_OR_DATA: u32 = 1 << 4;
    pub(crate) const CODE: u32 = 1 << 3;
    /// Of code.
    pub(crate) const CONFORMING: u32 = 1 << 2;
    /// Of code.
    pub(crate) const READABLE: u32 = 1 << 1;
    /// Of data.
    pub(crate) const WRITABLE: u32 = 1 << 1;
    pub(crate) const ACCESSED: u32 = 1;
    pub(crate) const PRESENT: u32 = 1 << 7;
    pub(crate) const LONG: u32 = 1 << 13;
    pub(crate) const WIDE: u32 = 1 << 14;
    pub(crate) const GRANULAR: u32 = 1 << 15;
}

/// Types of system descriptors.
pub(super) mod system_type {
    pub(crate) const LDT: u32 = 2;
    pub(crate) const TASK: u32 = 9;
    pub(crate) const TASK_BUSY: u32 = 11;
}

/// The privilege level of a segment.
pub(super) fn dpl(segment: &Segment) -> u8 {
    (segment.access >> 5 & 3) as u8
}

/// The requested privilege level of a selector.
pub(super) fn rpl(selector: u16) -> u8 {
    (selector & 3) as u8
}

pub(super) fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

pub(super) fn is_present(segment: &Segment) -> bool {
    segment.access & access::PRESENT != 0
}

/// Whether it is code, and of what sort: `CONFORMING` and so on apply.
pub(super) fn is_code(segment: &Segment) -> bool {
    let both = access::CODE_OR_DATA | access::CODE;
    segment.access & both == both
}

/// Whether it is data that can be written.
pub(super) fn is_writable_data(segment: &Segment) -> bool {
    let mask = access::CODE_OR_DATA | access::CODE | access::WRITABLE;
    segment.access & mask == access::CODE_OR_DATA | access::WRITABLE
}

/// A segment from the eight bytes of its descriptor.
pub(super) fn from_descriptor(selector: u16, bytes: u64) -> Segment {
    let rights = (bytes >> 40) as u32 & 0xF0FF;
    let limit = (bytes & 0xFFFF | bytes >> 32 & 0xF_0000) as u32;
    Segment {
        base: bytes >> 16 & 0xFF_FFFF | bytes >> 32 & 0xFF00_0000,
        limit: if rights & access::GRANULAR != 0 {
            limit << 12 | 0xFFF
        } else {
            limit
        },
        selector,
        access: rights,
    }
}

/// A segment register without a segment, at a privilege level.
pub(super) fn null_segment(selector: u16, dpl: u8) -> Segment {
    Segment {
        base: 0,
        limit: 0,
        selector,
        access: UNUSABLE | u32::from(dpl) << 5,
    }
}

impl Core {
    /// The address of a selector's descriptor, of `len` bytes. #GP(selector) beyond the table.
    pub(super) fn descriptor_address(&self, selector: u16, len: u64) -> Result<u64, Fault> {
        let (base, limit) = if selector & 4 == 0 {
            (self.gdt.base, u64::from(self.gdt.limit))
        } else if self.ldt.access & UNUSABLE == 0 && is_present(&self.ldt) {
            (self.ldt.base, u64::from(self.ldt.limit))
        } else {
            return Err(Fault::protection(selector));
        };
        let offset = u64::from(selector & !7);
        if offset + (len - 1) > limit {
            return Err(Fault::protection(selector));
        }
        Ok(base.wrapping_add(offset))
    }

    /// The descriptor of a selector that is not null.
    pub(super) fn read_descriptor(&mut self, selector: u16) -> Result<Segment, Fault> {
        let address = self.descriptor_address(selector, 8)?;
        let bytes = self.as_supervisor(|core| core.load::<3>(address))?;
        Ok(from_descriptor(selector, bytes))
    }

    /// Sets the accessed bit of a code or data segment, in its table too.
    pub(super) fn mark_accessed(&mut self, segment: &mut Segment) -> Result<(), Fault> {
        if segment.access & access::ACCESSED == 0 {
            segment.access |= access::ACCESSED;
            let at = self
                .descriptor_address(segment.selector, 8)?
                .wrapping_add(5);
            let byte = u64::from(segment.access as u8);
            self.as_supervisor(|core| core.store::<0>(at, byte))?;
        }
        Ok(())
    }

    /// A far pointer in memory: selector, and offset of `bytes` bytes. Two operands: each is aligned
    /// for itself.
    pub(super) fn load_far_pointer(
        &mut self,
        address: u64,
        bytes: usize,
    ) -> Result<(u16, u64), Fault> {
        let mut offset = [0; 8];
        self.load_bytes(address, &mut offset[..bytes])?;
        let selector = self.load::<1>(address.wrapping_add(bytes as u64))?;
        Ok((selector as u16, u64::from_le_bytes(offset)))
    }

    /// Sets a segment register with its hidden part.
    pub(super) fn set_segment(&mut self, number: usize, segment: Segment) {
        self.segments[number] = segment;
        self.regs[usize::from(SEGMENT_BASES) + number] = segment.base;
    }

    /// Loads ES, SS, DS, FS or GS.
    pub(super) fn load_segment(&mut self, number: usize, selector: u16) -> Result<(), Fault> {
        if number == seg::SS {
            let segment = self.checked_stack_segment(selector, self.cpl, Fault::protection)?;
            self.set_segment(seg::SS, segment);
            self.update_modes();
            return Ok(());
        }
        if is_null(selector) {
            self.set_segment(number, null_segment(selector, 0));
            return Ok(());
        }
        let mut segment = self.read_descriptor(selector)?;
        let kind = segment.access & (access::CODE_OR_DATA | access::CODE | access::READABLE);
        let is_data = kind & (access::CODE_OR_DATA | access::CODE) == access::CODE_OR_DATA;
        let readable = is_data || kind == access::CODE_OR_DATA | access::CODE | access::READABLE;
        let conforming = is_code(&segment) && segment.access & access::CONFORMING != 0;
        let level = dpl(&segment);
        if !readable || !conforming && (rpl(selector) > level || self.cpl > level) {
            return Err(Fault::protection(selector));
        }
        if !is_present(&segment) {
            return Err(Fault::Coded(vector::NP, selector & !3));
        }
        self.mark_accessed(&mut segment)?;
        self.set_segment(number, segment);
        Ok(())
    }

    /// The segment that SS would get at privilege level `level`. `wrong` makes the fault of a bad
    /// selector.
    pub(super) fn checked_stack_segment(
        &mut self,
        selector: u16,
        level: u8,
        wrong: fn(u16) -> Fault,
    ) -> Result<Segment, Fault> {
        if is_null(selector) {
            // 64-bit code runs without one.
            let long = self.long_mode() && self.segments[seg::CS].access & access::LONG != 0;
            if long && level < 3 && rpl(selector) == level {
                return Ok(null_segment(selector, level));
            }
            return Err(wrong(0));
        }
        let mut segment = self
            .read_descriptor(selector)
            .map_err(|fault| match fault {
                Fault::Coded(vector::GP, code) => wrong(code),
                other => other,
            })?;
        if rpl(selector) != level || !is_writable_data(&segment) || dpl(&segment) != level {
            return Err(wrong(selector));
        }
        if !is_present(&segment) {
            return Err(Fault::Coded(vector::SS, selector & !3));
        }
        self.mark_accessed(&mut segment)?;
        Ok(segment)
    }

    /// Enters a code segment at a privilege level, which SS's descriptor repeats.
    pub(super) fn set_code_segment(&mut self, segment: Segment, level: u8) {
        self.set_segment(
            seg::CS,
            Segment {
                selector: segment.selector & !3 | u16::from(level),
                ..segment
            },
        );
        self.cpl = level;
        let stack = &mut self.segments[seg::SS];
        stack.access = stack.access & !(3 << 5) | u32::from(level) << 5;
        self.update_modes();
    }

    /// The flat segments that SYSCALL and its relatives load without a look at any table.
    pub(super) fn set_flat_segments(&mut self, code: u16, stack: u16, level: u8, long: bool) {
        let common = access::CODE_OR_DATA
            | access::PRESENT
            | access::GRANULAR
            | access::ACCESSED
            | access::WRITABLE
            | u32::from(level) << 5;
        let flat = |selector: u16, rights: u32| Segment {
            base: 0,
            limit: u32::MAX,
            selector: selector & !3 | u16::from(level),
            access: common | rights,
        };
        self.set_segment(seg::SS, flat(stack, access::WIDE));
        let size = if long { access::LONG } else { access::WIDE };
        self.set_code_segment(flat(code, access::CODE | size), level);
    }

    /// After a return to a lower privilege: data segments that it may not use are emptied.
    pub(super) fn drop_privileged_segments(&mut self) {
        for number in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let segment = &self.segments[number];
            let conforming = is_code(segment) && segment.access & access::CONFORMING != 0;
            if segment.access & UNUSABLE != 0 {
                // Only the selector: the base, which Linux keeps its thread pointers in, stays.
                self.segments[number].selector = 0;
            } else if !conforming && dpl(segment) < self.cpl {
                self.set_segment(number, null_segment(0, 0));
            }
        }
    }

    /// Whether SYSCALL and SYSRET are enabled.
    pub(super) fn syscall_enabled(&self) -> bool {
        self.efer & efer::SCE != 0
    }
}
