//! The x87 state in memory: FNSTENV, FLDENV, FNSAVE and FRSTOR in their 14/94-byte and 28/108-byte
//! forms of protected mode (SDM vol. 1, 8.1.10), and the x87 part of FXSAVE (10.5.1).

use super::format::{Class, F80};
use super::state::{EXCEPTIONS, Fpu, Pointers};

/// Bytes of an environment with fields of 32 bits.
const WIDE: usize = 28;
/// Bytes of eight registers.
const REGISTERS: usize = 80;

impl Fpu {
    /// The tag word: 0 valid, 1 zero, 2 special, 3 empty.
    pub(crate) fn tags(&self) -> u16 {
        let tag = |i: usize| {
            if self.full >> i & 1 == 0 {
                return 3;
            }
            match self.regs[i].class() {
                Class::Zero => 1,
                Class::Finite(_) if !self.regs[i].is_denormal() => 0,
                _ => 2,
            }
        };
        (0..8).fold(0, |word, i| word | tag(i) << (2 * i))
    }

    /// Takes over a tag word: which registers are empty.
    pub(crate) fn set_tags(&mut self, word: u16) {
        self.full = (0..8).fold(0, |full, i| full | u8::from(word >> (2 * i) & 3 != 3) << i);
    }

    /// The environment as FNSTENV stores it, in 14 or 28 bytes; masks every exception, as that does.
    pub(crate) fn save_environment(&mut self, out: &mut [u8]) {
        let p = self.pointers;
        let selector = u32::from(p.instruction_selector);
        let words = [self.control, self.status(), self.tags()].map(u32::from);
        let [control, status, tags] = words;
        let (ip, dp) = (p.instruction as u32, p.data as u32);
        let last = u32::from(p.data_selector);
        if out.len() == WIDE {
            const ONES: u32 = 0xffff_0000;
            let mixed = selector | u32::from(p.opcode) << 16;
            let all = [
                control | ONES,
                status | ONES,
                tags | ONES,
                ip,
                mixed,
                dp,
                last | ONES,
            ];
            for (field, value) in out.chunks_exact_mut(4).zip(all) {
                field.copy_from_slice(&value.to_le_bytes());
            }
        } else {
            let all = [control, status, tags, ip, selector, dp, last];
            for (field, value) in out.chunks_exact_mut(2).zip(all) {
                field.copy_from_slice(&(value as u16).to_le_bytes());
            }
        }
        self.control |= EXCEPTIONS;
    }

    /// FLDENV of 14 or 28 bytes.
    pub(crate) fn load_environment(&mut self, image: &[u8]) {
        let wide = image.len() == WIDE;
        let size = if wide { 4 } else { 2 };
        let field = |n: usize| {
            let at = &image[n * size..(n + 1) * size];
            at.iter().rev().fold(0u32, |v, &b| v << 8 | u32::from(b))
        };
        self.set_control(field(0) as u16);
        self.set_status(field(1) as u16);
        self.set_tags(field(2) as u16);
        self.pointers = Pointers {
            instruction: u64::from(field(3)),
            instruction_selector: field(4) as u16,
            // The short form has no opcode.
            opcode: if wide {
                (field(4) >> 16 & 0x7ff) as u16
            } else {
                0
            },
            data: u64::from(field(5)),
            data_selector: field(6) as u16,
        };
    }

    /// The whole image as FNSAVE stores it, in 94 or 108 bytes; initialises, as that does.
    pub(crate) fn save(&mut self, out: &mut [u8]) {
        let (head, registers) = out.split_at_mut(out.len() - REGISTERS);
        self.save_environment(head);
        for (i, at) in (0..).zip(registers.chunks_exact_mut(10)) {
            at.copy_from_slice(&self.st(i).to_bytes());
        }
        self.initialise();
    }

    /// FRSTOR of 94 or 108 bytes.
    pub(crate) fn restore(&mut self, image: &[u8]) {
        let (head, registers) = image.split_at(image.len() - REGISTERS);
        self.load_environment(head);
        for (i, from) in (0..).zip(registers.chunks_exact(10)) {
            let mut b = [0; 10];
            b.copy_from_slice(from);
            let at = self.physical(i);
            self.regs[at] = F80::from_bytes(b);
        }
    }

    /// The x87 part of an FXSAVE image: bytes 0 to 23 and 32 to 159. Without `wide`, pointers are 32
    /// bits and a selector.
    pub(crate) fn save_fx(&self, wide: bool, image: &mut [u8; 512]) {
        let p = self.pointers;
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.control.to_le_bytes());
        put(2, &self.status().to_le_bytes());
        put(4, &[self.full, 0]);
        put(6, &p.opcode.to_le_bytes());
        put(8, &p.instruction.to_le_bytes());
        put(16, &p.data.to_le_bytes());
        if !wide {
            put(12, &u32::from(p.instruction_selector).to_le_bytes());
            put(20, &u32::from(p.data_selector).to_le_bytes());
        }
        for i in 0..8 {
            let at = 32 + 16 * usize::from(i);
            put(at, &self.st(i).to_bytes());
            put(at + 10, &[0; 6]);
        }
    }

    /// The reverse of [`Fpu::save_fx`].
    pub(crate) fn load_fx(&mut self, wide: bool, image: &[u8; 512]) {
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        let quad = |at| (0..4).fold(0, |v, i| v | u64::from(word(at + 2 * i)) << (16 * i));
        self.set_control(word(0));
        self.set_status(word(2));
        self.full = image[4];
        let (instruction, data) = (quad(8), quad(16));
        self.pointers = Pointers {
            opcode: word(6) & 0x7ff,
            instruction,
            data,
            ..<_>::default()
        };
        if !wide {
            self.pointers = Pointers {
                instruction: u64::from(instruction as u32),
                data: u64::from(data as u32),
                instruction_selector: word(12),
                data_selector: word(20),
                ..self.pointers
            };
        }
        for i in 0..8 {
            let from = 32 + 16 * usize::from(i);
            let at = self.physical(i);
            self.regs[at] = F80 {
                sig: quad(from),
                se: word(from + 8),
            };
        }
    }
}
