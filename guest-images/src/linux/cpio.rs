//! An initial RAM disk: a cpio archive in the "newc" form, the one that Linux unpacks
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! ```text
//!   ┌─ for each file ──────────────────────────────────────────────────┐
//!   │ "070701"  13 numbers of 8 hex digits  │ name, 0 │ pad │ data │ pad │   … TRAILER!!!
//!   └──────────────────────────────────────────────────────────────────┘
//!     inode mode uid gid links mtime size dev dev rdev rdev name-size check
//! ```
//!
//! Everything belongs to root and nothing carries a time, so equal files make equal bytes: two
//! nodes that build the same image get the same one. Kernels take archives uncompressed.

/// The longest path in an archive, in bytes with its terminating zero: Linux's `PATH_MAX`.
pub const MAX_PATH_BYTES: usize = 4096;

/// The most bytes of one file: the format counts in 32 bits.
pub const MAX_FILE_BYTES: u64 = u32::MAX as u64;

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";

/// `S_IFMT` values of `inode(7)`.
const S_IFLNK: u32 = 0o120_000;
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory. The kernel makes no parents: a directory comes before what is in it.
    Directory,
    /// A file with these bytes.
    File(&'a [u8]),
    /// A symbolic link to this path.
    Link(&'a str),
    /// A character device.
    Character {
        /// Which driver.
        major: u32,
        /// Which of its devices.
        minor: u32,
    },
}

/// Why a file cannot be in an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// The path is empty, absolute, too long, or goes through `.` or `..`.
    #[error(
        "{0:?} is no path for an archive: it must be relative, shorter than {MAX_PATH_BYTES} \
         bytes, and without `.` and `..`"
    )]
    Path(String),
    /// The file is larger than [`MAX_FILE_BYTES`].
    #[error("{0} is too large for an archive: a file has at most {MAX_FILE_BYTES} bytes")]
    TooLarge(String),
}

/// An archive in the making.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Archive {
    /// An archive without files.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what stands at `path`, which is relative to the archive's root. Of `permissions` the
    /// lowest twelve bits count. A path that is added twice is what it was added as last.
    ///
    /// # Errors
    ///
    /// [`CpioError`]; the archive is then as it was.
    pub fn add(&mut self, path: &str, permissions: u32, kind: Kind<'_>) -> Result<(), CpioError> {
        let is_plain = |part: &str| !matches!(part, "" | "." | "..");
        if path.len() >= MAX_PATH_BYTES || path.contains('\0') || !path.split('/').all(is_plain) {
            return Err(CpioError::Path(path.to_owned()));
        }
        let (data, format, rdev): (&[u8], u32, (u32, u32)) = match kind {
            Kind::Directory => (&[], S_IFDIR, (0, 0)),
            Kind::File(bytes) => (bytes, S_IFREG, (0, 0)),
            Kind::Link(target) => (target.as_bytes(), S_IFLNK, (0, 0)),
            Kind::Character { major, minor } => (&[], S_IFCHR, (major, minor)),
        };
        let size = u32::try_from(data.len()).map_err(|_| CpioError::TooLarge(path.to_owned()))?;
        let links = if matches!(kind, Kind::Directory) {
            2
        } else {
            1
        };
        let mode = format | permissions & 0o7777;
        self.inodes += 1;
        self.header(path, [self.inodes, mode, links, size, rdev.0, rdev.1]);
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    /// The archive's bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.header(TRAILER, [0, 0, 1, 0, 0, 0]);
        self.bytes
    }

    fn header(&mut self, name: &str, fields: [u32; 6]) {
        let [inode, mode, links, size, rdev_major, rdev_minor] = fields;
        let name_size = name.len() as u32 + 1;
        let (uid, gid, time, dev_major, dev_minor, check) = (0, 0, 0, 0, 0, 0);
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in [
            inode, mode, uid, gid, links, time, size, dev_major, dev_minor, rdev_major, rdev_minor,
            name_size, check,
        ] {
            self.bytes
                .extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// Names and data end on multiples of four.
    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One file as a reader of the format sees it.
    #[derive(Debug, PartialEq, Eq)]
    struct Found {
        name: String,
        mode: u32,
        links: u32,
        rdev: (u32, u32),
        data: Vec<u8>,
    }

    /// Reads an archive by the format's description.
    fn read(bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % 4, 0, "headers are aligned");
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                let digits = std::str::from_utf8(&bytes[start..start + 8]).expect("ASCII");
                u32::from_str_radix(digits, 16).expect("hexadecimal")
            };
            let (name_size, size) = (field(11) as usize, field(6) as usize);
            let name = &bytes[at + 110..at + 110 + name_size - 1];
            assert_eq!(bytes[at + 110 + name_size - 1], 0);
            let data_at = (at + 110 + name_size).next_multiple_of(4);
            let data = bytes[data_at..data_at + size].to_vec();
            assert_eq!([2, 3, 5, 7, 8, 12].map(field), [0; 6], "root's, timeless");
            let name = String::from_utf8(name.to_vec()).expect("UTF-8");
            if name == "TRAILER!!!" {
                assert_eq!(data_at + size, bytes.len());
                return found;
            }
            assert_eq!(field(0) as usize, found.len() + 1, "inodes differ");
            let (mode, links, rdev) = (field(1), field(4), (field(9), field(10)));
            found.push(Found {
                name,
                mode,
                links,
                rdev,
                data,
            });
            at = (data_at + size).next_multiple_of(4);
        }
    }

    #[test]
    fn every_kind_of_file_reads_back() {
        let mut archive = Archive::new();
        let console = Kind::Character { major: 5, minor: 1 };
        archive.add("dev", 0o755, Kind::Directory).unwrap();
        archive.add("dev/console", 0o600, console).unwrap();
        archive
            .add("init", 0o755, Kind::File(b"#!/bin/sh"))
            .unwrap();
        archive.add("sh", 0o777, Kind::Link("bin/busybox")).unwrap();
        archive.add("empty", 0o644, Kind::File(b"")).unwrap();
        let found = |name: &str, mode, links, rdev, data: &[u8]| Found {
            name: name.to_owned(),
            mode,
            links,
            rdev,
            data: data.to_vec(),
        };
        assert_eq!(
            read(&archive.finish()),
            [
                found("dev", 0o040_755, 2, (0, 0), b""),
                found("dev/console", 0o020_600, 1, (5, 1), b""),
                found("init", 0o100_755, 1, (0, 0), b"#!/bin/sh"),
                found("sh", 0o120_777, 1, (0, 0), b"bin/busybox"),
                found("empty", 0o100_644, 1, (0, 0), b""),
            ]
        );
    }

    #[test]
    fn names_and_data_of_every_length_are_padded() {
        for len in 1..=9 {
            let (name, data) = ("n".repeat(len), vec![7; 10 - len]);
            let mut archive = Archive::new();
            archive.add(&name, 0o644, Kind::File(&data)).unwrap();
            archive.add("last", 0o644, Kind::File(b"x")).unwrap();
            let found = read(&archive.finish());
            assert_eq!((&found[0].name, &found[0].data), (&name, &data));
            assert_eq!(found[1].name, "last");
        }
    }

    /// Written out once by hand from the format's description.
    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut archive = Archive::new();
        archive.add("a", 0o644, Kind::File(b"hi")).unwrap();
        let zero = "00000000";
        let expected = [
            "070701",
            "00000001",
            "000081A4",
            zero,
            zero,
            "00000001",
            zero,
            "00000002",
            zero,
            zero,
            zero,
            zero,
            "00000002",
            zero,
            "a\0",
            "hi\0\0",
            "070701",
            zero,
            zero,
            zero,
            zero,
            "00000001",
            zero,
            zero,
            zero,
            zero,
            zero,
            zero,
            "0000000B",
            zero,
            "TRAILER!!!\0",
            "\0\0\0",
        ]
        .concat();
        let bytes = archive.finish();
        assert_eq!(String::from_utf8_lossy(&bytes), expected);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused_and_leave_no_trace() {
        let long = "x".repeat(MAX_PATH_BYTES);
        let mut archive = Archive::new();
        for path in ["", "/etc", "a//b", "a/", "./a", "a/../b", "a\0b", &long] {
            let refused = archive.add(path, 0o644, Kind::Directory);
            assert_eq!(refused, Err(CpioError::Path(path.to_owned())), "{path}");
        }
        assert_eq!(archive.finish(), Archive::new().finish());
    }
}
