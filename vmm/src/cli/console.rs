//! `ftvm console`: the guest's serial console in this terminal.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::process::ExitCode;
use std::thread;

use anyhow::Context as _;
use clap::Args;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::nodes::{NodeChoice, the_one};
use crate::node::{AttachedConsole, attach};

/// Ctrl-], as in telnet.
const DETACH: u8 = 0x1D;

/// The most bytes that are read or typed at once.
const PIECE_BYTES: usize = 4096;

/// The guest's serial console, here.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftvm console                 of the only VM on this host
  ftvm console kv
  echo uptime | ftvm console   types a line, and shows what is said until it is typed

Ctrl-] detaches; the guest goes on. What is typed travels in the log, like every input.")]
pub(super) struct ConsoleArgs {
    #[command(flatten)]
    choice: NodeChoice,
}

/// Why the console is not shown any more.
#[derive(Debug, PartialEq, Eq)]
enum Detached {
    /// The person wants it so, or has nothing more to type.
    Here,
    /// The node is gone, or speaks for the guest no more.
    There,
}

/// `ftvm console`.
pub(super) fn console(args: ConsoleArgs) -> anyhow::Result<ExitCode> {
    let detached = super::block_on(async {
        let node = the_one(args.choice.find().await?, &args.choice)?;
        let console = match attach(&node.path).await? {
            Ok(console) => console,
            Err(why) => anyhow::bail!("refused: {why}"),
        };
        eprintln!("ftvm: attached to {}; Ctrl-] detaches", node.status.vm);
        let _terminal = RawTerminal::enter()?;
        carry(console, keyboard()).await
    })?;
    match detached {
        Detached::Here => {
            eprintln!("\nftvm: detached");
            Ok(ExitCode::SUCCESS)
        }
        Detached::There => {
            anyhow::bail!("the node is gone, or is not the VM any more: `ftvm status` shows who is")
        }
    }
}

/// Carries what is said to standard output, and what is typed to the guest.
async fn carry(
    (mut reader, mut writer): AttachedConsole,
    mut typed: mpsc::Receiver<Vec<u8>>,
) -> anyhow::Result<Detached> {
    let mut said = vec![0; PIECE_BYTES];
    loop {
        tokio::select! {
            read = reader.read(&mut said) => match read {
                Ok(len @ 1..) => show(&said[..len])?,
                _ => return Ok(Detached::There),
            },
            bytes = typed.recv() => {
                let Some(bytes) = bytes else {
                    return Ok(Detached::Here);
                };
                let (bytes, detaches) = until_detach(&bytes);
                if writer.write_all(bytes).await.is_err() {
                    return Ok(Detached::There);
                }
                if detaches {
                    return Ok(Detached::Here);
                }
            }
        }
    }
}

/// What is typed before Ctrl-], and whether it was typed.
fn until_detach(bytes: &[u8]) -> (&[u8], bool) {
    match bytes.iter().position(|byte| *byte == DETACH) {
        Some(at) => (&bytes[..at], true),
        None => (bytes, false),
    }
}

fn show(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .context("writing what the guest says")
}

/// What comes from standard input. A thread of its own reads it, which the program does not wait
/// for at its end: a read of a terminal cannot be taken back.
fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    thread::spawn(move || {
        let mut bytes = vec![0; PIECE_BYTES];
        while let Ok(len @ 1..) = std::io::stdin().read(&mut bytes) {
            if sender.blocking_send(bytes[..len].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The terminal hands over every key as it is pressed, Ctrl-C too, while this value lives. What is
/// no terminal stays as it is.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let input = std::io::stdin();
        if !input.is_terminal() {
            return Ok(RawTerminal(None));
        }
        let before = tcgetattr(&input).context("asking for the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&input, SetArg::TCSANOW, &raw).context("changing the terminal's settings")?;
        Ok(RawTerminal(Some(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_key_is_typed_and_what_follows_is_not() {
        assert_eq!(until_detach(b"ls\r"), (&b"ls\r"[..], false));
        assert_eq!(until_detach(b"ls\r\x1dxyz"), (&b"ls\r"[..], true));
        assert_eq!(until_detach(b"\x1d"), (&b""[..], true));
    }
}
