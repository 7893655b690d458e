//! The learning switch, pure: frames and announcements in, effects out.
//!
//! ```text
//!   host stack ─┐                     ┌─ attachment (speaks)    ◄─ frames cross
//!               ├─ MAC table ─ guest's┤
//!   other guests┘              port   └─ attachment (listens)   ◄─ frames refused
//! ```
//!
//! A port belongs to a guest, that is to a life, not to a connection: MAC
//! addresses are learned at ports, and a move changes the one attachment behind
//! the port, so everything that was learned moves with it at once. What always
//! holds:
//!
//! * only the attachment that the port's [`Fence`] names sends and receives
//!   (FAIL-6, ONE-1); everyone else's frames are refused and counted;
//! * a frame reaches each port at most once and never its own;
//! * a guest takes no address of the gateway's or of another guest (SEC-3), but
//!   the next life of a VM has those of the last one, which has no node any more;
//! * every table is bounded (SEC-2).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ft_logging::types::{Incarnation, Life, Token};

use super::fence::{Announcement, AttachmentId, Fence, Verdict as FenceVerdict};
use super::packet::{self, FrameBuf, HEADER_LEN, MAX_FRAME_LEN, MacAddress};
use super::repeat::KeptFrames;

/// Lives that the switch remembers. A fence must not be forgotten, so at the
/// bound new lives are turned away instead.
pub const MAX_LIVES: usize = 1024;

/// Nodes attached at a time: some for each life that is likely to be up.
pub const MAX_ATTACHMENTS: usize = 256;

/// Addresses learned at one guest's port; a guest that claims more harms only
/// itself (its further addresses are flooded).
pub const MAX_MACS_PER_PORT: usize = 32;

/// How long an unused address is remembered: what Linux's bridge does.
pub const MAC_AGE: Duration = Duration::from_secs(300);

/// How often old addresses and kept frames are looked for when nothing happens.
pub const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// How a switch behaves.
#[derive(Debug, Clone, Copy)]
pub struct SwitchConfig {
    /// The gateway's own address: never learned anywhere else.
    pub host: MacAddress,
    /// For how long before a guest's last word frames are kept for repeating;
    /// `None` keeps and repeats nothing.
    pub repeat_window: Option<Duration>,
}

/// Where a frame enters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The gateway's own stack.
    Host,
    /// A node.
    Attachment(AttachmentId),
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was forwarded to wherever it should go, maybe nowhere.
    Accepted,
    /// Its sender does not speak for the guest.
    Refused,
    /// It is no Ethernet frame, or uses an address that is not its sender's.
    Malformed,
}

/// What the switch wants done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Give the frame to the gateway's own stack.
    ToHost(FrameBuf),
    /// Send the frame to a node: it crosses the guest's port.
    ToNode(AttachmentId, FrameBuf),
    /// Tell a node that it may not speak.
    Refuse(AttachmentId, Token),
    /// A guest's port has moved (for the log and the statistics).
    Moved(Move),
}

/// A guest's port moved to another incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// When.
    pub at: Duration,
    /// Which guest.
    pub life: Life,
    /// With which token.
    pub token: Token,
    /// Frames sent to the new speaker that had been sent to the old one.
    pub repeated: u64,
    /// Frames sent to the new speaker that had come while nobody spoke.
    pub held: u64,
    /// Kept frames that the guest had acknowledged and that were left out.
    pub handled: u64,
}

/// Why a node cannot attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachError {
    /// [`MAX_LIVES`] are known already.
    TooManyLives,
    /// [`MAX_ATTACHMENTS`] are attached already.
    TooManyAttachments,
}

/// What the switch has counted since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames accepted from guests.
    pub from_guests: u64,
    /// Frames sent to guests, repeated ones included.
    pub to_guests: u64,
    /// Frames of nodes that do not speak.
    pub refused: u64,
    /// Frames that are none, or have a source address that is not theirs.
    pub malformed: u64,
    /// Frames for a guest that nobody spoke for and that were not kept.
    pub unheard: u64,
    /// Frames sent again after a move.
    pub repeated: u64,
    /// Frames delivered late: they came while nobody spoke.
    pub held: u64,
}

struct Port {
    name: String,
    fence: Fence,
    kept: Option<KeptFrames>,
    macs: usize,
}

struct Attachment {
    life: Life,
    incarnation: Incarnation,
    /// The token of the last refusal that the node was told.
    told: Option<Token>,
}

#[derive(Debug, Clone, Copy)]
struct Learned {
    life: Life,
    seen: Duration,
}

/// One guest's port, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortReport {
    /// The VM's name, as its nodes say it.
    pub name: String,
    /// The VM's life.
    pub life: Life,
    /// The highest token spoken with.
    pub highest: Option<Token>,
    /// Who spoke with it.
    pub holder: Option<Incarnation>,
    /// Whether the holder is connected and speaks.
    pub speaking: bool,
    /// Kept frames forgotten for space.
    pub kept_dropped: u64,
}

/// The switch. All times are durations since one moment of the caller's choice
/// and never go back.
pub struct Switch {
    config: SwitchConfig,
    ports: BTreeMap<Life, Port>,
    attachments: BTreeMap<AttachmentId, Attachment>,
    macs: BTreeMap<MacAddress, Learned>,
    effects: VecDeque<Effect>,
    counters: Counters,
    next_attachment: u64,
    housekeeping: Option<Duration>,
}

impl Switch {
    /// A switch that knows nobody.
    pub fn new(config: SwitchConfig) -> Self {
        Switch {
            config,
            ports: BTreeMap::new(),
            attachments: BTreeMap::new(),
            macs: BTreeMap::new(),
            effects: VecDeque::new(),
            counters: Counters::default(),
            next_attachment: 0,
            housekeeping: None,
        }
    }

    /// A node connects and says who it is; it listens until it announces
    /// otherwise. A life that was never seen gets a port.
    pub fn handle_attach(
        &mut self,
        life: Life,
        name: &str,
        incarnation: Incarnation,
    ) -> Result<AttachmentId, AttachError> {
        if self.attachments.len() >= MAX_ATTACHMENTS {
            return Err(AttachError::TooManyAttachments);
        }
        if !self.ports.contains_key(&life) {
            if self.ports.len() >= MAX_LIVES {
                return Err(AttachError::TooManyLives);
            }
            let port = Port {
                name: name.to_owned(),
                fence: Fence::default(),
                kept: self.config.repeat_window.map(KeptFrames::new),
                macs: 0,
            };
            self.ports.insert(life, port);
        }
        let id = AttachmentId(self.next_attachment);
        self.next_attachment += 1;
        self.attachments.insert(
            id,
            Attachment {
                life,
                incarnation,
                told: None,
            },
        );
        Ok(id)
    }

    /// A node announces its token, and whether it speaks (FAIL-6, FAIL-7).
    ///
    /// # Panics
    /// If `who` is not attached.
    pub fn handle_announce(&mut self, now: Duration, who: AttachmentId, said: Announcement) {
        let (attachment, port) = self.attachment(who);
        match port
            .fence
            .handle_announce(who, attachment.incarnation, said)
        {
            FenceVerdict::Listens => {
                attachment.told = None;
                self.note_silence(who);
            }
            FenceVerdict::Refused { highest } => {
                attachment.told = Some(highest);
                self.effects.push_back(Effect::Refuse(who, highest));
                self.note_silence(who);
            }
            FenceVerdict::Speaks { before, moved } => {
                attachment.told = None;
                // The node that lost its voice learns it at once (FAIL-3); an older
                // connection of the same one has nothing to learn.
                if let Some(before) = before.filter(|_| moved) {
                    self.refuse_once(before, said.token);
                }
                self.speak(now, who, said.token, moved);
            }
        }
    }

    /// `who` has just become the speaker: it gets what it may have missed.
    fn speak(&mut self, now: Duration, who: AttachmentId, token: Token, moved: bool) {
        let life = self.attachments[&who].life;
        self.succeed(life);
        let kept = self
            .ports
            .get_mut(&life)
            .and_then(|port| port.kept.as_mut());
        let repeat = kept
            .map(|kept| kept.handle_speaker(now, moved))
            .unwrap_or_default();
        if moved {
            let (repeated, held) = (repeat.repeated, repeat.held);
            let handled = repeat.handled;
            self.effects.push_back(Effect::Moved(Move {
                at: now,
                life,
                token,
                repeated,
                held,
                handled,
            }));
        }
        self.counters.repeated += repeat.repeated;
        self.counters.held += repeat.held;
        self.counters.to_guests += repeat.frames.len() as u64;
        self.effects.extend(
            repeat
                .frames
                .into_iter()
                .map(|frame| Effect::ToNode(who, frame)),
        );
    }

    /// A node's connection is gone.
    ///
    /// # Panics
    /// If `who` is not attached.
    pub fn handle_detach(&mut self, who: AttachmentId) {
        self.attachment(who).1.fence.handle_detach(who);
        self.note_silence(who);
        self.attachments.remove(&who);
    }

    /// A frame enters the switch.
    ///
    /// # Panics
    /// If it comes from a node that is not attached.
    pub fn handle_frame(&mut self, now: Duration, from: Source, frame: FrameBuf) -> Verdict {
        let home = match from {
            Source::Host => None,
            Source::Attachment(who) => {
                let (attachment, port) = self.attachment(who);
                let life = attachment.life;
                if port.fence.speaker() != Some(who) {
                    let highest = port.fence.highest();
                    self.counters.refused += 1;
                    if let Some(highest) = highest {
                        self.refuse_once(who, highest);
                    }
                    return Verdict::Refused;
                }
                if !self.learn(now, life, &frame) {
                    self.counters.malformed += 1;
                    return Verdict::Malformed;
                }
                self.counters.from_guests += 1;
                if let Some(kept) = self
                    .ports
                    .get_mut(&life)
                    .and_then(|port| port.kept.as_mut())
                {
                    kept.handle_output(now, &frame);
                }
                Some(life)
            }
        };
        self.forward(now, home, frame);
        Verdict::Accepted
    }

    /// Learns the sender's address; `false` if the frame may not be from it.
    fn learn(&mut self, now: Duration, life: Life, frame: &[u8]) -> bool {
        let Some(source) = packet::source(frame) else {
            return false;
        };
        if frame.len() < HEADER_LEN
            || frame.len() > MAX_FRAME_LEN
            || source.is_multicast()
            || source == self.config.host
        {
            return false;
        }
        self.housekeeping.get_or_insert(now + HOUSEKEEPING);
        if let Some(known) = self.macs.get_mut(&source) {
            if known.life == life {
                known.seen = now;
                return true;
            }
            // It stays where it is until it is unused there for MAC_AGE.
            if now.saturating_sub(known.seen) <= MAC_AGE {
                return false;
            }
            self.forget(source);
        }
        if let Some(port) = self.ports.get_mut(&life)
            && port.macs < MAX_MACS_PER_PORT
        {
            port.macs += 1;
            self.macs.insert(source, Learned { life, seen: now });
        }
        true
    }

    /// Forgets where the addresses of earlier lives of the same VM are, unless a
    /// node of theirs is attached: a VM that is started anew would otherwise stay
    /// unheard for [`MAC_AGE`].
    fn succeed(&mut self, life: Life) {
        let name = &self.ports[&life].name;
        let is_over = |other: Life| {
            other != life
                && self.ports[&other].name == *name
                && self.attachments.values().all(|node| node.life != other)
        };
        let old = self.macs.iter().filter(|(_, known)| is_over(known.life));
        let old: Vec<MacAddress> = old.map(|(mac, _)| *mac).collect();
        old.into_iter().for_each(|mac| self.forget(mac));
    }

    fn forget(&mut self, mac: MacAddress) {
        if let Some(port) = self
            .macs
            .remove(&mac)
            .and_then(|known| self.ports.get_mut(&known.life))
        {
            port.macs -= 1;
        }
    }

    /// Sends a frame to where its destination is, or to everyone else's port if
    /// that is not one known place.
    fn forward(&mut self, now: Duration, home: Option<Life>, frame: FrameBuf) {
        let Some(destination) = packet::destination(&frame) else {
            return;
        };
        if destination == self.config.host {
            if home.is_some() {
                self.effects.push_back(Effect::ToHost(frame));
            }
            return;
        }
        if let Some(known) = self.macs.get(&destination) {
            let life = known.life;
            if home != Some(life) {
                self.deliver(now, life, frame);
            }
            return;
        }
        let lives: Vec<Life> = self
            .ports
            .keys()
            .copied()
            .filter(|life| home != Some(*life))
            .collect();
        for life in lives {
            self.deliver(now, life, frame.clone());
        }
        if home.is_some() {
            self.effects.push_back(Effect::ToHost(frame));
        }
    }

    /// Sends a frame through one guest's port, or keeps it until somebody speaks.
    fn deliver(&mut self, now: Duration, life: Life, frame: FrameBuf) {
        let Some(port) = self.ports.get_mut(&life) else {
            return;
        };
        if let Some(kept) = &mut port.kept {
            kept.handle_forward(now, frame.clone());
            self.housekeeping.get_or_insert(now + HOUSEKEEPING);
        }
        match port.fence.speaker() {
            Some(speaker) => {
                self.counters.to_guests += 1;
                self.effects.push_back(Effect::ToNode(speaker, frame));
            }
            None if port.kept.is_none() => self.counters.unheard += 1,
            None => {}
        }
    }

    /// Tells a node once per highest token that it may not speak.
    fn refuse_once(&mut self, who: AttachmentId, highest: Token) {
        if let Some(attachment) = self.attachments.get_mut(&who)
            && attachment.told.replace(highest) != Some(highest)
        {
            self.effects.push_back(Effect::Refuse(who, highest));
        }
    }

    /// If nobody speaks at the port of `who` now, its frames are held.
    fn note_silence(&mut self, who: AttachmentId) {
        let (_, port) = self.attachment(who);
        if port.fence.speaker().is_none()
            && let Some(kept) = &mut port.kept
        {
            kept.handle_silence();
        }
    }

    fn attachment(&mut self, who: AttachmentId) -> (&mut Attachment, &mut Port) {
        let attachment = self.attachments.get_mut(&who);
        let attachment = attachment.unwrap_or_else(|| panic!("{who:?} is not attached"));
        let port = self.ports.get_mut(&attachment.life);
        (attachment, port.expect("an attachment's life has a port"))
    }

    /// When [`handle_timeout`](Self::handle_timeout) should be called next, if ever.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.housekeeping
    }

    /// Forgets old addresses and old kept frames.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.housekeeping.is_none_or(|at| now < at) {
            return;
        }
        let old: Vec<MacAddress> = self
            .macs
            .iter()
            .filter(|(_, known)| now.saturating_sub(known.seen) > MAC_AGE)
            .map(|(mac, _)| *mac)
            .collect();
        old.into_iter().for_each(|mac| self.forget(mac));
        let mut anything = !self.macs.is_empty();
        for kept in self
            .ports
            .values_mut()
            .filter_map(|port| port.kept.as_mut())
        {
            kept.expire(now);
            anything |= !kept.is_empty();
        }
        self.housekeeping = anything.then_some(now + HOUSEKEEPING);
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The guests' ports, by life.
    pub fn ports(&self) -> impl Iterator<Item = PortReport> {
        self.ports.iter().map(|(life, port)| PortReport {
            name: port.name.clone(),
            life: *life,
            highest: port.fence.highest(),
            holder: port.fence.holder(),
            speaking: port.fence.speaker().is_some(),
            kept_dropped: port.kept.as_ref().map_or(0, KeptFrames::dropped),
        })
    }
}

#[cfg(test)]
#[path = "tests/switch.rs"]
mod tests;
