//! The machine that a log was recorded from, built again.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use ft_logging::initial::{Configuration, MACHINE_MODEL_VERSION};
use ft_logging::store::{Log, Place};

use crate::cpu::kvm::{KvmCpu, host};
use crate::machine::{BootImages, Machine, MachineConfig, boot};
use crate::node::{DiskImage, Overlay};

/// Builds the machine as it was before its first instruction.
///
/// # Errors
///
/// If the log does not begin there, an image is not the one that was recorded, or this host or
/// release cannot be the machine; with `force`, another CPU may try.
pub(super) fn machine(
    log: &Log,
    kernel: Option<&Path>,
    initrd: Option<&Path>,
    force: bool,
) -> anyhow::Result<Machine<KvmCpu>> {
    let start = log.start();
    anyhow::ensure!(
        start == Place::START,
        "the log begins with entry {}, amid a run: a replay starts with entry 1. Name the whole \
         directory, not one of its later segments",
        start.index
    );
    let configuration = &log.initial().configuration;
    let model = configuration.machine_model;
    anyhow::ensure!(
        model == MACHINE_MODEL_VERSION,
        "the log was recorded on version {model} of the machine, this program has version \
         {MACHINE_MODEL_VERSION}: replay it with the release of ftvm that wrote it"
    );
    // SEC-2: a file's number is not trusted.
    anyhow::ensure!(
        boot::MEMORY_MIB.contains(&configuration.memory_mib),
        "the log claims a machine with {} MiB of memory: there are none with fewer than {} or \
         more than {}",
        configuration.memory_mib,
        boot::MEMORY_MIB.start(),
        boot::MEMORY_MIB.end()
    );
    let images = images(configuration, kernel, initrd)?;
    let kvm = host::open()?;
    let cpu = host::identity(&kvm)?;
    anyhow::ensure!(
        configuration.cpu.backend == cpu.backend,
        "the log was recorded on the CPU backend {:?}: its positions mean nothing to {:?}",
        configuration.cpu.backend,
        cpu.backend
    );
    let here = Configuration {
        cpu,
        ..configuration.clone()
    };
    if let Some(difference) = here.difference(configuration).filter(|_| !force) {
        anyhow::bail!(
            "the log was recorded on another CPU: {difference}. Machine and log could part for \
             that alone; --force tries all the same"
        );
    }
    let config = MachineConfig::of(log.initial());
    Ok(Machine::build(config, images, |ram| {
        KvmCpu::new(&kvm, ram)
    })?)
}

/// The disk as it was before the first instruction, if the machine had one.
///
/// # Errors
///
/// If it is not given, or not the one that was recorded.
pub(super) fn disk(
    configuration: &Configuration,
    path: Option<&Path>,
) -> anyhow::Result<Option<Overlay>> {
    let (wanted, path) = match (&configuration.disk, path) {
        (None, None) => return Ok(None),
        (None, Some(_)) => anyhow::bail!("the log's guest had no disk: leave --disk out"),
        (Some(_), None) => anyhow::bail!(
            "the log's guest had a disk: give the image as it was before the first instruction, \
             --disk FILE"
        ),
        (Some(wanted), Some(path)) => (wanted, path),
    };
    // A replay writes nothing, whatever the guest does.
    let image = DiskImage::open(path, true)?;
    let found = image.identity()?;
    anyhow::ensure!(
        (found.sectors, found.content) == (wanted.sectors, wanted.content),
        "{} is not the disk that was recorded: it has {} sectors with content {}, the log's {} \
         with {}",
        path.display(),
        found.sectors,
        hex(&found.content),
        wanted.sectors,
        hex(&wanted.content)
    );
    Ok(Some(Overlay::new(image)))
}

fn images(
    configuration: &Configuration,
    kernel: Option<&Path>,
    initrd: Option<&Path>,
) -> anyhow::Result<BootImages> {
    let wanted = configuration.image;
    let kernel = match kernel {
        Some(path) => read(path, &wanted, "image")?,
        None => guest_images::all()
            .iter()
            .find(|guest| blake3::hash(guest.elf) == wanted)
            .map(|guest| guest.elf.into())
            .with_context(|| {
                format!(
                    "the log's guest {:?} (BLAKE3 {}) is none that this program carries: give its \
                     image with --kernel FILE, or use the ftvm that recorded it",
                    configuration.guest,
                    hex(&wanted)
                )
            })?,
    };
    let initrd = match (&configuration.initrd, initrd) {
        (Some(wanted), Some(path)) => Some(read(path, wanted, "initial RAM disk")?),
        (None, None) => None,
        (Some(wanted), None) => anyhow::bail!(
            "the log's guest had an initial RAM disk (BLAKE3 {}): give it with --initrd FILE",
            hex(wanted)
        ),
        (None, Some(_)) => {
            anyhow::bail!("the log's guest had no initial RAM disk: leave --initrd away")
        }
    };
    Ok(BootImages {
        name: configuration.guest.clone(),
        kernel,
        initrd,
        command_line: configuration.command_line.clone(),
    })
}

fn read(path: &Path, wanted: &[u8; 32], what: &str) -> anyhow::Result<Arc<[u8]>> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let found = blake3::hash(&bytes);
    anyhow::ensure!(
        found == *wanted,
        "{} is not the {what} that was recorded: its BLAKE3 is {found}, the log's is {}",
        path.display(),
        hex(wanted)
    );
    Ok(bytes.into())
}

fn hex(hash: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*hash).to_string()
}

#[cfg(test)]
mod tests {
    use ft_logging::initial::CpuIdentity;

    use super::*;

    fn configuration(image: [u8; 32], initrd: Option<[u8; 32]>) -> Configuration {
        Configuration {
            machine_model: MACHINE_MODEL_VERSION,
            vm: "kv".to_owned(),
            guest: "mine".to_owned(),
            image,
            initrd,
            memory_mib: 64,
            command_line: "x=1".to_owned(),
            mac: [2; 6],
            disk: None,
            cpu: CpuIdentity {
                backend: "kvm".to_owned(),
                model: "any".to_owned(),
                kind: "hardware".to_owned(),
                cpuid: 0,
            },
        }
    }

    #[test]
    fn an_embedded_guest_is_found_by_its_hash_and_not_by_its_name() {
        let noise = guest_images::by_name("noise").expect("embedded");
        let configuration = configuration(*blake3::hash(noise.elf).as_bytes(), None);
        let images = images(&configuration, None, None).expect("its images");
        assert_eq!(&*images.kernel, noise.elf);
        assert_eq!(images.command_line, "x=1");
    }

    #[test]
    fn images_from_files_must_be_those_that_were_recorded() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        std::fs::write(&path, "recorded").expect("written");
        let hash = *blake3::hash(b"recorded").as_bytes();
        let with_initrd = configuration(hash, Some(hash));
        let good = images(&with_initrd, Some(&path), Some(&path)).expect("its images");
        assert_eq!(good.initrd.as_deref(), Some(&b"recorded"[..]));

        let other = configuration([1; 32], None);
        let missing = dir.path().join("missing");
        let wrong = [
            (&other, None, None, "--kernel"),
            (&other, Some(&path), None, "not the image"),
            (&other, Some(&missing), None, "reading"),
            (&with_initrd, Some(&path), None, "--initrd"),
            (&with_initrd, Some(&path), Some(&missing), "reading"),
            (
                &configuration(hash, None),
                Some(&path),
                Some(&path),
                "leave --initrd",
            ),
        ];
        for (configuration, kernel, initrd, expected) in wrong {
            let initrd = initrd.map(|path: &std::path::PathBuf| path.as_path());
            let kernel = kernel.map(|path: &std::path::PathBuf| path.as_path());
            let error = images(configuration, kernel, initrd).expect_err(expected);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }
}
