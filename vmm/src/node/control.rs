//! The local control socket: one JSON request a line, one JSON answer a line. After an answered
//! `attach` the connection is the guest's console instead: bytes, both ways.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ft_logging::entry::{Control, MAX_CONSOLE_BYTES};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use super::console::ConsoleHub;
use super::{Event, NodeStatus};

/// The longest request or answer, in bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// How long a node may take to answer. An answer waits for the backup, as an output does.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// What an operator can ask of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum ControlRequest {
    /// How it is.
    Status,
    /// A command that travels in the log.
    Machine {
        /// Which.
        command: MachineCommand,
    },
    /// Types at the guest's console.
    Console {
        /// What.
        text: String,
    },
    /// Turns this connection into the guest's console.
    Attach,
    /// End the VM (FAIL-10).
    Stop,
    /// Let the backup take over (FAIL-10).
    Failover,
    /// Go on here although another node may have won, a person's decision.
    Recover,
}

/// Commands to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MachineCommand {
    /// The vCPU stands still.
    Pause,
    /// It runs again.
    Resume,
    /// The ACPI power button.
    PowerButton,
    /// Start anew from the boot images.
    Reset,
    /// Switch it off.
    PowerOff,
}

impl From<MachineCommand> for Control {
    fn from(command: MachineCommand) -> Self {
        match command {
            MachineCommand::Pause => Control::Pause,
            MachineCommand::Resume => Control::Resume,
            MachineCommand::PowerButton => Control::PowerButton,
            MachineCommand::Reset => Control::Reset,
            MachineCommand::PowerOff => Control::PowerOff,
        }
    }
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum ControlResponse {
    /// How it is.
    Status(Box<NodeStatus>),
    /// Done; while protected, the backup knows too.
    Done,
    /// Not done, and why.
    Refused {
        /// For people.
        why: String,
    },
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no node listens on {0}: is it running? `--control PATH` says where a node listens")]
    NoNode(PathBuf),
    /// The socket broke, or the node does not answer.
    #[error("asking the node at {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer is of another release.
    #[error("the node at {0} answered in a way that this release does not know")]
    Answer(PathBuf),
}

/// Asks the node that listens on `path`.
///
/// # Errors
///
/// [`ControlError`].
pub async fn request(
    path: &Path,
    request: &ControlRequest,
) -> Result<ControlResponse, ControlError> {
    exchange(path, request).await.map(|(answer, ..)| answer)
}

/// The guest's console: what it says, and where to type.
pub type AttachedConsole = (BufReader<OwnedReadHalf>, OwnedWriteHalf);

/// Attaches to the console of the node that listens on `path`; the node's words if it refuses.
///
/// # Errors
///
/// [`ControlError`].
pub async fn attach(path: &Path) -> Result<Result<AttachedConsole, String>, ControlError> {
    match exchange(path, &ControlRequest::Attach).await? {
        (ControlResponse::Done, reader, writer) => Ok(Ok((reader, writer))),
        (ControlResponse::Refused { why }, ..) => Ok(Err(why)),
        (ControlResponse::Status(_), ..) => Err(ControlError::Answer(path.to_owned())),
    }
}

async fn exchange(
    path: &Path,
    request: &ControlRequest,
) -> Result<(ControlResponse, BufReader<OwnedReadHalf>, OwnedWriteHalf), ControlError> {
    let io = |source| ControlError::Io {
        path: path.to_owned(),
        source,
    };
    let stream = UnixStream::connect(path)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ControlError::NoNode(path.to_owned())
            }
            _ => io(error),
        })?;
    let exchange = async {
        let (reader, mut writer) = stream.into_split();
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        writer.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        let mut reader = BufReader::new(reader);
        (&mut reader)
            .take(MAX_LINE_BYTES)
            .read_line(&mut answer)
            .await?;
        Ok((answer, reader, writer))
    };
    let (answer, reader, writer) = tokio::time::timeout(ANSWER_PATIENCE, exchange)
        .await
        .map_err(|_| io(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))?
        .map_err(io)?;
    let answer =
        serde_json::from_str(&answer).map_err(|_| ControlError::Answer(path.to_owned()))?;
    Ok((answer, reader, writer))
}

/// A bound control socket; the file goes away with it.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

impl ControlSocket {
    /// Listens on `path`. A socket that a dead node left behind is replaced.
    pub(super) async fn bind(
        path: &Path,
        events: mpsc::Sender<Event>,
        console: ConsoleHub,
    ) -> anyhow::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|error| {
                anyhow::anyhow!(
                    "creating {} for the control socket: {error}; choose another place with \
                     --control",
                    dir.display()
                )
            })?;
        }
        if UnixStream::connect(path).await.is_ok() {
            anyhow::bail!(
                "a node listens on the control socket {} already: choose another with --control",
                path.display()
            );
        }
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).map_err(|error| {
            anyhow::anyhow!(
                "listening on the control socket {}: {error}",
                path.display()
            )
        })?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, events.clone(), console.clone()));
            }
        });
        Ok(ControlSocket {
            path: path.to_owned(),
            task,
        })
    }
}

async fn serve(stream: UnixStream, events: mpsc::Sender<Event>, console: ConsoleHub) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader.take(MAX_LINE_BYTES)).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut attaches = false;
        let response = match serde_json::from_str(&line) {
            Ok(request) => {
                attaches = request == ControlRequest::Attach;
                let (answer, answered) = oneshot::channel();
                if events.send(Event::Control(request, answer)).await.is_err() {
                    return;
                }
                answered.await.unwrap_or(ControlResponse::Refused {
                    why: "the node ended before it could answer".to_owned(),
                })
            }
            Err(error) => ControlResponse::Refused {
                why: format!("not a request: {error}"),
            },
        };
        let mut line = serde_json::to_string(&response).expect("an answer is plain data");
        line.push('\n');
        if writer.write_all(line.as_bytes()).await.is_err() {
            return;
        }
        if attaches && response == ControlResponse::Done {
            // Nothing was typed before the answer came, so the lines hold back no bytes.
            let reader = lines.into_inner().into_inner().into_inner();
            return serve_console(reader, writer, events, &console).await;
        }
    }
}

/// Carries bytes between the guest's console and somebody who is attached to it.
async fn serve_console(
    mut reader: OwnedReadHalf,
    mut writer: OwnedWriteHalf,
    events: mpsc::Sender<Event>,
    console: &ConsoleHub,
) {
    let mut said = console.attach();
    let mut typed = vec![0; MAX_CONSOLE_BYTES];
    loop {
        tokio::select! {
            bytes = said.recv() => match bytes {
                Some(bytes) if writer.write_all(&bytes).await.is_ok() => {}
                _ => return,
            },
            read = reader.read(&mut typed) => match read {
                Ok(len @ 1..) => {
                    if events.send(Event::Typed(typed[..len].to_vec())).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}
