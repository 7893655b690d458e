//! LDMXCSR, STMXCSR, FXSAVE and FXRSTOR, fences, and hints about caches.

use iced_x86::Code;

use super::mxcsr::EXISTING;
use crate::core::{CodeSize, Core};
use crate::fault::Fault;
use crate::op::{Handler, Op, handler};

/// The handler of one of these.
pub(super) fn select(code: Code) -> Option<Handler> {
    Some(match code {
        Code::Ldmxcsr_m32 => handler!(load_mxcsr),
        Code::Stmxcsr_m32 => handler!(store_mxcsr),
        Code::Fxsave_m512byte => handler!(save::<false>),
        Code::Fxsave64_m512byte => handler!(save::<true>),
        Code::Fxrstor_m512byte => handler!(restore::<false>),
        Code::Fxrstor64_m512byte => handler!(restore::<true>),
        Code::Clflush_m8 => handler!(flush_line),
        // Memory is ordered as the program says, and there is no cache to hint at.
        Code::Pause
        | Code::Prefetchnta_m8
        | Code::Prefetcht0_m8
        | Code::Prefetcht1_m8
        | Code::Prefetcht2_m8
        | Code::Lfence
        | Code::Lfence_E9
        | Code::Lfence_EA
        | Code::Lfence_EB
        | Code::Lfence_EC
        | Code::Lfence_ED
        | Code::Lfence_EE
        | Code::Lfence_EF
        | Code::Mfence
        | Code::Mfence_F1
        | Code::Mfence_F2
        | Code::Mfence_F3
        | Code::Mfence_F4
        | Code::Mfence_F5
        | Code::Mfence_F6
        | Code::Mfence_F7
        | Code::Sfence
        | Code::Sfence_F9
        | Code::Sfence_FA
        | Code::Sfence_FB
        | Code::Sfence_FC
        | Code::Sfence_FD
        | Code::Sfence_FE
        | Code::Sfence_FF => handler!(nothing),
        _ => return None,
    })
}

fn nothing(_: &mut Core, _: &Op) -> Result<(), Fault> {
    Ok(())
}

/// CLFLUSH faults as a load of a byte does.
fn flush_line(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.load::<0>(core.address(op)).map(drop)
}

/// LDMXCSR: #GP for bits that do not exist.
fn load_mxcsr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_sse()?;
    let value = core.load::<2>(core.address(op))? as u32;
    if value & !EXISTING != 0 {
        return Err(Fault::PROTECTION);
    }
    core.mxcsr = value;
    Ok(())
}

/// STMXCSR.
fn store_mxcsr(core: &mut Core, op: &Op) -> Result<(), Fault> {
    core.require_sse()?;
    core.store::<2>(core.address(op), u64::from(core.mxcsr))
}

/// Bytes of an FXSAVE image before XMM0.
const HEAD: usize = 160;

/// How many XMM registers the mode has.
fn registers(core: &Core) -> usize {
    if core.code_size == CodeSize::Long {
        16
    } else {
        8
    }
}

/// The address of an FXSAVE image: #NM where the FPU is not at hand, #GP where it is not aligned.
fn image_address(core: &Core, op: &Op) -> Result<u64, Fault> {
    core.require_fpu()?;
    let address = core.address(op);
    if !address.is_multiple_of(16) {
        return Err(Fault::PROTECTION);
    }
    Ok(address)
}

/// FXSAVE, and FXSAVE64 with `WIDE`. Nothing is written behind the last register that the mode has
/// (SDM vol. 1, 10.5.1.2), but it must be writable.
fn save<const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let address = image_address(core, op)?;
    let mut image = [0; 512];
    core.probe_write(address, image.len())?;
    core.fpu.save_fx(WIDE, &mut image);
    image[24..28].copy_from_slice(&core.mxcsr.to_le_bytes());
    image[28..32].copy_from_slice(&EXISTING.to_le_bytes());
    let count = registers(core);
    for (at, value) in image[HEAD..].chunks_exact_mut(16).zip(&core.xmm[..count]) {
        at.copy_from_slice(&value.to_le_bytes());
    }
    core.store_bytes(address, &image[..HEAD + 16 * count])
}

/// FXRSTOR, and FXRSTOR64 with `WIDE`: #GP for bits of MXCSR that do not exist.
fn restore<const WIDE: bool>(core: &mut Core, op: &Op) -> Result<(), Fault> {
    let address = image_address(core, op)?;
    let mut image = [0; 512];
    core.load_bytes(address, &mut image)?;
    let mxcsr = u32::from_le_bytes([image[24], image[25], image[26], image[27]]);
    if mxcsr & !EXISTING != 0 {
        return Err(Fault::PROTECTION);
    }
    core.mxcsr = mxcsr;
    core.fpu.load_fx(WIDE, &image);
    let count = registers(core);
    for (from, value) in image[HEAD..].chunks_exact(16).zip(&mut core.xmm[..count]) {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(from);
        *value = u128::from_le_bytes(bytes);
    }
    Ok(())
}
