//! The files of an image, gathered from packages before they are written.
//!
//! Paths are relative to the root of the image, without a slash before or after. As on every
//! Debian since bookworm `bin`, `sbin`, `lib` and `lib64` are links into `usr`, and what a package
//! has there goes to `usr`. Owner, time and special permission bits do not survive: in an image
//! all is root's, and equal packages make equal images for whoever builds them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::cpio::{Archive, Kind};
use super::error::ImageError;

/// Directories at the root that are links to their namesakes in `usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// As many symbolic links as Linux follows (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Directory { permissions: u32 },
    File { bytes: Vec<u8>, executable: bool },
    Link(String),
    Character { major: u32, minor: u32 },
}

/// Files by path. A directory sorts before what is in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// A root with nothing but the links into `usr`.
    pub(super) fn with_merged_usr() -> Self {
        let mut tree = Tree::default();
        for name in MERGED {
            tree.directory(&format!("usr/{name}"), 0o755);
            tree.nodes
                .insert(name.to_owned(), Node::Link(format!("usr/{name}")));
        }
        tree
    }

    fn insert(&mut self, path: &str, node: Node) {
        let path = merged(path);
        for (at, _) in path.match_indices('/') {
            let parent = self.nodes.entry(path[..at].to_owned());
            parent.or_insert(Node::Directory { permissions: 0o755 });
        }
        self.nodes.insert(path, node);
    }

    /// A directory. Of one that is there already only the permissions change.
    pub(super) fn directory(&mut self, path: &str, permissions: u32) {
        self.insert(path, Node::Directory { permissions });
    }

    pub(super) fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>, executable: bool) {
        let bytes = bytes.into();
        self.insert(path, Node::File { bytes, executable });
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.insert(path, Node::Link(target.to_owned()));
    }

    pub(super) fn character(&mut self, path: &str, major: u32, minor: u32) {
        self.insert(path, Node::Character { major, minor });
    }

    /// Adds what is below `dir` of the host, except paths that begin with one of `without`.
    /// Devices and sockets, which no package contains, are passed over.
    pub(super) fn unpack(&mut self, dir: &Path, without: &[&str]) -> Result<(), ImageError> {
        let mut open = vec![(dir.to_owned(), String::new())];
        while let Some((dir, prefix)) = open.pop() {
            let io = |doing| ImageError::io(doing, &dir);
            for entry in fs::read_dir(&dir).map_err(io("reading"))? {
                let entry = entry.map_err(io("reading"))?;
                let (from, name) = (entry.path(), entry.file_name());
                let path = format!("{prefix}{}", name.to_string_lossy());
                if without.iter().any(|start| path.starts_with(start)) {
                    continue;
                }
                let metadata =
                    fs::symlink_metadata(&from).map_err(ImageError::io("reading", &from))?;
                if metadata.is_dir() {
                    if !MERGED.contains(&path.as_str()) {
                        self.directory(&path, 0o755);
                    }
                    open.push((from, format!("{path}/")));
                } else if metadata.is_symlink() {
                    let target = fs::read_link(&from).map_err(ImageError::io("reading", &from))?;
                    self.link(&path, &target.to_string_lossy());
                } else if metadata.is_file() {
                    let bytes = fs::read(&from).map_err(ImageError::io("reading", &from))?;
                    self.file(&path, bytes, metadata.permissions().mode() & 0o111 != 0);
                }
            }
        }
        Ok(())
    }

    /// What stands at `path`, itself.
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(&merged(path))
    }

    /// Every file's path and bytes.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.nodes.iter().filter_map(|(path, node)| match node {
            Node::File { bytes, .. } => Some((path.as_str(), bytes.as_slice())),
            _ => None,
        })
    }

    /// Copies what stands at `path` to `other`, and what its links lead to. Returns the path of
    /// the file at the end; `None` if there is none.
    pub(super) fn copy_to(&self, other: &mut Tree, path: &str) -> Option<String> {
        let mut path = merged(path);
        for _ in 0..MAX_LINKS {
            let node = self.nodes.get(&path)?;
            other.insert(&path, node.clone());
            let Node::Link(target) = node else {
                return Some(path);
            };
            path = merged(&follow(&path, target));
        }
        None
    }

    /// The files as an initial RAM disk.
    pub(super) fn to_cpio(&self) -> Result<Vec<u8>, ImageError> {
        let mut archive = Archive::new();
        for (path, node) in &self.nodes {
            let (permissions, kind) = match node {
                Node::Directory { permissions } => (*permissions, Kind::Directory),
                Node::File { bytes, executable } => {
                    (if *executable { 0o755 } else { 0o644 }, Kind::File(bytes))
                }
                Node::Link(target) => (0o777, Kind::Link(target)),
                Node::Character { major, minor } => {
                    let (major, minor) = (*major, *minor);
                    (0o600, Kind::Character { major, minor })
                }
            };
            archive.add(path, permissions, kind)?;
        }
        Ok(archive.finish())
    }
}

/// Where `path` is once `bin` and its like are links into `usr`.
fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&first) && path != first {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// Where a link at `path` to `target` leads.
fn follow(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = match target.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => path.split('/').collect(),
    };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(tree: &Tree, path: &str) -> Option<String> {
        match tree.get(path) {
            Some(Node::File { bytes, .. }) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    #[test]
    fn what_packages_have_in_bin_is_in_usr_bin() {
        let mut tree = Tree::with_merged_usr();
        tree.file("bin/sh", "shell", true);
        tree.file("lib/x/y.so", "library", false);
        assert_eq!(text(&tree, "usr/bin/sh").as_deref(), Some("shell"));
        assert_eq!(text(&tree, "usr/lib/x/y.so").as_deref(), Some("library"));
        assert_eq!(tree.get("bin"), Some(&Node::Link("usr/bin".to_owned())));
        assert!(matches!(
            tree.get("usr/lib/x"),
            Some(Node::Directory { .. })
        ));
    }

    #[test]
    fn links_are_copied_with_what_they_lead_to() {
        let mut from = Tree::with_merged_usr();
        from.link("usr/lib64/ld.so", "/lib/arch/ld.so");
        from.link("usr/lib/arch/ld.so", "../arch2/./ld-2.so");
        from.file("usr/lib/arch2/ld-2.so", "loader", true);
        from.link("usr/bin/loop", "loop");
        from.link("usr/bin/dangling", "nowhere");
        let mut to = Tree::default();
        let end = from.copy_to(&mut to, "lib64/ld.so");
        assert_eq!(end.as_deref(), Some("usr/lib/arch2/ld-2.so"));
        let copied = [
            "usr/lib64/ld.so",
            "usr/lib/arch/ld.so",
            "usr/lib/arch2/ld-2.so",
        ];
        assert!(copied.iter().all(|path| to.get(path) == from.get(path)));
        for path in ["usr/bin/loop", "usr/bin/dangling", "absent"] {
            assert_eq!(from.copy_to(&mut to, path), None, "{path}");
        }
    }

    #[test]
    fn a_directory_of_the_host_unpacks_without_owner_time_and_special_bits() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("bin")).expect("made");
        fs::create_dir_all(at("usr/share/doc/x")).expect("made");
        fs::write(at("bin/su"), "su").expect("written");
        fs::write(at("usr/share/doc/x/copyright"), "long").expect("written");
        fs::set_permissions(at("bin/su"), fs::Permissions::from_mode(0o4755)).expect("set");
        std::os::unix::fs::symlink("su", at("bin/link")).expect("linked");
        let mut tree = Tree::with_merged_usr();
        tree.unpack(dir.path(), &["usr/share/doc"])
            .expect("unpacked");
        let executable = true;
        let bytes = b"su".to_vec();
        assert_eq!(
            tree.get("usr/bin/su"),
            Some(&Node::File { bytes, executable })
        );
        assert_eq!(tree.get("usr/bin/link"), Some(&Node::Link("su".to_owned())));
        assert_eq!(tree.get("bin"), Some(&Node::Link("usr/bin".to_owned())));
        assert!(tree.get("usr/share/doc/x/copyright").is_none());
        // Parents come before children, or the kernel could not make them.
        let bytes = tree.to_cpio().expect("an archive");
        let position = |text: &[u8]| bytes.windows(text.len()).position(|at| at == text);
        assert!(position(b"usr\0") < position(b"usr/bin/su\0"));
        assert!(position(b"usr\0").is_some());
    }
}
