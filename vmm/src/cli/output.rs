//! How commands speak: to people on standard error, to programs as JSON lines on standard output.

use std::io::Write as _;

use serde::Serialize;
use tracing_subscriber::EnvFilter;

/// Shows warnings on standard error; `FTVM_LOG=debug` shows more.
pub(super) fn init_tracing() {
    let filter = EnvFilter::try_from_env("FTVM_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,openraft=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}

/// Prints `value` as one line of JSON. A reader that went away is no error.
pub(super) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(value)?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// The directory of the control sockets of this host's nodes.
pub(super) fn control_dir() -> std::path::PathBuf {
    std::env::var_os("XDG_RUNTIME_DIR")
        .map_or_else(std::env::temp_dir, std::path::PathBuf::from)
        .join("ftvm")
}

/// Where a node listens for `ftvm status` and `ftvm control`, unless it is told otherwise.
pub(super) fn control_socket(vm: &str, role: &str) -> std::path::PathBuf {
    control_dir().join(format!("{vm}-{role}.sock"))
}
