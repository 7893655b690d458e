//! Linux images from Debian's packages, built without root.
//!
//! ```text
//!   recipe ─► packages (apt, or a directory) ─► tree of files ─► initrd (cpio)
//!                        └► kernel and modules ─────┘    └─► disk (mke2fs)
//! ```
//!
//! The kernel is Debian's, unmodified. Everything else is in the initial RAM disk: programs with
//! the libraries that they need, the modules of the machine's devices in the order in which they
//! are loaded, and a few scripts of our own (`files/`). Equal packages make equal bytes.

mod build;
mod cache;
pub mod cpio;
mod disk;
mod elf;
mod error;
#[cfg(test)]
mod fixtures;
mod job;
mod modules;
mod packages;
mod recipe;
#[cfg(test)]
mod tests;
mod tree;

pub use cache::{BuildOptions, Built, Cache, Image, ImageFile, Manifest};
pub use error::ImageError;
pub use job::Job;
pub use packages::Package;
pub use recipe::{KVM_HOST, RECIPES, Recipe, by_name};
