//! From packages to an image's files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::cache::{FORMAT, Manifest, measure, recipe_hash, write};
use super::elf::{self, LinkNeeds};
use super::error::ImageError;
use super::job::{Job, Scratch};
use super::packages::{self, PackageFile};
use super::recipe::{Contents, Recipe};
use super::tree::{Node, Tree};
use super::{disk, modules};

/// What a package brings that a guest without a package manager has no use for.
const LEFT_OUT: [&str; 12] = [
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/menu",
    "usr/share/perl5",
    "usr/lib/x86_64-linux-gnu/gconv",
    "etc/init.d",
    "lib/systemd",
];

/// Where Debian's linker looks for libraries, apart from what its cache says.
const LIBRARY_DIRS: [&str; 3] = ["usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"];

/// Directories that a running system needs.
const MOUNT_POINTS: [(&str, u32); 8] = [
    ("dev", 0o755),
    ("mnt", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
];

/// Builds `recipe` from `files` into `scratch/image`.
pub(super) fn build(
    recipe: &Recipe,
    files: &[PackageFile],
    scratch: &Path,
    job: &mut Job<'_>,
) -> Result<Manifest, ImageError> {
    let names: Vec<&str> = files.iter().map(|f| f.package.name.as_str()).collect();
    let names = names.join(", ");
    let (kernel, user) = unpack(files, scratch, job)?;

    job.step("gathering programs and libraries")?;
    let mut image = Tree::with_merged_usr();
    match recipe.contents {
        Contents::Programs(programs) => {
            copy_with_libraries(&user, &mut image, programs.iter().copied(), &names)?;
        }
        Contents::All => {
            let in_path = ["usr/bin/", "usr/sbin/"];
            let programs: Vec<String> = user
                .files()
                .map(|(path, _)| path.to_owned())
                .filter(|path| in_path.iter().any(|dir| path.starts_with(dir)))
                .collect();
            // For its check: whatever is in the path can be run.
            let programs = programs.iter().map(String::as_str);
            copy_with_libraries(&user, &mut Tree::with_merged_usr(), programs, &names)?;
            image = user;
        }
    }
    let (release, vmlinuz) = find_kernel(&kernel, &names)?;
    let order = modules::copy(&kernel, &mut image, &release, recipe.modules, &names)?;
    image.file("etc/modules", order.join("\n") + "\n", false);
    for (path, permissions) in MOUNT_POINTS {
        image.directory(path, permissions);
    }
    for file in recipe.files {
        image.file(file.path, file.text, file.executable);
    }
    // What the kernel starts, and where that reads and writes until /dev is mounted.
    image.link("init", "bin/busybox");
    image.character("dev/console", 5, 1);
    image.character("dev/null", 1, 3);

    job.step("writing the image")?;
    let dir = scratch.join("image");
    fs::create_dir_all(&dir).map_err(ImageError::io("making", &dir))?;
    write(&dir.join("kernel"), vmlinuz)?;
    write(&dir.join("initrd"), &image.to_cpio()?)?;
    let disk = match recipe.disk {
        Some(recipe) => {
            job.step("making the disk")?;
            disk::make(recipe, &dir.join("disk.img"), job)?;
            Some(measure(&dir, "disk.img")?)
        }
        None => None,
    };
    Ok(Manifest {
        format: FORMAT,
        name: recipe.name.to_owned(),
        recipe: recipe_hash(recipe),
        kernel_release: release,
        memory_mib: recipe.memory_mib,
        command_line: recipe.command_line.to_owned(),
        kernel: measure(&dir, "kernel")?,
        initrd: measure(&dir, "initrd")?,
        disk,
        packages: files.iter().map(|file| file.package.clone()).collect(),
    })
}

/// Opens every package: the kernels' files, and all others'.
fn unpack(
    files: &[PackageFile],
    scratch: &Path,
    job: &mut Job<'_>,
) -> Result<(Tree, Tree), ImageError> {
    job.step(&format!("opening {} packages", files.len()))?;
    let mut kernel = Tree::with_merged_usr();
    let mut user = Tree::with_merged_usr();
    for file in files {
        let dir = Scratch::create(scratch.join("package"))?;
        packages::unpack(&file.path, dir.path(), job)?;
        let is_kernel = file.package.name.starts_with("linux-image-");
        let tree = if is_kernel { &mut kernel } else { &mut user };
        tree.unpack(dir.path(), &LEFT_OUT)?;
    }
    Ok((kernel, user))
}

/// The kernel's release and bytes. Of several kernels the one whose package came last counts.
fn find_kernel<'a>(kernel: &'a Tree, names: &str) -> Result<(String, &'a [u8]), ImageError> {
    kernel
        .files()
        .filter_map(|(path, bytes)| Some((path.strip_prefix("boot/vmlinuz-")?.to_owned(), bytes)))
        .last()
        .ok_or_else(|| ImageError::File {
            path: "boot/vmlinuz-…".to_owned(),
            packages: names.to_owned(),
        })
}

/// Copies programs with every library that they need, and that those need.
fn copy_with_libraries<'a>(
    from: &Tree,
    to: &mut Tree,
    programs: impl Iterator<Item = &'a str>,
    names: &str,
) -> Result<(), ImageError> {
    let mut open = Vec::new();
    for program in programs {
        let end = from.copy_to(to, program).ok_or_else(|| ImageError::File {
            path: program.to_owned(),
            packages: names.to_owned(),
        })?;
        open.push(end);
    }
    let mut seen = BTreeSet::new();
    while let Some(path) = open.pop() {
        let Some(Node::File { bytes, .. }) = from.get(&path) else {
            unreachable!("copying ends at a file");
        };
        let LinkNeeds {
            interpreter,
            libraries,
        } = elf::link_needs(bytes).map_err(|error| ImageError::Elf {
            path: path.clone(),
            why: error.to_string(),
        })?;
        let lacks = |library: String| ImageError::Library {
            program: path.clone(),
            library,
            packages: names.to_owned(),
        };
        if let Some(interpreter) = interpreter {
            // The kernel wants it where the program says.
            let found = from.copy_to(to, interpreter.trim_start_matches('/'));
            found.ok_or_else(|| lacks(interpreter))?;
        }
        for library in libraries {
            if !seen.insert(library.clone()) {
                continue;
            }
            let end = LIBRARY_DIRS
                .iter()
                .find_map(|dir| from.copy_to(to, &format!("{dir}/{library}")))
                .ok_or_else(|| lacks(library))?;
            open.push(end);
        }
    }
    Ok(())
}
