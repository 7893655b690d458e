//! Where built images are kept.
//!
//! ```text
//!   $XDG_CACHE_HOME/ftvm/images/
//!     lock              held by whoever builds or removes
//!     packages/         fetched package files, for every image
//!     .redis-3f9a…/     an image: kernel, initrd, disk.img, manifest.json
//!     redis             a link to it, moved in one step: an image is there or not, never half
//!     .build-…/         a build under way; what a killed one left, the next removes
//! ```

use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::build;
use super::error::ImageError;
use super::job::{Job, Scratch, remove_dir};
use super::packages::{self, Package};
use super::recipe::{self, RECIPES, Recipe, by_name};

/// The version of [`Manifest`].
pub(super) const FORMAT: u32 = 1;

const MANIFEST: &str = "manifest.json";
const BUILD_PREFIX: &str = ".build-";

/// How long to wait before the lock is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Its name in the image's directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// What is recorded of an image when it is built.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this record.
    pub format: u32,
    /// The image's name.
    pub name: String,
    /// A hash of the recipe it was built by.
    pub recipe: String,
    /// The kernel's release, `uname -r`.
    pub kernel_release: String,
    /// The RAM that the guest is comfortable with, in MiB.
    pub memory_mib: u32,
    /// The kernel's command line.
    pub command_line: String,
    /// The kernel, a bzImage.
    pub kernel: ImageFile,
    /// The initial RAM disk.
    pub initrd: ImageFile,
    /// What the guest's disk is at first. Each node writes to a copy of its own.
    pub disk: Option<ImageFile>,
    /// What it was built from.
    pub packages: Vec<Package>,
}

/// A built image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Where it is.
    pub dir: PathBuf,
    /// What is recorded of it.
    pub manifest: Manifest,
}

impl Image {
    fn read(dir: PathBuf) -> Result<Self, ImageError> {
        let path = dir.join(MANIFEST);
        let text = fs::read_to_string(&path).map_err(ImageError::io("reading", &path))?;
        let manifest = serde_json::from_str::<Manifest>(&text)
            .map_err(|error| error.to_string())
            .and_then(|manifest| match manifest.format {
                FORMAT => Ok(manifest),
                other => Err(format!("its format is {other}, not {FORMAT}")),
            })
            .map_err(|why| ImageError::Manifest { path, why })?;
        Ok(Image { dir, manifest })
    }

    /// The kernel's file.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.dir.join(&self.manifest.kernel.file)
    }

    /// The initial RAM disk's file.
    #[must_use]
    pub fn initrd(&self) -> PathBuf {
        self.dir.join(&self.manifest.initrd.file)
    }

    /// The file that the guest's disk is a copy of, if it has one.
    #[must_use]
    pub fn disk(&self) -> Option<PathBuf> {
        Some(self.dir.join(&self.manifest.disk.as_ref()?.file))
    }

    /// Reads every file and holds it against the record.
    ///
    /// # Errors
    ///
    /// [`ImageError::Damaged`], or that a file cannot be read.
    pub fn verify(&self) -> Result<(), ImageError> {
        let Manifest {
            kernel,
            initrd,
            disk,
            ..
        } = &self.manifest;
        for ImageFile { file, sha256, .. } in [Some(kernel), Some(initrd), disk.as_ref()]
            .into_iter()
            .flatten()
        {
            let file = self.dir.join(file);
            let found = packages::sha256(&file)?;
            if found != *sha256 {
                return Err(ImageError::Damaged {
                    name: self.manifest.name.clone(),
                    expected: sha256.clone(),
                    file,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// Where packages come from, and whether what is there already will do.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// A directory of package files, instead of apt.
    pub packages: Option<PathBuf>,
    /// Build anew from what the archive offers now.
    pub refresh: bool,
}

/// What a build came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Built {
    /// It was there.
    Already(Image),
    /// It is new.
    New(Image),
}

/// The directory of images.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The images in `dir`, or where the XDG base directory specification puts caches.
    ///
    /// # Errors
    ///
    /// [`ImageError::NoCache`] if nothing says where.
    pub fn open(dir: Option<&Path>) -> Result<Self, ImageError> {
        let absolute = |name: &str| {
            let path = PathBuf::from(env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        let cache =
            || absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        let root = match dir {
            Some(dir) => dir.to_owned(),
            None => cache().ok_or(ImageError::NoCache)?.join("ftvm/images"),
        };
        Ok(Cache { root })
    }

    /// Every image that is built, in the recipes' order. One whose record cannot be read is an
    /// error in its place.
    #[must_use]
    pub fn list(&self) -> Vec<(&'static Recipe, Option<Result<Image, ImageError>>)> {
        static ALL: [Recipe; 3] = RECIPES;
        ALL.iter()
            .map(|recipe| match self.image(recipe.name) {
                Err(ImageError::NotBuilt(_)) => (recipe, None),
                found => (recipe, Some(found)),
            })
            .collect()
    }

    /// The image called `name`.
    ///
    /// # Errors
    ///
    /// That there is none, or that its record cannot be read.
    pub fn image(&self, name: &str) -> Result<Image, ImageError> {
        let recipe = recipe(name)?;
        // The link is followed once: a build that replaces the image meanwhile makes no mixture.
        match fs::read_link(self.root.join(recipe.name)) {
            Ok(target) => Image::read(self.root.join(target)),
            Err(_) => Err(ImageError::NotBuilt(name.to_owned())),
        }
    }

    /// Builds the image called `name`, unless it is there and its recipe is still the same.
    ///
    /// # Errors
    ///
    /// [`ImageError`], with what to do about it. An image that was there before is still there.
    pub fn build(
        &self,
        name: &str,
        options: &BuildOptions,
        job: &mut Job<'_>,
    ) -> Result<Built, ImageError> {
        let recipe = recipe(name)?;
        let _lock = self.lock(job)?;
        self.clean()?;
        let before = match self.image(name) {
            Err(ImageError::NotBuilt(_) | ImageError::Manifest { .. } | ImageError::Io { .. }) => {
                None
            }
            found => Some(found?),
        };
        if let Some(image) = before
            .as_ref()
            .filter(|image| !options.refresh && image.manifest.recipe == recipe_hash(recipe))
        {
            job.step("checking the image that is there")?;
            image.verify()?;
            return Ok(Built::Already(image.clone()));
        }

        let store = self.root.join("packages");
        fs::create_dir_all(&store).map_err(ImageError::io("making", &store))?;
        let files = match &options.packages {
            Some(dir) => packages::from_directory(dir, recipe.wanted, job)?,
            None => packages::from_archive(&store, recipe.wanted, job)?,
        };
        if let Some(image) = &before {
            same_versions_same_bytes(&image.manifest, &files)?;
        }
        let scratch = self
            .root
            .join(format!("{BUILD_PREFIX}{}", std::process::id()));
        let scratch = Scratch::create(scratch)?;
        let manifest = build::build(recipe, &files, scratch.path(), job)?;
        job.check()?;
        self.install(name, scratch.path(), &manifest, before.as_ref())
            .map(Built::New)
    }

    fn install(
        &self,
        name: &str,
        scratch: &Path,
        manifest: &Manifest,
        before: Option<&Image>,
    ) -> Result<Image, ImageError> {
        let path = scratch.join("image").join(MANIFEST);
        let text = serde_json::to_string_pretty(manifest).expect("plain data");
        fs::write(&path, text + "\n").map_err(ImageError::io("writing", &path))?;
        let target = format!(".{name}-{}", &packages::sha256(&path)?[..16]);
        let dir = self.root.join(&target);
        remove_dir(&dir)?;
        fs::rename(scratch.join("image"), &dir).map_err(ImageError::io("moving to", &dir))?;
        let link = scratch.join("link");
        std::os::unix::fs::symlink(&target, &link).map_err(ImageError::io("making", &link))?;
        let place = self.root.join(name);
        fs::rename(&link, &place).map_err(ImageError::io("moving to", &place))?;
        if let Some(before) = before.filter(|before| before.dir != dir) {
            remove_dir(&before.dir)?;
        }
        Image::read(dir)
    }

    /// Removes the image called `name`. Package files stay, unless it was the last image.
    ///
    /// # Errors
    ///
    /// That there is no such image, or that the system refuses.
    pub fn remove(&self, name: &str, job: &mut Job<'_>) -> Result<(), ImageError> {
        let recipe = recipe(name)?;
        let place = self.root.join(recipe.name);
        if fs::symlink_metadata(&place).is_err() {
            return Err(ImageError::NotBuilt(name.to_owned()));
        }
        let _lock = self.lock(job)?;
        fs::remove_file(&place).map_err(ImageError::io("removing", &place))?;
        self.clean()?;
        if self.list().iter().all(|(_, image)| image.is_none()) {
            remove_dir(&self.root.join("packages"))?;
        }
        Ok(())
    }

    /// Removes what killed builds left behind, and images that no name leads to.
    fn clean(&self) -> Result<(), ImageError> {
        let io = || ImageError::io("reading", &self.root);
        let linked: Vec<PathBuf> = recipe::all()
            .filter_map(|recipe| fs::read_link(self.root.join(recipe.name)).ok())
            .collect();
        for entry in fs::read_dir(&self.root).map_err(io())? {
            let entry = entry.map_err(io())?;
            let name = entry.file_name();
            let is_ours = name.to_string_lossy().starts_with('.');
            if is_ours && !linked.iter().any(|target| target.as_os_str() == name) {
                remove_dir(&entry.path())?;
            }
        }
        Ok(())
    }

    /// One builder at a time.
    fn lock(&self, job: &mut Job<'_>) -> Result<File, ImageError> {
        fs::create_dir_all(&self.root).map_err(ImageError::io("making", &self.root))?;
        let path = self.root.join("lock");
        let io = |error| ImageError::io("locking", &path)(error);
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(io)?;
        let mut has_waited = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(io(error)),
                Err(TryLockError::WouldBlock) if !has_waited => {
                    job.step("waiting for another build to end")?;
                    has_waited = true;
                }
                Err(TryLockError::WouldBlock) => {
                    job.check()?;
                    thread::sleep(LOCK_PAUSE);
                }
            }
        }
    }
}

fn recipe(name: &str) -> Result<&'static Recipe, ImageError> {
    by_name(name).ok_or_else(|| ImageError::Unknown {
        name: name.to_owned(),
        choices: RECIPES.map(|recipe| recipe.name).join(", "),
    })
}

/// Changes with every word of a recipe and of its files.
pub(super) fn recipe_hash(recipe: &Recipe) -> String {
    use sha2::{Digest, Sha256};
    packages::hex(&Sha256::digest(format!("{recipe:?}")))
}

/// A version that was built from before has the bytes it had then.
fn same_versions_same_bytes(
    before: &Manifest,
    files: &[packages::PackageFile],
) -> Result<(), ImageError> {
    for file in files {
        let same =
            |old: &&Package| old.name == file.package.name && old.version == file.package.version;
        match before.packages.iter().find(same) {
            Some(old) if old.sha256 != file.package.sha256 => {
                return Err(ImageError::Hash {
                    file: file.path.clone(),
                    version: old.version.clone(),
                    expected: old.sha256.clone(),
                    found: file.package.sha256.clone(),
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Measures a file of an image.
pub(super) fn measure(dir: &Path, file: &str) -> Result<ImageFile, ImageError> {
    let path = dir.join(file);
    let metadata = fs::metadata(&path).map_err(ImageError::io("reading", &path))?;
    Ok(ImageFile {
        file: file.to_owned(),
        bytes: metadata.len(),
        sha256: packages::sha256(&path)?,
    })
}

/// Writes a file and sees it to the disk.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let mut file = File::create(path).map_err(ImageError::io("making", path))?;
    io::Write::write_all(&mut file, bytes)
        .and_then(|()| file.sync_all())
        .map_err(ImageError::io("writing", path))
}
