//! Which instruction forms the software CPU claims, and which of them no user program can compare.
//!
//! The unit is an iced-x86 `Code`: an opcode with its operand kinds and size.

use iced_x86::{
    Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpCodeOperandKind, OpKind, Register,
};

/// The features that make up x86-64-v1 with CMPXCHG16B, in iced-x86's division. The last line
/// defines no instruction that does anything, but NOPs that carry a name on newer CPUs.
const CLAIMED: &[CpuidFeature] = &[
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CPUID,
    CpuidFeature::MSR,
    CpuidFeature::TSC,
    CpuidFeature::SYSCALL,
    CpuidFeature::SEP,
    CpuidFeature::RDPMC,
    CpuidFeature::SMM,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::CMOV,
    CpuidFeature::CLFSH,
    CpuidFeature::FPU,
    CpuidFeature::FPU287,
    CpuidFeature::FPU387,
    CpuidFeature::FXSR,
    CpuidFeature::MMX,
    CpuidFeature::SSE,
    CpuidFeature::SSE2,
    CpuidFeature::PAUSE,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::CET_IBT,
    CpuidFeature::PREFETCHW,
];

/// The widths of code segments that a case can run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    /// 64-bit mode.
    Long,
    /// Compatibility mode with a 32-bit code segment.
    Compatibility,
}

impl Mode {
    /// As iced-x86 counts it.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Mode::Long => 64,
            Mode::Compatibility => 32,
        }
    }
}

/// Whether the software CPU claims `code` in `mode`. FSTCW and the like are no forms of their own,
/// but WAIT and FNSTCW.
pub(crate) fn is_claimed(code: Code, mode: Mode) -> bool {
    let form = code.op_code();
    // 66-prefixed near branches are 16 bits wide on AMD's CPUs only.
    let exists = match mode {
        Mode::Long => form.mode64() && form.intel_decoder64(),
        Mode::Compatibility => form.mode32() && form.intel_decoder32(),
    };
    exists
        && form.is_instruction()
        && !form.fwait()
        && form.encoding() == EncodingKind::Legacy
        && code
            .cpuid_features()
            .iter()
            .all(|feature| CLAIMED.contains(feature))
}

/// All claimed forms of `mode`.
pub(crate) fn claimed(mode: Mode) -> impl Iterator<Item = Code> {
    Code::values().filter(move |code| is_claimed(*code, mode))
}

/// Why a claimed form is not compared, for those that are not. Everything else is.
pub(crate) fn exemption(code: Code, mode: Mode) -> Option<&'static str> {
    use Mnemonic::*;
    let form = code.op_code();
    let on_amd = match mode {
        Mode::Long => form.amd_decoder64(),
        Mode::Compatibility => form.amd_decoder32(),
    };
    Some(match code.mnemonic() {
        Cpuid => "describes the CPU, and they differ",
        Rdtsc => "reads a clock",
        Sysret if mode == Mode::Compatibility && is_amd() => {
            "on AMD's CPUs it needs no 64-bit mode: #GP(0), not #UD"
        }
        // Its length differs on AMD's CPUs; the fault does not.
        Ud0 => return None,
        Bswap if code == Code::Bswap_r16 => "its result is undefined (SDM vol. 2, BSWAP)",
        Syscall | Sysenter => "enters the host's kernel",
        Sgdt | Sidt | Sldt | Str | Smsw => {
            "reads system state that differs; kernels emulate it where UMIP forbids it"
        }
        Int1 => "hypervisors that intercept it disagree about the RIP that it leaves",
        // APM vol. 3, LSS: "A 64-bit operand size ... is not supported"; likewise far JMP and CALL.
        // APM vol. 3, PREFETCH: "the operand is not memory: #UD".
        Reservednop if is_amd() && is_0f0d(code) => "this host is AMD's, whose CPUs lack the form",
        Movsxd if code == Code::Movsxd_r16_rm16 && is_amd() => {
            "on AMD's CPUs it reads 32 bits (APM vol. 3, MOVSXD)"
        }
        _ if !on_amd && is_amd() => "this host is AMD's, whose CPUs lack the form",
        _ => return None,
    })
}

/// Whether this host's CPU is known not to do what both manuals say of `instruction`: on AMD's, ARPL
/// that has nothing to adjust permits an operand in a segment that cannot be written.
pub(crate) fn host_deviates(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Arpl
        && instruction.op0_kind() == OpKind::Memory
        && instruction.memory_segment() == Register::CS
        && is_amd()
}

/// Whether the CPU of this host follows AMD's manuals where they differ from Intel's.
pub(crate) fn is_amd() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    // "AuthenticAMD" and "HygonGenuine" by their second words.
    [u32::from_le_bytes(*b"enti"), u32::from_le_bytes(*b"nGen")].contains(&leaf.edx)
}

/// Why a compared form can do nothing but fault in a case, for those of which that is true.
pub(crate) fn only_faults(code: Code) -> Option<&'static str> {
    use Mnemonic::*;
    Some(match code.mnemonic() {
        In | Out | Insb | Insw | Insd | Outsb | Outsw | Outsd | Cli | Sti => {
            "IOPL is 0 and there is no I/O permission bit map"
        }
        Hlt | Lldt | Ltr | Lgdt | Lidt | Lmsw | Invlpg | Swapgs | Clts | Sysret | Sysretq
        | Sysexit | Sysexitq | Invd | Wbinvd | Wrmsr | Rdmsr | Rdpmc => "needs CPL 0",
        Ud0 | Ud1 | Ud2 => "is defined to be undefined",
        Rsm => "is undefined outside system-management mode",
        Int3 | Into | Int => "ends in an exception",
        Mov if is_control_move(code) => "needs CPL 0",
        _ if branches_to_16_bits(code) => "goes to an address below 64 KiB, where no case has code",
        _ => return None,
    })
}

/// Whether this is the register form of PREFETCHW's opcode.
fn is_0f0d(code: Code) -> bool {
    matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
    )
}

fn is_control_move(code: Code) -> bool {
    let form = code.op_code();
    let system = [OpCodeOperandKind::cr_reg, OpCodeOperandKind::dr_reg];
    (0..form.op_count()).any(|number| system.contains(&form.op_kind(number)))
}

/// Whether the form is an unconditional transfer with a 16-bit instruction pointer.
fn branches_to_16_bits(code: Code) -> bool {
    matches!(
        code,
        Code::Retnw
            | Code::Retnw_imm16
            | Code::Retfw
            | Code::Retfw_imm16
            | Code::Iretw
            | Code::Call_rel16
            | Code::Jmp_rel16
            | Code::Jmp_rel8_16
            | Code::Call_rm16
            | Code::Jmp_rm16
            | Code::Call_m1616
            | Code::Jmp_m1616
            | Code::Call_ptr1616
            | Code::Jmp_ptr1616
    )
}
