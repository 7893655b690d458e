//! The two sides of the protocol as one.

use ft_logging::protocol::{Backup, BackupState, Primary, PrimaryState};

/// Which side of the protocol a node is on.
pub(crate) enum Side {
    Primary(Box<Primary>),
    Backup(Box<Backup>),
}

impl Side {
    /// How it stands.
    pub(crate) fn state(&self) -> State {
        match self {
            Side::Primary(primary) => State::Primary(primary.state()),
            Side::Backup(backup) => State::Backup(backup.state()),
        }
    }
}

/// The state of either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Primary(PrimaryState),
    Backup(BackupState),
}

impl State {
    /// Frozen, or holding everything: the peer may be gone.
    pub(crate) fn suspects(self) -> bool {
        matches!(
            self,
            State::Primary(PrimaryState::Suspecting | PrimaryState::Claiming)
                | State::Backup(
                    BackupState::Suspecting
                        | BackupState::Parting
                        | BackupState::Claiming
                        | BackupState::Won
                )
        )
    }

    /// One of a whole pair.
    pub(crate) fn in_step(self) -> bool {
        matches!(
            self,
            State::Primary(PrimaryState::Protected) | State::Backup(BackupState::Following)
        )
    }
}
