//! What is added to the host's own initial RAM disk: programs with their shared libraries, and what
//! runs them. Linux unpacks one archive after the other, and a path is what it was last.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest_images::linux::cpio::{Archive, Kind};

/// An archive in the making.
#[derive(Debug, Default)]
pub(super) struct Programs {
    archive: Archive,
    paths: BTreeSet<String>,
}

impl Programs {
    /// Adds a program of this machine as `/usr/bin/NAME`, and the libraries that it needs.
    pub(super) fn add(&mut self, name: &str, program: &Path) {
        self.bytes(&format!("usr/bin/{name}"), &read(program));
        for library in libraries(program) {
            let path = library.to_str().expect("UTF-8").trim_start_matches('/');
            // In there `lib` and its like are links into `usr`.
            let path = path.trim_start_matches("usr/");
            self.bytes(&format!("usr/{path}"), &read(&library));
        }
    }

    /// Adds an executable file, and the directories above it; nothing if it is there.
    pub(super) fn bytes(&mut self, path: &str, contents: &[u8]) {
        for (end, _) in path.match_indices('/') {
            self.entry(&path[..end], Kind::Directory);
        }
        self.entry(path, Kind::File(contents));
    }

    fn entry(&mut self, path: &str, kind: Kind<'_>) {
        if self.paths.insert(path.to_owned()) {
            let added = self.archive.add(path, 0o755, kind);
            added.expect("a small file at a plain path");
        }
    }

    /// The archive's bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        self.archive.finish()
    }
}

/// The shared libraries that `program` is linked with, the loader among them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .expect("ldd comes with the C library that links programs");
    // Of a static program it says so, and names no path.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

pub(super) fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}
