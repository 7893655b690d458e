//! KVM's structures to and from [`CpuState`].

use kvm_bindings::{
    KVM_VCPUEVENT_VALID_SHADOW, Msrs, kvm_debugregs, kvm_dtable, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

use super::{CpuError, backend, ioctl};
use crate::cpu::{CPU_STATE_VERSION, CpuState, DescriptorTable, Segment};
use crate::sys::vcpu::Vcpu;

/// The MSRs that are part of the state (SDM vol. 4): SYSENTER, PAT, MTRR default, EFER, SYSCALL,
/// FS, GS and kernel GS base. The TSC is not: no guest in replay mode reads it (DET-4).
const MSRS: [u32; 14] = [
    0x174,
    0x175,
    0x176,
    0x277,
    0x2FF,
    0x1A0,
    0xC000_0080,
    0xC000_0081,
    0xC000_0082,
    0xC000_0083,
    0xC000_0084,
    0xC000_0100,
    0xC000_0101,
    0xC000_0102,
];

const EFER: u32 = 0xC000_0080;

/// Bytes of x87 and SSE state and the header in an XSAVE image.
const XSAVE_LEGACY_BYTES: usize = 576;

/// Where in an XSAVE image the bit set of the components in use stands.
const XSTATE_BV: usize = 512;

/// Its bits for x87 and SSE.
const X87_AND_SSE: u8 = 3;

/// An access-rights bit beyond those of a descriptor.
const UNUSABLE: u32 = 0x1_0000;

pub(super) fn save(vcpu: &Vcpu) -> Result<CpuState, CpuError> {
    let fd = vcpu.fd();
    let regs = fd.get_regs().map_err(ioctl("KVM_GET_REGS"))?;
    let sregs = fd.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
    let debug = fd.get_debug_regs().map_err(ioctl("KVM_GET_DEBUGREGS"))?;
    let events = fd.get_vcpu_events().map_err(ioctl("KVM_GET_VCPU_EVENTS"))?;
    let xsave = fd.get_xsave().map_err(ioctl("KVM_GET_XSAVE"))?;
    // Without XSAVE there is no XCR0.
    let xcr0 = fd.get_xcrs().map_or(1, |xcrs| xcrs.xcrs[0].value);
    Ok(CpuState {
        version: CPU_STATE_VERSION,
        general: [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ],
        rip: regs.rip,
        rflags: regs.rflags,
        segments: [sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs].map(segment),
        task: segment(sregs.tr),
        ldt: segment(sregs.ldt),
        gdt: table(sregs.gdt),
        idt: table(sregs.idt),
        control: [sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8],
        debug: [
            debug.db[0],
            debug.db[1],
            debug.db[2],
            debug.db[3],
            debug.dr6,
            debug.dr7,
        ],
        xcr0,
        msrs: save_msrs(vcpu, sregs.efer)?,
        xsave: canonical(&xsave),
        exception: (events.exception.injected != 0).then_some((
            events.exception.nr,
            (events.exception.has_error_code != 0).then_some(events.exception.error_code),
        )),
        interrupt: pending_interrupt(&sregs, &events),
        interrupt_shadow: events.interrupt.shadow != 0,
    })
}

fn pending_interrupt(sregs: &kvm_sregs, events: &kvm_vcpu_events) -> Option<u8> {
    if events.interrupt.injected != 0 {
        return Some(events.interrupt.nr);
    }
    let bits = sregs.interrupt_bitmap;
    (0..4)
        .find(|word| bits[*word] != 0)
        .map(|word| word as u8 * 64 + bits[word].trailing_zeros() as u8)
}

fn save_msrs(vcpu: &Vcpu, efer: u64) -> Result<Vec<(u32, u64)>, CpuError> {
    let mut saved = Vec::with_capacity(MSRS.len());
    for index in MSRS {
        if index == EFER {
            saved.push((EFER, efer));
            continue;
        }
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[entry]).expect("one entry fits");
        // A kind of KVM that does not have one of them has no state in it either.
        if vcpu
            .fd()
            .get_msrs(&mut msrs)
            .map_err(ioctl("KVM_GET_MSRS"))?
            == 1
        {
            saved.push((index, msrs.as_slice()[0].data));
        }
    }
    Ok(saved)
}

/// The XSAVE image in one form for equal states, whatever the host's largest image is. Whether a
/// component in its initial state counts as in use varies from one run to the next (SDM vol. 1,
/// 13.6), so x87 and SSE always count, and what follows them only if it is not all zero.
fn canonical(xsave: &kvm_xsave) -> Vec<u8> {
    let mut bytes: Vec<u8> = xsave
        .region
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    if bytes[XSAVE_LEGACY_BYTES..].iter().all(|byte| *byte == 0) {
        bytes.truncate(XSAVE_LEGACY_BYTES);
        bytes[XSTATE_BV..XSTATE_BV + 8].fill(0);
    }
    bytes[XSTATE_BV] |= X87_AND_SSE;
    // Software-reserved bytes (464 to 511) belong to the host.
    bytes[464..512].fill(0);
    bytes
}

pub(super) fn restore(vcpu: &Vcpu, state: &CpuState) -> Result<(), CpuError> {
    if state.version != CPU_STATE_VERSION {
        return Err(CpuError::Unsupported(format!(
            "a CPU state of version {} was saved by another release; this one has version \
             {CPU_STATE_VERSION}",
            state.version
        )));
    }
    let fd = vcpu.fd();
    let g = &state.general;
    let mut sregs = fd.get_sregs().map_err(ioctl("KVM_GET_SREGS"))?;
    let [es, cs, ss, ds, fs, gs] = state.segments.map(kvm_segment_of);
    (sregs.es, sregs.cs, sregs.ss, sregs.ds, sregs.fs, sregs.gs) = (es, cs, ss, ds, fs, gs);
    sregs.tr = kvm_segment_of(state.task);
    sregs.ldt = kvm_segment_of(state.ldt);
    sregs.gdt = kvm_dtable_of(state.gdt);
    sregs.idt = kvm_dtable_of(state.idt);
    [sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8] = state.control;
    sregs.efer = state
        .msrs
        .iter()
        .find(|(index, _)| *index == EFER)
        .map_or(0, |(_, efer)| *efer);
    sregs.interrupt_bitmap = [0; 4];
    fd.set_sregs(&sregs).map_err(ioctl("KVM_SET_SREGS"))?;
    fd.set_regs(&kvm_regs {
        rax: g[0],
        rcx: g[1],
        rdx: g[2],
        rbx: g[3],
        rsp: g[4],
        rbp: g[5],
        rsi: g[6],
        rdi: g[7],
        r8: g[8],
        r9: g[9],
        r10: g[10],
        r11: g[11],
        r12: g[12],
        r13: g[13],
        r14: g[14],
        r15: g[15],
        rip: state.rip,
        rflags: state.rflags,
    })
    .map_err(ioctl("KVM_SET_REGS"))?;
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = state.xcr0;
    // Without XSAVE there is no XCR0, and nothing is lost.
    let _ = fd.set_xcrs(&xcrs);
    vcpu.set_xsave(&xsave_of(state)?)
        .map_err(backend("KVM_SET_XSAVE"))?;
    for &(index, data) in &state.msrs {
        let entry = kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[entry]).expect("one entry fits");
        if fd.set_msrs(&msrs).map_err(ioctl("KVM_SET_MSRS"))? != 1 && index != EFER {
            return Err(CpuError::Unsupported(format!(
                "this KVM has no MSR {index:#x}"
            )));
        }
    }
    let [db0, db1, db2, db3, dr6, dr7] = state.debug;
    let debug = kvm_debugregs {
        db: [db0, db1, db2, db3],
        dr6,
        dr7,
        ..Default::default()
    };
    fd.set_debug_regs(&debug)
        .map_err(ioctl("KVM_SET_DEBUGREGS"))?;
    set_events(vcpu, state, false)
}

/// Sets what is on its way to the guest; the interrupt shadow only if `shadow` says so.
pub(super) fn set_events(vcpu: &Vcpu, state: &CpuState, shadow: bool) -> Result<(), CpuError> {
    let mut events = kvm_vcpu_events {
        flags: KVM_VCPUEVENT_VALID_SHADOW,
        ..Default::default()
    };
    if let Some((vector, error_code)) = state.exception {
        events.exception.injected = 1;
        events.exception.nr = vector;
        events.exception.has_error_code = u8::from(error_code.is_some());
        events.exception.error_code = error_code.unwrap_or(0);
    }
    if let Some(vector) = state.interrupt {
        events.interrupt.injected = 1;
        events.interrupt.nr = vector;
    }
    events.interrupt.shadow = u8::from(shadow && state.interrupt_shadow);
    vcpu.fd()
        .set_vcpu_events(&events)
        .map_err(ioctl("KVM_SET_VCPU_EVENTS"))
}

fn xsave_of(state: &CpuState) -> Result<kvm_xsave, CpuError> {
    let mut xsave = kvm_xsave::default();
    let room = size_of_val(&xsave.region);
    if state.xsave.len() < XSAVE_LEGACY_BYTES || state.xsave.len() > room {
        return Err(CpuError::Unsupported(format!(
            "an XSAVE image of {} bytes; this host takes {XSAVE_LEGACY_BYTES} to {room}",
            state.xsave.len()
        )));
    }
    for (word, bytes) in xsave.region.iter_mut().zip(state.xsave.chunks(4)) {
        let mut padded = [0; 4];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_le_bytes(padded);
    }
    Ok(xsave)
}

fn segment(from: kvm_segment) -> Segment {
    let access = u32::from(from.type_)
        | u32::from(from.s) << 4
        | u32::from(from.dpl) << 5
        | u32::from(from.present) << 7
        | u32::from(from.avl) << 12
        | u32::from(from.l) << 13
        | u32::from(from.db) << 14
        | u32::from(from.g) << 15
        | if from.unusable != 0 { UNUSABLE } else { 0 };
    Segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        access,
    }
}

fn kvm_segment_of(from: Segment) -> kvm_segment {
    let bit = |at: u32| (from.access >> at & 1) as u8;
    kvm_segment {
        base: from.base,
        limit: from.limit,
        selector: from.selector,
        type_: (from.access & 0xF) as u8,
        present: bit(7),
        dpl: (from.access >> 5 & 3) as u8,
        db: bit(14),
        s: bit(4),
        l: bit(13),
        g: bit(15),
        avl: bit(12),
        unusable: bit(16),
        padding: 0,
    }
}

fn table(from: kvm_dtable) -> DescriptorTable {
    DescriptorTable {
        base: from.base,
        limit: from.limit,
    }
}

fn kvm_dtable_of(from: DescriptorTable) -> kvm_dtable {
    kvm_dtable {
        base: from.base,
        limit: from.limit,
        padding: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_convert_both_ways() {
        let code = Segment {
            base: 0,
            limit: u32::MAX,
            selector: 0x10,
            access: 0xA09B,
        };
        let unusable = Segment {
            access: UNUSABLE,
            ..Segment::default()
        };
        for example in [code, unusable] {
            assert_eq!(segment(kvm_segment_of(example)), example);
        }
        let kvm = kvm_segment_of(code);
        assert_eq!(
            (kvm.type_, kvm.s, kvm.present, kvm.l, kvm.db, kvm.g),
            (0xB, 1, 1, 1, 0, 1)
        );
    }
}
