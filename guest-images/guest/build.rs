//! Links the guests as static ELF files by `link.ld`. The arguments are lld's:
//! `guest-images/build.rs` links with it directly.

fn main() {
    let here = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=link.ld");
    for argument in [
        "-static",
        "--build-id=none",
        "-zmax-page-size=4096",
        "-znorelro",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
    println!("cargo:rustc-link-arg-bins=-T{here}/link.ld");
}
