//! A guest's network as the real thing: a TAP interface of the host.
//!
//! Whoever attaches to the interface speaks: nothing on a real network refuses a
//! lower token, so there the bound of FAIL-9 and the repeated announcements of
//! FAIL-7 (`announce.rs`) are what undoes a stale node's words.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::packet::{HEADER_LEN, MAX_FRAME_LEN};
use crate::sys::tap::{MAX_NAME_LEN, TUN_DEVICE, attach, open_tun, register};

/// Why a TAP interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is empty, too long, or no name.
    #[error(
        "{0:?} is no name of a network interface: 1 to {MAX_NAME_LEN} bytes, no spaces or slashes"
    )]
    Name(String),
    /// The kernel has no TAP device.
    #[error("there is no {TUN_DEVICE}; load the driver with `modprobe tun`, or use the gateway")]
    NoDevice,
    /// This user may not.
    #[error(
        "no permission for the TAP interface {name}; let root create it for this user:\n  \
         ip tuntap add dev {name} mode tap user $USER\n  ip link set {name} up\n\
         or use the gateway, which needs no permission"
    )]
    Permission {
        /// The interface.
        name: String,
    },
    /// Another program is attached to it.
    #[error("the TAP interface {name} is in use; is another node of this VM running on this host?")]
    Busy {
        /// The interface.
        name: String,
    },
    /// There is an interface of that name which is no TAP interface.
    #[error(
        "{name} is no TAP interface; choose another name, or see `ip -details link show {name}`"
    )]
    OtherKind {
        /// The interface.
        name: String,
    },
    /// The interface is down, so that nothing can be sent.
    #[error("the TAP interface {name} is down; use `ip link set {name} up`")]
    Down {
        /// The interface.
        name: String,
    },
    /// Anything else.
    #[error("cannot use the TAP interface {name}")]
    Io {
        /// The interface.
        name: String,
        /// What the system said.
        source: io::Error,
    },
}

/// An attached TAP interface. Frames come and go whole, one for a call.
#[derive(Debug)]
pub struct Tap {
    fd: AsyncFd<OwnedFd>,
    name: String,
}

impl Tap {
    /// Attaches to the interface `name`; one that does not exist is created, with
    /// the right to do so, and vanishes with this value. It is not set up: that,
    /// and its bridge, are the host's configuration.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(name: &str) -> Result<Tap, TapError> {
        Tap::open_through(Path::new(TUN_DEVICE), name)
    }

    fn open_through(device: &Path, name: &str) -> Result<Tap, TapError> {
        let is_name = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%');
        if name.is_empty()
            || name.len() > MAX_NAME_LEN
            || matches!(name, "." | "..")
            || !name.bytes().all(is_name)
        {
            return Err(TapError::Name(name.to_owned()));
        }
        let io = |source| TapError::Io {
            name: name.to_owned(),
            source,
        };
        let tun = open_tun(device).map_err(|error| match error.kind() {
            ErrorKind::NotFound => TapError::NoDevice,
            ErrorKind::PermissionDenied => TapError::Permission {
                name: name.to_owned(),
            },
            _ if error.raw_os_error() == Some(Errno::ENODEV as i32) => TapError::NoDevice,
            _ => io(error),
        })?;
        let fd = attach(tun, name).map_err(|errno| match errno {
            Errno::EPERM => TapError::Permission {
                name: name.to_owned(),
            },
            Errno::EBUSY => TapError::Busy {
                name: name.to_owned(),
            },
            Errno::EINVAL => TapError::OtherKind {
                name: name.to_owned(),
            },
            other => io(other.into()),
        })?;
        let fd = register(fd).map_err(io)?;
        Ok(Tap {
            fd,
            name: name.to_owned(),
        })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Receives the next frame into `buf`, which has room for
    /// [`MAX_FRAME_LEN`] bytes, and returns its length. Cancel-safe.
    ///
    /// # Panics
    /// If `buf` is shorter: the rest of a frame would be lost.
    pub async fn recv(&self, buf: &mut [u8]) -> Result<usize, TapError> {
        assert!(
            buf.len() >= MAX_FRAME_LEN,
            "room for {} bytes only",
            buf.len()
        );
        let read = |fd: &OwnedFd| Ok(nix::unistd::read(fd, buf)?);
        self.fd
            .async_io(Interest::READABLE, read)
            .await
            .map_err(|error| self.error(error))
    }

    /// Sends a frame. When it returns `Ok` the kernel has it (OUT-3). Cancel-safe.
    ///
    /// # Panics
    /// If the frame is no Ethernet frame by its length.
    pub async fn send(&self, frame: &[u8]) -> Result<(), TapError> {
        assert!(
            (HEADER_LEN..=MAX_FRAME_LEN).contains(&frame.len()),
            "{} bytes",
            frame.len()
        );
        let write = |fd: &OwnedFd| nix::unistd::write(fd, frame).map_err(io::Error::from);
        // First without asking whether it is writable: an interface that is down
        // never is, and says why only to those who try.
        let result = match write(self.fd.get_ref()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.fd.async_io(Interest::WRITABLE, write).await
            }
            result => result,
        };
        // A TAP interface takes a frame whole or not at all.
        result.map(|_| ()).map_err(|error| self.error(error))
    }

    fn error(&self, source: io::Error) -> TapError {
        let name = self.name.clone();
        match source.raw_os_error().map(Errno::from_raw) {
            // The driver's word for an interface that is not up.
            Some(Errno::EIO) => TapError::Down { name },
            _ => TapError::Io { name, source },
        }
    }
}

#[cfg(test)]
#[path = "tests/tap.rs"]
mod tests;
