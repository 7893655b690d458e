//! Whole builds: offline from packages made here, and online where there is apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fixtures::object_with_section;
use super::*;

const RELEASE: &str = "6.1.0-50-cloud-amd64";

/// Makes a package file from paths and bytes; `None`, loudly, where there is no dpkg-deb.
fn package(dir: &Path, name: &str, version: &str, files: &[(&str, &[u8])]) -> Option<PathBuf> {
    let root = dir.join(format!("{name}-{version}"));
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: Test <t@example.org>\n\
         Description: a test\n"
    );
    let control = ("DEBIAN/control", control.as_bytes());
    for (path, bytes) in files.iter().chain([&control]) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("in root")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    let file = dir.join(format!("{name}_{version}_amd64.deb"));
    let made = Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Znone", "--build"])
        .args([&root, &file])
        .output();
    fs::remove_dir_all(&root).expect("removed");
    match made {
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{words}");
            Some(file)
        }
        Err(error) => {
            eprintln!("SKIPPED: dpkg-deb: {error}");
            None
        }
    }
}

/// The packages of the `busybox` image, with next to nothing in them.
fn busybox_packages(dir: &Path) -> Option<()> {
    let module = |info: &str| object_with_section(b".modinfo", info.as_bytes());
    let at = |path: &str| format!("lib/modules/{RELEASE}/{path}");
    let mut files: Vec<(String, Vec<u8>)> = vec![
        (format!("boot/vmlinuz-{RELEASE}"), b"a kernel".to_vec()),
        (at("modules.builtin"), b"kernel/fs/ext4/ext4.ko\n".to_vec()),
        (at("kernel/virtio_ring.ko"), module("depends=")),
        (at("kernel/unused.ko"), module("depends=")),
    ];
    for name in [
        "virtio_mmio",
        "virtio_net",
        "virtio_blk",
        "virtio-rng",
        "button",
        "evdev",
    ] {
        let module = module("depends=virtio_ring");
        files.push((at(&format!("kernel/{name}.ko")), module));
    }
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    package(dir, &format!("linux-image-{RELEASE}"), "6.1.1", &files)?;
    package(
        dir,
        "busybox-static",
        "1.35",
        &[("bin/busybox", b"#!static")],
    )?;
    Some(())
}

struct Bench {
    dir: tempfile::TempDir,
    interrupted: AtomicBool,
    said: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        Bench {
            dir: tempfile::tempdir().expect("a directory"),
            interrupted: AtomicBool::new(false),
            said: Vec::new(),
        }
    }

    fn packages(&self) -> PathBuf {
        let dir = self.dir.path().join("debs");
        fs::create_dir_all(&dir).expect("made");
        dir
    }

    fn cache(&self) -> Cache {
        Cache::open(Some(&self.dir.path().join("cache"))).expect("a place")
    }

    fn build(&mut self, name: &str, refresh: bool) -> Result<Built, ImageError> {
        let options = BuildOptions {
            packages: Some(self.packages()),
            refresh,
        };
        let (said, interrupted) = (&mut self.said, &self.interrupted);
        let cache = Cache::open(Some(&self.dir.path().join("cache"))).expect("a place");
        cache.build(
            name,
            &options,
            &mut Job {
                progress: &mut |line| said.push(line.to_owned()),
                interrupted,
            },
        )
    }

    /// What is in the cache, apart from the lock and the packages.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.dir.path().join("cache")).expect("there");
        let mut names: Vec<String> = names
            .map(|entry| {
                entry
                    .expect("readable")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .filter(|name| name != "lock" && name != "packages")
            .collect();
        names.sort();
        names
    }
}

fn new(built: Built) -> Image {
    match built {
        Built::New(image) => image,
        Built::Already(_) => panic!("it was there already"),
    }
}

#[test]
fn an_image_is_built_once_and_the_same_wherever_it_is_built() {
    let mut bench = Bench::new();
    if busybox_packages(&bench.packages()).is_none() {
        return;
    }
    let image = new(bench.build("busybox", false).expect("built"));
    let manifest = &image.manifest;
    assert_eq!(manifest.kernel_release, RELEASE);
    assert_eq!(fs::read(image.kernel()).expect("there"), b"a kernel");
    assert_eq!(image.disk(), None);
    let names: Vec<&str> = manifest.packages.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["busybox-static", &format!("linux-image-{RELEASE}")]);
    let initrd = fs::read(image.initrd()).expect("there");
    let text = String::from_utf8_lossy(&initrd);
    for path in [
        "init",
        "dev/console",
        "etc/inittab",
        "usr/bin/busybox",
        "etc/rc",
    ] {
        assert!(text.contains(&format!("{path}\0")), "no {path}");
    }
    assert!(!text.contains("unused.ko"));
    let order = format!(
        "usr/lib/modules/{RELEASE}/kernel/virtio_ring.ko\n\
         usr/lib/modules/{RELEASE}/kernel/virtio_mmio.ko\n"
    );
    assert!(text.contains(&order));
    image.verify().expect("as recorded");

    assert_eq!(
        bench.build("busybox", false).expect("there"),
        Built::Already(image.clone())
    );
    assert_eq!(new(bench.build("busybox", true).expect("built")), image);
    let mut elsewhere = Bench::new();
    busybox_packages(&elsewhere.packages()).expect("as before");
    let other = new(elsewhere.build("busybox", false).expect("built"));
    assert_eq!(other.manifest.initrd, image.manifest.initrd);
    let listed = bench.cache().list();
    assert_eq!(listed.len(), 3);
    assert!(
        matches!(&listed[0], (recipe, Some(Ok(found))) if recipe.name == "busybox" && *found == image)
    );
    assert!(listed[1].1.is_none());
    assert_eq!(bench.left().len(), 2, "{:?}", bench.left());
}

#[test]
fn damage_is_found_and_removing_is_thorough() {
    let mut bench = Bench::new();
    if busybox_packages(&bench.packages()).is_none() {
        return;
    }
    let image = new(bench.build("busybox", false).expect("built"));
    fs::write(image.initrd(), "damaged").expect("written");
    let error = bench.build("busybox", false).expect_err("damaged");
    assert!(matches!(error, ImageError::Damaged { .. }), "{error}");
    let mut job = Job {
        progress: &mut |_| {},
        interrupted: &AtomicBool::new(false),
    };
    bench.cache().remove("busybox", &mut job).expect("removed");
    assert_eq!(bench.left(), [""; 0]);
    let error = bench.cache().remove("busybox", &mut job).expect_err("gone");
    assert!(matches!(error, ImageError::NotBuilt(_)), "{error}");
    assert!(matches!(
        bench.cache().image("busybox"),
        Err(ImageError::NotBuilt(_))
    ));
    new(bench.build("busybox", false).expect("built"));
}

#[test]
fn an_interrupted_build_leaves_nothing_and_a_killed_one_is_cleaned_up_after() {
    let mut bench = Bench::new();
    if busybox_packages(&bench.packages()).is_none() {
        return;
    }
    bench.interrupted.store(true, Ordering::Relaxed);
    let error = bench.build("busybox", false).expect_err("interrupted");
    assert!(matches!(error, ImageError::Interrupted), "{error}");
    assert_eq!(bench.left(), [""; 0]);

    let cache = bench.dir.path().join("cache");
    for left in [".build-1/package/usr", ".busybox-0123456789abcdef"] {
        fs::create_dir_all(cache.join(left)).expect("made");
    }
    bench.interrupted.store(false, Ordering::Relaxed);
    new(bench.build("busybox", false).expect("built"));
    assert_eq!(bench.left().len(), 2, "{:?}", bench.left());
}

#[test]
fn a_version_that_changed_its_bytes_is_refused() {
    let mut bench = Bench::new();
    if busybox_packages(&bench.packages()).is_none() {
        return;
    }
    let image = new(bench.build("busybox", false).expect("built"));
    package(
        &bench.packages(),
        "busybox-static",
        "1.35",
        &[("bin/busybox", b"#!other")],
    );
    let error = bench.build("busybox", true).expect_err("changed");
    assert!(matches!(error, ImageError::Hash { .. }), "{error}");
    image.verify().expect("the old one is still there");

    fs::remove_file(bench.packages().join("busybox-static_1.35_amd64.deb")).expect("removed");
    package(
        &bench.packages(),
        "busybox-static",
        "1.36",
        &[("bin/busybox", b"#!other")],
    );
    let newer = new(bench.build("busybox", true).expect("a newer version"));
    assert_ne!(newer.dir, image.dir);
    assert!(!image.dir.exists());
}

#[test]
fn what_packages_lack_is_named() {
    let mut bench = Bench::new();
    if busybox_packages(&bench.packages()).is_none() {
        return;
    }
    let program = fs::read(std::env::current_exe().expect("a program")).expect("readable");
    let dir = bench.packages();
    package(
        &dir,
        "redis-tools",
        "7",
        &[("usr/bin/redis-cli", b"#!static")],
    )
    .expect("as before");
    let error = bench
        .build("redis", false)
        .expect_err("a package is missing")
        .to_string();
    assert!(
        error.ends_with("no file of the package: redis-server"),
        "{error}"
    );
    package(
        &dir,
        "redis-server",
        "7",
        &[("usr/bin/redis-server", &program)],
    )
    .expect("as before");
    let error = bench
        .build("redis", false)
        .expect_err("libraries are missing")
        .to_string();
    assert!(error.contains("usr/bin/redis-server needs"), "{error}");
    package(&dir, "redis-server", "8", &[("x", b"")]).expect("as before");
    let error = bench
        .build("redis", false)
        .expect_err("two versions")
        .to_string();
    assert!(error.contains("redis-server is there twice"), "{error}");
    let error = bench
        .build("ubuntu", false)
        .expect_err("no recipe")
        .to_string();
    assert!(error.contains("busybox, redis, debian"), "{error}");
    assert_eq!(bench.left(), [""; 0]);
}

/// The whole way, from the archive.
#[test]
fn busybox_is_built_from_the_archive() {
    let bench = Bench::new();
    let interrupted = AtomicBool::new(false);
    let mut job = Job {
        progress: &mut |line| eprintln!("{line}"),
        interrupted: &interrupted,
    };
    match bench
        .cache()
        .build("busybox", &BuildOptions::default(), &mut job)
    {
        Ok(built) => {
            let image = new(built);
            let kernel = fs::read(image.kernel()).expect("there");
            assert_eq!(&kernel[0x202..0x206], b"HdrS", "a bzImage");
            assert!(image.manifest.initrd.bytes > 1 << 20);
        }
        Err(
            error @ (ImageError::NoApt { .. }
            | ImageError::NotOffered(_)
            | ImageError::Command { .. }
            | ImageError::NoProgram { .. }),
        ) => eprintln!("SKIPPED: {error}"),
        Err(error) => panic!("{error}"),
    }
}
