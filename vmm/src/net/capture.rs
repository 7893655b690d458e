//! Captures of what crosses a guest's port: writer, reader, and the question
//! that the demo asks of one.
//!
//! The format is libpcap's classic one with nanoseconds (magic `a1b23c4d`, written
//! little-endian here, either way read), link type Ethernet, so tcpdump and
//! Wireshark open it. Which way a frame went stands in its source address.
//!
//! ```text
//!   file header   magic:4 major:2 minor:2 zone:4 accuracy:4 snaplen:4 link:4
//!   each frame    seconds:4 nanoseconds:4 captured:4 length:4 frame:captured
//! ```

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::packet::{MAX_FRAME_LEN, TcpSegment, array};

/// A capture that grows beyond this stops, loudly: it must not fill the disk of
/// a host that keeps a VM running.
pub const MAX_CAPTURE_BYTES: u64 = 4 << 30;

/// How long a captured frame may wait in memory before it is written.
pub(super) const FLUSH_AFTER: Duration = Duration::from_millis(100);

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const MAGIC_MICROSECONDS: u32 = 0xa1b2_c3d4;
const LINKTYPE_ETHERNET: u32 = 1;
const FILE_HEADER_LEN: usize = 24;
const RECORD_HEADER_LEN: usize = 16;

/// Writes a capture.
pub struct CaptureWriter<W> {
    out: W,
}

impl<W: Write> CaptureWriter<W> {
    /// Writes the file header.
    pub fn new(mut out: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(FILE_HEADER_LEN);
        header.extend(MAGIC_NANOSECONDS.to_le_bytes());
        header.extend(2u16.to_le_bytes());
        header.extend(4u16.to_le_bytes());
        header.extend([0; 8]);
        header.extend((MAX_FRAME_LEN as u32).to_le_bytes());
        header.extend(LINKTYPE_ETHERNET.to_le_bytes());
        out.write_all(&header)?;
        Ok(CaptureWriter { out })
    }

    /// Appends a frame that crossed at `at`, counted from the Unix epoch.
    ///
    /// # Panics
    /// If the frame is longer than [`MAX_FRAME_LEN`].
    pub fn record(&mut self, at: Duration, frame: &[u8]) -> io::Result<()> {
        assert!(
            frame.len() <= MAX_FRAME_LEN,
            "the switch takes no longer frames"
        );
        let len = (frame.len() as u32).to_le_bytes();
        let mut header = [0; RECORD_HEADER_LEN];
        // The format's seconds end in 2106.
        header[0..4].copy_from_slice(&(at.as_secs() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&at.subsec_nanos().to_le_bytes());
        header[8..12].copy_from_slice(&len);
        header[12..16].copy_from_slice(&len);
        self.out.write_all(&header)?;
        self.out.write_all(frame)
    }

    /// Hands everything to the writer below.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A frame of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedFrame {
    /// When it crossed, counted from the Unix epoch.
    pub at: Duration,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Why a capture cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Reading failed.
    #[error("cannot read the capture")]
    Read(#[from] io::Error),
    /// It does not begin as a capture does.
    #[error(
        "this is no pcap capture of Ethernet frames (pcapng and other link types are not read)"
    )]
    Format,
    /// It ends amid a frame: its writer was cut off.
    #[error("the capture ends amid frame {frame}: its writer was killed or the disk is full")]
    Truncated {
        /// Counted from 0.
        frame: u64,
    },
    /// A frame's length is impossible.
    #[error(
        "frame {frame} of the capture claims {len} bytes (at most {MAX_FRAME_LEN} are possible)"
    )]
    Length {
        /// Counted from 0.
        frame: u64,
        /// What it claims.
        len: u32,
    },
}

/// Reads a capture frame by frame, in constant memory (SEC-2). Ends after the
/// first error.
pub struct CaptureReader<R> {
    input: R,
    big_endian: bool,
    nanoseconds: bool,
    frames: u64,
    ended: bool,
}

impl<R: Read> CaptureReader<R> {
    /// Reads the file header.
    pub fn new(mut input: R) -> Result<Self, CaptureError> {
        let mut header = [0; FILE_HEADER_LEN];
        input
            .read_exact(&mut header)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => CaptureError::Format,
                _ => CaptureError::Read(error),
            })?;
        let magic = array(&header, 0).expect("within the header");
        let (big_endian, nanoseconds) = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic))
        {
            (MAGIC_NANOSECONDS, _) => (false, true),
            (MAGIC_MICROSECONDS, _) => (false, false),
            (_, MAGIC_NANOSECONDS) => (true, true),
            (_, MAGIC_MICROSECONDS) => (true, false),
            _ => return Err(CaptureError::Format),
        };
        let reader = CaptureReader {
            input,
            big_endian,
            nanoseconds,
            frames: 0,
            ended: false,
        };
        if reader.number(&header, 20) != LINKTYPE_ETHERNET {
            return Err(CaptureError::Format);
        }
        Ok(reader)
    }

    fn number(&self, header: &[u8], at: usize) -> u32 {
        let bytes = array(header, at).expect("within the header");
        if self.big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    }

    fn read_frame(&mut self) -> Result<Option<CapturedFrame>, CaptureError> {
        let mut header = [0; RECORD_HEADER_LEN];
        let mut read = 0;
        while read < header.len() {
            match self.input.read(&mut header[read..]) {
                Ok(0) if read == 0 => return Ok(None),
                Ok(0) => return Err(CaptureError::Truncated { frame: self.frames }),
                Ok(len) => read += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let len = self.number(&header, 8);
        if len as usize > MAX_FRAME_LEN {
            return Err(CaptureError::Length {
                frame: self.frames,
                len,
            });
        }
        let mut frame = vec![0; len as usize];
        self.input
            .read_exact(&mut frame)
            .map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => CaptureError::Truncated { frame: self.frames },
                _ => CaptureError::Read(error),
            })?;
        self.frames += 1;
        let seconds = Duration::from_secs(self.number(&header, 0).into());
        let fraction = u64::from(self.number(&header, 4)) * if self.nanoseconds { 1 } else { 1000 };
        Ok(Some(CapturedFrame {
            at: seconds + Duration::from_nanos(fraction),
            frame,
        }))
    }
}

impl<R: Read> Iterator for CaptureReader<R> {
    type Item = Result<CapturedFrame, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read_frame().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

/// What a capture says about connections after a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reopened {
    /// Segments that open a connection (SYN without ACK), either way.
    pub opened: u64,
    /// Segments that reset one, either way.
    pub reset: u64,
}

/// Counts, from `after` on (since the Unix epoch), the segments to or from
/// `guest` that open or reset a connection. After a failover both should be 0:
/// the connections that were there went on.
pub fn connections_reopened<E>(
    frames: impl IntoIterator<Item = Result<CapturedFrame, E>>,
    after: Duration,
    guest: Ipv4Addr,
) -> Result<Reopened, E> {
    let mut reopened = Reopened::default();
    for captured in frames {
        let captured = captured?;
        let Some(tcp) = TcpSegment::parse(&captured.frame) else {
            continue;
        };
        if captured.at < after || (*tcp.source.ip() != guest && *tcp.destination.ip() != guest) {
            continue;
        }
        reopened.opened += u64::from(tcp.flags.syn() && !tcp.flags.ack());
        reopened.reset += u64::from(tcp.flags.rst());
    }
    Ok(reopened)
}

/// A capture on disk. A failing disk ends the capture, not the gateway.
pub(super) struct CaptureFile {
    writer: Option<CaptureWriter<BufWriter<File>>>,
    path: PathBuf,
    bytes: u64,
    frames: u64,
    error: Option<String>,
    unwritten_since: Option<Duration>,
}

impl CaptureFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let mut writer = CaptureWriter::new(BufWriter::new(File::create(path)?))?;
        writer.flush()?;
        Ok(CaptureFile {
            writer: Some(writer),
            path: path.to_owned(),
            bytes: FILE_HEADER_LEN as u64,
            frames: 0,
            error: None,
            unwritten_since: None,
        })
    }

    /// Records a frame that crosses at `now`, which is `unix` since the Unix epoch.
    pub(super) fn record(&mut self, now: Duration, unix: Duration, frame: &[u8]) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        let len = (RECORD_HEADER_LEN + frame.len()) as u64;
        let result = if self.bytes + len > MAX_CAPTURE_BYTES {
            Err(io::Error::other(format!(
                "it has reached {MAX_CAPTURE_BYTES} bytes"
            )))
        } else {
            writer.record(unix, frame)
        };
        match result {
            Ok(()) => {
                self.bytes += len;
                self.frames += 1;
                self.unwritten_since.get_or_insert(now);
            }
            Err(error) => self.fail(&error),
        }
    }

    pub(super) fn flush(&mut self) {
        self.unwritten_since = None;
        if let Some(Err(error)) = self.writer.as_mut().map(CaptureWriter::flush) {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(path = %self.path.display(), %error, "the capture stops here");
        self.error = Some(error.to_string());
        self.unwritten_since = None;
        // What is buffered is still worth a try; dropping the writer does that.
        self.writer = None;
    }

    /// When [`flush`](Self::flush) should be called.
    pub(super) fn flush_at(&self) -> Option<Duration> {
        self.unwritten_since.map(|since| since + FLUSH_AFTER)
    }

    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    pub(super) fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

#[cfg(test)]
#[path = "tests/capture.rs"]
mod tests;
