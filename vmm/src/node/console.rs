//! The guest's console as those see it who are attached to it (`ftvm console`).
//!
//! What the guest says reaches them when it reaches the console's file or terminal: after the
//! gate. A reader who does not keep up is let go; the guest waits for nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

/// How much of what was said last a new reader is shown first, in bytes: a screenful.
const RECENT_BYTES: usize = 4096;

/// How many pieces wait for a reader.
const PIECES: usize = 256;

/// Who reads, and what was said last.
#[derive(Clone, Debug, Default)]
pub(super) struct ConsoleHub(Arc<Mutex<Readers>>);

#[derive(Debug, Default)]
struct Readers {
    recent: VecDeque<u8>,
    readers: Vec<mpsc::Sender<Vec<u8>>>,
}

impl ConsoleHub {
    /// The guest has said something.
    pub(super) fn say(&self, bytes: &[u8]) {
        let mut all = self.0.lock().expect("no panic while it is held");
        all.recent.extend(bytes);
        let surplus = all.recent.len().saturating_sub(RECENT_BYTES);
        all.recent.drain(..surplus);
        all.readers
            .retain(|reader| reader.try_send(bytes.to_vec()).is_ok());
    }

    /// Everything that the guest says from now on, after what it said last. The end of it means
    /// that the reader was too slow, or that the node is gone.
    pub(super) fn attach(&self) -> mpsc::Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let mut all = self.0.lock().expect("no panic while it is held");
        if !all.recent.is_empty() {
            let recent = all.recent.iter().copied().collect();
            sender.try_send(recent).expect("the channel is new");
        }
        all.readers.push(sender);
        receiver
    }

    /// Lets every reader go.
    pub(super) fn close(&self) {
        let mut all = self.0.lock().expect("no panic while it is held");
        all.readers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_what_was_said_last_and_all_that_follows() {
        let hub = ConsoleHub::default();
        let mut first = hub.attach();
        assert!(first.try_recv().is_err());
        hub.say(&[b'x'; RECENT_BYTES]);
        hub.say(b"yz");
        let mut second = hub.attach();
        hub.say(b"!");
        let recent = [vec![b'x'; RECENT_BYTES - 2], b"yz".to_vec()].concat();
        assert_eq!(second.try_recv(), Ok(recent));
        assert_eq!(second.try_recv(), Ok(b"!".to_vec()));
        for expected in [&[b'x'; RECENT_BYTES][..], b"yz", b"!"] {
            assert_eq!(first.try_recv().as_deref(), Ok(expected));
        }
        hub.close();
        assert_eq!(
            first.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
    }

    #[test]
    fn a_reader_who_does_not_keep_up_is_let_go() {
        let hub = ConsoleHub::default();
        let (mut slow, mut quick) = (hub.attach(), hub.attach());
        for _ in 0..=PIECES {
            hub.say(b"a");
            assert_eq!(quick.try_recv(), Ok(b"a".to_vec()));
        }
        let read = std::iter::from_fn(|| slow.try_recv().ok()).count();
        assert_eq!(read, PIECES);
        assert_eq!(
            slow.try_recv(),
            Err(mpsc::error::TryRecvError::Disconnected)
        );
    }
}
