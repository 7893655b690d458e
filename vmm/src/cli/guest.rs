//! What a node boots, and from which disk: an embedded guest, a built image, or files of the
//! user's own.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use guest_images::linux::{Cache, Image, RECIPES};

use crate::machine::{BootImages, boot};
use crate::node::DiskImage;

/// The RAM of an embedded guest, in MiB; that of an image is part of its record.
const DEFAULT_MEMORY_MIB: u32 = 64;

/// How much of a disk is copied, or left out, at once.
const COPY_BYTES: usize = 64 << 10;

/// What to boot. A pair must be told the same.
#[derive(Clone, Debug, Args)]
pub(super) struct GuestArgs {
    /// An embedded guest (kv, bench or noise), or an image that `ftvm image build` made: busybox,
    /// redis or debian.
    #[arg(long, default_value = "kv", conflicts_with = "kernel")]
    guest: String,
    /// A kernel instead: a bzImage or an x86-64 ELF image.
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,
    /// The kernel's or guest's command line. What an image needs stands before it.
    #[arg(
        long,
        visible_alias = "cmdline",
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    append: String,
    /// RAM in MiB: 64, or what the image wants.
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// The guest's disk, which it sees as a virtio-blk device (/dev/vda): an image file of this
    /// node's own, equal to the other node's when they pair. If the guest's image comes with a disk,
    /// a file that is not there is made from that.
    #[arg(long, value_name = "FILE")]
    disk: Option<PathBuf>,
    /// The guest can only read its disk.
    #[arg(long, requires = "disk")]
    disk_read_only: bool,
}

/// What a node boots.
pub(super) struct Guest {
    /// Whether it is one that ftvm carries, which asks nothing of a CPU that a log cannot hold.
    pub(super) embedded: bool,
    pub(super) images: BootImages,
    pub(super) memory_mib: u32,
    pub(super) disk: Option<Arc<DiskImage>>,
}

impl GuestArgs {
    /// Reads and opens everything.
    ///
    /// # Errors
    ///
    /// That something is missing, unfit or in use, with what to do about it.
    pub(super) fn open(&self) -> anyhow::Result<Guest> {
        let built = match &self.kernel {
            None if guest_images::by_name(&self.guest).is_none() => Some(self.image()?),
            _ => None,
        };
        let comfortable = built.as_ref().map(|image| image.manifest.memory_mib);
        let memory_mib = self.memory.or(comfortable).unwrap_or(DEFAULT_MEMORY_MIB);
        anyhow::ensure!(
            boot::MEMORY_MIB.contains(&memory_mib),
            "{memory_mib} MiB of memory: a machine has {} to {}",
            boot::MEMORY_MIB.start(),
            boot::MEMORY_MIB.end()
        );
        Ok(Guest {
            embedded: self.kernel.is_none() && built.is_none(),
            images: self.images(built.as_ref())?,
            memory_mib,
            disk: self.open_disk(built.as_ref())?.map(Arc::new),
        })
    }

    /// The image that `--guest` names.
    fn image(&self) -> anyhow::Result<Image> {
        let name = &self.guest;
        if guest_images::linux::by_name(name).is_some() {
            return Ok(Cache::open(None)?.image(name)?);
        }
        let embedded = guest_images::all().iter().map(|guest| guest.name);
        let images = RECIPES.iter().map(|recipe| recipe.name);
        let names: Vec<&str> = embedded.chain(images).collect();
        anyhow::bail!(
            "there is no guest {name:?}: choose one of {}, or --kernel FILE",
            names.join(", ")
        )
    }

    fn images(&self, built: Option<&Image>) -> anyhow::Result<BootImages> {
        let append = &self.append;
        if let Some(image) = built {
            let line = &image.manifest.command_line;
            return Ok(BootImages {
                name: self.guest.clone(),
                kernel: read(&image.kernel())?.into(),
                initrd: Some(read(&image.initrd())?.into()),
                command_line: format!("{line} {append}").trim_end().to_owned(),
            });
        }
        let (name, kernel) = match (&self.kernel, guest_images::by_name(&self.guest)) {
            (Some(path), _) => (path.display().to_string(), read(path)?.into()),
            (None, Some(guest)) => (guest.name.to_owned(), guest.elf.into()),
            (None, None) => unreachable!("what is not embedded is an image"),
        };
        let initrd = self.initrd.as_deref().map(read).transpose()?;
        Ok(BootImages {
            name,
            kernel,
            initrd: initrd.map(Into::into),
            command_line: append.clone(),
        })
    }

    fn open_disk(&self, built: Option<&Image>) -> anyhow::Result<Option<DiskImage>> {
        let template = built.and_then(Image::disk);
        let Some(path) = &self.disk else {
            if template.is_some() {
                eprintln!(
                    "ftvm: no --disk given: what {} writes is gone when the VM is",
                    self.guest
                );
            }
            return Ok(None);
        };
        if let Some(template) = template.filter(|_| !path.exists()) {
            copy(&template, path)?;
            eprintln!(
                "ftvm: {} is made, from the disk that {} comes with",
                path.display(),
                self.guest
            );
        }
        Ok(Some(DiskImage::open(path, self.disk_read_only)?))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// Copies a disk: `to` is there whole, or not at all. What is zeros takes no room.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut half = to.as_os_str().to_owned();
    half.push(".new");
    let half = PathBuf::from(half);
    copy_content(from, &half)
        .and_then(|()| fs::rename(&half, to))
        .inspect_err(|_| {
            // What cannot be removed is overwritten by the next attempt.
            let _ = fs::remove_file(&half);
        })
        .with_context(|| format!("making {} from {}", to.display(), from.display()))
}

fn copy_content(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    let end = from.metadata()?.len();
    let mut piece = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < end {
        let piece = &mut piece[..COPY_BYTES.min((end - at) as usize)];
        from.read_exact_at(piece, at)?;
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(piece, at)?;
        }
        at += piece.len() as u64;
    }
    to.set_len(end)?;
    to.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_copied_disk_is_equal_and_its_zeros_take_no_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let end = 64 * COPY_BYTES + 512;
        let mut bytes = vec![0; end];
        for at in [0, 5 * COPY_BYTES + 7, end - 1] {
            bytes[at] = 1;
        }
        fs::write(&from, &bytes).expect("written");
        copy(&from, &to).expect("copied");
        assert!(fs::read(&to).expect("there") == bytes);
        let room = fs::metadata(&to).expect("there").blocks() * 512;
        assert!(room < 8 * COPY_BYTES as u64, "{room}");

        let error = copy(&dir.path().join("missing"), &dir.path().join("copy"));
        assert!(error.is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 2);
    }
}
