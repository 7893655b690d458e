//! From boot images to the state before the first instruction.
//!
//! Two ways in: PVH for images with its note (32-bit protected mode, Xen `docs/misc/pvh.pandoc`),
//! and the 64-bit Linux boot protocol for other ELF kernels and for bzImages (Linux
//! `Documentation/arch/x86/boot.rst`).
//!
//! ```text
//!   0x00500  GDT                        0x30000  random seed (setup_data)
//!   0x06000  PVH start info             0x9FC00  end of usable low memory
//!   0x07000  zero page                  0xE0000  ACPI tables
//!   0x08000  PVH memory map             0x100000 kernel, where its headers say
//!   0x09000  page tables                …
//!   0x20000  command line               top      initial RAM disk
//! ```

mod check;

use std::io::Cursor;
use std::sync::Arc;

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::acpi;
use crate::cpu::{CPU_STATE_VERSION, CpuState, DescriptorTable, Segment};
use crate::sys::vm::GuestMemory;

const GDT: u64 = 0x500;
const PVH_START_INFO: u64 = 0x6000;
const PVH_MODULES: u64 = 0x6100;
const ZERO_PAGE: u64 = 0x7000;
const PVH_MEMORY_MAP: u64 = 0x8000;
const PAGE_TABLES: u64 = 0x9000;
const COMMAND_LINE: u64 = 0x2_0000;
const SETUP_DATA: u64 = 0x3_0000;
const HIGH_MEMORY: u64 = 0x10_0000;

/// The end of usable low memory: the extended BIOS data area would begin here.
const LOW_MEMORY_END: u64 = 0x9_FC00;

/// The longest command line that Linux takes, with its terminating zero.
const MAX_COMMAND_LINE_BYTES: usize = 2048;

/// `XEN_HVM_START_MAGIC_VALUE`.
const PVH_MAGIC: u32 = 0x336E_C578;

/// e820: usable RAM.
const RAM: u32 = 1;

/// e820: not for the operating system's use. Linux leaves the ACPI tables where they are.
const RESERVED: u32 = 2;

/// `SETUP_RNG_SEED`.
const SETUP_RNG_SEED: u32 = 9;

/// The least and most RAM that a machine has, in MiB: below 16 no kernel fits, and at 3 GiB the
/// devices' addresses begin.
pub const MEMORY_MIB: std::ops::RangeInclusive<u32> = 16..=3072;

/// What a machine boots.
#[derive(Clone, Debug)]
pub struct BootImages {
    /// A name for people.
    pub name: String,
    /// The kernel, or a bare-metal guest.
    pub kernel: Arc<[u8]>,
    /// The initial RAM disk.
    pub initrd: Option<Arc<[u8]>>,
    /// The kernel command line.
    pub command_line: String,
}

/// Why a machine cannot boot.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Neither of the formats.
    #[error(
        "{0} is no kernel: it is neither an x86-64 ELF image (vmlinux, or a guest with a PVH entry) nor a bzImage (vmlinuz)"
    )]
    NotAKernel(String),
    /// It is one for other machines, or not whole.
    #[error("{name} cannot boot here: {why}")]
    Unfit {
        /// The image.
        name: String,
        /// What was looked for, and what was there.
        why: String,
    },
    /// The loader found fault with it.
    #[error("loading {name}: {why}")]
    Load {
        /// The image.
        name: String,
        /// The loader's words.
        why: String,
    },
    /// It does not fit.
    #[error(
        "{what} needs {needed} bytes, and the machine has {available}: give it more with --memory"
    )]
    TooLarge {
        /// What does not fit.
        what: String,
        /// Its size or end.
        needed: u64,
        /// Up to where it could be.
        available: u64,
    },
    /// The command line is too long.
    #[error("the kernel command line has {0} bytes; {MAX_COMMAND_LINE_BYTES} less one is the most")]
    CommandLine(usize),
}

/// Loads `images` into `ram`, which must be zero, and returns the CPU's first state. The machine
/// has devices in these virtio-mmio slots.
///
/// # Errors
///
/// [`BootError`], with what to do about it.
pub fn load(
    images: &BootImages,
    seed: &[u8; 32],
    slots: &[u64],
    ram: &GuestMemory,
) -> Result<CpuState, BootError> {
    let size = ram.last_addr().0 + 1;
    if images.command_line.len() >= MAX_COMMAND_LINE_BYTES {
        return Err(BootError::CommandLine(images.command_line.len()));
    }
    let (kernel, entry) = load_kernel(images, ram, size)?;
    let kernel_end = kernel.kernel_end.max(unpacked_end(&kernel));
    if kernel_end > size {
        return Err(BootError::TooLarge {
            what: images.name.clone(),
            needed: kernel_end,
            available: size,
        });
    }
    let initrd = match &images.initrd {
        Some(bytes) => Some(load_initrd(bytes, ram, size, kernel_end)?),
        None => None,
    };
    let mut line = images.command_line.clone().into_bytes();
    line.push(0);
    write(ram, COMMAND_LINE, &line);
    write(ram, acpi::RSDP, &acpi::tables(slots));
    match entry {
        Entry::Pvh(entry) => {
            write_start_info(ram, size, initrd);
            Ok(protected_mode(entry))
        }
        Entry::Linux64(entry) => {
            write_zero_page(ram, size, &kernel, images.command_line.len(), initrd, seed);
            write_page_tables(ram);
            Ok(long_mode(entry, ram))
        }
    }
}

enum Entry {
    Pvh(u64),
    Linux64(u64),
}

fn load_kernel(
    images: &BootImages,
    ram: &GuestMemory,
    size: u64,
) -> Result<(KernelLoaderResult, Entry), BootError> {
    let mut file = Cursor::new(&images.kernel[..]);
    let failed = |error: linux_loader::loader::Error| {
        if (images.kernel.len() as u64) > size - HIGH_MEMORY {
            BootError::TooLarge {
                what: images.name.clone(),
                needed: images.kernel.len() as u64 + HIGH_MEMORY,
                available: size,
            }
        } else {
            BootError::Load {
                name: images.name.clone(),
                why: error.to_string(),
            }
        }
    };
    let unfit = |why| BootError::Unfit {
        name: images.name.clone(),
        why,
    };
    if images.kernel.starts_with(b"\x7fELF") {
        check::elf(&images.kernel).map_err(unfit)?;
        let loaded =
            Elf::load(ram, None, &mut file, Some(GuestAddress(HIGH_MEMORY))).map_err(failed)?;
        let entry = match loaded.pvh_boot_cap {
            PvhBootCapability::PvhEntryPresent(entry) => Entry::Pvh(entry.0),
            _ => Entry::Linux64(loaded.kernel_load.0),
        };
        Ok((loaded, entry))
    } else if images.kernel.get(0x202..0x206) == Some(b"HdrS") {
        check::bz_image(&images.kernel).map_err(unfit)?;
        let loaded =
            BzImage::load(ram, None, &mut file, Some(GuestAddress(HIGH_MEMORY))).map_err(failed)?;
        // The 64-bit entry stands 512 bytes into the protected-mode kernel.
        let entry = Entry::Linux64(loaded.kernel_load.0 + 0x200);
        Ok((loaded, entry))
    } else {
        Err(BootError::NotAKernel(images.name.clone()))
    }
}

/// Where a bzImage ends once it has unpacked itself to where it prefers to be; 0 if it says nothing
/// of it.
fn unpacked_end(kernel: &KernelLoaderResult) -> u64 {
    kernel.setup_header.map_or(0, |header| {
        header
            .pref_address
            .saturating_add(u64::from(header.init_size))
    })
}

/// Puts the RAM disk as high as it goes and returns where and how long it is.
fn load_initrd(
    bytes: &[u8],
    ram: &GuestMemory,
    size: u64,
    kernel_end: u64,
) -> Result<(u64, u64), BootError> {
    let len = bytes.len() as u64;
    let start = size.checked_sub(len).map(|start| start & !0xFFF);
    match start.filter(|start| *start >= kernel_end) {
        Some(start) => {
            write(ram, start, bytes);
            Ok((start, len))
        }
        None => Err(BootError::TooLarge {
            what: "the initial RAM disk".to_owned(),
            needed: len,
            available: size.saturating_sub(kernel_end),
        }),
    }
}

fn write(ram: &GuestMemory, at: u64, bytes: &[u8]) {
    ram.write_slice(bytes, GuestAddress(at))
        .expect("the boot layout lies in the least RAM");
}

/// Ranges of RAM, each with what it is to the guest.
fn memory_map(size: u64) -> [(u64, u64, u32); 3] {
    [
        (0, LOW_MEMORY_END, RAM),
        (acpi::RSDP, HIGH_MEMORY - acpi::RSDP, RESERVED),
        (HIGH_MEMORY, size - HIGH_MEMORY, RAM),
    ]
}

fn write_start_info(ram: &GuestMemory, size: u64, initrd: Option<(u64, u64)>) {
    let map = memory_map(size).map(|(addr, size, type_)| hvm_memmap_table_entry {
        addr,
        size,
        type_,
        reserved: 0,
    });
    let modules: Vec<hvm_modlist_entry> = initrd
        .map(|(paddr, size)| hvm_modlist_entry {
            paddr,
            size,
            ..Default::default()
        })
        .into_iter()
        .collect();
    let info = hvm_start_info {
        magic: PVH_MAGIC,
        version: 1,
        nr_modules: modules.len() as u32,
        modlist_paddr: if modules.is_empty() { 0 } else { PVH_MODULES },
        cmdline_paddr: COMMAND_LINE,
        rsdp_paddr: acpi::RSDP,
        memmap_paddr: PVH_MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(PVH_START_INFO));
    params.set_sections(&map, GuestAddress(PVH_MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(PVH_MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, ram)
        .expect("the boot layout lies in the least RAM");
}

fn write_zero_page(
    ram: &GuestMemory,
    size: u64,
    kernel: &KernelLoaderResult,
    command_line_len: usize,
    initrd: Option<(u64, u64)>,
    seed: &[u8; 32],
) {
    let mut zero_page = boot_params {
        hdr: kernel.setup_header.unwrap_or_default(),
        ..Default::default()
    };
    zero_page.hdr.boot_flag = 0xAA55;
    zero_page.hdr.header = u32::from_le_bytes(*b"HdrS");
    zero_page.hdr.type_of_loader = 0xFF;
    zero_page.hdr.cmd_line_ptr = COMMAND_LINE as u32;
    zero_page.hdr.cmdline_size = command_line_len as u32;
    if zero_page.hdr.kernel_alignment == 0 {
        zero_page.hdr.kernel_alignment = 0x20_0000;
    }
    if let Some((start, len)) = initrd {
        zero_page.hdr.ramdisk_image = start as u32;
        zero_page.hdr.ramdisk_size = len as u32;
    }
    zero_page.hdr.setup_data = SETUP_DATA;
    zero_page.acpi_rsdp_addr = acpi::RSDP;
    for (entry, (addr, size, r#type)) in zero_page.e820_table.iter_mut().zip(memory_map(size)) {
        *entry = boot_e820_entry { addr, size, r#type };
    }
    zero_page.e820_entries = memory_map(size).len() as u8;
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&zero_page, GuestAddress(ZERO_PAGE)),
        ram,
    )
    .expect("the boot layout lies in the least RAM");

    // struct setup_data: next, type, length, data.
    let mut data = Vec::with_capacity(16 + seed.len());
    data.extend_from_slice(&0u64.to_le_bytes());
    data.extend_from_slice(&SETUP_RNG_SEED.to_le_bytes());
    data.extend_from_slice(&(seed.len() as u32).to_le_bytes());
    data.extend_from_slice(seed);
    write(ram, SETUP_DATA, &data);
}

/// Maps the first 4 GiB to themselves in 2 MiB pages. The accessed and dirty bits are set from the
/// start, so that no host has reason to write them (DET-5).
fn write_page_tables(ram: &GuestMemory) {
    const PRESENT_WRITABLE_ACCESSED: u64 = 0x23;
    const LARGE_DIRTY: u64 = 0xC0;
    let entry = |at: u64, value: u64| write(ram, at, &value.to_le_bytes());
    let (pdpt, directories) = (PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000);
    entry(PAGE_TABLES, pdpt | PRESENT_WRITABLE_ACCESSED);
    for gib in 0..4 {
        entry(
            pdpt + gib * 8,
            (directories + gib * 0x1000) | PRESENT_WRITABLE_ACCESSED,
        );
    }
    for page in 0..4 * 512 {
        entry(
            directories + page * 8,
            page << 21 | LARGE_DIRTY | PRESENT_WRITABLE_ACCESSED,
        );
    }
}

// ---- the CPU -------------------------------------------------------------------------------

const PROTECTED_MODE: u64 = 1;
const EXTENSION_TYPE: u64 = 1 << 4;
const NUMERIC_ERROR: u64 = 1 << 5;
const PAGING: u64 = 1 << 31;
const PAE: u64 = 1 << 5;
const LONG_MODE_ENABLED_ACTIVE: u64 = 1 << 8 | 1 << 10;

const IA32_PAT: u32 = 0x277;
const IA32_EFER: u32 = 0xC000_0080;

/// The PAT after reset (SDM vol. 3, 12.12.4).
const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

/// Access rights of flat segments: present, DPL 0, accessed.
const CODE_32: u32 = 0xC09B;
const CODE_64: u32 = 0xA09B;
const DATA: u32 = 0xC093;
const TASK_BUSY: u32 = 0x008B;
const LDT: u32 = 0x0082;

fn flat(selector: u16, access: u32) -> Segment {
    Segment {
        base: 0,
        limit: u32::MAX,
        selector,
        access,
    }
}

/// The state that both protocols share, with flat segments from the GDT at 0x500.
fn entry_state(rip: u64, code: u32, cr0: u64) -> CpuState {
    let data = flat(0x18, DATA);
    let mut xsave = vec![0; 576];
    xsave[0..2].copy_from_slice(&0x037Fu16.to_le_bytes()); // FCW
    xsave[24..28].copy_from_slice(&0x1F80u32.to_le_bytes()); // MXCSR
    xsave[512] = 3; // x87 and SSE
    CpuState {
        version: CPU_STATE_VERSION,
        general: [0; 16],
        rip,
        rflags: 2,
        segments: [data, flat(0x10, code), data, data, data, data],
        task: Segment {
            base: 0,
            limit: 0x67,
            selector: 0,
            access: TASK_BUSY,
        },
        ldt: Segment {
            base: 0,
            limit: 0,
            selector: 0,
            access: LDT,
        },
        gdt: DescriptorTable {
            base: GDT,
            limit: 0x1F,
        },
        idt: DescriptorTable::default(),
        control: [cr0 | PROTECTED_MODE | EXTENSION_TYPE, 0, 0, 0, 0],
        debug: [0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
        xcr0: 1,
        msrs: vec![(IA32_PAT, PAT_AT_RESET), (IA32_EFER, 0)],
        xsave,
        exception: None,
        interrupt: None,
        interrupt_shadow: false,
    }
}

fn protected_mode(entry: u64) -> CpuState {
    let mut state = entry_state(entry, CODE_32, 0);
    state.general[3] = PVH_START_INFO; // EBX
    state
}

fn long_mode(entry: u64, ram: &GuestMemory) -> CpuState {
    for (at, descriptor) in [
        (0x10, 0x00AF_9B00_0000_FFFFu64),
        (0x18, 0x00CF_9300_0000_FFFF),
    ] {
        write(ram, GDT + at, &descriptor.to_le_bytes());
    }
    let mut state = entry_state(entry, CODE_64, PAGING | NUMERIC_ERROR);
    state.control[2] = PAGE_TABLES;
    state.control[3] = PAE;
    state.msrs = vec![
        (IA32_PAT, PAT_AT_RESET),
        (IA32_EFER, LONG_MODE_ENABLED_ACTIVE),
    ];
    state.general[6] = ZERO_PAGE; // RSI
    state
}

#[cfg(test)]
mod tests;
