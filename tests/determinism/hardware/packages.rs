//! What the lab is made of: a kernel, its KVM modules and busybox from Debian's packages, fetched
//! by apt without root and kept below the user's cache directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that depends on the newest kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// In the order in which they are loaded.
const MODULES: [&str; 3] = ["irqbypass.ko", "kvm.ko", "kvm-amd.ko"];

/// The programs without which there is no lab, and the packages that have them.
const TOOLS: [(&str, &str); 4] = [
    (super::qemu::PROGRAM, "qemu-system-x86"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
];

/// What boots.
#[derive(Debug)]
pub(super) struct Lab {
    pub(super) kernel: PathBuf,
    pub(super) modules: Vec<Module>,
    pub(super) busybox: PathBuf,
}

/// A kernel module.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
}

/// Fetches what is not yet in the cache.
///
/// # Errors
///
/// Why there can be no lab here.
pub(super) fn lab() -> Result<Lab, String> {
    for (tool, package) in TOOLS {
        if !on_path(tool) {
            return Err(format!("there is no {tool}: `apt-get install {package}`"));
        }
    }
    let listed = output(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
    let kernel = listed
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .ok_or_else(|| format!("apt does not know {KERNEL_PACKAGE}: `apt-get update`"))?;
    let kernel = unpacked(&format!("linux-image-{kernel}"))?;
    let busybox = unpacked("busybox-static")?;
    let find = |dir: &Path, wanted: &dyn Fn(&str) -> bool| {
        find(dir, wanted).ok_or_else(|| format!("{} is not what it was", dir.display()))
    };
    let modules = MODULES.map(|name| {
        let path = find(&kernel, &|file| {
            file.strip_suffix(".xz").unwrap_or(file) == name
        })?;
        let bytes = match path.extension() {
            Some(extension) if extension == "xz" => {
                bytes(Command::new("xz").arg("-dc").arg(&path))?
            }
            _ => super::read(&path),
        };
        Ok(Module { name, bytes })
    });
    Ok(Lab {
        kernel: find(&kernel, &|file| file.starts_with("vmlinuz-"))?,
        modules: modules.into_iter().collect::<Result<_, String>>()?,
        busybox: find(&busybox, &|file| file == "busybox")?,
    })
}

/// The shared libraries that `program` is linked with, its loader among them.
pub(super) fn libraries(program: &Path) -> Vec<PathBuf> {
    // Of a static program it says so, and fails.
    let listed = output(Command::new("ldd").arg(program)).unwrap_or_default();
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// The newest version of a package, unpacked.
fn unpacked(package: &str) -> Result<PathBuf, String> {
    let shown = output(Command::new("apt-cache").args(["show", "--no-all-versions", package]))?;
    let version = shown
        .lines()
        .find_map(|line| line.strip_prefix("Version: "))
        .ok_or_else(|| format!("apt does not know {package}: `apt-get update`"))?;
    let cache = cache()?;
    let dir = cache.join(format!("{package}_{version}"));
    if dir.is_dir() {
        return Ok(dir);
    }
    let told = |error: std::io::Error| format!("{}: {error}", cache.display());
    fs::create_dir_all(&cache).map_err(told)?;
    // Only what is complete gets its name: another process may be at it as well.
    let partial = tempfile::tempdir_in(&cache).map_err(told)?;
    let mut download = Command::new("apt-get");
    download.current_dir(partial.path()).args([
        "-q",
        "-o",
        "APT::Sandbox::User=root",
        "download",
        package,
    ]);
    output(&mut download)?;
    let archive = find(partial.path(), &|file| file.ends_with(".deb"))
        .ok_or_else(|| format!("apt-get download {package} left nothing"))?;
    let files = partial.path().join("files");
    output(Command::new("dpkg-deb").arg("-x").args([&archive, &files]))?;
    match fs::rename(&files, &dir) {
        Err(error) if !dir.is_dir() => Err(told(error)),
        _ => Ok(dir),
    }
}

/// Where packages are kept (XDG Base Directory Specification).
fn cache() -> Result<PathBuf, String> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(home)
        .map(|dir| dir.join("ftvm/debian"))
        .ok_or_else(|| "neither XDG_CACHE_HOME nor HOME is set".to_owned())
}

/// The first file below `dir` whose name `wanted` wants.
fn find(dir: &Path, wanted: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    entries.into_iter().find_map(|path| {
        if path.is_symlink() {
            None
        } else if path.is_dir() {
            find(&path, wanted)
        } else {
            wanted(path.file_name()?.to_str()?).then_some(path)
        }
    })
}

fn output(command: &mut Command) -> Result<String, String> {
    Ok(String::from_utf8_lossy(&bytes(command)?).into_owned())
}

/// What `command` writes to its standard output, if it succeeds.
fn bytes(command: &mut Command) -> Result<Vec<u8>, String> {
    let output = command
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{command:?}: {} {}", output.status, said.trim()));
    }
    Ok(output.stdout)
}
