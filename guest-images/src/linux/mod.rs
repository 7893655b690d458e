//! Linux images from Debian's packages, built without root.

pub mod cpio;
