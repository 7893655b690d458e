//! What programs, libraries and kernel modules say about what they need.

use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{Endianness, StringTable};

type Header = FileHeader64<Endianness>;

/// What a program or library needs to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LinkNeeds {
    /// The path of the program interpreter, the dynamic linker (`PT_INTERP`).
    pub(super) interpreter: Option<String>,
    /// The file names of shared libraries (`DT_NEEDED`).
    pub(super) libraries: Vec<String>,
}

/// What a program or library needs. A static program needs nothing, and so does a file that is no
/// ELF file, a script say.
pub(super) fn link_needs(file: &[u8]) -> Result<LinkNeeds, object::read::Error> {
    let mut needs = LinkNeeds::default();
    if !file.starts_with(&object::elf::ELFMAG) {
        return Ok(needs);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let header = Header::parse(file)?;
    let endian = header.endian()?;
    for segment in header.program_headers(endian, file)? {
        if let Some(path) = segment.interpreter(endian, file)? {
            needs.interpreter = Some(text(path));
        }
    }
    let sections = header.sections(endian, file)?;
    if let Some((entries, link)) = sections.dynamic(endian, file)? {
        let strings: StringTable<'_> = sections.strings(endian, file, link)?;
        for entry in entries {
            if entry.tag32(endian) == Some(DT_NEEDED) {
                needs.libraries.push(text(entry.string(endian, strings)?));
            }
        }
    }
    Ok(needs)
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
    fn this_program_needs_libc_and_the_dynamic_linker() {
        let program = std::env::current_exe().expect("a program");
        let needs = link_needs(&std::fs::read(program).expect("readable")).expect("ELF");
        let linker = needs.interpreter.as_deref();
        assert_eq!(linker, Some("/lib64/ld-linux-x86-64.so.2"));
        assert!(
            needs.libraries.contains(&"libc.so.6".to_owned()),
            "{needs:?}"
        );
    }

    #[test]
    fn a_static_program_needs_nothing_and_neither_does_a_script() {
        assert_eq!(link_needs(crate::NOISE.elf), Ok(LinkNeeds::default()));
        assert_eq!(link_needs(b"#!/bin/sh\n"), Ok(LinkNeeds::default()));
    }

    #[test]
    fn damaged_files_are_errors() {
        let elf = crate::NOISE.elf;
        assert!(link_needs(&elf[..60]).is_err());
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
