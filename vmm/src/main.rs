//! The `ftvm` program.
fn main() {}
