//! The processor under the tests, as an oracle: one instruction, given as bytes, runs natively on
//! a state that the test chose. Compiled for tests only.
#![allow(unsafe_code)]

use std::sync::Mutex;

/// The 108 bytes of FNSAVE in its 32-bit form.
pub(crate) type Saved = [u8; 108];

/// What an x87 or MMX instruction found and left.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct X87 {
    /// FRSTOR before, FNSAVE after.
    pub(crate) saved: Saved,
    pad: [u8; 20],
    /// What the instruction's memory operand, `[rsi]`, holds.
    pub(crate) memory: [u8; 128],
    /// RFLAGS.
    pub(crate) flags: u64,
    /// RAX.
    pub(crate) rax: u64,
}

/// What an SSE instruction found and left.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sse {
    /// XMM0 and XMM1.
    pub(crate) xmm: [u128; 2],
    /// What the instruction's memory operand, `[rsi]`, holds.
    pub(crate) memory: [u8; 128],
    /// RFLAGS.
    pub(crate) flags: u64,
    /// RAX.
    pub(crate) rax: u64,
    /// MXCSR.
    pub(crate) mxcsr: u32,
    normal: u32,
}

impl X87 {
    pub(crate) fn new(saved: Saved) -> X87 {
        X87 { saved, pad: [0; 20], memory: [0; 128], flags: 2, rax: 0 }
    }
}

impl Sse {
    pub(crate) fn new(xmm: [u128; 2], mxcsr: u32) -> Sse {
        Sse { xmm, memory: [0; 128], flags: 2, rax: 0, mxcsr, normal: 0x1f80 }
    }
}

const SIZE: usize = 4096;

/// A page of code that runs one instruction.
pub(crate) struct Native {
    page: *mut u8,
}

/// The x87 state of a thread is the kernel's to switch, but FNSAVE resets it: no two at a time is
/// simpler to reason about.
static ONE: Mutex<()> = Mutex::new(());

impl Native {
    fn new(code: &[u8]) -> Native {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SIZE,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(page != libc::MAP_FAILED, "no executable page for the oracle");
        let page = page.cast::<u8>();
        assert!(code.len() <= SIZE);
        // SAFETY: `page` is `SIZE` bytes long, writable, and nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), page, code.len()) };
        Native { page }
    }

    /// An x87 or MMX instruction. RAX, RFLAGS and `[rsi]` are its other operands.
    pub(crate) fn x87(instruction: &[u8]) -> Native {
        let mut c = vec![0xdd, 0x27]; // frstor [rdi]
        c.extend([0x48, 0x8d, 0xb7, 0x80, 0, 0, 0]); // lea rsi, [rdi + 128]
        c.extend([0x48, 0x8b, 0x87, 0x08, 1, 0, 0]); // mov rax, [rdi + 264]
        c.extend([0xff, 0xb7, 0, 1, 0, 0, 0x9d]); // push [rdi + 256]; popfq
        c.extend(instruction);
        c.extend([0x9c, 0x8f, 0x87, 0, 1, 0, 0]); // pushfq; pop [rdi + 256]
        c.extend([0x48, 0x89, 0x87, 0x08, 1, 0, 0]); // mov [rdi + 264], rax
        c.extend([0xdd, 0x37, 0xfc, 0xc3]); // fnsave [rdi]; cld; ret
        Native::new(&c)
    }

    /// An SSE instruction on XMM0 and XMM1. RAX, RFLAGS and `[rsi]` are its other operands.
    pub(crate) fn sse(instruction: &[u8]) -> Native {
        let mut c = vec![0x0f, 0x10, 0x07]; // movups xmm0, [rdi]
        c.extend([0x0f, 0x10, 0x4f, 16]); // movups xmm1, [rdi + 16]
        c.extend([0x48, 0x8d, 0x77, 32]); // lea rsi, [rdi + 32]
        c.extend([0x48, 0x8b, 0x87, 0xa8, 0, 0, 0]); // mov rax, [rdi + 168]
        c.extend([0xff, 0xb7, 0xa0, 0, 0, 0, 0x9d]); // push [rdi + 160]; popfq
        c.extend([0x0f, 0xae, 0x97, 0xb0, 0, 0, 0]); // ldmxcsr [rdi + 176]
        c.extend(instruction);
        c.extend([0x0f, 0xae, 0x9f, 0xb0, 0, 0, 0]); // stmxcsr [rdi + 176]
        c.extend([0x0f, 0xae, 0x97, 0xb4, 0, 0, 0]); // ldmxcsr [rdi + 180]
        c.extend([0x9c, 0x8f, 0x87, 0xa0, 0, 0, 0]); // pushfq; pop [rdi + 160]
        c.extend([0x48, 0x89, 0x87, 0xa8, 0, 0, 0]); // mov [rdi + 168], rax
        c.extend([0x0f, 0x11, 0x07, 0x0f, 0x11, 0x4f, 16]); // movups back
        c.extend([0xfc, 0xc3]); // cld; ret
        Native::new(&c)
    }

    /// Runs an x87 or MMX instruction.
    pub(crate) fn run_x87(&self, state: &mut X87) {
        let _one = ONE.lock().unwrap_or_else(|e| e.into_inner());
        // SAFETY: the page holds a whole function of this type, built above: it follows the System
        // V convention (no callee-saved register is touched, the x87 state is as after FNINIT), and
        // touches `state` and its own stack only.
        unsafe {
            let f: extern "sysv64" fn(*mut X87) = std::mem::transmute(self.page);
            f(state);
        }
    }

    /// Runs an SSE instruction.
    pub(crate) fn run_sse(&self, state: &mut Sse) {
        // SAFETY: as above; MXCSR is put back to its default.
        unsafe {
            let f: extern "sysv64" fn(*mut Sse) = std::mem::transmute(self.page);
            f(state);
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; nothing runs in it any more.
        unsafe { libc::munmap(self.page.cast(), SIZE) };
    }
}

/// A small generator of test operands: equal seeds give equal cases.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}
