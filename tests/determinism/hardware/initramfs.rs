//! An initramfs: a cpio archive in the format "newc" (Linux
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;

/// An archive in the making. Files that are there already are not added again.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// Adds a file, and the directories above it. `path` begins with a slash.
    pub(super) fn file(&mut self, path: &str, contents: &[u8]) {
        self.add(path, FILE, contents);
    }

    /// Adds a file that can be executed.
    pub(super) fn program(&mut self, path: &str, contents: &[u8]) {
        self.add(path, PROGRAM, contents);
    }

    fn add(&mut self, path: &str, mode: u32, contents: &[u8]) {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.add(parent, DIRECTORY, &[]);
        }
        if self.names.insert(path.to_owned()) {
            self.entry(path, mode, contents);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let size = u32::try_from(contents.len()).expect("files of less than 4 GiB");
        let number = self.names.len() as u32;
        // Inode, mode, owner, group, links, time; size; four device numbers; length of the name
        // with its zero; checksum, which this format does not use.
        let name_len = name.len() as u32 + 1;
        self.bytes.extend_from_slice(b"070701");
        for field in [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_len, 0] {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The archive's bytes.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}
