//! A node's end of the gateway protocol.
//!
//! A [`GatewayLink`] says who the node is and is then split: one task sends the
//! guest's outputs, another receives its inputs. Reconnecting is the caller's
//! business, since only it knows its token at that time;
//! [`GatewayLink::connect_within`] helps with the waiting.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ft_logging::types::Token;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::fence::Announcement;
use super::packet::MAX_FRAME_LEN;
use super::protocol::{DecodeError, Hello, Inbox, Message, Rejection, ToGateway, ToNode, Welcome};
use super::stats::GatewayStats;

/// How long the gateway may take to answer the first message.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The first pause between attempts to connect; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_millis(250);

/// Why there is no gateway to talk to, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens there.
    #[error("cannot connect to the gateway at {address}; start it with `ftvm gateway`")]
    Connect {
        /// Where it should be.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The gateway does not want this node.
    #[error("the gateway rejected this node: {0}")]
    Rejected(#[from] Rejection),
    /// The connection broke.
    #[error("the connection to the gateway broke")]
    Broken(#[source] io::Error),
    /// The gateway ended the connection.
    #[error("the gateway closed the connection")]
    Closed,
    /// There was no answer within [`ANSWER_TIMEOUT`].
    #[error("the gateway at {0} does not answer; is it the gateway's port?")]
    NoAnswer(SocketAddr),
    /// The other end does not speak the protocol.
    #[error("this is not a gateway: it sent {0}")]
    Protocol(#[from] DecodeError),
    /// The other end speaks the protocol, out of turn.
    #[error("this is not a gateway: its message is out of turn")]
    OutOfTurn,
    /// The statistics are not those of this version.
    #[error("cannot read the gateway's statistics; is it of another version?")]
    Stats(#[from] serde_json::Error),
}

/// A connection on which the gateway has welcomed this node.
#[derive(Debug)]
pub struct GatewayLink {
    welcome: Welcome,
    sender: FrameSender,
    receiver: FrameReceiver,
}

/// Sends the guest's outputs and the node's announcements.
#[derive(Debug)]
pub struct FrameSender {
    stream: OwnedWriteHalf,
    out: Vec<u8>,
}

/// Receives the guest's inputs.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: OwnedReadHalf,
    inbox: Inbox,
}

/// What the gateway says to an attached node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// A frame for the guest.
    Frame(Vec<u8>),
    /// Somebody spoke with this higher token: this node must not speak (FAIL-6),
    /// and has lost its generation if it thinks otherwise (FAIL-3).
    Refused {
        /// The highest token that the gateway has heard.
        highest: Token,
    },
}

impl GatewayLink {
    /// Connects once, and waits for the gateway's welcome.
    pub async fn connect(address: SocketAddr, hello: Hello) -> Result<GatewayLink, LinkError> {
        let (mut receiver, sender) = open(address, &ToGateway::Hello(hello)).await?;
        let welcome = answer(address, &mut receiver, |message| match message {
            ToNode::Welcome(welcome) => Ok(welcome),
            ToNode::Rejected(why) => Err(why.into()),
            _ => Err(LinkError::OutOfTurn),
        });
        let welcome = welcome.await?;
        Ok(GatewayLink {
            welcome,
            sender,
            receiver,
        })
    }

    /// Connects, and tries again with growing pauses while nobody listens, for as
    /// long as `limit`. A rejection is final.
    pub async fn connect_within(
        address: SocketAddr,
        hello: Hello,
        limit: Duration,
    ) -> Result<GatewayLink, LinkError> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut pause = MIN_BACKOFF;
        loop {
            match GatewayLink::connect(address, hello.clone()).await {
                Err(LinkError::Connect { .. } | LinkError::Closed | LinkError::Broken(_))
                    if tokio::time::Instant::now() + pause < deadline =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_BACKOFF);
                }
                result => return result,
            }
        }
    }

    /// The network that the guest is on.
    pub fn welcome(&self) -> Welcome {
        self.welcome
    }

    /// The two directions, each for a task of its own.
    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }
}

/// Connects and sends the first message.
async fn open(
    address: SocketAddr,
    first: &ToGateway<'_>,
) -> Result<(FrameReceiver, FrameSender), LinkError> {
    let failed = |source| LinkError::Connect { address, source };
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let (reader, writer) = stream.into_split();
    let mut sender = FrameSender {
        stream: writer,
        out: Vec::new(),
    };
    sender.queue(first);
    sender.flush().await?;
    Ok((
        FrameReceiver {
            stream: reader,
            inbox: Inbox::default(),
        },
        sender,
    ))
}

/// The answer to the first message.
async fn answer<T>(
    address: SocketAddr,
    receiver: &mut FrameReceiver,
    take: impl FnOnce(ToNode<'_>) -> Result<T, LinkError>,
) -> Result<T, LinkError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, receiver.next_message(take)).await {
        Ok(result) => result,
        Err(_) => Err(LinkError::NoAnswer(address)),
    }
}

impl FrameSender {
    /// Sends frames in order, with as few system calls as possible. When it
    /// returns `Ok` all bytes are handed to the kernel: what OUT-3's `Released`
    /// may follow. Not cancel-safe: a dropped call leaves the connection broken.
    ///
    /// # Panics
    /// If a frame is longer than [`MAX_FRAME_LEN`], which no device sends.
    pub async fn send<F: AsRef<[u8]>>(
        &mut self,
        frames: impl IntoIterator<Item = F>,
    ) -> Result<(), LinkError> {
        for frame in frames {
            let frame = frame.as_ref();
            assert!(
                frame.len() <= MAX_FRAME_LEN,
                "a frame of {} bytes",
                frame.len()
            );
            self.queue(&ToGateway::Frame(frame));
        }
        self.flush().await
    }

    /// Says that the token has changed, or that this node goes live (FAIL-7).
    /// As [`send`](Self::send), it returns when the bytes are handed to the kernel.
    pub async fn announce(&mut self, token: Token, speaking: bool) -> Result<(), LinkError> {
        self.queue(&ToGateway::Announce(Announcement { token, speaking }));
        self.flush().await
    }

    fn queue(&mut self, message: &ToGateway<'_>) {
        message.encode(&mut self.out);
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        let result = self.stream.write_all(&self.out).await;
        self.out.clear();
        result.map_err(LinkError::Broken)
    }
}

impl FrameReceiver {
    /// The next thing that the gateway says. Cancel-safe: a dropped call loses
    /// nothing.
    pub async fn recv(&mut self) -> Result<LinkEvent, LinkError> {
        self.next_message(take_event).await
    }

    /// What the gateway has said that is here already, without waiting.
    pub fn try_recv(&mut self) -> Result<Option<LinkEvent>, LinkError> {
        self.inbox.next()?.map(take_event).transpose()
    }

    async fn next_message<T>(
        &mut self,
        take: impl FnOnce(ToNode<'_>) -> Result<T, LinkError>,
    ) -> Result<T, LinkError> {
        while !self.inbox.has_message()? {
            match self.stream.read(self.inbox.room()).await {
                Ok(0) => return Err(LinkError::Closed),
                Ok(len) => self.inbox.filled(len),
                Err(error) => return Err(LinkError::Broken(error)),
            }
        }
        take(self.inbox.next()?.ok_or(LinkError::OutOfTurn)?)
    }
}

fn take_event(message: ToNode<'_>) -> Result<LinkEvent, LinkError> {
    match message {
        ToNode::Frame(frame) => Ok(LinkEvent::Frame(frame.to_vec())),
        ToNode::Refused(highest) => Ok(LinkEvent::Refused { highest }),
        ToNode::Welcome(_) | ToNode::Rejected(_) | ToNode::Stats(_) => Err(LinkError::OutOfTurn),
    }
}

/// Asks a gateway for its statistics.
pub async fn query_stats(address: SocketAddr) -> Result<GatewayStats, LinkError> {
    let (mut receiver, _sender) = open(address, &ToGateway::Query).await?;
    let stats = answer(address, &mut receiver, |message| match message {
        ToNode::Stats(json) => Ok(serde_json::from_slice(json)?),
        ToNode::Rejected(why) => Err(why.into()),
        _ => Err(LinkError::OutOfTurn),
    });
    stats.await
}
