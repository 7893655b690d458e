//! The register machine: who may go on as a VM, decided once and for ever.
//!
//! Pure: no clock, no socket, no file. Every server applies the same commands in
//! the same order and so gives the same answers. [`Register::apply`] is a total
//! function: every command gets an answer in every state.
//!
//! A VM's record within one life (ONE-2):
//!
//! ```text
//!                 Claim by a member            Open by the winner
//!   Create ──► g, no winner ──────► g, won by W ──────► g+1, no winner
//!                   │                   │
//!                   ├── Recover by R ───┴─────────────► g+1, won by R   (a person's decision)
//!                   └── Stop, Delete: no more grants in this life
//! ```
//!
//! What always holds:
//!
//! - At most one incarnation is ever answered [`Answer::Won`] for a (life,
//!   generation), and it goes on being answered so (TAS-2), also when the
//!   generation is long past. Only a stop, a deletion or a person's recovery ends
//!   that, and none of them gives the generation to anybody else.
//! - Asking again is harmless: a command that took effect gets its answer again
//!   and changes nothing (FAIL-5).
//! - A life that ended leaves a tombstone and is never opened again (TAS-2).

mod history;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{Generation, Incarnation, Life, Member, Members, Reason, VmName};
use history::{Closing, History};

/// How many VM names a register knows at most, the deleted ones included: far
/// more than one cluster looks after, and a bound on its memory.
pub const MAX_VMS: usize = 10_000;

/// How many lives one VM name has at most, the ended ones included. Each costs 17
/// bytes of a row that is written anew at each change: 280 KB at the bound.
pub const MAX_LIVES: usize = 16_384;

/// How often the winner may change within one life: a failover every hour for
/// nearly two years. Each costs some 20 bytes of the row.
pub const MAX_TURNS: usize = 16_384;

/// What a client asks the register to change. Every command may be sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Begins a life at generation 1, if no other life of that name goes on.
    Create {
        /// The VM.
        vm: VmName,
        /// The life, drawn by the caller.
        life: Life,
        /// Who may claim generation 1.
        members: Members,
    },
    /// Opens the next generation. Granted to the winner of the current one.
    Open {
        /// The VM.
        vm: VmName,
        /// The life that the caller belongs to.
        life: Life,
        /// The generation to open: the current one + 1.
        generation: Generation,
        /// The winner of the current generation.
        by: Incarnation,
        /// Who may claim the new generation, `by` among them.
        members: Members,
    },
    /// Asks for the generation. Granted to the first member of it that asks.
    Claim {
        /// The VM.
        vm: VmName,
        /// The life that the caller belongs to.
        life: Life,
        /// The generation that the caller is a member of.
        generation: Generation,
        /// The caller.
        by: Incarnation,
    },
    /// Ends a life in good order, so that nobody takes over (FAIL-10). Granted to
    /// the current generation's winner or, while it has none, to any member.
    Stop {
        /// The VM.
        vm: VmName,
        /// The life to end.
        life: Life,
        /// The current generation.
        generation: Generation,
        /// The caller.
        by: Incarnation,
        /// Why, for people.
        reason: Reason,
    },
    /// A person's decision after two failures: opens the next generation with one
    /// member, which has won it, whatever became of the others.
    Recover {
        /// The VM.
        vm: VmName,
        /// The life to go on with.
        life: Life,
        /// The current generation, as the person saw it.
        generation: Generation,
        /// Who goes on.
        by: Member,
    },
    /// Ends a life whatever its state and forgets its record.
    Delete {
        /// The VM.
        vm: VmName,
        /// The life to end.
        life: Life,
    },
}

impl Command {
    /// The VM that it is about: the only one whose state it can change.
    pub fn vm(&self) -> &VmName {
        match self {
            Self::Create { vm, .. }
            | Self::Open { vm, .. }
            | Self::Claim { vm, .. }
            | Self::Stop { vm, .. }
            | Self::Recover { vm, .. }
            | Self::Delete { vm, .. } => vm,
        }
    }
}

/// What a command is answered with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// The life was begun, by this command or by the same one before.
    Created,
    /// The generation was opened, by this command or by the same one before.
    Opened,
    /// The caller won the generation that it asked for. That generation may be
    /// past by now; reading the record tells.
    Won,
    /// Somebody else has the generation.
    Lost {
        /// The winner; after a recovery, who the recovery gave the VM to.
        to: Incarnation,
    },
    /// The caller was made the winner of this generation by a recovery.
    Recovered {
        /// The generation that the recovery opened.
        generation: Generation,
    },
    /// The life was stopped in good order: nothing takes over.
    Stopped,
    /// The life was deleted.
    Deleted,
    /// The command does not fit the record; nothing was changed.
    Refused(Refusal),
}

/// Why a command does not fit, with the record that it does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// No life of this name goes on, and the given one is not known to have ended.
    UnknownVm,
    /// The VM of this name is another life.
    OtherLife(Record),
    /// The life, or its generation, was opened already with other members.
    AlreadyOpen(Record),
    /// The generation is not the one that this command needs.
    WrongGeneration(Record),
    /// The caller is not among the members.
    NotMember(Record),
    /// The caller has not won the current generation.
    NotWinner(Record),
    /// A bound was reached.
    Full(Bound),
}

/// The bounds of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Bound {
    /// [`MAX_VMS`] names are in use.
    Vms,
    /// [`MAX_LIVES`] lives had this name: use another.
    Lives,
    /// The winner changed [`MAX_TURNS`] times: begin a new life.
    Turns,
}

/// What the arbiter knows of a VM whose life goes on or was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The life.
    pub life: Life,
    /// The current generation.
    pub generation: Generation,
    /// Who may claim it.
    pub members: Members,
    /// Who won it; nobody while the pair is whole.
    pub winner: Option<Incarnation>,
    /// Set for ever once the life was stopped.
    pub stopped: Option<Stop>,
}

/// A life's end in good order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stop {
    /// Who stopped it.
    pub by: Incarnation,
    /// Why, for people.
    pub reason: Reason,
}

/// A life's record and how its past generations ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Current {
    record: Record,
    past: History,
}

/// How a life ended that is no longer the current one: its tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum End {
    Stopped,
    Deleted,
}

impl End {
    fn answer(self) -> Answer {
        match self {
            Self::Stopped => Answer::Stopped,
            Self::Deleted => Answer::Deleted,
        }
    }
}

/// Everything about one VM name: what a store keeps as one row.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Vm {
    current: Option<Current>,
    ended: BTreeMap<Life, End>,
}

/// All VMs. See the [module](self) for what always holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Register {
    vms: BTreeMap<VmName, Vm>,
}

impl Register {
    /// Carries out a command and answers it. Changes at most the row of
    /// [`Command::vm`], and nothing when the answer is a refusal.
    pub fn apply(&mut self, command: Command) -> Answer {
        let outcome = match command {
            Command::Create { vm, life, members } => self.create(vm, life, members),
            Command::Open {
                vm,
                life,
                generation,
                by,
                members,
            } => self.within(&vm, life, |vm| vm.open(generation, by, members)),
            Command::Claim {
                vm,
                life,
                generation,
                by,
            } => self.within(&vm, life, |vm| vm.claim(generation, by)),
            Command::Stop {
                vm,
                life,
                generation,
                by,
                reason,
            } => self.within(&vm, life, |vm| vm.stop(generation, by, reason)),
            Command::Recover {
                vm,
                life,
                generation,
                by,
            } => self.within(&vm, life, |vm| vm.recover(generation, by)),
            Command::Delete { vm, life } => self.delete(&vm, life),
        };
        outcome.unwrap_or_else(Answer::Refused)
    }

    /// The record of a VM; nothing if it was never created or is deleted.
    pub fn read(&self, vm: &VmName) -> Option<&Record> {
        self.vms
            .get(vm)?
            .current
            .as_ref()
            .map(|current| &current.record)
    }

    /// The VMs that have a record, by name, those after `after`.
    pub fn list(&self, after: Option<&VmName>) -> impl Iterator<Item = (&VmName, &Record)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.vms
            .range::<VmName, _>((after.map_or(Unbounded, Excluded), Unbounded))
            .filter_map(|(name, vm)| Some((name, &vm.current.as_ref()?.record)))
    }

    /// The row of a VM, for a store to keep.
    pub(crate) fn row(&self, vm: &VmName) -> Option<&Vm> {
        self.vms.get(vm)
    }

    /// A register from the rows that a store kept.
    pub(crate) fn from_rows(rows: impl IntoIterator<Item = (VmName, Vm)>) -> Self {
        Self {
            vms: rows.into_iter().collect(),
        }
    }

    /// All rows, for a store to keep.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&VmName, &Vm)> {
        self.vms.iter()
    }

    fn create(&mut self, vm: VmName, life: Life, members: Members) -> Result<Answer, Refusal> {
        let Some(known) = self.vms.get_mut(&vm) else {
            if self.vms.len() >= MAX_VMS {
                return Err(Refusal::Full(Bound::Vms));
            }
            let current = Some(Current::begun(life, members));
            self.vms.insert(
                vm,
                Vm {
                    current,
                    ended: BTreeMap::new(),
                },
            );
            return Ok(Answer::Created);
        };
        if let Some(end) = known.ended.get(&life) {
            return Ok(end.answer());
        }
        let stopped_life = match &known.current {
            None => None,
            Some(current) if current.record.life == life => {
                return current.created_again(&members);
            }
            Some(current) if current.record.stopped.is_none() => {
                return Err(Refusal::OtherLife(current.record.clone()));
            }
            Some(current) => Some(current.record.life),
        };
        if known.ended.len() + usize::from(stopped_life.is_some()) >= MAX_LIVES {
            return Err(Refusal::Full(Bound::Lives));
        }
        known
            .ended
            .extend(stopped_life.map(|life| (life, End::Stopped)));
        known.current = Some(Current::begun(life, members));
        Ok(Answer::Created)
    }

    fn delete(&mut self, vm: &VmName, life: Life) -> Result<Answer, Refusal> {
        let known = self.vms.get_mut(vm).ok_or(Refusal::UnknownVm)?;
        match &known.current {
            Some(current) if current.record.life == life => known.current = None,
            _ if known.ended.contains_key(&life) => {}
            Some(current) => return Err(Refusal::OtherLife(current.record.clone())),
            None => return Err(Refusal::UnknownVm),
        }
        known.ended.insert(life, End::Deleted);
        Ok(Answer::Deleted)
    }

    /// Acts on a life that goes on; for one that is over, answers how it ended.
    fn within(
        &mut self,
        vm: &VmName,
        life: Life,
        act: impl FnOnce(&mut Current) -> Result<Answer, Refusal>,
    ) -> Result<Answer, Refusal> {
        let known = self.vms.get_mut(vm).ok_or(Refusal::UnknownVm)?;
        if let Some(end) = known.ended.get(&life) {
            return Ok(end.answer());
        }
        match &mut known.current {
            None => Err(Refusal::UnknownVm),
            Some(current) if current.record.life != life => {
                Err(Refusal::OtherLife(current.record.clone()))
            }
            Some(current) if current.record.stopped.is_some() => Ok(Answer::Stopped),
            Some(current) => act(current),
        }
    }
}

impl Current {
    fn begun(life: Life, members: Members) -> Self {
        let generation = Generation::FIRST;
        let record = Record {
            life,
            generation,
            members,
            winner: None,
            stopped: None,
        };
        Self {
            record,
            past: History::default(),
        }
    }

    fn created_again(&self, members: &Members) -> Result<Answer, Refusal> {
        if self.record.stopped.is_some() {
            Ok(Answer::Stopped)
        } else if self.record.generation == Generation::FIRST && self.record.members == *members {
            Ok(Answer::Created)
        } else {
            Err(Refusal::AlreadyOpen(self.record.clone()))
        }
    }

    fn open(
        &mut self,
        generation: Generation,
        by: Incarnation,
        members: Members,
    ) -> Result<Answer, Refusal> {
        let record = &self.record;
        if generation == record.generation {
            let same = self.past.last() == Some(Closing::Won(by)) && members == record.members;
            return if same {
                Ok(Answer::Opened)
            } else {
                Err(Refusal::AlreadyOpen(record.clone()))
            };
        }
        if generation != record.generation.next() {
            return Err(Refusal::WrongGeneration(record.clone()));
        }
        if record.winner != Some(by) {
            return Err(Refusal::NotWinner(record.clone()));
        }
        if !members.contains(by) {
            return Err(Refusal::NotMember(record.clone()));
        }
        self.begin_next(Closing::Won(by), members, None)?;
        Ok(Answer::Opened)
    }

    fn claim(&mut self, generation: Generation, by: Incarnation) -> Result<Answer, Refusal> {
        let record = &mut self.record;
        if generation < record.generation {
            return match self.past.closing(generation) {
                None => Err(Refusal::WrongGeneration(record.clone())),
                Some(Closing::Won(winner)) if winner == by => Ok(Answer::Won),
                Some(Closing::Won(to) | Closing::Recovered(to)) => Ok(Answer::Lost { to }),
            };
        }
        if generation > record.generation {
            return Err(Refusal::WrongGeneration(record.clone()));
        }
        if !record.members.contains(by) {
            return Err(Refusal::NotMember(record.clone()));
        }
        // The test and the set: the first member that asks, for ever.
        let winner = *record.winner.get_or_insert(by);
        if winner == by {
            Ok(Answer::Won)
        } else {
            Ok(Answer::Lost { to: winner })
        }
    }

    fn stop(
        &mut self,
        generation: Generation,
        by: Incarnation,
        reason: Reason,
    ) -> Result<Answer, Refusal> {
        let record = &mut self.record;
        if generation != record.generation {
            return Err(Refusal::WrongGeneration(record.clone()));
        }
        match record.winner {
            None if !record.members.contains(by) => Err(Refusal::NotMember(record.clone())),
            Some(winner) if winner != by => Err(Refusal::NotWinner(record.clone())),
            None | Some(_) => {
                record.stopped = Some(Stop { by, reason });
                Ok(Answer::Stopped)
            }
        }
    }

    fn recover(&mut self, generation: Generation, by: Member) -> Result<Answer, Refusal> {
        let record = &self.record;
        let who = by.incarnation;
        if generation < record.generation {
            let same = generation.next() == record.generation
                && self.past.last() == Some(Closing::Recovered(who))
                && record.members == Members::alone(by);
            return if same {
                Ok(Answer::Recovered {
                    generation: record.generation,
                })
            } else {
                Err(Refusal::WrongGeneration(record.clone()))
            };
        }
        if generation > record.generation {
            return Err(Refusal::WrongGeneration(record.clone()));
        }
        self.begin_next(Closing::Recovered(who), Members::alone(by), Some(who))?;
        Ok(Answer::Recovered {
            generation: self.record.generation,
        })
    }

    fn begin_next(
        &mut self,
        closing: Closing,
        members: Members,
        winner: Option<Incarnation>,
    ) -> Result<(), Refusal> {
        let record = &mut self.record;
        if !self.past.close(record.generation, closing) {
            return Err(Refusal::Full(Bound::Turns));
        }
        record.generation = record.generation.next();
        record.members = members;
        record.winner = winner;
        Ok(())
    }
}
