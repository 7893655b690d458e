use ft_logging::types::Generation;

use super::*;

const HOST: MacAddress = MacAddress([0x52, 0x55, 10, 0, 2, 2]);
const GUEST: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x15]);
const OTHER: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x16]);
const WINDOW: Duration = Duration::from_millis(600);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn token(generation: u64, won: bool) -> Token {
    Token {
        generation: Generation(generation),
        won,
    }
}

/// A frame whose payload says which one it is.
fn frame(to: MacAddress, from: MacAddress, tag: u8) -> FrameBuf {
    let mut bytes = vec![tag; 60];
    bytes[..6].copy_from_slice(&to.0);
    bytes[6..12].copy_from_slice(&from.0);
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes.into()
}

struct Net {
    switch: Switch,
}

impl Net {
    fn new(repeat: bool) -> Net {
        let repeat_window = repeat.then_some(WINDOW);
        Net {
            switch: Switch::new(SwitchConfig {
                host: HOST,
                repeat_window,
            }),
        }
    }

    fn attach(&mut self, life: u8, incarnation: u8) -> AttachmentId {
        let incarnation = Incarnation([incarnation; 16]);
        self.switch
            .handle_attach(Life([life; 16]), "vm", incarnation)
            .expect("there is room")
    }

    fn speaker(&mut self, life: u8, incarnation: u8, token: Token) -> AttachmentId {
        let who = self.attach(life, incarnation);
        self.announce(0, who, token);
        who
    }

    fn announce(&mut self, at: u64, who: AttachmentId, token: Token) {
        self.switch.handle_announce(
            ms(at),
            who,
            Announcement {
                token,
                speaking: true,
            },
        );
    }

    fn node_sends(&mut self, at: u64, who: AttachmentId, frame: FrameBuf) -> Verdict {
        self.switch
            .handle_frame(ms(at), Source::Attachment(who), frame)
    }

    fn host_sends(&mut self, at: u64, frame: FrameBuf) {
        assert_eq!(
            self.switch.handle_frame(ms(at), Source::Host, frame),
            Verdict::Accepted
        );
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.switch.poll_effect()).collect()
    }
}

use Effect::{Refuse, ToHost, ToNode};

#[test]
fn floods_what_it_does_not_know_and_learns() {
    let mut net = Net::new(true);
    let a = net.speaker(1, 1, token(1, false));
    let b = net.speaker(2, 2, token(1, false));

    let ask = frame(MacAddress::BROADCAST, HOST, 1);
    net.host_sends(0, ask.clone());
    assert_eq!(
        net.effects(),
        [ToNode(a, ask.clone()), ToNode(b, ask)],
        "broadcast"
    );

    let unknown = frame(OTHER, GUEST, 2);
    net.node_sends(0, a, unknown.clone());
    assert_eq!(
        net.effects(),
        [ToNode(b, unknown.clone()), ToHost(unknown)],
        "unknown unicast"
    );

    let known = frame(GUEST, OTHER, 3);
    net.node_sends(0, b, known.clone());
    assert_eq!(net.effects(), [ToNode(a, known)], "the address was learned");

    let to_host = frame(HOST, GUEST, 4);
    net.node_sends(0, a, to_host.clone());
    assert_eq!(net.effects(), [ToHost(to_host)]);

    net.node_sends(0, a, frame(GUEST, GUEST, 5));
    net.host_sends(0, frame(HOST, HOST, 6));
    assert_eq!(net.effects(), [], "nothing goes back to where it came from");
}

#[test]
fn learned_addresses_age() {
    let mut net = Net::new(false);
    let a = net.speaker(1, 1, token(1, false));
    let b = net.speaker(2, 2, token(1, false));
    net.node_sends(0, a, frame(HOST, GUEST, 1));
    net.effects();

    let late = MAC_AGE.as_millis() as u64 + 1;
    assert_eq!(net.switch.poll_timeout(), Some(HOUSEKEEPING));
    net.switch.handle_timeout(ms(late));
    assert_eq!(
        net.switch.poll_timeout(),
        None,
        "nothing is left that could age"
    );
    let unicast = frame(GUEST, HOST, 2);
    net.host_sends(late, unicast.clone());
    assert_eq!(
        net.effects(),
        [ToNode(a, unicast.clone()), ToNode(b, unicast)],
        "flooded"
    );
}

#[test]
fn sec_3_a_guest_takes_no_address_of_another() {
    let mut net = Net::new(true);
    let a = net.speaker(1, 1, token(1, false));
    let b = net.speaker(2, 2, token(1, false));
    net.node_sends(0, a, frame(HOST, GUEST, 1));
    net.effects();

    let bad_sources = [
        GUEST,
        HOST,
        MacAddress::BROADCAST,
        MacAddress([1, 0, 0, 0, 0, 9]),
    ];
    for source in bad_sources {
        assert_eq!(
            net.node_sends(1, b, frame(HOST, source, 2)),
            Verdict::Malformed,
            "{source}"
        );
    }
    for len in 0..HEADER_LEN {
        let short = frame(HOST, OTHER, 3)[..len].into();
        assert_eq!(
            net.node_sends(1, b, short),
            Verdict::Malformed,
            "{len} bytes"
        );
    }
    let long = vec![0; MAX_FRAME_LEN + 1].into();
    assert_eq!(net.node_sends(1, b, long), Verdict::Malformed);
    assert_eq!(net.effects(), []);
    assert_eq!(
        net.switch.counters().malformed,
        (bad_sources.len() + HEADER_LEN + 1) as u64
    );

    let late = MAC_AGE.as_millis() as u64 + 2;
    assert_eq!(
        net.node_sends(late, b, frame(HOST, GUEST, 4)),
        Verdict::Accepted,
        "unused for long"
    );
}

/// A VM that was stopped and is started anew has the same name and addresses, and another life.
#[test]
fn the_next_life_of_a_vm_has_the_addresses_of_the_last_one() {
    let mut net = Net::new(true);
    let first = net.speaker(1, 1, token(1, false));
    net.node_sends(0, first, frame(HOST, GUEST, 1));
    net.effects();
    let early = net.speaker(2, 2, token(1, false));
    assert_eq!(
        net.node_sends(1, early, frame(HOST, GUEST, 2)),
        Verdict::Malformed,
        "SEC-3: the first is still there"
    );
    net.switch.handle_detach(first);
    net.switch.handle_detach(early);

    let next = net.speaker(3, 3, token(1, false));
    net.effects();
    let request = frame(GUEST, HOST, 3);
    net.host_sends(2, request.clone());
    let sent = net.effects();
    assert!(sent.contains(&ToNode(next, request)), "{sent:?}");
    assert_eq!(
        net.node_sends(3, next, frame(HOST, GUEST, 4)),
        Verdict::Accepted
    );
}

#[test]
fn sec_3_a_guest_with_many_addresses_fills_only_its_own_table() {
    let mut net = Net::new(false);
    let a = net.speaker(1, 1, token(1, false));
    let b = net.speaker(2, 2, token(1, false));
    for n in 0..=255 {
        let source = MacAddress([2, 9, 9, 9, 9, n]);
        assert_eq!(
            net.node_sends(0, a, frame(HOST, source, 0)),
            Verdict::Accepted
        );
    }
    assert_eq!(net.switch.macs.len(), MAX_MACS_PER_PORT);
    net.node_sends(0, b, frame(HOST, GUEST, 0));
    assert!(net.switch.macs.contains_key(&GUEST));
}

#[test]
fn fail_6_one_1_only_the_speaker_is_heard() {
    let mut net = Net::new(true);
    let primary = net.speaker(1, 1, token(1, false));
    let backup = net.attach(1, 2);
    net.switch.handle_announce(
        ms(0),
        backup,
        Announcement {
            token: token(1, false),
            speaking: false,
        },
    );

    assert_eq!(
        net.node_sends(0, primary, frame(HOST, GUEST, 1)),
        Verdict::Accepted
    );
    net.effects();
    for tag in 2..4 {
        assert_eq!(
            net.node_sends(0, backup, frame(HOST, GUEST, tag)),
            Verdict::Refused
        );
    }
    assert_eq!(
        net.effects(),
        [Refuse(backup, token(1, false))],
        "told once"
    );
    assert_eq!(net.switch.counters().refused, 2);

    let input = frame(GUEST, HOST, 4);
    net.host_sends(0, input.clone());
    assert_eq!(
        net.effects(),
        [ToNode(primary, input)],
        "a backup gets nothing"
    );
}

#[test]
fn fail_6_a_higher_token_takes_the_port_at_once() {
    let mut net = Net::new(false);
    let primary = net.speaker(1, 1, token(1, false));
    net.node_sends(0, primary, frame(HOST, GUEST, 1));
    let backup = net.speaker(1, 2, token(1, true));

    let effects = net.effects();
    assert!(
        effects.contains(&Refuse(primary, token(1, true))),
        "the old speaker learns of it"
    );
    assert_eq!(
        net.node_sends(1, primary, frame(HOST, GUEST, 2)),
        Verdict::Refused
    );
    let input = frame(GUEST, HOST, 3);
    net.host_sends(1, input.clone());
    assert_eq!(
        net.effects(),
        [ToNode(backup, input)],
        "what was learned moved with the port"
    );

    net.announce(2, primary, token(1, false));
    assert_eq!(
        net.effects(),
        [Refuse(primary, token(1, true))],
        "and cannot come back"
    );
    let impostor = net.speaker(1, 3, token(1, true));
    assert_eq!(
        net.effects(),
        [Refuse(impostor, token(1, true))],
        "an equal token is another's"
    );
}

#[test]
fn fail_6_the_fence_outlives_disconnection() {
    let mut net = Net::new(true);
    let winner = net.speaker(1, 2, token(1, true));
    net.switch.handle_detach(winner);
    let stale = net.speaker(1, 1, token(1, false));
    assert_eq!(
        net.node_sends(2, stale, frame(HOST, GUEST, 1)),
        Verdict::Refused
    );
    assert_eq!(net.effects(), [Refuse(stale, token(1, true))]);
}

#[test]
fn lives_are_fenced_apart() {
    let mut net = Net::new(true);
    net.speaker(1, 1, token(9, true));
    let other_life = net.speaker(2, 1, token(1, false));
    assert_eq!(
        net.node_sends(0, other_life, frame(HOST, GUEST, 1)),
        Verdict::Accepted
    );
}

fn moved(net: &mut Net) -> (Move, Vec<u8>) {
    let mut summary = None;
    let mut tags = Vec::new();
    for effect in net.effects() {
        match effect {
            Effect::Moved(moved) => summary = Some(moved),
            ToNode(_, frame) => tags.push(frame[20]),
            ToHost(_) | Refuse(..) => {}
        }
    }
    (summary.expect("the port has moved"), tags)
}

#[test]
fn repeats_in_order_and_new_frames_come_after() {
    let mut net = Net::new(true);
    let primary = net.speaker(1, 1, token(1, false));
    net.node_sends(0, primary, frame(HOST, GUEST, 0));
    for (at, tag) in [(100, 1), (1000, 2), (1300, 3)] {
        net.host_sends(at, frame(GUEST, HOST, tag));
    }
    net.node_sends(1350, primary, frame(HOST, GUEST, 0));
    net.switch.handle_detach(primary);
    net.host_sends(1500, frame(GUEST, HOST, 4));
    net.effects();

    let backup = net.attach(1, 2);
    net.announce(1900, backup, token(1, true));
    net.host_sends(1900, frame(GUEST, HOST, 5));
    let (summary, tags) = moved(&mut net);
    assert_eq!(
        tags,
        [2, 3, 4, 5],
        "in order; the first was older than the window"
    );
    assert_eq!(
        (summary.repeated, summary.held, summary.at),
        (2, 1, ms(1900))
    );
    assert_eq!(
        (net.switch.counters().repeated, net.switch.counters().held),
        (2, 1)
    );
}

#[test]
fn no_repeat_keeps_nothing_and_says_what_was_lost() {
    let mut net = Net::new(false);
    let primary = net.speaker(1, 1, token(1, false));
    net.host_sends(0, frame(MacAddress::BROADCAST, HOST, 1));
    net.switch.handle_detach(primary);
    net.host_sends(2, frame(MacAddress::BROADCAST, HOST, 2));
    net.effects();
    net.speaker(1, 2, token(1, true));
    let (summary, tags) = moved(&mut net);
    assert_eq!(tags, [] as [u8; 0]);
    assert_eq!((summary.repeated, net.switch.counters().unheard), (0, 1));
}

#[test]
fn a_first_speaker_gets_what_came_before_it() {
    let mut net = Net::new(true);
    let primary = net.attach(1, 1);
    let early = frame(MacAddress::BROADCAST, HOST, 1);
    net.host_sends(0, early.clone());
    net.announce(3000, primary, token(1, false));
    assert_eq!(net.effects(), [ToNode(primary, early)]);
}

#[test]
fn the_same_incarnation_returning_is_no_move() {
    let mut net = Net::new(true);
    let first = net.speaker(1, 1, token(1, false));
    net.host_sends(0, frame(MacAddress::BROADCAST, HOST, 1));
    net.switch.handle_detach(first);
    let missed = frame(MacAddress::BROADCAST, HOST, 2);
    net.host_sends(2, missed.clone());
    net.effects();
    let again = net.speaker(1, 1, token(1, false));
    assert_eq!(
        net.effects(),
        [ToNode(again, missed)],
        "what it was sent is not repeated"
    );
}

#[test]
fn sec_2_lives_and_attachments_are_bounded() {
    let mut net = Net::new(true);
    let attach = |net: &mut Net, n: usize| {
        let mut life = [0; 16];
        life[..8].copy_from_slice(&n.to_le_bytes());
        net.switch
            .handle_attach(Life(life), "vm", Incarnation([0; 16]))
    };
    for n in 0..MAX_ATTACHMENTS {
        attach(&mut net, n).expect("within the bound");
    }
    assert_eq!(attach(&mut net, 0), Err(AttachError::TooManyAttachments));
    let all: Vec<_> = net.switch.attachments.keys().copied().collect();
    all.into_iter()
        .for_each(|who| net.switch.handle_detach(who));
    for n in 0..MAX_LIVES {
        let who = attach(&mut net, n).expect("within the bound");
        net.switch.handle_detach(who);
    }
    assert_eq!(attach(&mut net, MAX_LIVES), Err(AttachError::TooManyLives));
    attach(&mut net, 0).expect("a life that is known keeps its place");
}
