//! The rules of the code's own shape: who may import whom, that the map is true, and that every
//! invariant has a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("vmm/ has a parent")
        .to_owned()
}

/// Every Rust file below `dir`, with its text.
fn sources(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a folder of the project") {
            let path = entry.expect("readable").path();
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "nothing below {}", dir.display());
    found
}

/// What a file imports or names: the lines that are no comment and hold a path.
fn names<'a>(text: &'a str, path: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.starts_with("//"))
        .filter(move |line| line.contains(path))
}

/// The layers of a crate, lowest first: a layer may import those before it, and those that it names
/// beside itself.
fn check_layers(crate_src: &Path, layers: &[(&str, &[&str])]) {
    let mut broken = Vec::new();
    for (layer, forbidden) in layers {
        let folder = crate_src.join(layer);
        let mut files = if folder.is_dir() {
            sources(&folder)
        } else {
            Vec::new()
        };
        let file = crate_src.join(format!("{layer}.rs"));
        if let Ok(text) = fs::read_to_string(&file) {
            files.push((file, text));
        }
        assert!(
            !files.is_empty(),
            "no layer {layer} in {}",
            crate_src.display()
        );
        for (path, text) in files {
            for name in *forbidden {
                let inside = format!("crate::{name}");
                let hits: Vec<&str> = names(&text, &inside)
                    .filter(|line| {
                        let rest = &line[line.find(&inside).expect("filtered") + inside.len()..];
                        rest.starts_with([':', ';', ','])
                    })
                    .collect();
                if let Some(line) = hits.first() {
                    broken.push(format!("{}: {line}", path.display()));
                }
            }
        }
    }
    assert!(
        broken.is_empty(),
        "forbidden imports:\n{}",
        broken.join("\n")
    );
}

#[test]
fn the_crates_below_know_nothing_of_those_above() {
    for (member, strangers) in [
        ("ft-logging/src", ["test_and_set", "vmm::", "kvm_", "tokio"]),
        (
            "test-and-set/src",
            ["ft_logging", "vmm::", "kvm_", "vm_memory"],
        ),
        (
            "guest-images/src",
            ["ft_logging", "vmm::", "test_and_set", "tokio"],
        ),
    ] {
        for (path, text) in sources(&root().join(member)) {
            for stranger in strangers {
                if let Some(line) = names(&text, stranger).find(|line| line.starts_with("use ")) {
                    panic!("{}: {line}", path.display());
                }
            }
        }
    }
}

#[test]
fn layers_of_ft_logging() {
    check_layers(
        &root().join("ft-logging/src"),
        &[
            (
                "types",
                &[
                    "entry", "initial", "message", "codec", "store", "inspect", "protocol",
                ],
            ),
            (
                "entry",
                &[
                    "initial", "message", "codec", "store", "inspect", "protocol",
                ],
            ),
            (
                "initial",
                &["message", "codec", "store", "inspect", "protocol"],
            ),
            ("message", &["codec", "store", "inspect", "protocol"]),
            ("codec", &["store", "inspect", "protocol"]),
            ("protocol", &["codec", "store", "inspect"]),
            ("store", &["inspect", "protocol"]),
            ("inspect", &["protocol"]),
        ],
    );
}

#[test]
fn layers_of_vmm() {
    check_layers(
        &root().join("vmm/src"),
        &[
            (
                "sys",
                &[
                    "cpu",
                    "devices",
                    "machine",
                    "determinism",
                    "net",
                    "node",
                    "cli",
                ],
            ),
            (
                "cpu",
                &["devices", "machine", "determinism", "net", "node", "cli"],
            ),
            (
                "devices",
                &["cpu", "machine", "determinism", "net", "node", "cli"],
            ),
            ("machine", &["determinism", "net", "node", "cli"]),
            ("determinism", &["net", "node", "cli"]),
            (
                "net",
                &["cpu", "devices", "machine", "determinism", "node", "cli"],
            ),
            ("node", &["cli"]),
        ],
    );
}

/// Nor the protocol: no clock, thread, file, socket, randomness or order of a hash table.
#[test]
fn det_2_the_devices_own_no_clock_no_randomness_and_no_io() {
    let banned = [
        "std::time",
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "tokio",
        "getrandom",
        "HashMap",
        "HashSet",
        "Instant::now",
        "SystemTime",
    ];
    for folder in ["ft-logging/src/protocol", "vmm/src/devices"] {
        for (path, text) in sources(&root().join(folder)) {
            if path
                .components()
                .any(|part| part.as_os_str().to_string_lossy().contains("test"))
            {
                continue;
            }
            for name in banned {
                if let Some(line) = names(&text, name).next() {
                    panic!("{}: {line}", path.display());
                }
            }
        }
    }
}

/// System calls, and what the CPU in software cannot do safely and fast: guest memory, the TLB's
/// pointers into it, the host's SSE instructions, and the processor that tests compare with.
const MAY_BE_UNSAFE: [&str; 5] = [
    "vmm/src/sys",
    "vmm/soft-cpu/src/memory/ram.rs",
    "vmm/soft-cpu/src/memory/tlb.rs",
    "vmm/soft-cpu/src/simd/host.rs",
    "vmm/soft-cpu/src/oracle/native.rs",
];

#[test]
fn unsafe_code_is_where_it_belongs() {
    for member in [
        "ft-logging/src",
        "test-and-set/src",
        "guest-images/src",
        "vmm/src",
        "vmm/soft-cpu/src",
    ] {
        for (path, text) in sources(&root().join(member)) {
            if !MAY_BE_UNSAFE
                .iter()
                .any(|place| path.starts_with(root().join(place)))
            {
                let found = names(&text, "unsafe ").next();
                assert_eq!(found, None, "{}", path.display());
            }
        }
    }
}

#[test]
fn every_path_in_the_map_exists() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut count = 0;
    for quoted in map.split('`').skip(1).step_by(2) {
        let is_path = quoted.contains('/') && !quoted.contains([' ', '<', '*', ':']);
        if is_path && !quoted.starts_with('/') {
            count += 1;
            assert!(
                root().join(quoted).exists(),
                "ARCHITECTURE.md names {quoted}, which is gone"
            );
        }
    }
    assert!(
        count > 30,
        "only {count} paths were found: is the map still one?"
    );
}

/// The names of the invariants that ARCHITECTURE.md promises.
fn invariants() -> BTreeSet<String> {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let is_name = |word: &str| {
        word.split_once('-').is_some_and(|(kind, number)| {
            ["DET", "OUT", "LOG", "FAIL", "ONE", "LIVE", "TAS", "SEC"].contains(&kind)
                && number.parse::<u8>().is_ok()
        })
    };
    map.lines()
        .filter_map(|line| line.strip_prefix("- **")?.split_once("**"))
        .map(|(name, _)| name.to_owned())
        .filter(|name| is_name(name))
        .collect()
}

#[test]
fn every_invariant_has_a_test() {
    let names = invariants();
    assert!(
        names.len() > 30,
        "only {} invariants are promised",
        names.len()
    );
    let mut tests = String::new();
    for folder in ["ft-logging", "test-and-set", "guest-images", "vmm", "tests"] {
        for (path, text) in sources(&root().join(folder)) {
            let in_tests = path.components().any(|part| {
                let part = part.as_os_str().to_string_lossy();
                part.contains("tests") || part == "simulator"
            });
            match text.find("#[cfg(test)]") {
                _ if in_tests => tests.push_str(&text),
                Some(at) => tests.push_str(&text[at..]),
                None => {}
            }
        }
    }
    let untested: Vec<&String> = names
        .iter()
        .filter(|name| {
            let snake = name.to_lowercase().replace('-', "_");
            !tests.contains(name.as_str()) && !tests.contains(&format!("fn {snake}_"))
        })
        .collect();
    assert!(untested.is_empty(), "no test for {untested:?}");
}
