//! The ring-0 nucleus, and ring 3's calls into it.
//!
//! `boot.s` takes the machine from the loader to ring 3; `entries.s` holds the
//! calls, the interrupt entries and the fault entries. This file gives them
//! their constants and wraps the calls.

use core::arch::{asm, global_asm};

/// Selectors in the order of `gdt` in `boot.s`; user selectors ask for ring 3.
const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_CODE: u16 = 0x18 | 3;
const USER_DATA: u16 = 0x20 | 3;
const TSS: u16 = 0x28;

/// Present, writable, for ring 3, accessed.
const TABLE: u32 = 0x27;
/// The same for a 2 MiB page, dirty as well; and without the right to write.
const PAGE: u32 = 0xE7;
const PAGE_READ_ONLY: u32 = 0xE5;

/// Faults 0–31 and the sixteen interrupt lines after them.
const GATES: u32 = 48;
const INTERRUPT_GATE: u16 = 0x8E00;
const TRAP_GATE_RING_3: u16 = 0xEF00;
/// Vector of `int3`.
const DOOR: u32 = 3;

/// Ring 0 nests at most a fault in an interrupt in a call.
const NUCLEUS_STACK: u32 = 4096;
/// smoltcp and the command code need less than 32 KiB.
const USER_STACK: u32 = 256 << 10;

const UART: u16 = 0x3F8;
const PIT_CHANNEL_0: u16 = 0x40;
/// Registers of virtio-mmio slot 0, and its interrupt line.
const VIRTIO: u32 = crate::virtio::mmio::FIRST_SLOT as u32;
const VIRTIO_LINE: u32 = crate::virtio::mmio::FIRST_LINE;

global_asm!(
    include_str!("boot.s"),
    include_str!("entries.s"),
    TABLE = const TABLE,
    PAGE = const PAGE,
    PAGE_READ_ONLY = const PAGE_READ_ONLY,
    KERNEL_CODE = const KERNEL_CODE,
    KERNEL_DATA = const KERNEL_DATA,
    USER_CODE = const USER_CODE,
    USER_DATA = const USER_DATA,
    TSS = const TSS,
    GATES = const GATES,
    INTERRUPT_GATE = const INTERRUPT_GATE,
    TRAP_GATE_RING_3 = const TRAP_GATE_RING_3,
    DOOR = const DOOR,
    NUCLEUS_STACK = const NUCLEUS_STACK,
    USER_STACK = const USER_STACK,
    UART = const UART,
    PIT_CHANNEL_0 = const PIT_CHANNEL_0,
    VIRTIO = const VIRTIO,
    VIRTIO_LINE = const VIRTIO_LINE,
);

/// Numbers of the calls, in the order of `call_targets` in `entries.s`.
mod call {
    pub(super) const IN8: u64 = 0;
    pub(super) const IN32: u64 = 1;
    pub(super) const OUT8: u64 = 2;
    pub(super) const OUT16: u64 = 3;
    pub(super) const CONSOLE_WRITE: u64 = 4;
    pub(super) const WAIT: u64 = 5;
    pub(super) const OPEN_RING_3: u64 = 6;
}

/// Interrupt lines that have fired, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    /// Whether `line` fired.
    pub fn has(self, line: u8) -> bool {
        self.0 & (1 << line) != 0
    }

    /// All of them.
    pub fn bits(self) -> u32 {
        self.0
    }
}

/// What a [`wait`] does before it halts: everything that a wake-up decided to
/// tell the devices, so that one call carries it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Before {
    /// Address of a virtio device's QueueNotify register.
    pub notify_register: usize,
    /// Queues 0 and 1 of that device to notify, as bits.
    pub notify_queues: u32,
    /// Ticks to load into PIT channel 0: 1 to 65,536, or 0 to leave it alone.
    pub pit_ticks: u32,
    /// There is work already: do not halt.
    pub no_halt: bool,
}

/// Halts until an interrupt fires, unless one has fired since the last wait or
/// the caller knows better.
pub fn wait(before: Before) -> Events {
    let events: u64;
    // SAFETY: the nucleus writes only to the device registers named, changes no memory that
    // Rust knows of, and preserves all registers but eax. Devices may have
    // written to queue memory meanwhile: the compiler must take memory as changed, which is
    // the default.
    unsafe {
        asm!(
            "int3",
            inout("rax") call::WAIT => events,
            in("rdi") before.notify_register,
            in("esi") before.notify_queues,
            in("ecx") before.pit_ticks,
            in("edx") u32::from(before.no_halt),
        );
    }
    Events(events as u32)
}

/// Reads a byte from a port.
pub fn in8(port: u16) -> u8 {
    let value: u64;
    // SAFETY: no device of this machine reaches memory by an access to a port.
    unsafe {
        asm!("int3", inout("rax") call::IN8 => value, in("dx") port, options(nomem, nostack));
    }
    value as u8
}

/// Reads four bytes from a port.
pub fn in32(port: u16) -> u32 {
    let value: u64;
    // SAFETY: as for `in8`.
    unsafe {
        asm!("int3", inout("rax") call::IN32 => value, in("dx") port, options(nomem, nostack));
    }
    value as u32
}

/// Writes a byte to a port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: as for `in8`.
    unsafe {
        asm!(
            "int3",
            inout("rax") call::OUT8 => _,
            in("dx") port,
            in("ecx") u32::from(value),
            options(nomem, nostack),
        );
    }
}

/// Writes two bytes to a port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as for `in8`.
    unsafe {
        asm!(
            "int3",
            inout("rax") call::OUT16 => _,
            in("dx") port,
            in("ecx") u32::from(value),
            options(nomem, nostack),
        );
    }
}

/// Sends bytes to the UART.
pub(crate) fn console_write(bytes: &[u8]) {
    /// Depth of a 16550's transmit FIFO.
    const FIFO: usize = 16;
    for chunk in bytes.chunks(FIFO) {
        // SAFETY: the nucleus reads `chunk` and changes no memory.
        unsafe {
            asm!(
                "int3",
                inout("rax") call::CONSOLE_WRITE => _,
                inout("rsi") chunk.as_ptr() => _,
                inout("ecx") chunk.len() as u32 => _,
                out("edx") _,
                options(readonly, nostack),
            );
        }
    }
}

/// From here on interrupts are taken anywhere, in ring 3 and inside of calls,
/// and ring 3 may access ports itself ([`ring_3`]).
pub fn open_ring_3() {
    // SAFETY: the interrupt entries preserve all registers and leave ring 3's stack alone.
    unsafe { asm!("int3", inout("rax") call::OPEN_RING_3 => _) }
}

/// A value that depends on every interrupt taken so far: on its line, on the
/// instruction that it interrupted and on their order.
pub fn interrupt_trace() -> u64 {
    unsafe extern "C" {
        #[link_name = "trace"]
        static TRACE: u64;
    }
    // SAFETY: a plain word that the interrupt entries write; a read of it is one instruction.
    unsafe { (&raw const TRACE).read_volatile() }
}

/// Port accesses made from ring 3 itself, after [`open_ring_3`].
pub mod ring_3 {
    use core::arch::asm;

    /// Reads a byte from a port.
    pub fn in8(port: u16) -> u8 {
        let value: u8;
        // SAFETY: no device of this machine reaches memory by an access to a port; without
        // the right to ports this is a fault that ends the guest.
        unsafe { asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack)) }
        value
    }

    /// Writes a byte to a port.
    pub fn out8(port: u16, value: u8) {
        // SAFETY: as for `in8`.
        unsafe { asm!("out dx, al", in("al") value, in("dx") port, options(nomem, nostack)) }
    }
}
