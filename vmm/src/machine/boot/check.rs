//! Whether an image is a kernel that boots here, before the loader believes its header.

/// A little-endian number in an image; 0 where it ends before.
fn field<const N: usize>(image: &[u8], at: usize) -> u32 {
    let mut bytes = [0; 4];
    if let Some(found) = image.get(at..at + N) {
        bytes[..N].copy_from_slice(found);
    }
    u32::from_le_bytes(bytes)
}

/// The loader looks at neither class nor machine.
pub(super) fn elf(image: &[u8]) -> Result<(), String> {
    const CLASS_64: u32 = 2;
    const X86_64: u32 = 62;
    let (class, machine) = (field::<1>(image, 4), field::<2>(image, 18));
    if (class, machine) != (CLASS_64, X86_64) {
        return Err(format!(
            "it is an ELF image of class {class} for machine {machine}; what boots is of class \
             {CLASS_64} (64 bits) for machine {X86_64} (x86-64)"
        ));
    }
    Ok(())
}

/// Linux `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header".
pub(super) fn bz_image(image: &[u8]) -> Result<(), String> {
    const FIRST_WITH_64_BIT_ENTRY: u32 = 0x020C;
    const XLF_KERNEL_64: u32 = 1;
    let setup_sectors = match field::<1>(image, 0x1F1) {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let len = image.len() as u64;
    let whole = (setup_sectors + 1) * 512 + u64::from(field::<4>(image, 0x1F4)) * 16;
    // The last paragraph of 16 bytes need not be full.
    if len + 15 < whole {
        return Err(format!(
            "its header says that it has {whole} bytes, and {len} are there: fetch it again"
        ));
    }
    let version = field::<2>(image, 0x206);
    if version < FIRST_WITH_64_BIT_ENTRY || field::<2>(image, 0x236) & XLF_KERNEL_64 == 0 {
        return Err(format!(
            "it is a bzImage without a 64-bit entry (boot protocol {}.{}): a 64-bit kernel of \
             Linux 3.8 or later is needed",
            version >> 8,
            version & 0xFF
        ));
    }
    Ok(())
}
