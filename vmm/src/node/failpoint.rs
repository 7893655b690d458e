//! Points at which a test has a node die, as by a power cut: between two steps that the rules of
//! takeover keep apart.
//!
//! `--failpoint NAME` dies when the point is reached first, `--failpoint NAME:N` the N-th time. A
//! node without it passes all of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, raise};

/// A point on the way from an input to an output, or from a question to its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failpoint {
    /// Outputs have passed the gate; they are about to be written.
    BeforeWrite,
    /// They are written; neither this node's protocol nor its peer knows (OUT-3).
    AfterWrite,
    /// The arbiter is about to be asked to open the generation (ONE-2).
    BeforeOpen,
    /// It has answered; nothing came of it yet.
    AfterOpen,
    /// The arbiter is about to be asked for the generation (FAIL-2).
    BeforeClaim,
    /// It has answered; this node's protocol does not know.
    AfterClaim,
    /// The generation is won; nothing was said in its name (FAIL-7).
    BeforeLive,
}

impl Failpoint {
    const ALL: [(Failpoint, &str); 7] = [
        (Failpoint::BeforeWrite, "before-write"),
        (Failpoint::AfterWrite, "after-write"),
        (Failpoint::BeforeOpen, "before-open"),
        (Failpoint::AfterOpen, "after-open"),
        (Failpoint::BeforeClaim, "before-claim"),
        (Failpoint::AfterClaim, "after-claim"),
        (Failpoint::BeforeLive, "before-live"),
    ];
}

/// The point at which a node dies, if it is to.
#[derive(Clone, Default)]
pub struct Fuse(Option<Arc<(Failpoint, AtomicU64)>>);

impl Fuse {
    /// The node has come to `point`. This does not return if it is where the node dies.
    pub(super) fn reach(&self, point: Failpoint) {
        if self.burns(point) {
            // Nothing is flushed, closed or said: what SIGKILL does to a process.
            let _ = raise(Signal::SIGKILL);
        }
    }

    fn burns(&self, point: Failpoint) -> bool {
        self.0.as_ref().is_some_and(|fuse| {
            let (end, left) = fuse.as_ref();
            *end == point && left.fetch_sub(1, Ordering::Relaxed) == 1
        })
    }
}

impl fmt::Debug for Fuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fuse").field(&self.0).finish()
    }
}

impl FromStr for Fuse {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, times) = text.split_once(':').unwrap_or((text, "1"));
        let point = Failpoint::ALL.iter().find(|(_, known)| *known == name);
        let times = times.parse().ok().filter(|times| *times > 0);
        match (point, times) {
            (Some((point, _)), Some(times)) => {
                Ok(Fuse(Some(Arc::new((*point, AtomicU64::new(times))))))
            }
            _ => Err(format!(
                "write NAME or NAME:N, with N at least 1 and NAME one of {}",
                Failpoint::ALL.map(|(_, name)| name).join(", ")
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_burns_once_at_its_point_at_its_time() {
        let fuse: Fuse = "after-claim:3".parse().expect("a fuse");
        let mut burnt = vec![];
        for _ in 0..5 {
            for (point, _) in Failpoint::ALL {
                burnt.push(fuse.burns(point));
            }
        }
        let at = 2 * Failpoint::ALL.len() + 5;
        assert_eq!(burnt.iter().position(|burnt| *burnt), Some(at));
        assert_eq!(burnt.iter().filter(|burnt| **burnt).count(), 1);
        let first: Fuse = "before-write".parse().expect("a fuse");
        assert!(first.burns(Failpoint::BeforeWrite));
        assert!(!Fuse::default().burns(Failpoint::BeforeWrite));
        for wrong in [
            "",
            "nowhere",
            "after-claim:0",
            "after-claim:x",
            "after-claim:",
        ] {
            assert!(wrong.parse::<Fuse>().is_err(), "{wrong:?}");
        }
    }
}
