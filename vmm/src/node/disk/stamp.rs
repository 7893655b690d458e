//! The stamp beside an image, `IMAGE.ftvm`: whose it was last (ONE-3).
//!
//! ```text
//!   no stamp ──guest runs──► primary / backup ──wins the generation──► won
//!                                 └──────── stopped in order ────────────┴──► stopped
//! ```
//!
//! A VM starts from the image of the winner, or of a VM that was stopped in order. An image whose
//! stamp says neither may be out of date: its node died, and the other may have gone on. That the
//! other did not is a person's to say. A backup's image needs no such check, since the handshake
//! compares it with the primary's.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

use ft_logging::types::{Life, Token};
use serde::{Deserialize, Serialize};

use super::image::{DiskError, DiskImage};

/// The version of [`Stamp`] in its file.
const FORMAT: u32 = 1;

/// As what a node writes to its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum DiskRole {
    /// Its guest is the VM, and never had a backup: there is no other image.
    Alone,
    /// Its guest is the VM.
    Primary,
    /// Its guest replays.
    Backup,
}

/// Whose an image was last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Stamp {
    format: u32,
    /// The life, in hexadecimal.
    life: String,
    /// The generation of the node's token.
    generation: u64,
    /// Whether the node had won it.
    won: bool,
    role: DiskRole,
    /// The VM was stopped in order, and this image has all that the guest wrote.
    stopped: bool,
}

impl Stamp {
    /// Of a node whose guest runs.
    pub(in super::super) fn running(life: Life, token: Token, role: DiskRole) -> Self {
        Stamp {
            format: FORMAT,
            life: life.to_string(),
            generation: token.generation.0,
            won: token.won,
            role,
            stopped: false,
        }
    }

    /// The same, after the VM was stopped in order.
    pub(in super::super) fn stopped(self) -> Self {
        Stamp {
            stopped: true,
            ..self
        }
    }

    /// Why a VM had better not start from this image, if so.
    fn doubt(&self) -> Option<String> {
        let Stamp {
            life, generation, ..
        } = self;
        let whose = match self.role {
            _ if self.stopped || self.won => return None,
            DiskRole::Alone => return None,
            DiskRole::Primary => "was the primary's, and its backup may have gone on",
            DiskRole::Backup => "was the backup's, which never went live",
        };
        Some(format!(
            "in generation {generation} of life {life} it {whose}"
        ))
    }
}

impl DiskImage {
    fn stamp_path(&self) -> PathBuf {
        let mut path = self.path().as_os_str().to_owned();
        path.push(".ftvm");
        path.into()
    }

    /// Checks that a VM may start from this image (ONE-3). One without a stamp is new.
    ///
    /// # Errors
    ///
    /// [`DiskError::Stale`], or that the stamp cannot be read.
    pub fn check_stamp(&self) -> Result<(), DiskError> {
        let path = self.stamp_path();
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            read => read.map_err(DiskError::io("reading the stamp of", self.path()))?,
        };
        let stamp = serde_json::from_str::<Stamp>(&text)
            .map_err(|error| error.to_string())
            .and_then(|stamp| match stamp.format {
                FORMAT => Ok(stamp),
                other => Err(format!("its format is {other}, not {FORMAT}")),
            })
            .map_err(|why| DiskError::Stamp { path, why })?;
        match stamp.doubt() {
            Some(why) if !self.is_read_only() => Err(DiskError::Stale {
                path: self.path().to_owned(),
                why,
            }),
            _ => Ok(()),
        }
    }

    /// Writes the stamp, unless it says so already. An image that nobody writes to has none.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub(in super::super) fn stamp(&self, stamp: Stamp) -> Result<(), DiskError> {
        let mut stamped = self.stamped.lock().expect("no panic while it is held");
        if self.is_read_only() || stamped.as_ref() == Some(&stamp) {
            return Ok(());
        }
        let path = self.stamp_path();
        let fresh = path.with_extension("ftvm-new");
        let text = serde_json::to_string(&stamp).expect("plain data") + "\n";
        File::create(&fresh)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())
                    .and_then(|()| file.sync_all())
            })
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(DiskError::io("stamping", self.path()))?;
        *stamped = Some(stamp);
        Ok(())
    }
}
