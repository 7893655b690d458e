//! What kernels find when they start: by the PVH and by the 64-bit Linux boot protocol.

use vm_memory::ByteValued as _;

use super::*;
use crate::devices::layout::{SLOT_NET, SLOT_RNG};
use crate::sys::vm::allocate_ram;

const MIB: u64 = 1 << 20;
const SEED: [u8; 32] = [0xA5; 32];
const SLOTS: [u64; 2] = [SLOT_NET, SLOT_RNG];

fn ram(mib: u64) -> GuestMemory {
    allocate_ram(mib * MIB).expect("memory")
}

fn images(kernel: Vec<u8>) -> BootImages {
    BootImages {
        name: "a kernel".to_owned(),
        kernel: kernel.into(),
        initrd: None,
        command_line: "console=ttyS0 x=1".to_owned(),
    }
}

fn boot(images: &BootImages, ram: &GuestMemory) -> Result<CpuState, BootError> {
    load(images, &SEED, &SLOTS, ram)
}

fn read<const N: usize>(ram: &GuestMemory, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    ram.read_slice(&mut bytes, GuestAddress(at)).expect("RAM");
    bytes
}

fn word(ram: &GuestMemory, at: u64) -> u64 {
    u64::from_le_bytes(read(ram, at))
}

fn zero_page(ram: &GuestMemory) -> boot_params {
    let mut page = boot_params::default();
    ram.read_slice(page.as_mut_slice(), GuestAddress(ZERO_PAGE))
        .expect("RAM");
    page
}

/// An x86-64 ELF executable with one segment: `code`, at `address`, which is its entry too.
fn elf(address: u64, code: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for long in [address, 64, 0] {
        file.extend(long.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // The program header: PT_LOAD, readable and executable.
    for int in [1u32, 5] {
        file.extend(int.to_le_bytes());
    }
    let len = code.len() as u64;
    for long in [120, address, address, len, len, 8] {
        file.extend(long.to_le_bytes());
    }
    file.extend(code);
    file
}

/// A bzImage with a setup part of 1 KiB and this protected-mode kernel (boot.rst).
fn bz_image(kernel: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 1024];
    file[0x1F1] = 1; // setup_sects, of 512 bytes, besides the boot sector
    file[0x1F4..0x1F8].copy_from_slice(&((kernel.len() / 16) as u32).to_le_bytes());
    file[0x1FE..0x200].copy_from_slice(&0xAA55u16.to_le_bytes());
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x020Fu16.to_le_bytes()); // protocol 2.15
    file[0x211] = 1; // LOADED_HIGH
    file[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    file[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    file[0x236..0x238].copy_from_slice(&1u16.to_le_bytes()); // XLF_KERNEL_64
    file.extend(kernel);
    file
}

/// SDM vol. 3, 4.5: walks the initial page tables.
fn translate(ram: &GuestMemory, cr3: u64, address: u64) -> u64 {
    const FRAME: u64 = 0x000F_FFFF_FFFF_F000;
    let entry = |table: u64, shift: u64| word(ram, (table & FRAME) + (address >> shift & 511) * 8);
    let directory = entry(entry(cr3, 39), 30);
    let page = entry(directory, 21);
    assert_eq!(page & 0x81, 0x81, "present, and 2 MiB large");
    (page & FRAME & !0x1F_FFFF) + (address & 0x1F_FFFF)
}

fn assert_long_mode(state: &CpuState, ram: &GuestMemory, entry: u64) {
    assert_eq!((state.rip, state.rflags), (entry, 2));
    assert_eq!(state.general[6], ZERO_PAGE, "RSI");
    assert_eq!(
        state.control[0] & (PAGING | PROTECTED_MODE),
        PAGING | PROTECTED_MODE
    );
    assert_eq!(state.control[3], PAE);
    assert!(state.msrs.contains(&(IA32_EFER, 0x500)), "LME and LMA");
    for address in [0, entry, 0xFEB0_0000, 0xFFFF_FFFF] {
        assert_eq!(translate(ram, state.control[2], address), address);
    }
    // __BOOT_CS and __BOOT_DS, in the table and loaded.
    assert_eq!(word(ram, GDT + 0x10), 0x00AF_9B00_0000_FFFF);
    assert_eq!(word(ram, GDT + 0x18), 0x00CF_9300_0000_FFFF);
    assert_eq!(
        (state.segments[1].selector, state.segments[1].access),
        (0x10, CODE_64)
    );
    assert_eq!(
        (state.segments[3].selector, state.segments[3].access),
        (0x18, DATA)
    );
}

#[test]
fn a_guest_with_a_pvh_note_starts_in_protected_mode() {
    let ram = ram(64);
    let kv = guest_images::KV.elf.to_vec();
    let with_initrd = BootImages {
        initrd: Some(b"a disk"[..].into()),
        ..images(kv)
    };
    let state = boot(&with_initrd, &ram).expect("it boots");
    assert_eq!(state.control[0] & (PAGING | PROTECTED_MODE), PROTECTED_MODE);
    assert_eq!(state.segments[1].access, CODE_32);
    assert_eq!(state.general[3], PVH_START_INFO, "EBX");
    let info: [u8; 56] = read(&ram, PVH_START_INFO);
    let long = |at: usize| u64::from_le_bytes(info[at..at + 8].try_into().expect("8 bytes"));
    assert_eq!(info[..4], PVH_MAGIC.to_le_bytes());
    assert_eq!(long(24), COMMAND_LINE);
    assert_eq!(&read::<18>(&ram, COMMAND_LINE), b"console=ttyS0 x=1\0");
    assert_eq!(long(32), acpi::RSDP);
    assert_eq!(&read::<8>(&ram, long(32)), b"RSD PTR ");
    // The memory map: address, size, type, nothing.
    assert_eq!((long(40), info[48]), (PVH_MEMORY_MAP, 3));
    for (at, (address, size, kind)) in memory_map(64 * MIB).into_iter().enumerate() {
        let at = PVH_MEMORY_MAP + at as u64 * 24;
        let found = [0, 8, 16].map(|field| word(&ram, at + field));
        assert_eq!(found, [address, size, u64::from(kind)]);
    }
    // One module: the RAM disk.
    let (module, size) = (word(&ram, long(16)), word(&ram, long(16) + 8));
    assert_eq!(size, 6);
    assert_eq!(&read::<6>(&ram, module), b"a disk");
}

#[test]
fn an_elf_kernel_without_the_note_starts_in_long_mode() {
    let ram = ram(32);
    let state = boot(&images(elf(0x100_0000, b"\xF4 kernel")), &ram).expect("it boots");
    assert_long_mode(&state, &ram, 0x100_0000);
    assert_eq!(&read::<8>(&ram, 0x100_0000), b"\xF4 kernel");
    let page = zero_page(&ram);
    assert_eq!({ page.hdr.header }, u32::from_le_bytes(*b"HdrS"));
    assert_eq!({ page.hdr.type_of_loader }, 0xFF);
}

#[test]
fn a_bzimage_starts_at_its_64_bit_entry() {
    let ram = ram(32);
    let mut kernel = vec![0; 4096];
    kernel[0x200] = 0xF4;
    let state = boot(&images(bz_image(&kernel)), &ram).expect("it boots");
    assert_long_mode(&state, &ram, HIGH_MEMORY + 0x200);
    assert_eq!(read::<1>(&ram, state.rip), [0xF4]);
}

/// `Documentation/arch/x86/zero-page.rst`.
#[test]
fn the_zero_page_says_what_linux_must_know() {
    let ram = ram(48);
    let initrd: Vec<u8> = (0..10_000u32).map(|at| at as u8).collect();
    let images = BootImages {
        initrd: Some(initrd.clone().into()),
        ..images(bz_image(&[0; 4096]))
    };
    boot(&images, &ram).expect("it boots");
    let page = zero_page(&ram);
    let header = page.hdr;
    assert_eq!(
        { header.version },
        0x020F,
        "the kernel's own header is kept"
    );
    assert_eq!({ header.boot_flag }, 0xAA55);
    assert_eq!({ header.cmd_line_ptr }, COMMAND_LINE as u32);
    assert_eq!({ header.cmdline_size }, 17);
    assert_eq!(&read::<18>(&ram, COMMAND_LINE), b"console=ttyS0 x=1\0");
    // The RAM disk: as high as it goes, on a page.
    let (start, len) = (u64::from(header.ramdisk_image), header.ramdisk_size);
    assert_eq!((start, len), ((48 * MIB - 10_000) & !0xFFF, 10_000));
    let mut found = vec![0; initrd.len()];
    ram.read_slice(&mut found, GuestAddress(start))
        .expect("RAM");
    assert!(found == initrd);
    // E820: low memory up to where the BIOS's data would begin, the tables, and the rest.
    assert_eq!({ page.e820_entries }, 3);
    let table = page.e820_table;
    let found: Vec<(u64, u64, u32)> = table[..3]
        .iter()
        .map(|entry| (entry.addr, entry.size, entry.r#type))
        .collect();
    let expected = [
        (0, 0x9_FC00, 1),
        (0xE_0000, 0x2_0000, 2),
        (MIB, 47 * MIB, 1),
    ];
    assert_eq!(found, expected);
    // The RSDP, at an address and where a search finds it.
    assert_eq!({ page.acpi_rsdp_addr }, acpi::RSDP);
    assert_eq!(&read::<8>(&ram, acpi::RSDP), b"RSD PTR ");
    // The seed: the only setup_data.
    let at = header.setup_data;
    assert_eq!(word(&ram, at), 0, "the last");
    assert_eq!(word(&ram, at + 8), 32 << 32 | u64::from(SETUP_RNG_SEED));
    assert_eq!(read::<32>(&ram, at + 16), SEED);
}

#[test]
fn the_kernel_has_its_tables_and_nothing_else_below_one_mib() {
    let ram = ram(32);
    boot(&images(bz_image(&[0; 4096])), &ram).expect("it boots");
    let mut low = vec![0; HIGH_MEMORY as usize];
    ram.read_slice(&mut low, GuestAddress(0)).expect("RAM");
    let used = [
        (GDT, GDT + 0x20),
        (ZERO_PAGE, ZERO_PAGE + 0x1000),
        (PAGE_TABLES, PAGE_TABLES + 0x6000),
        (COMMAND_LINE, COMMAND_LINE + 2048),
        (SETUP_DATA, SETUP_DATA + 48),
        (acpi::RSDP, HIGH_MEMORY),
    ];
    let is_used = |at: u64| used.iter().any(|(start, end)| (*start..*end).contains(&at));
    let stray = (0..low.len()).find(|&at| low[at] != 0 && !is_used(at as u64));
    assert_eq!(stray, None);
}

#[test]
fn a_command_line_has_room_for_its_zero() {
    let line = |len: usize| BootImages {
        command_line: "x".repeat(len),
        ..images(bz_image(&[0; 4096]))
    };
    let ram = ram(16);
    boot(&line(2047), &ram).expect("it fits");
    assert_eq!(read::<2048>(&ram, COMMAND_LINE)[2047], 0);
    let error = boot(&line(2048), &ram).expect_err("it does not fit");
    assert!(matches!(error, BootError::CommandLine(2048)), "{error}");
}

#[test]
fn what_does_not_boot_says_why() {
    let broken = |mut file: Vec<u8>, len: usize| {
        file.truncate(len);
        images(file)
    };
    let with_initrd = |len: usize| BootImages {
        initrd: Some(vec![0; len].into()),
        ..images(bz_image(&[0; 4096]))
    };
    let with = |mut file: Vec<u8>, at: usize, byte: u8| {
        file[at] = byte;
        images(file)
    };
    let big = bz_image(&vec![0x90; 20 << 20]);
    let cases: [(&str, BootImages, &str); 12] = [
        ("nothing", images(Vec::new()), "is no kernel"),
        ("a script", images(b"#!/bin/sh\n".to_vec()), "is no kernel"),
        ("a gzip", images(b"\x1f\x8b\x08\0".to_vec()), "vmlinuz"),
        (
            "half an ELF header",
            broken(elf(MIB, b"x"), 40),
            "loading a kernel",
        ),
        (
            "half a bzImage",
            broken(bz_image(&[0; 4096]), 0x210),
            "header says that it has 5120 bytes, and 528",
        ),
        (
            "all but the last paragraph of a bzImage",
            broken(bz_image(&[0; 4096]), 5104),
            "and 5104 are there",
        ),
        (
            "a 32-bit bzImage",
            with(bz_image(&[0; 4096]), 0x236, 0),
            "without a 64-bit entry",
        ),
        (
            "a 32-bit ELF image",
            with(elf(MIB, b"x"), 4, 1),
            "of class 1 for machine 62",
        ),
        (
            "an ELF image for Arm",
            with(elf(MIB, b"x"), 18, 183),
            "for machine 183; what boots",
        ),
        (
            "a kernel beyond RAM",
            images(elf(64 * MIB, b"x")),
            "a kernel",
        ),
        ("a large kernel", images(big), "--memory"),
        (
            "a large RAM disk",
            with_initrd(16 << 20),
            "the initial RAM disk needs",
        ),
    ];
    for (name, images, expected) in cases {
        let error = boot(&images, &ram(16)).expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
}

/// A compressed kernel says how much memory it needs from where.
#[test]
fn a_kernel_has_room_to_unpack_itself() {
    let mut kernel = bz_image(&[0; 4096]);
    kernel[0x258..0x260].copy_from_slice(&(16 * MIB).to_le_bytes()); // pref_address
    kernel[0x260..0x264].copy_from_slice(&(8 * MIB as u32).to_le_bytes()); // init_size
    assert!(boot(&images(kernel.clone()), &ram(24)).is_ok());
    let error = boot(&images(kernel.clone()), &ram(23)).expect_err("too small");
    assert!(
        error.to_string().contains("needs 25165824 bytes"),
        "{error}"
    );
    let with_initrd = BootImages {
        initrd: Some(vec![7; MIB as usize].into()),
        ..images(kernel)
    };
    assert!(boot(&with_initrd, &ram(25)).is_ok());
    assert!(boot(&with_initrd, &ram(24)).is_err());
}

/// A RAM disk never lies over the kernel.
#[test]
fn the_ram_disk_fits_exactly_or_not_at_all() {
    let kernel = bz_image(&[0; 4096]);
    let room = 16 * MIB - (HIGH_MEMORY + 4096);
    for (len, fits) in [(room, true), (room + 1, false)] {
        let images = BootImages {
            initrd: Some(vec![7; len as usize].into()),
            ..images(kernel.clone())
        };
        assert_eq!(boot(&images, &ram(16)).is_ok(), fits, "{len}");
    }
}

/// Debian's own kernel, where an image is built (`ftvm image build busybox`).
#[test]
fn debians_kernel_is_loaded_at_its_64_bit_entry() {
    let image = guest_images::linux::Cache::open(None).and_then(|cache| {
        let found = ["busybox", "redis", "debian"].map(|name| cache.image(name));
        found.into_iter().min_by_key(Result::is_err).expect("three")
    });
    let image = match image {
        Ok(image) => image,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return;
        }
    };
    let kernel = std::fs::read(image.kernel()).expect("the kernel");
    let initrd = std::fs::read(image.initrd()).expect("the RAM disk");
    let ram = ram(256);
    let images = BootImages {
        initrd: Some(initrd.into()),
        ..images(kernel.clone())
    };
    let state = boot(&images, &ram).expect("it boots");
    assert_long_mode(&state, &ram, HIGH_MEMORY + 0x200);
    // The protected-mode kernel begins behind the setup sectors.
    let setup = (usize::from(kernel[0x1F1]) + 1) * 512;
    let code: [u8; 64] = read(&ram, state.rip);
    assert_eq!(code, kernel[setup + 0x200..][..64]);
    let header = zero_page(&ram).hdr;
    assert!(header.xloadflags & 1 != 0, "XLF_KERNEL_64");
    // While it unpacks itself it needs `init_size` bytes from where it prefers to be.
    let end = header.pref_address + u64::from(header.init_size);
    assert!(end < u64::from(header.ramdisk_image), "{end:#x}");
}
