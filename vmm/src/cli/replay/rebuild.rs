//! The machine that a log was recorded from, built again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use ft_logging::initial::{Configuration, MACHINE_MODEL_VERSION};
use ft_logging::store::{Log, Place};
use guest_images::linux::{self, Cache, Image};

use crate::cpu::kvm::{KvmCpu, host};
use crate::cpu::soft::SoftCpu;
use crate::cpu::{Backend, Cpu, CpuError};
use crate::machine::{BootImages, Machine, MachineConfig, boot};
use crate::node::{DiskImage, Overlay};
use crate::sys::vm::GuestMemory;

/// What the machine of a log is made of, found and checked.
#[derive(Debug)]
pub(super) struct Recorded {
    /// The CPU backend that counted the log's positions.
    pub(super) backend: Backend,
    config: MachineConfig,
    images: BootImages,
}

impl Recorded {
    /// Builds the machine as it was before its first instruction, on the software CPU.
    pub(super) fn on_soft(self) -> anyhow::Result<Machine<SoftCpu>> {
        self.build(|ram| Ok(SoftCpu::new(ram)))
    }

    /// Builds the machine as it was before its first instruction, on KVM.
    pub(super) fn on_kvm(self) -> anyhow::Result<Machine<KvmCpu>> {
        let kvm = host::open()?;
        self.build(|ram| KvmCpu::new(&kvm, ram))
    }

    fn build<C: Cpu>(
        self,
        cpu: impl FnOnce(&GuestMemory) -> Result<C, CpuError>,
    ) -> anyhow::Result<Machine<C>> {
        Ok(Machine::build(self.config, self.images, cpu)?)
    }
}

/// Finds what the log's machine is made of.
///
/// # Errors
///
/// If the log does not begin with the machine's first instruction, an image is not the one that was
/// recorded, or this host or release cannot be the machine; with `force`, another CPU may try.
pub(super) fn recorded(
    log: &Log,
    kernel: Option<&Path>,
    initrd: Option<&Path>,
    force: bool,
) -> anyhow::Result<Recorded> {
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
    let images = images(configuration, kernel, initrd, built(configuration).as_ref())?;
    let backend: Backend = configuration.cpu.backend.parse()?;
    anyhow::ensure!(
        backend != Backend::KvmFree,
        "this guest ran freely on KVM: where its interrupts entered is not recorded, so its log \
         can be read (`ftvm log`), not replayed. Record it with --cpu soft"
    );
    let here = Configuration {
        cpu: backend.identity()?,
        ..configuration.clone()
    };
    if let Some(difference) = here.difference(configuration).filter(|_| !force) {
        anyhow::bail!(
            "the log was recorded on another CPU: {difference}. Machine and log could part for \
             that alone; --force tries all the same"
        );
    }
    Ok(Recorded {
        backend,
        config: MachineConfig::of(log.initial()),
        images,
    })
}

/// The disk as it was before the first instruction, if the machine had one: the file at `path`, or
/// the one that the guest's image comes with.
///
/// # Errors
///
/// If it is not given, or not the one that was recorded.
pub(super) fn disk(
    configuration: &Configuration,
    path: Option<&Path>,
) -> anyhow::Result<Option<Overlay>> {
    first_disk(configuration, path, built(configuration).as_ref())
}

fn first_disk(
    configuration: &Configuration,
    path: Option<&Path>,
    built: Option<&Image>,
) -> anyhow::Result<Option<Overlay>> {
    let (wanted, path) = match (&configuration.disk, path) {
        (None, None) => return Ok(None),
        (None, Some(_)) => anyhow::bail!("the log's guest had no disk: leave --disk out"),
        (Some(wanted), Some(path)) => (wanted, path),
        (Some(wanted), None) => {
            let found = built
                .and_then(Image::disk)
                .and_then(|path| DiskImage::open(&path, true).ok())
                .filter(|image| {
                    image
                        .identity()
                        .is_ok_and(|it| it.content == wanted.content)
                });
            let image = found.context(
                "the log's guest had a disk: give the image as it was before the first \
                 instruction, --disk FILE",
            )?;
            return Ok(Some(Overlay::new(image)));
        }
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

/// The image that the log's guest was booted from, as it is built now.
fn built(configuration: &Configuration) -> Option<Image> {
    let recipe = linux::by_name(&configuration.guest)?;
    Cache::open(None).ok()?.image(recipe.name).ok()
}

/// What a built image has at `path`, if that is what was recorded.
fn same(path: PathBuf, wanted: &[u8; 32]) -> Option<Arc<[u8]>> {
    let bytes = std::fs::read(path).ok()?;
    (blake3::hash(&bytes) == *wanted).then(|| bytes.into())
}

fn images(
    configuration: &Configuration,
    kernel: Option<&Path>,
    initrd: Option<&Path>,
    built: Option<&Image>,
) -> anyhow::Result<BootImages> {
    let wanted = configuration.image;
    let kernel = match kernel {
        Some(path) => read(path, &wanted, "image")?,
        None => guest_images::all()
            .iter()
            .find(|guest| blake3::hash(guest.elf) == wanted)
            .map(|guest| guest.elf.into())
            .or_else(|| same(built?.kernel(), &wanted))
            .with_context(|| {
                format!(
                    "the log's guest {:?} (BLAKE3 {}) is none that this program carries or has \
                     built: give its kernel with --kernel FILE, or use the ftvm that recorded it",
                    configuration.guest,
                    hex(&wanted)
                )
            })?,
    };
    let initrd = match (&configuration.initrd, initrd) {
        (Some(wanted), Some(path)) => Some(read(path, wanted, "initial RAM disk")?),
        (None, None) => None,
        (Some(wanted), None) => {
            let found = built.and_then(|image| same(image.initrd(), wanted));
            Some(found.with_context(|| {
                format!(
                    "the log's guest had an initial RAM disk (BLAKE3 {}): give it with --initrd \
                     FILE",
                    hex(wanted)
                )
            })?)
        }
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
    use std::fs::{self, File};

    use ft_logging::initial::CpuIdentity;
    use guest_images::linux::{ImageFile, Manifest};

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
        let images = images(&configuration, None, None, None).expect("its images");
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
        let good = images(&with_initrd, Some(&path), Some(&path), None).expect("its images");
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
            let error = images(configuration, kernel, initrd, None).expect_err(expected);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }

    /// An image whose every file says what it is.
    fn image_in(dir: &Path) -> Image {
        let file = |name: &str| {
            let bytes = [name.as_bytes(), &[b'.'; 512]].concat();
            fs::write(dir.join(name), &bytes[..512]).expect("written");
            ImageFile {
                file: name.to_owned(),
                bytes: 512,
                sha256: String::new(),
            }
        };
        let manifest = Manifest {
            format: 1,
            name: "redis".to_owned(),
            recipe: String::new(),
            kernel_release: String::new(),
            memory_mib: 64,
            command_line: String::new(),
            kernel: file("kernel"),
            initrd: file("initrd"),
            disk: Some(file("disk.img")),
            packages: vec![],
        };
        Image {
            dir: dir.to_owned(),
            manifest,
        }
    }

    #[test]
    fn a_built_images_files_are_found_if_they_are_those_that_were_recorded() {
        let dir = tempfile::tempdir().expect("a directory");
        let image = image_in(dir.path());
        let hash = |path| *blake3::hash(&fs::read(path).expect("there")).as_bytes();
        let mut recorded = configuration(hash(image.kernel()), Some(hash(image.initrd())));
        let open = |name: &str| DiskImage::open(&dir.path().join(name), true);
        recorded.disk = Some(open("disk.img").and_then(|it| it.identity()).expect("one"));
        let found = images(&recorded, None, None, Some(&image)).expect("its files");
        assert!(found.kernel.starts_with(b"kernel."));
        assert!(found.initrd.expect("one").starts_with(b"initrd."));
        let disk = first_disk(&recorded, None, Some(&image)).expect("its disk");
        assert!(disk.is_some());

        // Built anew from other packages, it is another.
        for (file, word) in [("kernel", "--kernel"), ("initrd", "--initrd")] {
            let before = fs::read(dir.path().join(file)).expect("there");
            fs::write(dir.path().join(file), "another").expect("written");
            let error = images(&recorded, None, None, Some(&image)).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
            fs::write(dir.path().join(file), before).expect("written");
        }
        fs::write(dir.path().join("disk.img"), [1; 512]).expect("written");
        let error = first_disk(&recorded, None, Some(&image)).expect_err("another");
        assert!(error.to_string().contains("--disk"), "{error}");
    }

    #[test]
    fn a_disk_must_be_the_one_that_was_recorded_and_a_machine_without_one_gets_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("disk");
        File::create(&path)
            .and_then(|file| file.set_len(1 << 20))
            .expect("made");
        let mut recorded = configuration([1; 32], None);
        assert!(first_disk(&recorded, None, None).expect("fine").is_none());
        let refused = |recorded: &Configuration, path: Option<&Path>, word: &str| {
            let error = first_disk(recorded, path, None).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        };
        refused(&recorded, Some(&path), "leave --disk out");
        let image = DiskImage::open(&path, true).expect("an image");
        recorded.disk = Some(image.identity().expect("readable"));
        refused(&recorded, None, "--disk FILE");
        refused(
            &recorded,
            Some(&dir.path().join("missing")),
            "no disk image",
        );
        let disk = first_disk(&recorded, Some(&path), None).expect("it is");
        assert!(disk.is_some());
        fs::write(&path, vec![1; 1 << 20]).expect("written");
        refused(&recorded, Some(&path), "not the disk that was recorded");
    }
}
