//! One connection that speaks RESP2, and never makes another.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::PATIENCE;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(String),
    Error(String),
    Integer(i64),
    Bulk(Option<String>),
}

/// A connection to the guest's server.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the gateway listens"))
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a socket");
        let client = Client {
            stream: BufReader::new(stream),
        };
        client.set_patience(PATIENCE);
        client
    }

    /// For how long a reply is waited for.
    pub(crate) fn set_patience(&self, patience: Duration) {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(Some(patience)).expect("a socket");
    }

    /// Sends requests, without waiting for their replies.
    pub(crate) fn send(&mut self, requests: &[Vec<String>]) -> io::Result<()> {
        let mut bytes = String::new();
        for words in requests {
            bytes += &format!("*{}\r\n", words.len());
            words
                .iter()
                .for_each(|word| bytes += &format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(bytes.as_bytes())
    }

    /// The next reply; an error if the connection breaks or patience ends.
    pub(crate) fn receive(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let strange = || io::Error::new(ErrorKind::InvalidData, format!("a reply {line:?}"));
        let text = line.strip_suffix("\r\n").ok_or_else(strange)?;
        let (kind, rest) = text.split_at_checked(1).ok_or_else(strange)?;
        Ok(match (kind, rest.parse::<i64>()) {
            ("+", _) => Reply::Status(rest.to_owned()),
            ("-", _) => Reply::Error(rest.to_owned()),
            (":", Ok(number)) => Reply::Integer(number),
            ("$", Ok(-1)) => Reply::Bulk(None),
            ("$", Ok(len @ 0..)) => {
                let mut bytes = vec![0; len as usize + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(len as usize);
                Reply::Bulk(Some(String::from_utf8(bytes).map_err(|_| strange())?))
            }
            _ => return Err(strange()),
        })
    }

    /// Asks one thing.
    pub(crate) fn ask(&mut self, words: &[&str]) -> io::Result<Reply> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.send(&[words])?;
        self.receive()
    }

    /// Whether the server answers; for as long as patience lasts.
    pub(crate) fn pings(&mut self) -> bool {
        self.ask(&["PING"])
            .is_ok_and(|reply| reply == Reply::Status("PONG".to_owned()))
    }
}
