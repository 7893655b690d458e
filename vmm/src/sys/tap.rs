//! Opening a TAP device: the `TUNSETIFF` ioctl.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

/// The longest name of an interface, without the terminating zero.
pub const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// The device through which TAP interfaces are attached to.
pub const TUN_DEVICE: &str = "/dev/net/tun";

mod ioctl {
    use nix::ioctl_write_ptr_bad;

    ioctl_write_ptr_bad!(
        /// Attaches a descriptor of `/dev/net/tun` to an interface, which is
        /// created if there is none of that name (linux/if_tun.h).
        tun_set_iff,
        libc::TUNSETIFF,
        libc::ifreq
    );
}

/// Opens `device` (that is [`TUN_DEVICE`]) without blocking.
pub fn open_tun(device: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(device)
}

/// Lets the tokio runtime that this is called in wait for a descriptor.
pub fn register(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, and always the same
    // descriptor; the `AsyncFd` owns it and hands out shared references only.
    let registered = unsafe { AsyncFd::register(fd) };
    registered.map_err(Into::into)
}

/// Attaches `tun` to the TAP interface `name`: whole Ethernet frames, without a
/// header of the driver's before them.
///
/// # Panics
/// If the name is longer than [`MAX_NAME_LEN`] or contains a zero byte.
pub fn attach(tun: File, name: &str) -> Result<OwnedFd, Errno> {
    assert!(
        name.len() <= MAX_NAME_LEN && !name.contains('\0'),
        "the caller checks the name"
    );
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let request = libc::ifreq {
        ifr_name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short,
        },
    };
    // SAFETY: TUNSETIFF reads a whole `struct ifreq` from the pointer, which is
    // valid for the call; it keeps no pointer. The name is terminated, since it is
    // shorter than the zeroed array. The descriptor is open for the call.
    unsafe { ioctl::tun_set_iff(tun.as_raw_fd(), &request) }?;
    Ok(tun.into())
}
