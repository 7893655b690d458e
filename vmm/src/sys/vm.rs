//! A KVM virtual machine with one vCPU, one slot of RAM and no interrupt controller in the kernel.

use std::io;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};

use super::tracker::WriteTracker;
use super::vcpu::Vcpu;

/// The guest's RAM. The tracker remembers the pages that the program wrote; KVM remembers those
/// that the vCPU wrote.
pub type GuestMemory = GuestMemoryMmap<WriteTracker>;

/// The one slot that holds RAM.
const RAM_SLOT: u32 = 0;

/// Bytes in a page.
pub const PAGE_BYTES: u64 = 4096;

/// Allocates RAM from guest-physical address 0.
///
/// # Errors
///
/// If the host has no memory left.
pub fn allocate_ram(bytes: u64) -> io::Result<GuestMemory> {
    let ram =
        GuestMemory::from_ranges(&[(GuestAddress(0), bytes as usize)]).map_err(io::Error::other)?;
    ask_for_huge_pages(&ram);
    Ok(ram)
}

/// Asks for pages of 2 MiB, of which the host's TLB holds enough. A host that has none goes on
/// without.
fn ask_for_huge_pages(ram: &GuestMemory) {
    for region in ram.iter() {
        // SAFETY: the range is the region's mapping, whose contents this advice leaves alone.
        unsafe {
            libc::madvise(
                region.as_ptr().cast(),
                region.len() as usize,
                libc::MADV_HUGEPAGE,
            );
        }
    }
}

/// What remembers the program's writes into `ram`.
///
/// # Panics
///
/// If `ram` is not from [`allocate_ram`].
#[must_use]
pub fn tracker(ram: &GuestMemory) -> &WriteTracker {
    let region: &MmapRegion<WriteTracker> = ram.iter().next().expect("one region of RAM");
    region.bitmap()
}

/// `ram` as the software CPU's.
///
/// # Panics
///
/// If `ram` is not from [`allocate_ram`].
#[must_use]
pub fn software_ram(ram: &GuestMemory) -> soft_cpu::Ram {
    let base = ram
        .get_host_address(GuestAddress(0))
        .expect("RAM begins at 0");
    // SAFETY: the range is the one mapping of `ram`, which the clone keeps alive. The machine lets
    // devices touch it only while the CPU stands (DET-3), on the CPU's own thread.
    unsafe { soft_cpu::Ram::new(base, ram.last_addr().0 + 1, Box::new(ram.clone())) }
}

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    fd: VmFd,
    ram_bytes: u64,
    /// KVM writes here through addresses of its own: it must not be unmapped before `fd` closes.
    _ram: GuestMemory,
}

impl Vm {
    /// Creates a machine whose RAM is `ram`.
    ///
    /// # Errors
    ///
    /// What KVM says.
    pub fn new(kvm: &Kvm, ram: &GuestMemory) -> io::Result<Self> {
        let fd = kvm.create_vm()?;
        // Needed by VMX; three pages that no guest here uses (KVM_SET_TSS_ADDR).
        fd.set_tss_address(0xfffb_d000)?;
        let host = ram
            .get_host_address(GuestAddress(0))
            .map_err(io::Error::other)?;
        let ram_bytes = ram.last_addr().0 + 1;
        let region = kvm_userspace_memory_region {
            slot: RAM_SLOT,
            guest_phys_addr: 0,
            memory_size: ram_bytes,
            userspace_addr: host as u64,
            flags: KVM_MEM_LOG_DIRTY_PAGES,
        };
        // SAFETY: the range is the one mapping of `ram`, which `_ram` keeps alive for as long as
        // `fd` is open.
        unsafe { fd.set_user_memory_region(region) }?;
        Ok(Vm {
            fd,
            ram_bytes,
            _ram: ram.clone(),
        })
    }

    /// The VM's ioctls.
    #[must_use]
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Creates the vCPU.
    ///
    /// # Errors
    ///
    /// What KVM says.
    pub fn create_vcpu(&self) -> io::Result<Vcpu> {
        Ok(Vcpu::new(self.fd.create_vcpu(0)?))
    }

    /// The pages that the vCPU wrote since the last call, a bit each.
    ///
    /// # Errors
    ///
    /// What KVM says.
    pub fn take_dirty_log(&self) -> io::Result<Vec<u64>> {
        Ok(self.fd.get_dirty_log(RAM_SLOT, self.ram_bytes as usize)?)
    }
}
