//! What programs, libraries and kernel modules say about what they need.

use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{Endianness, StringTable};

type Header = FileHeader64<Endianness>;

/// The shared libraries and the program interpreter that a program or library names, by file name
/// (`DT_NEEDED` and `PT_INTERP` of the System V ABI). Empty for a static program, and for a file
/// that is no ELF file, a script say.
pub(super) fn needed_libraries(file: &[u8]) -> Result<Vec<String>, object::read::Error> {
    if !file.starts_with(&object::elf::ELFMAG) {
        return Ok(Vec::new());
    }
    let header = Header::parse(file)?;
    let endian = header.endian()?;
    let mut needed = Vec::new();
    for segment in header.program_headers(endian, file)? {
        if let Some(path) = segment.interpreter(endian, file)? {
            let path = String::from_utf8_lossy(path).into_owned();
            needed.extend(path.rsplit('/').next().map(str::to_owned));
        }
    }
    let sections = header.sections(endian, file)?;
    if let Some((entries, link)) = sections.dynamic(endian, file)? {
        let strings: StringTable<'_> = sections.strings(endian, file, link)?;
        for entry in entries {
            if entry.tag32(endian) == Some(DT_NEEDED) {
                let name = entry.string(endian, strings)?;
                needed.push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(needed)
}

/// What a kernel module's `.modinfo` names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModuleNeeds {
    /// It cannot be loaded without these (`depends=`).
    pub(super) depends: Vec<String>,
    /// These are loaded before, if there are any (`softdep=pre:`).
    pub(super) before: Vec<String>,
}

/// The modules that a kernel module needs.
pub(super) fn module_needs(file: &[u8]) -> Result<ModuleNeeds, object::read::Error> {
    let header = Header::parse(file)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, file)?;
    let mut needs = ModuleNeeds::default();
    let Some((_, section)) = sections.section_by_name(endian, b".modinfo") else {
        return Ok(needs);
    };
    for line in section.data(endian, file)?.split(|byte| *byte == 0) {
        let line = String::from_utf8_lossy(line);
        let (list, names) = if let Some(names) = line.strip_prefix("depends=") {
            (&mut needs.depends, names)
        } else if let Some(names) = line.strip_prefix("softdep=pre:") {
            (
                &mut needs.before,
                names.split("post:").next().unwrap_or_default(),
            )
        } else {
            continue;
        };
        let names = names.split([',', ' ']).filter(|name| !name.is_empty());
        list.extend(names.map(str::to_owned));
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test program itself is a dynamic one.
    #[test]
    fn this_program_needs_libc_and_the_loader() {
        let program = std::env::current_exe().expect("a program");
        let needed = needed_libraries(&std::fs::read(program).expect("readable")).expect("ELF");
        for library in ["libc.so.6", "ld-linux-x86-64.so.2"] {
            assert!(needed.iter().any(|name| name == library), "{needed:?}");
        }
    }

    #[test]
    fn a_static_program_needs_nothing_and_neither_does_a_script() {
        assert_eq!(needed_libraries(crate::NOISE.elf), Ok(vec![]));
        assert_eq!(needed_libraries(b"#!/bin/sh\n"), Ok(vec![]));
    }

    #[test]
    fn damaged_files_are_errors() {
        let elf = crate::NOISE.elf;
        assert!(needed_libraries(&elf[..60]).is_err());
        assert!(module_needs(b"\x7fELF").is_err());
        assert!(module_needs(b"").is_err());
    }

    #[test]
    fn a_module_names_what_it_depends_on() {
        let info = b"license=GPL\0softdep=pre: crc32c-alt lib2 post: late\0\
            depends=virtio,virtio_ring\0depends=\0";
        let module = super::super::fixtures::object_with_section(b".modinfo", info);
        let needs = module_needs(&module).expect("ELF");
        assert_eq!(needs.depends, ["virtio", "virtio_ring"]);
        assert_eq!(needs.before, ["crc32c-alt", "lib2"]);
    }
}
