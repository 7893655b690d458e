//! What others than the clients can witness: the capture of the guest's port, the gateway, and the
//! nodes themselves.

use std::fs::File;
use std::io::BufReader;
use std::net::Ipv4Addr;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::time::sleep;

use super::super::stage::Stage;
use super::super::stage::observe::status;
use super::super::stage::process::Who;

use crate::net::capture::{CaptureReader, connections_reopened};
use crate::net::query_stats;
use crate::node::NodeState;

/// The gateway has written its capture after this time.
const CAPTURE_FLUSH: Duration = Duration::from_millis(250);

/// Where the guest is.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// What was witnessed.
#[derive(Debug)]
pub(super) struct Evidence {
    /// Frames on the guest's port after the strike.
    pub(super) frames: u64,
    /// Segments among them that open or reset a connection.
    pub(super) reopened: u64,
    /// Frames that the gateway gave to the new speaker once more.
    pub(super) frames_repeated: u64,
    /// How many nodes say that they are the VM.
    pub(super) speaking: usize,
}

/// Gathers it. Of the capture counts what lies between `from` and `until`, since the Unix epoch.
///
/// # Errors
///
/// If the capture is damaged or the gateway does not answer.
pub(super) async fn gather(
    stage: &Stage,
    from: Option<Duration>,
    until: Duration,
) -> anyhow::Result<Evidence> {
    sleep(CAPTURE_FLUSH).await;
    let gateway = query_stats(stage.gateway()).await?;
    let capture = gateway.capture.context("the gateway takes no capture")?;
    anyhow::ensure!(
        capture.error.is_none(),
        "the capture proves nothing: {}",
        capture.error.unwrap_or_default()
    );
    let (frames, reopened) = match from {
        Some(from) => read_capture(stage, from, until)?,
        None => (0, 0),
    };
    let mut speaking = 0;
    for who in [Who::Primary, Who::Backup] {
        let Some(node) = status(&stage.control(who)).await else {
            continue;
        };
        let is_vm = matches!(node.state, NodeState::Protected | NodeState::Alone);
        speaking += usize::from(node.role == "primary" && is_vm);
    }
    Ok(Evidence {
        frames,
        reopened,
        frames_repeated: gateway.frames_repeated,
        speaking,
    })
}

fn read_capture(stage: &Stage, from: Duration, until: Duration) -> anyhow::Result<(u64, u64)> {
    let path = stage.capture();
    let reading = || format!("reading the capture {}", path.display());
    let file = File::open(&path).with_context(reading)?;
    let mut count = 0;
    let frames = CaptureReader::new(BufReader::new(file))
        .with_context(reading)?
        .take_while(|frame| frame.as_ref().is_ok_and(|f| f.at < until) || frame.is_err())
        .inspect(|frame| count += u64::from(frame.as_ref().is_ok_and(|f| f.at >= from)));
    let reopened = connections_reopened(frames, from, GUEST).with_context(reading)?;
    Ok((count, reopened.opened + reopened.reset))
}

/// The time since the Unix epoch, to find a moment in the capture.
#[expect(
    clippy::disallowed_methods,
    reason = "compared with the capture's stamps, no guest sees it"
)]
pub(super) fn unix_now() -> Duration {
    std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}
