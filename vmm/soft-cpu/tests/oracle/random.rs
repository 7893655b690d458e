//! Repeatable random numbers, and the values at which instructions are likely to go wrong.

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// A generator whose sequence is a function of `parts` alone.
    pub(crate) fn new(parts: &[u64]) -> Random {
        let mut random = Random(0x5EED);
        for part in parts {
            random.0 ^= part.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
            random.0 = random.next();
        }
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// An integer near a power of two or another edge, or any.
    pub(crate) fn integer(&mut self) -> u64 {
        let bit = self.below(64);
        match self.below(12) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << bit,
            3 => (1u64 << bit).wrapping_sub(1),
            4 => !(1 << bit),
            5 => self.below(256),
            6 => self.below(256).wrapping_neg(),
            7 => self.next() & 0xFFFF_FFFF,
            8 => self.next() as i32 as u64,
            9 => {
                let byte = self.pick(&[0x00, 0x01, 0x7F, 0x80, 0x81, 0xFE, 0xFF, 0x55]);
                byte * 0x0101_0101_0101_0101
            }
            _ => self.next(),
        }
    }

    /// A binary32: zeros, denormals, powers of two, infinities, NaNs of both kinds, any.
    pub(crate) fn single(&mut self) -> u32 {
        let sign = (self.next() as u32) & 0x8000_0000;
        let random = self.next() as u32;
        sign | match self.below(14) {
            0 => 0,
            1 => 0x7F80_0000,
            2 => 0x7FC0_0000 | random & 0x3F_FFFF,
            3 => 0x7F80_0001 | random & 0x3F_FFFF,
            4 => random & 0x7F_FFFF,
            5 => 0x0080_0000 | random & 0x7,
            6 => 0x7F7F_FFFF - (random & 0x7),
            7 => 0x3F80_0000,
            8 => (self.below(200) as f32 / 2.0).to_bits(),
            9 => 0x4F00_0000 - 2 + (random & 3),
            10 => (0x3F80_0000 + ((random & 0x1F) << 23)) | (random >> 9 & 0x7F_FFFF),
            11 => (0x0080_0000 * (1 + self.below(30) as u32)) | (random & 0x7F_FFFF),
            12 => (0x7000_0000 + (0x0080_0000 * self.below(30) as u32)) | (random & 0x7F_FFFF),
            _ => random & 0x7FFF_FFFF,
        }
    }

    /// A binary64, likewise.
    pub(crate) fn double(&mut self) -> u64 {
        let sign = self.next() & 1 << 63;
        let random = self.next();
        let fraction = random & 0xF_FFFF_FFFF_FFFF;
        sign | match self.below(15) {
            0 => 0,
            1 => 0x7FF << 52,
            2 => 0xFFF << 51 | fraction >> 1,
            3 => 0x7FF << 52 | 1 | fraction >> 1,
            4 => fraction,
            5 => 1 << 52 | random & 7,
            6 => (0x7FF << 52) - 1 - (random & 7),
            7 => 1.0f64.to_bits(),
            8 => (self.below(200) as f64 / 2.0).to_bits(),
            9 => (2f64.powi(self.pick(&[31, 32, 63, 64])).to_bits() - 2).wrapping_add(random & 3),
            10 => (0x3FF + self.below(66)) << 52 | fraction,
            11 => (1 + self.below(60)) << 52 | fraction,
            12 => (0x7FE - self.below(60)) << 52 | fraction,
            13 => {
                u64::from(f32::from_bits(self.single() & 0x7FFF_FFFF).is_nan()) << 62
                    | f64::from(f32::from_bits(self.single() & 0x7F7F_FFFF)).to_bits()
            }
            _ => random & !(1 << 63),
        }
    }

    /// A double-extended number, the forms that only the 8087 wrote included (SDM vol. 1, 8.2.2).
    pub(crate) fn extended(&mut self) -> [u8; 10] {
        let integer_bit = 1u64 << 63;
        let fraction = match self.below(4) {
            0 => 0,
            1 => self.next() & 0xFF,
            2 => !(self.next() & 0xFF),
            _ => self.next(),
        };
        let (exponent, significand) = match self.below(18) {
            0 => (0, 0),
            1 => (0x7FFF, integer_bit),
            2 => (0x7FFF, 3 << 62 | fraction),
            3 => (0x7FFF, integer_bit | fraction & !(3 << 62) | 1),
            4 => (0, fraction & !integer_bit),
            5 => (0, integer_bit | fraction),
            6 => (self.below(0x8000), fraction & !integer_bit),
            7 => (0x3FFF, integer_bit),
            8 => (0x7FFE - self.below(70), integer_bit | fraction),
            9 => (1 + self.below(70), integer_bit | fraction),
            10 => (0x3FFF + 0x400 - 2 + self.below(5), integer_bit | fraction),
            11 => (0x3FFF - 0x3FF - 55 + self.below(60), integer_bit | fraction),
            12 => (0x3FFF + 0x80 - 2 + self.below(5), integer_bit | fraction),
            13 => (0x3FFF - 0x7F - 26 + self.below(30), integer_bit | fraction),
            14 => (0x3FFF + self.below(68), integer_bit | fraction),
            15 => {
                let shift = self.below(64);
                let value = self.next() >> shift | 1;
                let zeros = value.leading_zeros();
                (0x3FFF + 63 - u64::from(zeros), value << zeros)
            }
            16 => (0x3FFF - 4 + self.below(8), integer_bit | fraction),
            _ => (self.below(0x7FFF) + 1, integer_bit | fraction),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        let head = exponent as u16 & 0x7FFF | ((self.next() as u16) & 0x8000);
        bytes[8..].copy_from_slice(&head.to_le_bytes());
        bytes
    }

    /// Sixteen bytes: singles, doubles, integers.
    pub(crate) fn vector(&mut self) -> [u8; 16] {
        let (low, high) = match self.below(4) {
            0 => (self.double(), self.double()),
            1 => {
                let mut pair = || u64::from(self.single()) | u64::from(self.single()) << 32;
                (pair(), pair())
            }
            2 => (self.integer(), self.integer()),
            _ => {
                let mut words = || (0..4).fold(0, |all, _| all << 16 | self.integer() & 0xFFFF);
                (words(), words())
            }
        };
        (u128::from(low) | u128::from(high) << 64).to_le_bytes()
    }
}
