//! What this host's KVM does, and what it cannot hide (DET-4). Nothing here is fatal: what KVM
//! cannot run, the CPU in software does.

use kvm_ioctls::Kvm;

use super::Check;
use crate::cpu::kvm::host::{self, KvmError};
use crate::cpu::kvm::probe::{self, Executed};

/// Instructions that read what no log records, with the value of RCX that they want.
const UNLOGGED: [(&str, &[u8], u64); 5] = [
    ("RDTSC", &[0x0F, 0x31], 0),
    ("RDTSCP", &[0x0F, 0x01, 0xF9], 0),
    ("RDPMC", &[0x0F, 0x33], 0),
    ("RDRAND", &[0x0F, 0xC7, 0xF0], 0),
    ("RDSEED", &[0x0F, 0xC7, 0xF8], 0),
];

/// Model-specific registers of that kind.
const UNLOGGED_MSRS: [(&str, u32); 3] = [("TSC", 0x10), ("APERF", 0xE8), ("kvmclock", 0x4B56_4D01)];

const RDMSR: [u8; 2] = [0x0F, 0x32];

pub(super) fn checks() -> Vec<Check> {
    let kvm = match host::open() {
        Ok(kvm) => kvm,
        Err(error) => return vec![no_kvm(&error)],
    };
    let mut checks = vec![Check::ok(
        "/dev/kvm",
        format!("opened, API version {}", kvm.get_api_version()),
    )];
    checks.push(speed(&kvm));
    for (name, check) in [
        ("CPUID", cpuid(&kvm)),
        ("unlogged instructions", instructions(&kvm)),
        ("unlogged MSRs", msrs(&kvm)),
    ] {
        checks.push(check.unwrap_or_else(|error| {
            Check::warn(
                name,
                format!("{error:#}"),
                "this KVM does not run a guest of four lines",
            )
        }));
    }
    checks
}

fn no_kvm(error: &KvmError) -> Check {
    let (found, advice) = match error {
        KvmError::Missing => (
            "there is none".to_owned(),
            "guests run on the CPU in software. For KVM load its module (`modprobe kvm_intel` or \
             `modprobe kvm_amd`), or switch nested virtualisation on where this is itself a VM",
        ),
        KvmError::Permission => (
            "it may not be opened".to_owned(),
            "guests run on the CPU in software. For KVM add yourself to the group that owns it: \
             `sudo usermod -aG kvm $USER`, then log in again",
        ),
        KvmError::Other(source) => (source.to_string(), "see what `dmesg` says of kvm"),
    };
    Check::warn("/dev/kvm", found, advice)
}

fn speed(kvm: &Kvm) -> Check {
    match host::probe_speed(kvm) {
        Err(error) => Check::warn(
            "kind of KVM",
            format!("it does not run a guest: {error:#}"),
            "see what `dmesg` says of kvm",
        ),
        Ok(speed) => {
            let found = format!(
                "{}, {:.1} million instructions/s at CPL 0",
                speed.kind(),
                speed.mips
            );
            match speed.kind() {
                "software" => Check::warn(
                    "kind of KVM",
                    found,
                    "kernel code is interpreted, so `--cpu auto` takes the CPU in software. On KVM \
                     both hosts of a VM need the same kind",
                ),
                _ => Check::ok("kind of KVM", found),
            }
        }
    }
}

fn cpuid(kvm: &Kvm) -> anyhow::Result<Check> {
    let differing = probe::cpuid_not_honoured(kvm)?;
    if differing.is_empty() {
        return Ok(Check::ok("CPUID", "a guest sees what it is told to see"));
    }
    let leaves: Vec<String> = differing
        .iter()
        .map(|(leaf, _)| format!("{:#x}", leaf.function))
        .collect();
    Ok(Check::warn(
        "CPUID",
        format!("a guest sees the host's leaves {}", leaves.join(", ")),
        "features cannot be hidden: a guest must not use what CPUID offers (those that ftvm \
         carries do not), and both hosts of a VM need the same CPU model",
    ))
}

fn instructions(kvm: &Kvm) -> anyhow::Result<Check> {
    let mut executed = Vec::new();
    for (name, code, rcx) in UNLOGGED {
        if let Executed::Done(_) = probe::execute(kvm, code, 0, rcx)? {
            executed.push(name);
        }
    }
    // At CPL 3 nothing can be tried without a guest of some size, and nothing can be trapped.
    let found = match executed.is_empty() {
        true => "none at CPL 0; at CPL 3 they cannot be trapped".to_owned(),
        false => format!(
            "a guest can execute {} at CPL 0; at CPL 3 they cannot be trapped",
            executed.join(", ")
        ),
    };
    Ok(Check::warn(
        "unlogged instructions",
        found,
        "a guest that executes one is not protected by replay, its backup diverges; the guests that \
         ftvm carries do not, Linux does",
    ))
}

fn msrs(kvm: &Kvm) -> anyhow::Result<Check> {
    let mut readable = Vec::new();
    for (name, number) in UNLOGGED_MSRS {
        if let Executed::Done(_) = probe::execute(kvm, &RDMSR, 0, number.into())? {
            readable.push(name);
        }
    }
    Ok(match readable.is_empty() {
        true => Check::ok("unlogged MSRs", "TSC, APERF and kvmclock fault in a guest"),
        false => Check::warn(
            "unlogged MSRs",
            format!("a guest can read {}", readable.join(", ")),
            "this KVM does not filter MSRs (Linux does from 5.10 on): a guest that reads one is \
             not protected by replay; the guests that ftvm carries do not",
        ),
    })
}
