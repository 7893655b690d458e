//! Loads and stores of instructions: the slow way, for what [`super::tlb`] does not answer.
//!
//! A load or store that fails has done nothing: all its pages are translated before its first byte
//! moves.

use crate::core::Core;
use crate::devices::{Access, Target};
use crate::fault::Fault;

use super::paging::{Purpose, is_canonical};
use super::ram::PAGE;

/// The parts of an access, one for each page that it touches: address, offset, length.
fn parts(address: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        (done < len).then(|| {
            let at = address.wrapping_add(done as u64);
            let part = ((PAGE - at % PAGE) as usize).min(len - done);
            done += part;
            (at, done - part, part)
        })
    })
}

impl Core {
    /// Reads `1 << S` bytes, zero-extended.
    #[inline(always)]
    pub(crate) fn load<const S: usize>(&mut self, address: u64) -> Result<u64, Fault> {
        match self.tlb.load::<S>(address) {
            Some(value) => Ok(value),
            None => self.load_slow(address, 1 << S),
        }
    }

    /// Writes the low `1 << S` bytes of `value`.
    #[inline(always)]
    pub(crate) fn store<const S: usize>(&mut self, address: u64, value: u64) -> Result<(), Fault> {
        if self.tlb.store::<S>(address, value) {
            return Ok(());
        }
        self.store_slow(address, value, 1 << S)
    }

    /// Reads what a read-modify-write instruction will write back: fails where the write would, and
    /// with the write's error code.
    #[inline(always)]
    pub(crate) fn load_for_write<const S: usize>(&mut self, address: u64) -> Result<u64, Fault> {
        if self.tlb.writable::<S>(address)
            && let Some(value) = self.tlb.load::<S>(address)
        {
            return Ok(value);
        }
        self.load_for_write_slow(address, 1 << S)
    }

    /// [`Core::load`], or with `FAST` only if that is quick: see [`crate::op::reach`].
    #[inline(always)]
    pub(crate) fn load_on<const FAST: bool, const S: usize>(
        &mut self,
        address: u64,
    ) -> Result<u64, Fault> {
        if FAST {
            self.tlb.load::<S>(address).ok_or(Fault::Device)
        } else {
            self.load::<S>(address)
        }
    }

    /// [`Core::store`], likewise.
    #[inline(always)]
    pub(crate) fn store_on<const FAST: bool, const S: usize>(
        &mut self,
        address: u64,
        value: u64,
    ) -> Result<(), Fault> {
        if !FAST {
            self.store::<S>(address, value)
        } else if self.tlb.store::<S>(address, value) {
            Ok(())
        } else {
            Err(Fault::Device)
        }
    }

    /// [`Core::load_for_write`], likewise. A store to the same place is then quick as well.
    #[inline(always)]
    pub(crate) fn load_for_write_on<const FAST: bool, const S: usize>(
        &mut self,
        address: u64,
    ) -> Result<u64, Fault> {
        if !FAST {
            self.load_for_write::<S>(address)
        } else if self.tlb.writable::<S>(address) {
            self.tlb.load::<S>(address).ok_or(Fault::Device)
        } else {
            Err(Fault::Device)
        }
    }

    #[cold]
    #[inline(never)]
    fn load_slow(&mut self, address: u64, len: usize) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.load_bytes(address, &mut bytes[..len])?;
        Ok(u64::from_le_bytes(bytes))
    }

    #[cold]
    #[inline(never)]
    fn load_for_write_slow(&mut self, address: u64, len: usize) -> Result<u64, Fault> {
        self.probe_write(address, len)?;
        self.load_slow(address, len)
    }

    #[cold]
    #[inline(never)]
    fn store_slow(&mut self, address: u64, value: u64, len: usize) -> Result<(), Fault> {
        self.store_bytes(address, &value.to_le_bytes()[..len])
    }

    /// Reads 16 bytes at any address.
    #[inline(always)]
    pub(crate) fn load_16(&mut self, address: u64) -> Result<u128, Fault> {
        if let Some(value) = self.tlb.load_16(address) {
            return Ok(value);
        }
        let mut bytes = [0; 16];
        self.load_bytes(address, &mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// Writes 16 bytes at any address.
    #[inline(always)]
    pub(crate) fn store_16(&mut self, address: u64, value: u128) -> Result<(), Fault> {
        if self.tlb.store_16(address, value) {
            return Ok(());
        }
        self.store_bytes(address, &value.to_le_bytes())
    }

    /// Fails as a write of `len` bytes would, and writes nothing.
    pub(crate) fn probe_write(&mut self, address: u64, len: usize) -> Result<(), Fault> {
        self.check_canonical(address, len)?;
        self.check_alignment(address, len)?;
        for (at, _, _) in parts(address, len) {
            self.translate(at, Purpose::Write)?;
        }
        Ok(())
    }

    /// An access that reaches out of the canonical addresses is none of the pages' business, even
    /// if it begins in one.
    fn check_canonical(&self, address: u64, len: usize) -> Result<(), Fault> {
        let last = address.wrapping_add(len as u64 - 1);
        if !(is_canonical(address) && is_canonical(last)) {
            return Err(Fault::NonCanonical);
        }
        Ok(())
    }

    /// Fails as a read at the address would, and reads nothing.
    pub(crate) fn probe_read(&mut self, address: u64) -> Result<(), Fault> {
        self.translate(address, Purpose::Read).map(|_| ())
    }

    /// Reads any number of bytes.
    pub(crate) fn load_bytes(&mut self, address: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.check_canonical(address, into.len())?;
        self.check_alignment(address, into.len())?;
        self.compare_access(address, into.len(), false);
        for (at, _, _) in parts(address, into.len()) {
            self.translate(at, Purpose::Read)?;
        }
        for (at, offset, len) in parts(address, into.len()) {
            let physical = self.translate(at, Purpose::Read)?;
            let into = &mut into[offset..offset + len];
            if !self.ram.read(physical, into) {
                self.read_device(physical, into)?;
            }
        }
        Ok(())
    }

    /// Writes any number of bytes.
    pub(crate) fn store_bytes(&mut self, address: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.compare_access(address, bytes.len(), true);
        self.probe_write(address, bytes.len())?;
        for (at, offset, len) in parts(address, bytes.len()) {
            let physical = self.translate(at, Purpose::Write)?;
            let bytes = &bytes[offset..offset + len];
            if self.write_physical(physical, bytes) {
                if self.pages.quiet(physical) {
                    self.tlb.open_for_writes(at);
                }
            } else {
                self.write_device(physical, bytes);
            }
        }
        Ok(())
    }

    /// #AC where user code asked for alignment checks (SDM vol. 3, 7.15, interrupt 17).
    ///
    /// The fast way does not come here: while the check is on, it is closed.
    fn check_alignment(&mut self, address: u64, len: usize) -> Result<(), Fault> {
        if !self.checks_alignment {
            return Ok(());
        }
        // Extended precision and x87 environments go by their largest part.
        let alignment = match len {
            2 | 14 | 94 => 2,
            4 | 28 | 108 => 4,
            8 | 10 => 8,
            _ => 1,
        };
        if address.is_multiple_of(alignment) {
            Ok(())
        } else {
            Err(Fault::ALIGNMENT)
        }
    }

    /// Writes to RAM, within a page, and notes it; false if the address is no RAM.
    pub(crate) fn write_physical(&mut self, at: u64, bytes: &[u8]) -> bool {
        if !self.ram.write(at, bytes) {
            return false;
        }
        if self.pages.note_write(at, bytes.len() as u64) {
            self.attention = true;
        }
        true
    }

    fn read_device(&mut self, physical: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut at = physical;
        for piece in into.chunks_mut(8) {
            let target = Target::Memory(at);
            let value = self.devices.read(target, piece.len() as u8)?;
            piece.copy_from_slice(&value.to_le_bytes()[..piece.len()]);
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn write_device(&mut self, physical: u64, bytes: &[u8]) {
        let mut at = physical;
        for piece in bytes.chunks(8) {
            let mut value = [0; 8];
            value[..piece.len()].copy_from_slice(piece);
            self.post(Access {
                target: Target::Memory(at),
                size: piece.len() as u8,
                write: Some(u64::from_le_bytes(value)),
            });
            at += piece.len() as u64;
        }
    }

    /// Carries out `work` with the rights of the kernel: descriptor tables and the like are read
    /// so at any privilege level.
    pub(crate) fn as_supervisor<T>(&mut self, work: impl FnOnce(&mut Core) -> T) -> T {
        let user = self.tlb.select(false);
        let checks_alignment = std::mem::replace(&mut self.checks_alignment, false);
        let result = work(self);
        self.tlb.select(user);
        self.checks_alignment = checks_alignment;
        result
    }
}
