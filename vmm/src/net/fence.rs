//! Who may speak for a VM: FAIL-6 and ONE-1 at the gateway.
//!
//! A fence belongs to one life. It holds the highest token that was ever
//! announced by someone who spoke, and who that was. What always holds:
//!
//! * at most one attachment speaks, and it announced exactly the highest token;
//! * the highest token never falls, whoever connects, disconnects or lies;
//! * a token belongs to the incarnation that spoke with it first, for ever.
//!
//! ```text
//!   (state)            announcement                     (state')
//!   any                does not speak                   speaker cleared if it was this one
//!   any                speaks, token >  highest         speaks: highest, holder, speaker = its own
//!   any                speaks, token == highest, holder speaks again: speaker = its own
//!   any                speaks, otherwise                refused; speaker cleared if it was this one
//! ```

use ft_logging::types::{Incarnation, Token};

/// One connection of a node to the gateway. The gateway never uses an id twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttachmentId(pub u64);

/// What a node says about itself when it connects and when it goes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// The node's token.
    pub token: Token,
    /// Whether the node speaks for the guest: a primary does, a backup does not
    /// until it has won.
    pub speaking: bool,
}

/// What an announcement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The node is attached and does not speak.
    Listens,
    /// The node speaks now. `before` spoke until now, if anyone did and is another.
    Speaks {
        /// The attachment that lost its voice.
        before: Option<AttachmentId>,
        /// Whether another incarnation held the port: the guest has moved.
        moved: bool,
    },
    /// The token is too low, or is another's.
    Refused {
        /// The token that would have to be exceeded.
        highest: Token,
    },
}

/// The fence of one life. It outlives every connection.
#[derive(Debug, Default)]
pub struct Fence {
    /// The highest token spoken with, and by whom.
    held: Option<(Token, Incarnation)>,
    speaker: Option<AttachmentId>,
}

impl Fence {
    /// Judges an announcement; the module's table.
    pub fn handle_announce(
        &mut self,
        who: AttachmentId,
        incarnation: Incarnation,
        Announcement { token, speaking }: Announcement,
    ) -> Verdict {
        if !speaking {
            self.handle_detach(who);
            return Verdict::Listens;
        }
        match self.held {
            Some((highest, holder))
                if token < highest || (token == highest && incarnation != holder) =>
            {
                self.handle_detach(who);
                Verdict::Refused { highest }
            }
            held => {
                self.held = Some((token, incarnation));
                let before = self.speaker.replace(who).filter(|before| *before != who);
                let moved = held.is_some_and(|(_, holder)| holder != incarnation);
                Verdict::Speaks { before, moved }
            }
        }
    }

    /// The connection is gone; the highest token stays.
    pub fn handle_detach(&mut self, who: AttachmentId) {
        if self.speaker == Some(who) {
            self.speaker = None;
        }
    }

    /// The one attachment whose frames count, if it is connected.
    pub fn speaker(&self) -> Option<AttachmentId> {
        self.speaker
    }

    /// The highest token that was ever spoken with.
    pub fn highest(&self) -> Option<Token> {
        self.held.map(|(token, _)| token)
    }

    /// The incarnation that spoke with it.
    pub fn holder(&self) -> Option<Incarnation> {
        self.held.map(|(_, holder)| holder)
    }
}

#[cfg(test)]
mod tests {
    use ft_logging::types::Generation;

    use super::*;
    use Verdict::{Listens, Refused, Speaks};

    const fn token(generation: u64, won: bool) -> Token {
        Token {
            generation: Generation(generation),
            won,
        }
    }

    #[test]
    fn tokens_are_ordered_by_generation_then_by_winning() {
        let order = [
            token(1, false),
            token(1, true),
            token(2, false),
            token(2, true),
        ];
        assert!(order.is_sorted_by(|a, b| a < b));
    }

    const FIRST: Verdict = Speaks {
        before: None,
        moved: false,
    };

    fn speaks_after(before: u64) -> Verdict {
        Speaks {
            before: Some(AttachmentId(before)),
            moved: true,
        }
    }

    /// FAIL-6, ONE-1: each row is (attachment, incarnation, token, speaking) and
    /// the verdict; the rows of a case are said one after the other.
    #[test]
    fn fail_6_one_1_the_table() {
        type Row = (u64, u8, Token, bool, Verdict);
        let cases: &[(&str, &[Row])] = &[
            (
                "a backup listens until it wins; then the port moves",
                &[
                    (1, 1, token(1, false), true, FIRST),
                    (2, 2, token(1, false), false, Listens),
                    (2, 2, token(1, true), true, speaks_after(1)),
                ],
            ),
            (
                "a lower token is refused",
                &[
                    (1, 1, token(2, false), true, FIRST),
                    (
                        2,
                        2,
                        token(1, true),
                        true,
                        Refused {
                            highest: token(2, false),
                        },
                    ),
                    (
                        2,
                        2,
                        token(1, false),
                        true,
                        Refused {
                            highest: token(2, false),
                        },
                    ),
                ],
            ),
            (
                "an equal token of another incarnation is refused",
                &[
                    (1, 1, token(1, true), true, FIRST),
                    (
                        2,
                        2,
                        token(1, true),
                        true,
                        Refused {
                            highest: token(1, true),
                        },
                    ),
                ],
            ),
            (
                "the same incarnation may connect again",
                &[
                    (1, 1, token(1, false), true, FIRST),
                    (
                        2,
                        1,
                        token(1, false),
                        true,
                        Speaks {
                            before: Some(AttachmentId(1)),
                            moved: false,
                        },
                    ),
                ],
            ),
            (
                "the same node in the next generation has not moved",
                &[
                    (1, 1, token(1, true), true, FIRST),
                    (1, 1, token(2, false), true, FIRST),
                ],
            ),
            (
                "a listener's token does not raise the fence",
                &[
                    (2, 2, token(9, true), false, Listens),
                    (1, 1, token(1, false), true, FIRST),
                ],
            ),
            (
                "a speaker that steps back is refused",
                &[
                    (1, 1, token(2, false), true, FIRST),
                    (
                        1,
                        1,
                        token(1, false),
                        true,
                        Refused {
                            highest: token(2, false),
                        },
                    ),
                ],
            ),
        ];
        for (name, rows) in cases {
            let mut fence = Fence::default();
            for &(who, incarnation, token, speaking, expected) in *rows {
                let verdict = fence.handle_announce(
                    AttachmentId(who),
                    Incarnation([incarnation; 16]),
                    Announcement { token, speaking },
                );
                assert_eq!(verdict, expected, "{name}: {who} with {token}");
                let speaks = matches!(verdict, Speaks { .. });
                assert_eq!(fence.speaker() == Some(AttachmentId(who)), speaks, "{name}");
            }
        }
    }

    #[test]
    fn fail_6_the_fence_outlives_every_connection() {
        let mut fence = Fence::default();
        let announce = |fence: &mut Fence, who, incarnation, token| {
            fence.handle_announce(
                AttachmentId(who),
                Incarnation([incarnation; 16]),
                Announcement {
                    token,
                    speaking: true,
                },
            )
        };
        announce(&mut fence, 1, 1, token(3, true));
        fence.handle_detach(AttachmentId(1));
        assert_eq!(fence.speaker(), None);
        let highest = token(3, true);
        assert_eq!(
            announce(&mut fence, 2, 2, token(3, false)),
            Refused { highest }
        );
        assert_eq!(announce(&mut fence, 3, 1, token(3, true)), FIRST);
    }

    proptest::proptest! {
        /// ONE-1: whatever is announced in whatever order, the highest token never
        /// falls and each token has spoken for one incarnation only.
        #[test]
        fn one_1_one_incarnation_per_token(
            steps in proptest::collection::vec((0u64..4, 0u64..4, proptest::bool::ANY, 0u8..4), 0..200)
        ) {
            let mut fence = Fence::default();
            let mut owners = std::collections::BTreeMap::new();
            for (who, generation, won, action) in steps {
                let before = fence.highest();
                if action == 0 {
                    fence.handle_detach(AttachmentId(who));
                } else {
                    let said = Announcement { token: token(generation, won), speaking: action > 1 };
                    let incarnation = Incarnation([who as u8; 16]);
                    if let Speaks { .. } = fence.handle_announce(AttachmentId(who), incarnation, said) {
                        proptest::prop_assert_eq!(fence.highest(), Some(said.token));
                        proptest::prop_assert_eq!(*owners.entry(said.token).or_insert(who), who);
                    }
                }
                proptest::prop_assert!(fence.highest() >= before);
            }
        }
    }
}
