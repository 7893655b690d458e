//! The initial state of a machine: what two nodes must agree on before a guest may run.
//!
//! It heads every log and travels in the handshake. With it and the entries, anyone can run the
//! machine again (DET-1).

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::types::Life;

/// The version of the machine as the guest sees it: devices, addresses, boot state and what a
/// position counts. Nodes and logs of another version are refused.
pub const MACHINE_MODEL_VERSION: u32 = 3;

/// The longest name or text in a configuration, in bytes: a Linux command line is at most 2,048.
pub const MAX_TEXT_BYTES: usize = 4096;

/// What the CPU backend is, and what it runs on (DET-4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuIdentity {
    /// The backend: `kvm`.
    pub backend: String,
    /// The host's CPU model.
    pub model: String,
    /// What kind of KVM runs the guest, for example `hardware` or `software`.
    pub kind: String,
    /// A hash of the CPUID leaves that the guest sees.
    pub cpuid: u64,
}

/// The guest's disk before the first instruction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// Its size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether the guest can only read it.
    pub read_only: bool,
    /// A hash of what is on it.
    pub content: [u8; 32],
}

/// What must be equal on both nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// [`MACHINE_MODEL_VERSION`] of the node.
    pub machine_model: u32,
    /// The VM's name.
    pub vm: String,
    /// The guest's name or the kernel's file name: for people, not compared.
    pub guest: String,
    /// BLAKE3 of the kernel or guest image.
    pub image: [u8; 32],
    /// BLAKE3 of the initial RAM disk, if there is one.
    pub initrd: Option<[u8; 32]>,
    /// The guest's RAM in MiB.
    pub memory_mib: u32,
    /// The kernel command line.
    pub command_line: String,
    /// The network device's address.
    pub mac: [u8; 6],
    /// The block device's disk, if there is one.
    pub disk: Option<DiskIdentity>,
    /// The CPU.
    pub cpu: CpuIdentity,
}

/// One setting in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{setting} differs: {ours} here, {theirs} there")]
pub struct Difference {
    /// The setting's name.
    pub setting: String,
    /// Its value on this side.
    pub ours: String,
    /// Its value on the other side.
    pub theirs: String,
}

impl Configuration {
    /// The first setting in which `theirs` is not what it must be.
    #[must_use]
    pub fn difference(&self, theirs: &Self) -> Option<Difference> {
        let rows = self.rows();
        let other = theirs.rows();
        rows.into_iter().zip(other).find(|(a, b)| a.1 != b.1).map(
            |((setting, ours), (_, theirs))| Difference {
                setting: setting.to_owned(),
                ours,
                theirs,
            },
        )
    }

    /// Every compared setting with its value, as people read it.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, String); 12] {
        [
            ("machine model", self.machine_model.to_string()),
            ("VM name", self.vm.clone()),
            ("guest image", hex(&self.image)),
            (
                "initial RAM disk",
                self.initrd.map_or("none".to_owned(), |hash| hex(&hash)),
            ),
            ("memory", format!("{} MiB", self.memory_mib)),
            ("command line", format!("{:?}", self.command_line)),
            ("MAC address", mac(self.mac)),
            ("disk", self.disk.as_ref().map_or("none".to_owned(), disk)),
            ("CPU backend", self.cpu.backend.clone()),
            ("CPU model", self.cpu.model.clone()),
            ("kind of CPU", self.cpu.kind.clone()),
            ("CPUID", format!("{:016x}", self.cpu.cpuid)),
        ]
    }

    /// Whether every text is within its bound (SEC-2).
    #[must_use]
    pub fn is_within_bounds(&self) -> bool {
        [
            &self.vm,
            &self.guest,
            &self.command_line,
            &self.cpu.backend,
            &self.cpu.model,
        ]
        .iter()
        .chain([&&self.cpu.kind])
        .all(|text| text.len() <= MAX_TEXT_BYTES)
    }
}

/// Everything that a machine starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialState {
    /// The life that starts.
    pub life: Life,
    /// What must be equal on both nodes.
    pub configuration: Configuration,
    /// What the real-time clock says at virtual time 0, in seconds since 1970.
    pub rtc_epoch_s: u64,
    /// The random seed that the boot loader gives to the guest.
    pub seed: [u8; 32],
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn disk(disk: &DiskIdentity) -> String {
    let writable = if disk.read_only {
        "read-only"
    } else {
        "writable"
    };
    let content = hex(&disk.content);
    format!("{} sectors, {writable}, content {content}", disk.sectors)
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> InitialState {
        InitialState {
            life: Life([7; 16]),
            configuration: Configuration {
                // Golden bytes have it, so not the version of the day.
                machine_model: 2,
                vm: "kv".to_owned(),
                guest: "kv".to_owned(),
                image: [1; 32],
                initrd: None,
                memory_mib: 64,
                command_line: String::new(),
                mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
                disk: Some(DiskIdentity {
                    sectors: 2048,
                    read_only: false,
                    content: [2; 32],
                }),
                cpu: CpuIdentity {
                    backend: "kvm".to_owned(),
                    model: "Example CPU".to_owned(),
                    kind: "hardware".to_owned(),
                    cpuid: 0x1234,
                },
            },
            rtc_epoch_s: 1_700_000_000,
            seed: [9; 32],
        }
    }

    #[test]
    fn det_4_every_setting_that_matters_is_compared() {
        let ours = example().configuration;
        type Change = fn(&mut Configuration);
        let changes: [(&str, Change); 14] = [
            ("machine model", |c| c.machine_model += 1),
            ("VM name", |c| c.vm.push('x')),
            ("guest image", |c| c.image[31] ^= 1),
            ("initial RAM disk", |c| c.initrd = Some([0; 32])),
            ("memory", |c| c.memory_mib += 1),
            ("command line", |c| c.command_line.push('x')),
            ("MAC address", |c| c.mac[5] ^= 1),
            ("disk", |c| c.disk = None),
            ("disk", |c| c.disk.as_mut().unwrap().sectors += 1),
            ("disk", |c| c.disk.as_mut().unwrap().content[0] ^= 1),
            ("CPU backend", |c| c.cpu.backend.push('x')),
            ("CPU model", |c| c.cpu.model.push('x')),
            ("kind of CPU", |c| c.cpu.kind.push('x')),
            ("CPUID", |c| c.cpu.cpuid ^= 1),
        ];
        assert_eq!(ours.difference(&ours), None);
        for (setting, change) in changes {
            let mut theirs = ours.clone();
            change(&mut theirs);
            assert_eq!(
                ours.difference(&theirs).map(|d| d.setting).as_deref(),
                Some(setting)
            );
        }
    }

    #[test]
    fn the_guests_name_is_for_people_and_not_compared() {
        let ours = example().configuration;
        let theirs = Configuration {
            guest: "other".to_owned(),
            ..ours.clone()
        };
        assert_eq!(ours.difference(&theirs), None);
    }
}
