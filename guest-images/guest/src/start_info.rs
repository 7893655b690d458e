//! The PVH start info: what the loader says about memory and command line.
//!
//! Format: Xen's `arch-x86/hvm/start_info.h`. It lies in low RAM that nothing
//! else uses, so what is read here stays there.

use core::slice;

const MAGIC: u32 = 0x336E_C578;
const TYPE_RAM: u32 = 1;
/// More ranges than any loader gives.
const MAX_RANGES: u32 = 128;
/// A longer command line, or one without an end, is taken for empty.
const MAX_COMMAND_LINE: usize = 4096;

#[repr(C)]
struct Header {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct Range {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

/// A start info that has been checked.
pub struct StartInfo {
    command_line: &'static str,
    ranges: &'static [Range],
}

impl StartInfo {
    /// Reads the start info at `address`.
    ///
    /// # Panics
    /// If there is none, or it is too old to carry a memory map.
    pub(crate) fn read(address: usize) -> Self {
        // SAFETY: the loader handed this address over; all memory is mapped and nothing has
        // been allocated yet. What is not a start info fails the checks below.
        let header = unsafe { &*(address as *const Header) };
        assert!(header.magic == MAGIC, "the loader gave no PVH start info");
        assert!(
            header.version >= 1,
            "the loader's start info has no memory map"
        );
        assert!(
            header.memory_map_entries <= MAX_RANGES,
            "the memory map is too long"
        );
        // SAFETY: as above, by the format.
        let ranges = unsafe {
            slice::from_raw_parts(
                header.memory_map as *const Range,
                header.memory_map_entries as usize,
            )
        };
        let command_line = match header.command_line {
            0 => "",
            at => {
                // SAFETY: as above; all of it is mapped, string or not.
                let bytes = unsafe { slice::from_raw_parts(at as *const u8, MAX_COMMAND_LINE) };
                let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(0);
                str::from_utf8(&bytes[..end]).unwrap_or("")
            }
        };
        StartInfo {
            command_line,
            ranges,
        }
    }

    pub(crate) fn command_line(&self) -> &'static str {
        self.command_line
    }

    fn ram(&self) -> impl Iterator<Item = &Range> {
        self.ranges.iter().filter(|range| range.kind == TYPE_RAM)
    }

    /// Bytes of RAM.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.ram().map(|range| range.bytes).sum()
    }

    /// End of the RAM range that holds the program.
    pub(crate) fn memory_end(&self) -> usize {
        let program = crate::heap::program_end() as u64;
        self.ram()
            .find(|range| range.start < program && program <= range.start + range.bytes)
            .map(|range| (range.start + range.bytes) as usize)
            .expect("the memory map has no RAM where the program is")
    }
}
