//! The guest's console, attached to by `ftvm console`.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use super::PATIENCE;

/// An attached console. Dropping it detaches.
pub(crate) struct Console {
    child: Child,
    pieces: Receiver<Vec<u8>>,
    said: String,
}

impl Console {
    /// Attaches by `command`, an `ftvm console`.
    pub(crate) fn attach(mut command: Command) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.expect("the program runs");
        let mut out = child.stdout.take().expect("piped");
        let (sender, pieces) = mpsc::channel();
        std::thread::spawn(move || {
            let mut piece = [0; 256];
            while let Ok(len @ 1..) = out.read(&mut piece) {
                if sender.send(piece[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        Console {
            child,
            pieces,
            said: String::new(),
        }
    }

    /// Waits until the guest has said `text`, and forgets what it said up to there.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.said.find(text) {
                self.said.drain(..at + text.len());
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.said += &String::from_utf8_lossy(&piece),
                Err(error) => panic!("the console: no {text:?} ({error}) in {}", self.said),
            }
        }
    }

    /// Types.
    pub(crate) fn types(&mut self, text: &str) {
        let input = self.child.stdin.as_mut().expect("piped");
        input.write_all(text.as_bytes()).expect("typed");
    }

    /// Waits for the end of the command.
    pub(crate) fn ends(mut self) -> Output {
        let mut stderr = Vec::new();
        let mut source = self.child.stderr.take().expect("piped");
        source.read_to_end(&mut stderr).expect("readable");
        Output {
            status: self.child.wait().expect("our child"),
            stdout: Vec::new(),
            stderr,
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
