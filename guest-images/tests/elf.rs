//! The embedded guests are what the boot loader and the CPU backends expect.

use guest_images::{Guest, all, by_name};

/// A little-endian number at an offset of the file.
fn number<const BYTES: usize>(guest: &Guest, offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..BYTES].copy_from_slice(&guest.elf[offset..offset + BYTES]);
    u64::from_le_bytes(bytes)
}

struct Segment {
    kind: u64,
    offset: usize,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

const LOAD: u64 = 1;
const NOTE: u64 = 4;

/// The program headers (System V ABI, chapter 5).
fn segments(guest: &Guest) -> Vec<Segment> {
    let table = number::<8>(guest, 0x20) as usize;
    let size = number::<2>(guest, 0x36) as usize;
    (0..number::<2>(guest, 0x38) as usize)
        .map(|index| table + index * size)
        .map(|header| Segment {
            kind: number::<4>(guest, header),
            offset: number::<8>(guest, header + 8) as usize,
            address: number::<8>(guest, header + 24),
            file_bytes: number::<8>(guest, header + 32),
            memory_bytes: number::<8>(guest, header + 40),
        })
        .collect()
}

#[test]
fn every_guest_is_a_static_x86_64_elf_with_a_pvh_entry() {
    for guest in all() {
        assert_eq!(&guest.elf[..6], b"\x7fELF\x02\x01", "{}", guest.name);
        assert_eq!(number::<2>(guest, 0x10), 2, "{}: an executable", guest.name);
        assert_eq!(number::<2>(guest, 0x12), 62, "{}: for x86-64", guest.name);
        let segments = segments(guest);
        assert!(
            segments
                .iter()
                .all(|segment| [LOAD, NOTE].contains(&segment.kind))
        );

        let note = segments
            .iter()
            .find(|segment| segment.kind == NOTE)
            .expect("a note");
        let words = [0, 4, 8].map(|offset| number::<4>(guest, note.offset + offset));
        assert_eq!(
            words,
            [4, 4, 18],
            "{}: XEN_ELFNOTE_PHYS32_ENTRY",
            guest.name
        );
        assert_eq!(&guest.elf[note.offset + 12..][..4], b"Xen\0");
        let entry = number::<4>(guest, note.offset + 16);
        assert_eq!(
            entry,
            number::<8>(guest, 0x18),
            "{}: both entries agree",
            guest.name
        );
        let holds = |segment: &&Segment| {
            (segment.address..segment.address + segment.file_bytes).contains(&entry)
        };
        assert!(
            segments
                .iter()
                .find(holds)
                .is_some_and(|segment| segment.kind == LOAD)
        );
    }
}

#[test]
fn every_guest_leaves_low_memory_to_the_loader_and_fits_in_little() {
    const FIRST: u64 = 2 << 20;
    const END: u64 = 6 << 20;
    const MAX_FILE: usize = 512 << 10;
    for guest in all() {
        assert!(
            guest.elf.len() < MAX_FILE,
            "{}: {} bytes",
            guest.name,
            guest.elf.len()
        );
        for segment in segments(guest) {
            assert!(segment.address >= FIRST, "{}", guest.name);
            assert!(
                segment.address + segment.memory_bytes <= END,
                "{}",
                guest.name
            );
        }
    }
}

/// A guest's bytes must not depend on where it was built: backups compare them.
#[test]
fn no_guest_contains_a_path_of_this_machine() {
    let here = env!("CARGO_MANIFEST_DIR");
    let home = std::env::var("HOME").unwrap_or_else(|_| String::from("/root/"));
    for guest in all() {
        for path in [here, &home, "/.cargo/", "/.rustup/"] {
            let found = guest
                .elf
                .windows(path.len())
                .any(|bytes| bytes == path.as_bytes());
            assert!(!found, "{} contains {path}", guest.name);
        }
    }
}

#[test]
fn guests_are_found_by_name() {
    for guest in all() {
        assert_eq!(
            by_name(guest.name).map(|found| found.name),
            Some(guest.name)
        );
    }
    assert!(by_name("linux").is_none());
}
