//! Builds the guests in `guest/` with flags of their own.
//!
//! The same cargo builds both, but nothing of the outer build may reach the
//! inner one: not its target, flags, profile, or wrappers (clippy's, sccache's).
//! Nor may the place of the build reach the result: the ELF files are the same
//! bytes on every machine with the same compiler, and backups compare them.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// Guests run on bare x86-64; of this target they take the code generator and
/// `core` only.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What must be rebuilt for, beside `guest/` itself.
const INPUTS: [&str; 8] = [
    "build.rs",
    "guest/Cargo.toml",
    "guest/Cargo.lock",
    "guest/build.rs",
    "guest/link.ld",
    "guest/src",
    "guest/resp-kv/Cargo.toml",
    "resp-kv/src",
];

/// Of cargo's own variables the inner build keeps those that say where crates come from.
const KEPT_CARGO_VARIABLES: [&str; 5] = [
    "CARGO_HOME",
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
];

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    for input in INPUTS {
        println!("cargo:rerun-if-changed={input}");
    }
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("guests");

    // First, so that `flags` sees where the crates' sources are.
    run(inner_cargo(&here).args(["fetch", "--locked", "--target", TARGET]));
    run(inner_cargo(&here)
        .args([
            "build",
            "--release",
            "--bins",
            "--locked",
            "--target",
            TARGET,
        ])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&here).join("\x1f")));

    let built = target_dir.join(TARGET).join("release");
    println!("cargo:rustc-env=GUEST_ELF_DIR={}", built.display());
}

/// Cargo in the guests' workspace, without what the outer cargo set, or its
/// user set for the outer build.
fn inner_cargo(here: &Path) -> Command {
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(belongs_to_outer_build) {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(here.join("guest"))
        // Empty, not absent: a wrapper in somebody's cargo configuration is meant as well.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "");
    cargo
}

fn belongs_to_outer_build(name: &str) -> bool {
    let kept = KEPT_CARGO_VARIABLES
        .iter()
        .any(|kept| name.starts_with(kept));
    let prefixes = ["CARGO_", "CLIPPY", "DEP_", "RUSTDOC", "RUSTFLAGS"];
    let names = [
        "DEBUG",
        "HOST",
        "MAKEFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTC_BOOTSTRAP",
        "RUSTC_LINKER",
        "TARGET",
    ];
    !kept && (prefixes.iter().any(|prefix| name.starts_with(prefix)) || names.contains(&name))
}

fn run(cargo: &mut Command) {
    let output = cargo.output().unwrap_or_else(|error| {
        fail(
            &format!("cannot start cargo to build the guests: {error}"),
            "",
        )
    });
    if !output.status.success() {
        let what = format!(
            "the guests did not build ({cargo:?}). If the target is missing: \
             rustup target add {TARGET}"
        );
        fail(&what, &String::from_utf8_lossy(&output.stderr));
    }
}

/// Code for a machine whose ring 0 may be an emulator of integer instructions,
/// at fixed addresses, linked without the host's C compiler.
fn flags(here: &Path) -> Vec<String> {
    let mut flags: Vec<String> = [
        "-Ctarget-cpu=x86-64",
        "-Ctarget-feature=-mmx,-sse,-sse2,+soft-float",
        "-Crelocation-model=static",
        "-Cno-redzone=yes",
        "-Clinker=rust-lld",
    ]
    .map(String::from)
    .to_vec();
    // Paths in panic messages. Of several that fit, rustc takes the last.
    let mut remap = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    remap(here, "guest-images");
    if let Some(sysroot) = sysroot() {
        remap(&sysroot, "rust");
    }
    if let Some(home) = cargo_home() {
        remap(&home, "cargo");
        // One directory for each registry, named by a hash of its address.
        let sources = home.join("registry/src");
        for registry in std::fs::read_dir(sources).into_iter().flatten().flatten() {
            remap(&registry.path(), "crates");
        }
    }
    flags
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

fn sysroot() -> Option<PathBuf> {
    let output = Command::new(variable("RUSTC"))
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("cargo did not set {name}"), ""))
}

fn fail(what: &str, detail: &str) -> ! {
    eprintln!("guest-images: {what}\n{detail}");
    exit(1)
}
