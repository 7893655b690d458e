//! How bytes travel between clients and servers, and between servers.
//!
//! ```text
//!   dialer                                  server
//!     magic "ftvm-tas", version u32 LE ────►
//!     frame: Hello                     ────►  knows whether it is meant
//!                                      ◄────  magic, version
//!                                      ◄────  frame: Welcome
//!     frame: request                   ────►
//!                                      ◄────  frame: response      (and so on, one by one)
//!
//!   frame: length u32 LE (at most MAX_FRAME_BYTES), then that many bytes of postcard
//! ```
//!
//! What always holds: no length from the other side makes this side reserve
//! memory for more than what really arrived, and no bytes make it panic (SEC-2).

mod messages;

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub use messages::{Hello, HelloRefusal, SeatId, Welcome, Whois};
pub(crate) use messages::{PeerRequest, PeerResponse, Request, Response};

/// What a connection begins with.
pub const MAGIC: [u8; 8] = *b"ftvm-tas";

/// The version of everything that follows. A change of it is a line in CHANGELOG.
pub const VERSION: u32 = 1;

/// The largest frame. The largest message is a batch of log entries, below 300 KB
/// (256 entries of two members with the longest names), or a snapshot's chunk.
pub const MAX_FRAME_BYTES: u32 = 1 << 20;

/// The largest hello: what a stranger may send before we know who it is.
pub const MAX_HELLO_BYTES: u32 = 1024;

/// What goes wrong on a connection.
#[derive(Debug, Error)]
pub enum WireError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side is something else.
    #[error("the other side is no arbiter")]
    NoArbiter,
    /// The other side speaks another version.
    #[error("the other side speaks version {0} of the arbiter's protocol, this program {VERSION}")]
    Version(u32),
    /// A frame is longer than its bound.
    #[error("a frame of {length} bytes, where at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        length: u32,
        /// The bound in bytes.
        max: u32,
    },
    /// A frame's bytes are not the message that was expected.
    #[error("a frame that is no message of this protocol")]
    Malformed,
    /// The server was not yet taken into a cluster.
    #[error("the server waits to be taken into a cluster")]
    Unjoined,
    /// The other side does not want us.
    #[error(transparent)]
    Refused(#[from] HelloRefusal),
}

/// Sends what a connection begins with.
pub async fn write_preamble(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), WireError> {
    let mut preamble = [0; 12];
    preamble[..8].copy_from_slice(&MAGIC);
    preamble[8..].copy_from_slice(&VERSION.to_le_bytes());
    Ok(stream.write_all(&preamble).await?)
}

/// Reads what a connection begins with, and checks that we understand each other.
pub async fn read_preamble(stream: &mut (impl AsyncRead + Unpin)) -> Result<(), WireError> {
    let mut magic = [0; 8];
    read_exact(stream, &mut magic).await?;
    if magic != MAGIC {
        return Err(WireError::NoArbiter);
    }
    match read_u32(stream).await? {
        VERSION => Ok(()),
        other => Err(WireError::Version(other)),
    }
}

/// Sends one message as a frame, in one write.
///
/// # Errors
/// [`WireError::TooLong`], with nothing sent, or the connection's failure.
pub async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> Result<(), WireError> {
    let mut frame = postcard::to_extend(message, vec![0; 4]).map_err(|_| WireError::Malformed)?;
    let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
    if length > MAX_FRAME_BYTES {
        return Err(WireError::TooLong {
            length,
            max: MAX_FRAME_BYTES,
        });
    }
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(stream.write_all(&frame).await?)
}

/// Reads one frame of at most `max` bytes.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: u32,
) -> Result<T, WireError> {
    let length = read_u32(stream).await?;
    if length > max {
        return Err(WireError::TooLong { length, max });
    }
    let mut body = Vec::new();
    stream.take(length.into()).read_to_end(&mut body).await?;
    if body.len() < length as usize {
        return Err(WireError::Closed);
    }
    match postcard::take_from_bytes(&body) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(WireError::Malformed),
    }
}

/// Dials a server at `host:port` and says hello.
///
/// # Errors
/// [`WireError::Refused`] when the server does not want to talk.
pub async fn dial(address: &str, hello: &Hello) -> Result<(TcpStream, Whois), WireError> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    write_preamble(&mut stream).await?;
    write_frame(&mut stream, hello).await?;
    read_preamble(&mut stream).await?;
    match read_frame(&mut stream, MAX_HELLO_BYTES).await? {
        Welcome::Accepted(whois) => Ok((stream, whois)),
        Welcome::Refused(refusal) => Err(refusal.into()),
    }
}

async fn read_u32(stream: &mut (impl AsyncRead + Unpin)) -> Result<u32, WireError> {
    let mut bytes = [0; 4];
    read_exact(stream, &mut bytes).await?;
    Ok(u32::from_le_bytes(bytes))
}

async fn read_exact(
    stream: &mut (impl AsyncRead + Unpin),
    bytes: &mut [u8],
) -> Result<(), WireError> {
    match stream.read_exact(bytes).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(WireError::Closed),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{ClusterId, ServerId};

    fn ready<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn frame(message: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        ready(write_frame(&mut bytes, message)).unwrap();
        bytes
    }

    fn hello() -> Hello {
        let seat = SeatId {
            server: ServerId(3),
            store: crate::types::StoreId([7; 16]),
        };
        Hello::Peer {
            cluster: ClusterId([9; 16]),
            from: seat,
            to: seat,
        }
    }

    /// The bytes of version 1.
    #[test]
    fn golden_bytes() {
        let mut preamble = Vec::new();
        ready(write_preamble(&mut preamble)).unwrap();
        assert_eq!(preamble, b"ftvm-tas\x01\0\0\0");
        assert_eq!(frame(&Hello::Client { cluster: None }), [2, 0, 0, 0, 0, 0]);
        let mut expected = vec![51, 0, 0, 0, 1];
        expected.extend([9; 16]);
        for _ in 0..2 {
            expected.push(3);
            expected.extend([7; 16]);
        }
        assert_eq!(frame(&hello()), expected);
    }

    #[test]
    fn a_frame_comes_back() {
        let bytes = frame(&hello());
        let back = ready(read_frame::<Hello>(&mut bytes.as_slice(), MAX_HELLO_BYTES)).unwrap();
        assert_eq!(back, hello());
    }

    #[test]
    fn strangers_and_other_versions_are_told_apart() {
        let read = |mut bytes: &[u8]| ready(read_preamble(&mut bytes)).unwrap_err();
        assert!(matches!(
            read(b"GET / HTTP/1.1\r\n\r\n"),
            WireError::NoArbiter
        ));
        assert!(matches!(read(b"ftvm-tas\x02\0\0\0"), WireError::Version(2)));
        assert!(matches!(read(b"ftvm-"), WireError::Closed));
    }

    /// SEC-2: a length is checked before memory is reserved for it, and what it
    /// promises must come.
    #[test]
    fn sec_2_lengths_are_bounded() {
        let read = |bytes: Vec<u8>| {
            ready(read_frame::<Hello>(&mut bytes.as_slice(), MAX_HELLO_BYTES)).unwrap_err()
        };
        assert!(matches!(read(vec![255; 4]), WireError::TooLong { .. }));
        assert!(matches!(read(vec![1, 4, 0, 0]), WireError::TooLong { .. }));
        assert!(matches!(read(vec![0, 4, 0, 0, 1]), WireError::Closed));
        assert!(matches!(read(vec![2, 0]), WireError::Closed));
        let mut long = frame(&hello());
        long[0] += 1;
        long.push(0);
        assert!(matches!(read(long), WireError::Malformed), "trailing bytes");
        let huge = vec![0u8; MAX_FRAME_BYTES as usize + 1];
        let sent = ready(write_frame(&mut Vec::new(), &huge));
        assert!(matches!(sent, Err(WireError::TooLong { .. })));
    }

    proptest! {
        /// SEC-2: whatever bytes come, reading them ends, with a message or an error.
        #[test]
        fn sec_2_no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
            bytes.extend(&body);
            fn read<T: DeserializeOwned>(mut bytes: &[u8]) {
                let _ = ready(read_frame::<T>(&mut bytes, MAX_FRAME_BYTES));
            }
            for bytes in [&bytes, &body] {
                let _ = ready(read_preamble(&mut bytes.as_slice()));
                read::<Hello>(bytes);
                read::<Welcome>(bytes);
                read::<Request>(bytes);
                read::<Response>(bytes);
                read::<PeerRequest>(bytes);
                read::<PeerResponse>(bytes);
            }
        }
    }
}
