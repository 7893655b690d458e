//! ACPI fixed hardware: PM1a event and control blocks and the PM timer.
//!
//! ACPI 6.5, section 4.8. There is no SMI and no legacy mode: `SCI_EN` is always
//! set. Of the fixed events the timer's carry and the power button happen; the
//! other enable bits can be set and stay without effect. The PM timer has 24 bits
//! and runs at 3.579545 MHz; `TMR_STS` is set whenever its highest bit changes,
//! every 2.34 s.

use serde::{Deserialize, Serialize};

use super::layout::SLP_TYP_S5;
use super::time::{Oscillator, VirtualTime};

const CLOCK: Oscillator = Oscillator::new(3_579_545);
const TIMER_MASK: u32 = 0x00FF_FFFF;
/// Ticks from one change of the timer's highest bit to the next.
const CARRY_TICKS: i64 = 1 << 23;

/// `TMR_STS` and `TMR_EN`.
const TIMER: u16 = 1 << 0;
/// `PWRBTN_STS` and `PWRBTN_EN`.
const POWER_BUTTON: u16 = 1 << 8;
/// TMR, GBL, PWRBTN, SLPBTN and RTC can be enabled.
const ENABLE_WRITABLE: u16 = TIMER | 1 << 5 | POWER_BUTTON | 1 << 9 | 1 << 10;
const SCI_EN: u16 = 1 << 0;
const SLP_TYP_SHIFT: u32 = 10;
const SLP_TYP: u16 = 7 << SLP_TYP_SHIFT;
const SLP_EN: u16 = 1 << 13;
/// `BM_RLD` and `SLP_TYP` read back; `GBL_RLS` and `SLP_EN` are write-only.
const CONTROL_WRITABLE: u16 = 1 << 1 | SLP_TYP;

/// The registers of ACPI's fixed hardware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Acpi {
    status: u16,
    enable: u16,
    control: u16,
    /// Ticks of the PM timer's oscillator so far.
    tick: i64,
}

impl Acpi {
    pub(crate) fn new() -> Self {
        Self {
            status: 0,
            enable: 0,
            control: 0,
            tick: 0,
        }
    }

    /// Moves to `now`.
    pub(crate) fn advance(&mut self, now: VirtualTime) {
        let tick = CLOCK.ticks_at(now.0);
        if tick / CARRY_TICKS != self.tick / CARRY_TICKS {
            self.status |= TIMER;
        }
        self.tick = tick;
    }

    /// The system control interrupt, a level.
    pub(crate) fn line(&self) -> bool {
        self.status & self.enable != 0
    }

    /// When the timer's carry will raise the interrupt, if it is enabled and not
    /// raised already.
    pub(crate) fn next_timer(&self) -> Option<VirtualTime> {
        if self.enable & TIMER == 0 || self.line() {
            return None;
        }
        let carry = (self.tick / CARRY_TICKS + 1) * CARRY_TICKS;
        Some(VirtualTime(CLOCK.time_of(carry)))
    }

    /// Somebody presses the power button.
    pub(crate) fn press_power_button(&mut self) {
        self.status |= POWER_BUTTON;
    }

    /// Reads byte `offset` (0 to 3) of the event block.
    pub(crate) fn read_event(&self, offset: u16) -> u8 {
        let [s0, s1] = self.status.to_le_bytes();
        let [e0, e1] = self.enable.to_le_bytes();
        [s0, s1, e0, e1][usize::from(offset)]
    }

    /// Writes byte `offset` (0 to 3) of the event block; status bits are cleared
    /// by writing ones.
    pub(crate) fn write_event(&mut self, offset: u16, value: u8) {
        let lane = u16::from(value) << ((offset & 1) * 8);
        let others = !(0xFF << ((offset & 1) * 8));
        if offset < 2 {
            self.status &= !lane;
        } else {
            self.enable = (self.enable & others | lane) & ENABLE_WRITABLE;
        }
    }

    /// Reads byte `offset` (0 or 1) of the control block.
    pub(crate) fn read_control(&self, offset: u16) -> u8 {
        (self.control | SCI_EN).to_le_bytes()[usize::from(offset)]
    }

    /// Writes byte `offset` (0 or 1) of the control block. Returns whether that
    /// turned the machine off; sleep states other than S5 do not exist.
    pub(crate) fn write_control(&mut self, offset: u16, value: u8) -> bool {
        let lane = u16::from(value) << (offset * 8);
        let others = !(0xFF << (offset * 8));
        self.control = (self.control & others | lane) & CONTROL_WRITABLE;
        lane & SLP_EN != 0 && (lane & SLP_TYP) >> SLP_TYP_SHIFT == u16::from(SLP_TYP_S5)
    }

    /// Reads byte `offset` (0 to 3) of the PM timer.
    pub(crate) fn read_timer(&self, offset: u16) -> u8 {
        (self.tick as u32 & TIMER_MASK).to_le_bytes()[usize::from(offset)]
    }

    /// Checks a restored value at its time (SEC-2).
    pub(crate) fn check(&self, now: VirtualTime) -> Result<(), &'static str> {
        if self.tick != CLOCK.ticks_at(now.0) {
            return Err("its tick is not that of the machine's time");
        }
        if self.status & !(TIMER | POWER_BUTTON) != 0
            || self.enable & !ENABLE_WRITABLE != 0
            || self.control & !CONTROL_WRITABLE != 0
        {
            return Err("a register holds bits that it does not have");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
