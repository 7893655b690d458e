//! Small files that tests need.

/// An x86-64 ELF object with one section, called `name`, of these bytes (System V ABI, chapter 4).
pub(super) fn object_with_section(name: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut names = b"\0".to_vec();
    names.extend_from_slice(name);
    let names_name = names.len() as u32 + 1;
    names.extend_from_slice(b"\0.shstrtab\0");
    let (bytes_at, names_at) = (64, 64 + bytes.len());
    let table_at = (names_at + names.len()).next_multiple_of(8);

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [1u16, 62] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for word in [0, 0, table_at as u64] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    // Header size, no program headers, three section headers, names in the last.
    for half in [64u16, 0, 0, 64, 3, 2] {
        file.extend_from_slice(&half.to_le_bytes());
    }
    file.extend_from_slice(bytes);
    file.extend_from_slice(&names);
    file.resize(table_at + 64, 0);
    for (name, kind, at, len) in [
        (1u32, 1u32, bytes_at, bytes.len()),
        (names_name, 3, names_at, names.len()),
    ] {
        file.extend_from_slice(&name.to_le_bytes());
        file.extend_from_slice(&kind.to_le_bytes());
        for word in [0, 0, at as u64, len as u64, 0, 1, 0] {
            // flags, address, offset, size, link and info, alignment, entry size
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    file
}
