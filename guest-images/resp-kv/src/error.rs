//! What a command can go wrong with, in Redis's own words.

use alloc::string::String;
use core::fmt;

/// The error reply to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No such command.
    UnknownCommand {
        /// What was asked for.
        name: String,
        /// The beginning of its arguments, quoted.
        arguments: String,
    },
    /// No such subcommand.
    UnknownSubcommand {
        /// Of this command.
        command: &'static str,
        /// What was asked for.
        subcommand: String,
    },
    /// Too few or too many arguments.
    WrongArity {
        /// For this command.
        command: String,
    },
    /// The key holds another type than the command is for.
    WrongType,
    /// An argument or a value that should be an integer is none.
    NotAnInteger,
    /// The same, of a hash's field.
    HashValueNotAnInteger,
    /// The sum leaves 64 bits.
    Overflow,
    /// Options that are unknown or contradict each other.
    Syntax,
    /// An expiry in the past or beyond time.
    InvalidExpire {
        /// Of this command.
        command: &'static str,
    },
    /// SCAN's cursor is no number.
    InvalidCursor,
    /// A count below zero.
    NotPositive,
    /// There is only database 0.
    DbIndexOutOfRange,
    /// HELLO with another protocol than 2.
    ProtocolVersion,
    /// A name with characters that CLIENT LIST could not show.
    InvalidClientName,
    /// The heap is low.
    OutOfMemory,
    /// A key, value or field longer than [`MAX_BULK_BYTES`](crate::MAX_BULK_BYTES).
    TooLong,
    /// A request of more bytes or arguments than are taken.
    RequestTooLarge,
    /// Something that Redis can do and this server does not.
    Unsupported {
        /// Its name.
        what: &'static str,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand { name, arguments } => write!(
                f,
                "ERR unknown command '{name}', with args beginning with: {arguments}"
            ),
            Self::UnknownSubcommand {
                command,
                subcommand,
            } => write!(
                f,
                "ERR unknown subcommand '{subcommand}'. Try {} HELP.",
                command.to_ascii_uppercase()
            ),
            Self::WrongArity { command } => {
                write!(f, "ERR wrong number of arguments for '{command}' command")
            }
            Self::InvalidExpire { command } => {
                write!(f, "ERR invalid expire time in '{command}' command")
            }
            Self::TooLong => write!(
                f,
                "ERR string exceeds maximum allowed size ({} bytes)",
                crate::MAX_BULK_BYTES
            ),
            Self::Unsupported { what } => write!(f, "ERR {what} is not supported"),
            other => f.write_str(other.fixed_text()),
        }
    }
}

impl CommandError {
    fn fixed_text(&self) -> &'static str {
        match self {
            Self::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            Self::NotAnInteger => "ERR value is not an integer or out of range",
            Self::HashValueNotAnInteger => "ERR hash value is not an integer",
            Self::Overflow => "ERR increment or decrement would overflow",
            Self::Syntax => "ERR syntax error",
            Self::InvalidCursor => "ERR invalid cursor",
            Self::NotPositive => "ERR value is out of range, must be positive",
            Self::DbIndexOutOfRange => "ERR DB index is out of range",
            Self::ProtocolVersion => "NOPROTO unsupported protocol version",
            Self::InvalidClientName => {
                "ERR Client names cannot contain spaces, newlines or special characters."
            }
            Self::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.",
            Self::RequestTooLarge => "ERR request is too large",
            Self::UnknownCommand { .. }
            | Self::UnknownSubcommand { .. }
            | Self::WrongArity { .. }
            | Self::InvalidExpire { .. }
            | Self::TooLong
            | Self::Unsupported { .. } => unreachable!("written above"),
        }
    }
}
