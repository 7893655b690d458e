//! The words that the arbiter's callers use: ids, numbers and bounded texts.
//!
//! What always holds: a value of these types is within its bounds. Whatever
//! decodes one from a peer's bytes or a person's words goes through the same
//! check (SEC-2), so nothing behind this file needs to ask again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest name of a VM, in bytes: a DNS label and one more, enough for
/// people, short enough to be a file name anywhere.
pub const MAX_VM_NAME_BYTES: usize = 64;

/// The longest label of a node or its host, in bytes.
pub const MAX_LABEL_BYTES: usize = 64;

/// The longest network address, in bytes: a full DNS name (253) and a port fit
/// only when both are extreme; 256 is the round bound.
pub const MAX_ADDRESS_BYTES: usize = 256;

/// The longest reason for a stop, in bytes: a line for people.
pub const MAX_REASON_BYTES: usize = 200;

/// The members of one generation: a primary and its backup.
pub const MAX_MEMBERS: usize = 2;

/// A text, id or number that is outside its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadValue {
    /// An id is written as 32 hexadecimal digits.
    #[error("`{0}` is no id: an id is 32 hexadecimal digits")]
    Id(String),
    /// A VM's name has the wrong form.
    #[error(
        "`{0}` is no VM name: 1 to {MAX_VM_NAME_BYTES} of a-z, 0-9, `.`, `_`, `-`, \
         the first a letter or digit"
    )]
    VmName(String),
    /// A text is too long, empty, or holds control characters.
    #[error("a text here has 1 to {max} bytes and no control characters: {text:?}")]
    Text {
        /// What was given, cut off for the message.
        text: String,
        /// The bound in bytes.
        max: usize,
    },
    /// A generation has one or two members, each another incarnation.
    #[error("a generation has 1 to {MAX_MEMBERS} members, each another incarnation, not {0}")]
    Members(usize),
}

/// Defines a random 128-bit id that people read and write as 32 hex digits.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws a new id from the operating system.
            ///
            /// # Panics
            /// When the operating system has no randomness to give: an id that
            /// might repeat is worse than none.
            pub fn random() -> Self {
                let mut id = [0; 16];
                getrandom::fill(&mut id).expect("the operating system gives random bytes");
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = BadValue;

            fn from_str(text: &str) -> Result<Self, BadValue> {
                parse_id(text).map(Self)
            }
        }
    };
}

random_id! {
    /// A VM from creation to deletion. A reused name is another life.
    Life
}
random_id! {
    /// What a node draws together with its machine's state and never stores: who
    /// asks, asks as an incarnation, not as a host.
    Incarnation
}
random_id! {
    /// A cluster of arbiter servers, drawn when it is first made (TAS-5).
    ClusterId
}
random_id! {
    /// One server's store, drawn when the store is made. A server whose store was
    /// wiped has another, and is no longer who it was (TAS-5).
    StoreId
}

fn parse_id(text: &str) -> Result<[u8; 16], BadValue> {
    let bad = || BadValue::Id(excerpt(text));
    // `from_str_radix` alone would take a sign.
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let number = u128::from_str_radix(text, 16).map_err(|_| bad())?;
    Ok(number.to_be_bytes())
}

/// The members of a VM at one time, counted from 1 within a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation that a life begins with.
    pub const FIRST: Generation = Generation(1);

    /// The generation after this one.
    ///
    /// # Panics
    /// After 2^64 generations.
    pub fn next(self) -> Self {
        Self(
            self.0
                .checked_add(1)
                .expect("generations are counted one by one"),
        )
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An arbiter server's number within its cluster, given by a person, never used
/// again once its store is gone (TAS-5).
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ServerId(pub u64);

impl From<u64> for ServerId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a VM: 1 to [`MAX_VM_NAME_BYTES`] of `a-z`, `0-9`, `.`, `_`, `-`,
/// beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for VmName {
    type Error = BadValue;

    fn try_from(name: String) -> Result<Self, BadValue> {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: u8| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-');
        let good = name.len() <= MAX_VM_NAME_BYTES
            && name.bytes().next().is_some_and(alphanumeric)
            && name.bytes().all(inner);
        if good {
            Ok(Self(name))
        } else {
            Err(BadValue::VmName(excerpt(&name)))
        }
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> String {
        name.0
    }
}

impl FromStr for VmName {
    type Err = BadValue;

    fn from_str(name: &str) -> Result<Self, BadValue> {
        Self::try_from(name.to_owned())
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text for people of 1 to `MAX` bytes, without control characters, so that
/// it can be printed anywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> TryFrom<String> for Text<MAX> {
    type Error = BadValue;

    fn try_from(text: String) -> Result<Self, BadValue> {
        let good = (1..=MAX).contains(&text.len()) && !text.contains(char::is_control);
        if good {
            Ok(Self(text))
        } else {
            Err(BadValue::Text {
                text: excerpt(&text),
                max: MAX,
            })
        }
    }
}

impl<const MAX: usize> From<Text<MAX>> for String {
    fn from(text: Text<MAX>) -> String {
        text.0
    }
}

impl<const MAX: usize> FromStr for Text<MAX> {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        Self::try_from(text.to_owned())
    }
}

impl<const MAX: usize> fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What people call a node: its host's name, as a rule.
pub type Label = Text<MAX_LABEL_BYTES>;

/// Where something is reached, as `host:port`.
pub type Address = Text<MAX_ADDRESS_BYTES>;

/// Why a VM was stopped, in a person's words.
pub type Reason = Text<MAX_REASON_BYTES>;

/// One of the nodes that run a VM in a generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Who it is: what claims and opens ask as.
    pub incarnation: Incarnation,
    /// What people call its node.
    pub node: Label,
    /// Where its peer reaches it.
    pub address: Address,
}

/// The members of one generation: one or two, each another incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Member>", into = "Vec<Member>")]
pub struct Members(Vec<Member>);

impl Members {
    /// A generation of one member, with nobody to take over.
    pub fn alone(member: Member) -> Self {
        Self(vec![member])
    }

    /// Whether this incarnation is one of them.
    pub fn contains(&self, who: Incarnation) -> bool {
        self.0.iter().any(|member| member.incarnation == who)
    }

    /// The members, in the order they were given.
    pub fn as_slice(&self) -> &[Member] {
        &self.0
    }
}

impl TryFrom<Vec<Member>> for Members {
    type Error = BadValue;

    fn try_from(members: Vec<Member>) -> Result<Self, BadValue> {
        let distinct = members
            .iter()
            .enumerate()
            .all(|(i, a)| members[..i].iter().all(|b| a.incarnation != b.incarnation));
        if (1..=MAX_MEMBERS).contains(&members.len()) && distinct {
            Ok(Self(members))
        } else {
            Err(BadValue::Members(members.len()))
        }
    }
}

impl From<Members> for Vec<Member> {
    fn from(members: Members) -> Vec<Member> {
        members.0
    }
}

/// The beginning of a text that may be anything, for an error message.
fn excerpt(text: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_32_hex_digits_and_read_back() {
        let id = Incarnation([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 254, 255]);
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0dfeff");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "00",
            "+00102030405060708090a0b0c0dfeff",
            "zz0102030405060708090a0b0c0dfeff",
        ] {
            assert!(bad.parse::<Incarnation>().is_err(), "{bad}");
        }
        assert_ne!(Life::random(), Life::random());
    }

    #[test]
    fn vm_names_keep_to_their_alphabet() {
        for good in [
            "a",
            "0",
            "vm-1",
            "web.prod_2",
            &"x".repeat(MAX_VM_NAME_BYTES),
        ] {
            assert_eq!(
                good.parse::<VmName>().map(String::from),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "",
            "-a",
            ".a",
            "A",
            "a b",
            "a/b",
            "ä",
            &"x".repeat(MAX_VM_NAME_BYTES + 1),
        ] {
            assert!(bad.parse::<VmName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_are_bounded_and_printable() {
        assert!("host-a".parse::<Label>().is_ok());
        for bad in ["", "a\nb", "\u{1b}[2J", &"x".repeat(MAX_LABEL_BYTES + 1)] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_generation_has_one_or_two_different_members() {
        let member = |id| Member {
            incarnation: Incarnation([id; 16]),
            node: "host".parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
        };
        assert!(Members::try_from(vec![member(1)]).is_ok());
        assert!(Members::try_from(vec![member(1), member(2)]).is_ok());
        for bad in [
            vec![],
            vec![member(1), member(1)],
            vec![member(1), member(2), member(3)],
        ] {
            assert!(Members::try_from(bad).is_err());
        }
    }

    /// SEC-2: decoding checks the same bounds as parsing.
    #[test]
    fn decoding_checks_bounds() {
        let long = postcard::to_stdvec(&"x".repeat(MAX_VM_NAME_BYTES + 1)).unwrap();
        assert!(postcard::from_bytes::<VmName>(&long).is_err());
        let control = postcard::to_stdvec("a\0").unwrap();
        assert!(postcard::from_bytes::<Label>(&control).is_err());
        let none = postcard::to_stdvec(&Vec::<Member>::new()).unwrap();
        assert!(postcard::from_bytes::<Members>(&none).is_err());
    }
}
