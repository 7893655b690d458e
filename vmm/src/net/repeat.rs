//! The frames that a guest may have missed when its port moves.
//!
//! A primary that dies has swallowed what it had received and its backup had not
//! acknowledged, and the peers' TCP would notice only at their retransmission
//! timeout (200 ms and more). So the gateway keeps what it forwarded to a guest
//! within the last window, and repeats it to the new speaker in the old order,
//! before anything newer. The window is the detection window before the guest was
//! last heard: while a guest is silent nothing ages, so that neither a slow
//! detection nor a slow arbiter turns into lost frames.
//!
//! ```text
//!    forwarded ──────► kept ──► a window older than the guest's last word,
//!    arrived while ──►  │       or over a bound: forgotten
//!    nobody speaks      └─ the port moves ──► repeated, unless surely handled
//! ```
//!
//! Ethernet and TCP take duplicates, so repeating too much is harmless to the
//! guest; but at full load a window holds tens of thousands of frames that the
//! new primary would have to work through first. So what the guest *surely*
//! handled is left out: a TCP segment that it acknowledged. The acknowledgement
//! was an output, and left only after the backup held every input before it
//! (OUT-1). Of the segments that carry nothing (bare acknowledgements), the last
//! of each flow says all.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::packet::{FrameBuf, TcpSegment};

/// Frames kept for one guest: a window of 600 ms at 100,000 frames a second is
/// far above what a replicated guest takes in.
pub const MAX_KEPT_FRAMES: usize = 65_536;

/// Bytes kept for one guest: 600 ms at some 50 MB/s, and what one VM may cost
/// the gateway's memory.
pub const MAX_KEPT_BYTES: usize = 32 << 20;

/// Nothing is kept longer than this for a guest that is silent: the peers' own
/// retransmissions have long taken over.
pub const MAX_SILENCE: Duration = Duration::from_secs(30);

struct Kept {
    at: Duration,
    frame: FrameBuf,
    /// Whether a speaker was there to take it when it came.
    delivered: bool,
}

/// An acknowledgement heard from the guest.
struct Heard {
    at: Duration,
    flow: Flow,
    ack: u32,
}

/// One direction of a TCP connection: (the peer's end, the guest's end).
type Flow = (SocketAddrV4, SocketAddrV4);

/// What to send to a new speaker, and how it came about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Repeat {
    /// In the order in which they first came.
    pub frames: Vec<FrameBuf>,
    /// How many of them had been forwarded to the speaker before.
    pub repeated: u64,
    /// How many came while nobody spoke and were never forwarded.
    pub held: u64,
    /// How many were left out because the guest surely handled them.
    pub handled: u64,
}

/// The kept frames of one guest's port. Times are given in from outside and
/// never go back.
pub struct KeptFrames {
    window: Duration,
    frames: VecDeque<Kept>,
    bytes: usize,
    acks: VecDeque<Heard>,
    /// When the guest was last heard.
    heard: Duration,
    speaking: bool,
    dropped: u64,
}

impl KeptFrames {
    /// Keeps frames for `window` before the guest's last word. Nobody speaks yet.
    pub fn new(window: Duration) -> Self {
        KeptFrames {
            window,
            frames: VecDeque::new(),
            bytes: 0,
            acks: VecDeque::new(),
            heard: Duration::ZERO,
            speaking: false,
            dropped: 0,
        }
    }

    /// A frame goes to the guest, or would if somebody spoke for it.
    pub fn handle_forward(&mut self, now: Duration, frame: FrameBuf) {
        self.expire(now);
        self.bytes += frame.len();
        self.frames.push_back(Kept {
            at: now,
            frame,
            delivered: self.speaking,
        });
        while self.frames.len() > MAX_KEPT_FRAMES || self.bytes > MAX_KEPT_BYTES {
            self.forget_oldest();
            self.dropped += 1;
        }
    }

    /// A frame came from the guest: it lives, and its acknowledgement is noted.
    pub fn handle_output(&mut self, now: Duration, frame: &[u8]) {
        self.heard = now;
        self.expire(now);
        let Some(tcp) = TcpSegment::parse(frame).filter(|tcp| tcp.flags.ack()) else {
            return;
        };
        let flow = (tcp.destination, tcp.source);
        self.acks.push_back(Heard {
            at: now,
            flow,
            ack: tcp.ack,
        });
        if self.acks.len() > MAX_KEPT_FRAMES {
            self.acks.pop_front();
        }
    }

    /// Nobody speaks for the guest from now on.
    pub fn handle_silence(&mut self) {
        self.speaking = false;
    }

    /// A new speaker has the port: hands out what it should see before anything
    /// newer. `moved` tells a move from the return of the same incarnation, which
    /// has what it was sent and gets only what came meanwhile.
    pub fn handle_speaker(&mut self, now: Duration, moved: bool) -> Repeat {
        self.expire(now);
        self.speaking = true;
        let mut repeat = Repeat::default();
        let plan = if moved {
            self.missed()
        } else {
            vec![true; self.frames.len()]
        };
        for (kept, missed) in self.frames.iter_mut().zip(plan) {
            if kept.delivered && !moved {
                continue;
            }
            if !missed {
                repeat.handled += 1;
                continue;
            }
            let count = if kept.delivered {
                &mut repeat.repeated
            } else {
                &mut repeat.held
            };
            *count += 1;
            repeat.frames.push(kept.frame.clone());
            // The new speaker may die as well.
            (kept.at, kept.delivered) = (now, true);
        }
        // What was not sent again keeps its time, so order by time must be made anew.
        self.frames.make_contiguous().sort_by_key(|kept| kept.at);
        repeat
    }

    /// For each kept frame, whether the guest may have missed it.
    fn missed(&self) -> Vec<bool> {
        // Later acknowledgements of a flow replace earlier ones.
        let acked: BTreeMap<Flow, u32> = self
            .acks
            .iter()
            .map(|heard| (heard.flow, heard.ack))
            .collect();
        let mut last_said = BTreeMap::new();
        let segments: Vec<_> = self
            .frames
            .iter()
            .map(|kept| TcpSegment::parse(&kept.frame))
            .collect();
        for (at, segment) in segments.iter().enumerate() {
            if let Some(tcp) = segment {
                last_said.insert((tcp.source, tcp.destination), at);
            }
        }
        let missed = |(at, segment): (usize, &Option<TcpSegment>)| {
            let Some(tcp) = segment else { return true };
            let flow = (tcp.source, tcp.destination);
            if tcp.flags.rst() || last_said[&flow] == at && tcp.sequence_len() == 0 {
                return true;
            }
            let end = tcp.seq.wrapping_add(tcp.sequence_len());
            let covered = |ack: u32| ack.wrapping_sub(end) < 1 << 31;
            tcp.sequence_len() > 0 && !acked.get(&flow).is_some_and(|ack| covered(*ack))
        };
        segments.iter().enumerate().map(missed).collect()
    }

    /// Forgets what is too old at `now`.
    pub fn expire(&mut self, now: Duration) {
        let (heard, window) = (self.heard, self.window);
        let too_old = |at: Duration| {
            heard.saturating_sub(at) > window || now.saturating_sub(at) > MAX_SILENCE
        };
        while self.frames.front().is_some_and(|kept| too_old(kept.at)) {
            self.forget_oldest();
        }
        while self.acks.front().is_some_and(|heard| too_old(heard.at)) {
            self.acks.pop_front();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(kept) = self.frames.pop_front() {
            self.bytes -= kept.frame.len();
        }
    }

    /// Whether there is anything that [`expire`](Self::expire) could forget.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.acks.is_empty()
    }

    /// Frames forgotten for space before their window was over.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::MacAddress;
    use super::super::packet::tests::{ACK, RST, SYN, TcpFrame};
    use super::*;

    const WINDOW: Duration = Duration::from_millis(600);
    const GUEST: (&str, u16) = ("10.0.2.15", 6379);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn plain(tag: u8) -> FrameBuf {
        vec![tag; 60].into()
    }

    fn tags(repeat: &Repeat) -> Vec<u8> {
        repeat.frames.iter().map(|frame| frame[0]).collect()
    }

    /// Somebody speaks from the start.
    fn spoken() -> KeptFrames {
        let mut kept = KeptFrames::new(WINDOW);
        kept.handle_speaker(ms(0), false);
        kept.handle_output(ms(0), &plain(0));
        kept
    }

    fn to_guest(port: u16, seq: u32, flags: u8, payload: &'static [u8]) -> FrameBuf {
        TcpFrame {
            macs: (MacAddress([2; 6]), MacAddress([4; 6])),
            from: ("10.0.2.2", port),
            to: GUEST,
            seq,
            ack: 0,
            flags,
            payload,
        }
        .build()
        .into()
    }

    fn ack_from_guest(port: u16, ack: u32) -> Vec<u8> {
        TcpFrame {
            macs: (MacAddress([4; 6]), MacAddress([2; 6])),
            from: GUEST,
            to: ("10.0.2.2", port),
            seq: 0,
            ack,
            flags: ACK,
            payload: b"",
        }
        .build()
    }

    #[test]
    fn repeats_the_window_in_order_and_nothing_older() {
        let mut kept = spoken();
        for (at, tag) in [(0, 1), (300, 2), (650, 3), (800, 4)] {
            kept.handle_forward(ms(at), plain(tag));
        }
        kept.handle_output(ms(900), &plain(0));
        let repeat = kept.handle_speaker(ms(900), true);
        assert_eq!(tags(&repeat), [2, 3, 4]);
        assert_eq!((repeat.repeated, repeat.held), (3, 0));
    }

    #[test]
    fn frames_do_not_age_while_the_guest_is_silent() {
        let mut kept = spoken();
        kept.handle_forward(ms(0), plain(1));
        kept.handle_forward(ms(900), plain(2));
        kept.handle_output(ms(1000), &plain(0));
        kept.handle_silence();
        kept.handle_forward(ms(5000), plain(3));
        let repeat = kept.handle_speaker(ms(9000), true);
        assert_eq!(tags(&repeat), [2, 3]);
        assert_eq!((repeat.repeated, repeat.held), (1, 1));
    }

    #[test]
    fn silence_has_an_end() {
        let mut kept = spoken();
        kept.handle_forward(ms(0), plain(1));
        kept.expire(MAX_SILENCE);
        assert!(!kept.is_empty());
        kept.expire(ms(1) + MAX_SILENCE);
        assert!(kept.is_empty());
    }

    #[test]
    fn a_speaker_that_returns_gets_only_what_came_meanwhile() {
        let mut kept = spoken();
        kept.handle_forward(ms(0), plain(1));
        kept.handle_silence();
        kept.handle_forward(ms(20), plain(2));
        assert_eq!(tags(&kept.handle_speaker(ms(30), false)), [2]);
    }

    #[test]
    fn what_was_repeated_is_kept_for_another_move() {
        let mut kept = spoken();
        kept.handle_forward(ms(0), plain(1));
        assert_eq!(tags(&kept.handle_speaker(ms(500), true)), [1]);
        kept.handle_output(ms(1000), &plain(0));
        kept.handle_forward(ms(700), plain(2));
        assert_eq!(tags(&kept.handle_speaker(ms(1000), true)), [1, 2]);
    }

    #[test]
    fn bounds_hold_and_what_they_cost_is_counted() {
        let mut kept = spoken();
        for _ in 0..MAX_KEPT_FRAMES + 3 {
            kept.handle_forward(ms(0), plain(1));
        }
        assert_eq!((kept.frames.len(), kept.dropped()), (MAX_KEPT_FRAMES, 3));

        let mut kept = spoken();
        let large: FrameBuf = vec![0; 60_000].into();
        for _ in 0..=MAX_KEPT_BYTES / large.len() {
            kept.handle_forward(ms(0), large.clone());
        }
        assert!(kept.bytes <= MAX_KEPT_BYTES);
        assert_eq!(kept.dropped(), 1);
    }

    #[test]
    fn acknowledged_segments_are_not_repeated() {
        let mut kept = spoken();
        let frames = [
            to_guest(1, 100, SYN, b""),
            to_guest(1, 101, ACK, b""),
            to_guest(1, 101, ACK, b"first"),
            to_guest(2, 900, ACK, b"another flow"),
            to_guest(1, 106, ACK, b"second"),
            to_guest(1, 112, ACK, b""),
        ];
        for frame in &frames {
            kept.handle_forward(ms(0), frame.clone());
        }
        kept.handle_output(ms(1), &ack_from_guest(1, 106));
        let repeat = kept.handle_speaker(ms(10), true);
        assert_eq!(repeat.frames, frames[3..]);
        assert_eq!((repeat.repeated, repeat.handled), (3, 3));
    }

    #[test]
    fn an_acknowledgement_amid_a_segment_does_not_cover_it() {
        let mut kept = spoken();
        kept.handle_forward(ms(0), to_guest(1, u32::MAX - 1, ACK, b"wraps"));
        kept.handle_output(ms(1), &ack_from_guest(1, 2));
        assert_eq!(kept.handle_speaker(ms(10), true).repeated, 1);
        kept.handle_output(ms(11), &ack_from_guest(1, 3));
        assert_eq!(kept.handle_speaker(ms(20), true).repeated, 0);
    }

    #[test]
    fn resets_and_what_is_not_tcp_are_repeated() {
        let mut kept = spoken();
        let frames = [to_guest(1, 5, RST, b""), to_guest(1, 5, ACK, b""), plain(7)];
        for frame in &frames {
            kept.handle_forward(ms(0), frame.clone());
        }
        kept.handle_output(ms(1), &ack_from_guest(1, 5));
        assert_eq!(kept.handle_speaker(ms(10), true).frames, frames);
    }
}
