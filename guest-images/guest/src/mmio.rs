//! Registers of devices in memory.

/// A block of 32-bit registers.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    base: usize,
}

impl Registers {
    /// The registers at `base`.
    ///
    /// # Safety
    /// The 512 bytes at `base` are a device's registers, and no memory.
    pub(crate) unsafe fn at(base: usize) -> Self {
        Registers { base }
    }

    /// The address of a register.
    pub fn address(self, offset: usize) -> usize {
        assert!(offset < 0x200 && offset.is_multiple_of(4));
        self.base + offset
    }

    /// Reads a register.
    pub fn read(self, offset: usize) -> u32 {
        // SAFETY: `at`'s caller promised registers here; `address` bounds the offset.
        unsafe { (self.address(offset) as *const u32).read_volatile() }
    }

    /// Writes a register.
    pub fn write(self, offset: usize, value: u32) {
        // SAFETY: as for `read`. That the device then touches memory only where it was told
        // to is the business of whoever tells it.
        unsafe { (self.address(offset) as *mut u32).write_volatile(value) }
    }

    /// Reads a byte of a device's configuration.
    pub fn read_byte(self, offset: usize) -> u8 {
        assert!(offset < 0x200);
        // SAFETY: as for `read`.
        unsafe { ((self.base + offset) as *const u8).read_volatile() }
    }
}
