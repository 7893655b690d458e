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
const INPUTS: [&str; 9] = [
    "build.rs",
    "guest/Cargo.toml",
    "guest/Cargo.lock",
    "guest/build.rs",
    "guest/link.ld",
    "guest/src",
    "resp-kv/Cargo.toml",
    "resp-kv/src",
    "../Cargo.toml", // resp-kv takes its edition from there
];

/// Of cargo's own variables the inner build keeps those that say where crates come from.
const KEPT_CARGO_VARIABLES: [&str; 5] =
    ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_"];

fn main() {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    for input in INPUTS {
        println!("cargo:rerun-if-changed={input}");
    }
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("guests");

    let mut cargo = Command::new(variable("CARGO"));
    without_outer_build(&mut cargo);
    cargo
        .current_dir(here.join("guest"))
        .args(["build", "--release", "--bins", "--locked", "--target", TARGET])
        .env("CARGO_TARGET_DIR", &target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&here).join("\x1f"))
        // Empty, not absent: a wrapper in somebody's cargo configuration is meant as well.
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "");

    let output = cargo.output().unwrap_or_else(|error| {
        fail(&format!("cannot start cargo to build the guests: {error}"), "")
    });
    if !output.status.success() {
        fail(
            &format!(
                "the guests in {} did not build. If the target is missing: \
                 rustup target add {TARGET}",
                here.join("guest").display()
            ),
            &String::from_utf8_lossy(&output.stderr),
        );
    }
    println!("cargo:rustc-env=GUEST_ELF_DIR={}", target_dir.join(TARGET).join("release").display());
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
    // Paths in panic messages.
    let mut remap = |from: &Path, to: &str| {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    };
    remap(here, "guest-images");
    if let Some(home) = cargo_home() {
        remap(&home, "cargo");
    }
    if let Some(sysroot) = sysroot() {
        remap(&sysroot, "rust");
    }
    flags
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

fn sysroot() -> Option<PathBuf> {
    let output = Command::new(variable("RUSTC")).args(["--print", "sysroot"]).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Removes what the outer cargo set, or its user set for the outer build.
fn without_outer_build(command: &mut Command) {
    let kept = |name: &str| KEPT_CARGO_VARIABLES.iter().any(|kept| name.starts_with(kept));
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        let outer = name.starts_with("CARGO_") && !kept(name)
            || name.starts_with("DEP_")
            || name.starts_with("RUSTFLAGS")
            || name.starts_with("RUSTDOC")
            || name.starts_with("CLIPPY")
            || ["RUSTC_LINKER", "RUSTC_BOOTSTRAP", "MAKEFLAGS", "TARGET", "HOST"].contains(&name)
            || ["PROFILE", "OPT_LEVEL", "DEBUG", "NUM_JOBS", "OUT_DIR"].contains(&name);
        if outer {
            command.env_remove(name);
        }
    }
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("cargo did not set {name}"), ""))
}

fn fail(what: &str, detail: &str) -> ! {
    eprintln!("guest-images: {what}\n{detail}");
    exit(1)
}
