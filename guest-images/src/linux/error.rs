//! What can be wrong when an image is made, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::cpio::CpioError;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No such recipe.
    #[error("there is no image called {name:?}: choose one of {choices}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        choices: String,
    },
    /// It was never built here.
    #[error("the image {0} is not built on this host: `ftvm image build {0}` builds it")]
    NotBuilt(String),
    /// Its files are not what was built.
    #[error(
        "{file} is not what was built: its SHA-256 is {found}, and {expected} was recorded. \
         `ftvm image remove {name}` and `ftvm image build {name}` make it anew"
    )]
    Damaged {
        /// The image.
        name: String,
        /// The file.
        file: PathBuf,
        /// What was recorded.
        expected: String,
        /// What is there.
        found: String,
    },
    /// There is no apt on this host.
    #[error(
        "this host has no apt, which fetches Debian's packages. Fetch these for amd64 by hand, \
         from https://packages.debian.org or a Debian machine (`apt-get download …`), into one \
         directory, and give it as `--packages DIR`:\n  {}",
        .needed.join(" ")
    )]
    NoApt {
        /// Names of packages.
        needed: Vec<String>,
    },
    /// The directory that was given lacks packages.
    #[error(
        "{} has no file of the {}: {}", dir.display(),
        if missing.len() == 1 { "package" } else { "packages" }, missing.join(", ")
    )]
    MissingPackages {
        /// The directory.
        dir: PathBuf,
        /// Names of packages.
        missing: Vec<String>,
    },
    /// There are two of one package.
    #[error("the package {name} is there twice, once as {file}: leave one of them")]
    TwoVersions {
        /// The package.
        name: String,
        /// One of its files.
        file: PathBuf,
    },
    /// The archive does not offer it.
    #[error(
        "apt knows no package {0}: are Debian's (bookworm or later) main packages among its \
         sources? `--packages DIR` takes package files from elsewhere"
    )]
    NotOffered(String),
    /// A package is not the one that the archive describes, or that an earlier build used.
    #[error(
        "{file} has the SHA-256 {found}, and {expected} was expected of version {version}: \
         remove the file and try again; if it comes back, do not trust its source"
    )]
    Hash {
        /// The package file.
        file: PathBuf,
        /// Its version.
        version: String,
        /// What it must have.
        expected: String,
        /// What it has.
        found: String,
    },
    /// A program needs a library that no package brings.
    #[error("{program} needs {library}, which is in none of the packages {packages}")]
    Library {
        /// The program or library.
        program: String,
        /// What it asks for.
        library: String,
        /// Where it was looked for.
        packages: String,
    },
    /// A package lacks a file that the recipe needs.
    #[error("no {path} in the packages {packages}: are they of Debian bookworm or later?")]
    File {
        /// Its path in the image.
        path: String,
        /// Where it was looked for.
        packages: String,
    },
    /// A file makes no sense.
    #[error("{path}: {why}")]
    Elf {
        /// Its path in the image.
        path: String,
        /// The reader's words.
        why: String,
    },
    /// A program of the host is missing.
    #[error("this host has no {program}: install its package {package}")]
    NoProgram {
        /// The program.
        program: String,
        /// The package that has it, as Debian names it.
        package: &'static str,
    },
    /// A program of the host failed.
    #[error("{command} failed ({status}):\n{output}")]
    Command {
        /// The program with its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// The archive cannot hold it.
    #[error(transparent)]
    Archive(#[from] CpioError),
    /// The record beside an image is none.
    #[error("{path} is no record of an image: {why}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// There is no place for images.
    #[error(
        "neither XDG_CACHE_HOME nor HOME says where images are kept: set one of them, or give \
         --cache DIR"
    )]
    NoCache,
    /// The caller asked to stop.
    #[error("interrupted; nothing was left behind")]
    Interrupted,
    /// The system refused.
    #[error("{doing} {}: {source}", path.display())]
    Io {
        /// What was tried: "reading".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ImageError {
    /// For `map_err`: what was tried, on what.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| ImageError::Io {
            doing,
            path,
            source,
        }
    }
}
