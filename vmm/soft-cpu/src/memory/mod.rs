//! Guest memory as instructions see it: linear addresses, through paging, to RAM or a device.

mod access;
pub(crate) mod pages;
pub(crate) mod paging;
pub(crate) mod ram;
pub(crate) mod tlb;
