//! Debian's packages: found, fetched, checked and opened.
//!
//! ```text
//!   names ──apt-cache show──► stanzas, and the libraries they depend on
//!         ──apt-get download─► files, whose SHA-256 the archive's index gives
//!   or a directory of files, for hosts without apt
//! ```
//!
//! No step needs root. Where the host's own package lists are missing or stale, lists of our own
//! are fetched beside the images.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::ImageError;
use super::job::{Job, Scratch};

/// Names of package files end so.
const EXTENSION: &str = "deb";

/// The Debian package of the programs that take packages apart.
const DPKG: &str = "dpkg";

/// A package as an image's record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its file.
    pub sha256: String,
}

/// A package file on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PackageFile {
    pub(super) package: Package,
    pub(super) path: PathBuf,
}

/// What a recipe asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Names; libraries that they depend on come by themselves.
    pub(super) packages: &'a [&'a str],
    /// What those libraries' packages are called in Debian bookworm.
    pub(super) libraries: &'a [&'a str],
}

/// Whether a package that another depends on is taken as well: a library, or the kernel that a
/// package without files stands for. Programs are what the recipe says, no more.
fn follows(name: &str) -> bool {
    is_library(name) || name.starts_with("linux-image-")
}

fn is_library(name: &str) -> bool {
    name.starts_with("lib") || name == "zlib1g"
}

/// Whether the package file called `name` is what the recipe calls `wanted`: there is one kernel
/// package for each release, and one without files that depends on the latest.
fn satisfies(name: &str, wanted: &str) -> bool {
    let kernel = wanted.strip_prefix("linux-image-");
    let is_kernel = |flavour: &str| name.starts_with("linux-image-") && name.ends_with(flavour);
    name == wanted || kernel.is_some_and(is_kernel)
}

/// Takes packages from the directory `dir`, in the order of their names.
pub(super) fn from_directory(
    dir: &Path,
    wanted: Wanted<'_>,
    job: &mut Job<'_>,
) -> Result<Vec<PackageFile>, ImageError> {
    job.step(&format!("reading the packages in {}", dir.display()))?;
    let io = || ImageError::io("reading", dir);
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(io())? {
        let path = entry.map_err(io())?.path();
        if path.extension().is_none_or(|text| text != EXTENSION) {
            continue;
        }
        let mut command = Command::new("dpkg-deb");
        command.args(["--show", "--showformat", "${Package} ${Version}"]);
        let shown = job.run(command.arg(&path), DPKG)?;
        let (name, version) = shown.trim().split_once(' ').unwrap_or((shown.trim(), ""));
        let is_wanted = |wanted: &&str| satisfies(name, wanted);
        if !is_library(name) && !wanted.packages.iter().any(is_wanted) {
            continue;
        }
        let package = Package {
            name: name.to_owned(),
            version: version.to_owned(),
            sha256: sha256(&path)?,
        };
        if let Some(other) = files.insert(name.to_owned(), PackageFile { package, path }) {
            return Err(ImageError::TwoVersions {
                name: name.to_owned(),
                file: other.path,
            });
        }
    }
    let missing: Vec<String> = wanted
        .packages
        .iter()
        .filter(|wanted| !files.keys().any(|name| satisfies(name, wanted)))
        .map(|name| (*name).to_owned())
        .collect();
    if missing.is_empty() {
        return Ok(files.into_values().collect());
    }
    Err(ImageError::MissingPackages {
        dir: dir.to_owned(),
        missing,
    })
}

/// Fetches packages by apt into `store`, in the order of their names. What is there already and
/// has the right hash is not fetched again.
pub(super) fn from_archive(
    store: &Path,
    wanted: Wanted<'_>,
    job: &mut Job<'_>,
) -> Result<Vec<PackageFile>, ImageError> {
    let mut apt = Apt {
        lists: store.join("lists"),
        own_lists: false,
    };
    match apt.fetch(store, wanted, job) {
        Err(ImageError::NoProgram { .. }) => Err(ImageError::NoApt {
            needed: [wanted.packages, wanted.libraries]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect(),
        }),
        // The host's lists may be missing, or name versions that the archive no longer has.
        Err(ImageError::NotOffered(_) | ImageError::Command { .. }) => {
            apt.update(job)?;
            apt.fetch(store, wanted, job)
        }
        other => other,
    }
}

/// What the archive says about a package.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stanza {
    package: Package,
    depends: Vec<String>,
    bytes: u64,
}

/// The host's apt, with the host's lists or with lists of our own.
struct Apt {
    lists: PathBuf,
    own_lists: bool,
}

impl Apt {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if self.own_lists {
            let option =
                |name: &str, dir: &str| format!("{name}={}", self.lists.join(dir).display());
            command
                .args(["-o", &option("Dir::State::lists", "state")])
                .args(["-o", &option("Dir::Cache", "cache")])
                // Where root calls it, apt would give up rights and lose its way into our directory.
                .args(["-o", "APT::Sandbox::User=root"]);
        }
        command
    }

    /// Fetches lists of our own.
    fn update(&mut self, job: &mut Job<'_>) -> Result<(), ImageError> {
        job.step("fetching the archive's package lists")?;
        self.own_lists = true;
        for dir in ["state/partial", "cache/archives/partial"] {
            let dir = self.lists.join(dir);
            fs::create_dir_all(&dir).map_err(ImageError::io("making", &dir))?;
        }
        let mut command = self.command("apt-get");
        job.run(command.args(["-q", "update"]), "apt").map(drop)
    }

    fn fetch(
        &self,
        store: &Path,
        wanted: Wanted<'_>,
        job: &mut Job<'_>,
    ) -> Result<Vec<PackageFile>, ImageError> {
        job.step("asking the archive what it offers")?;
        let mut known: BTreeMap<String, Stanza> = BTreeMap::new();
        let mut open: Vec<String> = wanted
            .packages
            .iter()
            .map(|&name| name.to_owned())
            .collect();
        while !open.is_empty() {
            let mut command = self.command("apt-cache");
            command.args(["show", "--no-all-versions"]).args(&open);
            // It fails if it knows none; then the check below says which.
            let shown = match job.run(&mut command, "apt") {
                Err(ImageError::Command { .. }) => String::new(),
                other => other?,
            };
            for stanza in shown.split("\n\n").filter_map(stanza) {
                known.entry(stanza.package.name.clone()).or_insert(stanza);
            }
            if let Some(name) = open.iter().find(|&name| !known.contains_key(name)) {
                return Err(ImageError::NotOffered(name.clone()));
            }
            let depends = known.values().flat_map(|stanza| &stanza.depends);
            open = depends
                .filter(|name| follows(name) && !known.contains_key(*name))
                .cloned()
                .collect();
            open.sort();
            open.dedup();
        }
        self.download(store, known.into_values().collect(), job)
    }

    fn download(
        &self,
        store: &Path,
        stanzas: Vec<Stanza>,
        job: &mut Job<'_>,
    ) -> Result<Vec<PackageFile>, ImageError> {
        let path = |package: &Package| store.join(file_name(package));
        let absent =
            |package: &Package| sha256(&path(package)).ok().as_ref() != Some(&package.sha256);
        let open: Vec<&Stanza> = stanzas.iter().filter(|s| absent(&s.package)).collect();
        if !open.is_empty() {
            let bytes: u64 = open.iter().map(|stanza| stanza.bytes).sum();
            let count = open.len();
            let mib = bytes.div_ceil(1 << 20);
            job.step(&format!("fetching {count} packages ({mib} MiB)"))?;
            let scratch = Scratch::create(store.join("partial"))?;
            let exact =
                |Stanza { package, .. }: &&Stanza| format!("{}={}", package.name, package.version);
            let mut command = self.command("apt-get");
            command
                .args(["-q", "download"])
                .args(open.iter().map(exact));
            job.run(command.current_dir(scratch.path()), "apt")?;
            for stanza in open {
                let Package {
                    name,
                    version,
                    sha256: expected,
                } = &stanza.package;
                let fetched = fetched_file(scratch.path(), name)?;
                let found = sha256(&fetched)?;
                if found != *expected {
                    return Err(ImageError::Hash {
                        file: fetched,
                        version: version.clone(),
                        expected: expected.clone(),
                        found,
                    });
                }
                let to = path(&stanza.package);
                fs::rename(&fetched, &to).map_err(ImageError::io("moving to", &to))?;
            }
        }
        Ok(stanzas
            .into_iter()
            .map(|Stanza { package, .. }| PackageFile {
                path: path(&package),
                package,
            })
            .collect())
    }
}

/// What a package's file is called in the store.
fn file_name(package: &Package) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-~".contains(c);
    let version: String = package
        .version
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    format!("{}_{version}.{EXTENSION}", package.name)
}

/// The file of package `name` that apt-get put into `dir`: `NAME_VERSION_ARCHITECTURE.deb`.
fn fetched_file(dir: &Path, name: &str) -> Result<PathBuf, ImageError> {
    let io = || ImageError::io("reading", dir);
    let start = format!("{name}_");
    for entry in fs::read_dir(dir).map_err(io())? {
        let entry = entry.map_err(io())?;
        if entry.file_name().to_string_lossy().starts_with(&start) {
            return Ok(entry.path());
        }
    }
    let none = format!("apt-get left no file of {name}");
    Err(io()(io::Error::new(io::ErrorKind::NotFound, none)))
}

/// Reads one stanza of a package list (Debian Policy, section 5.1). Of alternatives the first
/// counts.
fn stanza(text: &str) -> Option<Stanza> {
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(key, value)| (key == name).then_some(value.trim()))
    };
    let depends = ["Pre-Depends", "Depends"]
        .into_iter()
        .filter_map(field)
        .flat_map(|list| list.split(','))
        .filter_map(|one| one.trim().split([' ', '|', ':', '(']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    Some(Stanza {
        package: Package {
            name: field("Package")?.to_owned(),
            version: field("Version")?.to_owned(),
            sha256: field("SHA256")?.to_owned(),
        },
        depends,
        bytes: field("Size")
            .and_then(|size| size.parse().ok())
            .unwrap_or(0),
    })
}

/// Unpacks a package below `dir`.
pub(super) fn unpack(file: &Path, dir: &Path, job: &mut Job<'_>) -> Result<(), ImageError> {
    let mut command = Command::new("dpkg-deb");
    command.arg("--extract").arg(file).arg(dir);
    job.run(&mut command, DPKG).map(drop)
}

/// The SHA-256 of a file, in hexadecimal.
pub(super) fn sha256(path: &Path) -> Result<String, ImageError> {
    let io = || ImageError::io("reading", path);
    let mut file = fs::File::open(path).map_err(io())?;
    let mut hasher = Sha256::new();
    let mut block = vec![0; 1 << 16];
    loop {
        match file.read(&mut block).map_err(io())? {
            0 => break,
            read => hasher.update(&block[..read]),
        }
    }
    Ok(hex(&hasher.finalize()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_names_its_file_and_what_it_depends_on() {
        let text = "Package: redis-tools\nVersion: 5:7.0.15-1\nPre-Depends: libc6:any (>= 2.36)\n\
                    Depends: libssl3 (>= 3), adduser | libother, lib2 (= 1)|lib3\n\
                    Description: x\n Depends: not-this\nSize: 991988\nSHA256: 06af\n";
        let found = stanza(text).expect("a stanza");
        let package = Package {
            name: "redis-tools".to_owned(),
            version: "5:7.0.15-1".to_owned(),
            sha256: "06af".to_owned(),
        };
        assert_eq!((&found.package, found.bytes), (&package, 991_988));
        assert_eq!(found.depends, ["libc6", "libssl3", "adduser", "lib2"]);
        assert_eq!(file_name(&package), "redis-tools_5_7.0.15-1.deb");
        assert_eq!(stanza("Package: x\nVersion: 1\n"), None);
    }

    #[test]
    fn libraries_and_kernels_are_followed_and_programs_are_not() {
        for (name, expected) in [
            ("libc6", true),
            ("zlib1g", true),
            ("linux-image-6.1.0-50-cloud-amd64", true),
            ("adduser", false),
            ("perl", false),
        ] {
            assert_eq!(follows(name), expected, "{name}");
        }
        let meta = "linux-image-cloud-amd64";
        assert!(satisfies("linux-image-6.1.0-50-cloud-amd64", meta));
        assert!(satisfies(meta, meta));
        assert!(!satisfies("linux-image-6.1.0-50-amd64", meta));
        assert!(!satisfies("redis-tools", "redis-server"));
    }

    #[test]
    fn the_hash_is_sha_256() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "abc").expect("written");
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            sha256(&path).expect("readable"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
