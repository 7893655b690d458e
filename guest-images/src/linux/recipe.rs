//! What each image is made of.

use super::disk::DiskRecipe;
use super::packages::Wanted;

/// The kernel: Debian's for virtual machines. A package without files; it depends on the latest.
const KERNEL: &str = "linux-image-cloud-amd64";

/// Modules that every image loads: the machine's devices, and the power button with its events.
const MODULES: [&str; 7] = [
    "virtio_mmio",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "ext4",
    "button",
    "evdev",
];

/// How a package's files come into an image.
#[derive(Clone, Copy, Debug)]
pub(super) enum Contents {
    /// These programs, by path, with the libraries they need.
    Programs(&'static [&'static str]),
    /// All files, but for what only a larger system has use for.
    All,
}

/// One file of our own.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnFile {
    pub(super) path: &'static str,
    pub(super) text: &'static str,
    pub(super) executable: bool,
}

/// How an image is made.
#[derive(Clone, Copy, Debug)]
pub struct Recipe {
    /// What it is called.
    pub name: &'static str,
    /// What it is, in half a line.
    pub about: &'static str,
    /// The RAM that its guest is comfortable with, in MiB.
    pub memory_mib: u32,
    /// The kernel's command line.
    pub command_line: &'static str,
    pub(super) wanted: Wanted<'static>,
    pub(super) modules: &'static [&'static str],
    pub(super) contents: Contents,
    pub(super) files: &'static [OwnFile],
    pub(super) disk: Option<DiskRecipe>,
}

impl Recipe {
    /// Whether the image comes with a disk, of which each node needs a copy.
    #[must_use]
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }
}

const fn script(path: &'static str, text: &'static str) -> OwnFile {
    OwnFile {
        path,
        text,
        executable: true,
    }
}

const fn text(path: &'static str, text: &'static str) -> OwnFile {
    OwnFile {
        path,
        text,
        executable: false,
    }
}

const RC: OwnFile = script("etc/rc", include_str!("files/rc"));
const POWER: OwnFile = script("etc/power-button", include_str!("files/power-button"));

/// `panic=-1` resets at once, which ends the machine: a guest that panicked is no service. There
/// is no PCI and no i8042 to look for, and nobody to be safe from inside.
macro_rules! command_line {
    () => {
        "console=ttyS0 quiet panic=-1 pci=off mitigations=off i8042.nokbd i8042.noaux"
    };
}

/// The images that ftvm can make for people.
pub const RECIPES: [Recipe; 3] = [
    Recipe {
        name: "busybox",
        about: "Debian's kernel and a shell prompt on the serial console",
        memory_mib: 128,
        command_line: command_line!(),
        wanted: Wanted {
            packages: &[KERNEL, "busybox-static"],
            libraries: &[],
        },
        modules: &MODULES,
        contents: Contents::Programs(&["bin/busybox"]),
        files: &[
            RC,
            POWER,
            text("etc/inittab", include_str!("files/busybox/inittab")),
            script("etc/rc.stop", include_str!("files/rc.stop")),
        ],
        disk: None,
    },
    Recipe {
        name: "redis",
        about: "Debian's redis-server on 10.0.2.15:6379, append-only file on ext4",
        memory_mib: 256,
        command_line: command_line!(),
        wanted: Wanted {
            packages: &[KERNEL, "busybox-static", "redis-server", "redis-tools"],
            libraries: &[
                "libatomic1",
                "libc6",
                "libcap2",
                "libgcc-s1",
                "libgcrypt20",
                "libgpg-error0",
                "libjemalloc2",
                "liblz4-1",
                "liblzf1",
                "liblzma5",
                "libssl3",
                "libstdc++6",
                "libsystemd0",
                "libzstd1",
            ],
        },
        modules: &MODULES,
        contents: Contents::Programs(&["bin/busybox", "usr/bin/redis-server", "usr/bin/redis-cli"]),
        files: &[
            RC,
            POWER,
            text("etc/inittab", include_str!("files/redis/inittab")),
            script("etc/rc.local", include_str!("files/redis/rc.local")),
            script("etc/rc.stop", include_str!("files/redis/rc.stop")),
            text("etc/redis.conf", include_str!("files/redis/redis.conf")),
        ],
        disk: Some(DiskRecipe {
            label: "redis",
            uuid: "66747666-7265-6469-7300-000000000001",
            hash_seed: "66747666-7265-6469-7300-000000000002",
            mib: 256,
        }),
    },
    Recipe {
        name: "debian",
        about: "a small Debian with a login shell on the serial console",
        memory_mib: 384,
        command_line: command_line!(),
        wanted: Wanted {
            packages: &[
                KERNEL,
                "base-files",
                "base-passwd",
                "bash",
                "busybox-static",
                "coreutils",
                "e2fsprogs",
                "findutils",
                "grep",
                "gzip",
                "hostname",
                "iproute2",
                "kmod",
                "less",
                "logsave",
                "mawk",
                "mount",
                "ncurses-base",
                "ncurses-bin",
                "netbase",
                "procps",
                "sed",
                "tar",
                "util-linux",
                "util-linux-extra",
            ],
            libraries: &[
                "libacl1",
                "libattr1",
                "libblkid1",
                "libbpf1",
                "libbsd0",
                "libbz2-1.0",
                "libc6",
                "libcap-ng0",
                "libcap2",
                "libcap2-bin",
                "libcom-err2",
                "libcrypt1",
                "libcrypto3",
                "libdb5.3",
                "libelf1",
                "libext2fs2",
                "libfdisk1",
                "libgcrypt20",
                "libgmp10",
                "libgpg-error0",
                "libkmod2",
                "liblz4-1",
                "liblzma5",
                "libmd0",
                "libmnl0",
                "libmount1",
                "libncursesw6",
                "libpam0g",
                "libpcre2-8-0",
                "libproc2-0",
                "libreadline8",
                "libselinux1",
                "libsmartcols1",
                "libss2",
                "libssl3",
                "libsystemd0",
                "libtinfo6",
                "libtirpc3",
                "libudev1",
                "libuuid1",
                "libxtables12",
                "libzstd1",
                "zlib1g",
            ],
        },
        modules: &MODULES,
        contents: Contents::All,
        files: &[
            RC,
            POWER,
            text("etc/inittab", include_str!("files/debian/inittab")),
            script("etc/rc.stop", include_str!("files/rc.stop")),
            text("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
            text("etc/group", "root:x:0:\ntty:x:5:\ndisk:x:6:\n"),
            text("etc/hostname", "debian\n"),
            text("etc/hosts", "127.0.0.1 localhost\n10.0.2.15 debian\n"),
            text("etc/profile", include_str!("files/debian/profile")),
        ],
        disk: None,
    },
];

/// No guest but a host: Linux with a KVM that works where the processor is AMD's, or QEMU's emulation
/// of it. The tests boot it; it is not listed to people.
pub const KVM_HOST: Recipe = Recipe {
    name: "kvm-host",
    about: "Debian's kernel with KVM, and a shell prompt on the serial console",
    memory_mib: 2048,
    command_line: "console=ttyS0 loglevel=1 panic=-1 mitigations=off",
    wanted: RECIPES[0].wanted,
    modules: &["button", "evdev", "kvm_amd"],
    contents: RECIPES[0].contents,
    files: RECIPES[0].files,
    disk: None,
};

/// All recipes, listed or not.
pub(super) fn all() -> impl Iterator<Item = &'static Recipe> {
    static LISTED: [Recipe; 3] = RECIPES;
    static UNLISTED: [Recipe; 1] = [KVM_HOST];
    LISTED.iter().chain(&UNLISTED)
}

/// The recipe called `name`.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Recipe> {
    all().find(|recipe| recipe.name == name)
}
