//! The processor that runs the tests: one instruction, given as bytes, on a state of the test's
//! choice. Compiled for tests only.

#![allow(unsafe_code)]

/// What an instruction finds and leaves.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// FRSTOR before, FNSAVE after: 108 bytes, of which the rest is not used.
    pub(crate) saved: [u8; 128],
    /// The instruction's memory operand, at `[rsi]`.
    pub(crate) memory: [u8; 512],
    /// RFLAGS.
    pub(crate) flags: u64,
    /// RAX.
    pub(crate) rax: u64,
    /// XMM0 and XMM1.
    pub(crate) xmm: [u128; 2],
    /// MXCSR.
    pub(crate) mxcsr: u32,
    /// MXCSR as Rust code expects it.
    pub(crate) default: u32,
}

impl Default for Machine {
    fn default() -> Machine {
        let mut saved = [0; 128];
        saved[..12].copy_from_slice(&[0x7f, 3, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]);
        Machine {
            saved,
            memory: [0; 512],
            flags: 2,
            rax: 0,
            xmm: [0; 2],
            mxcsr: 0x1f80,
            default: 0x1f80,
        }
    }
}

const SIZE: usize = 4096;

/// A page of code that runs one instruction.
pub(crate) struct Native {
    page: *mut u8,
    /// Where in the page the instruction is.
    at: usize,
}

impl Native {
    /// Code around an instruction, which may use RAX, RFLAGS, `[rsi]`, XMM0, XMM1 and x87.
    pub(crate) fn new(instruction: &[u8]) -> Native {
        let mut code = vec![0xdd, 0x27]; // frstor [rdi]
        code.extend([0x48, 0x8d, 0xb7, 128, 0, 0, 0]); // lea rsi, [rdi + 0x80]
        code.extend([0x48, 0x8b, 0x87, 0x88, 2, 0, 0]); // mov rax, [rdi + 0x288]
        code.extend([0x0f, 0x10, 0x87, 0x90, 2, 0, 0]); // movups xmm0, [rdi + 0x290]
        code.extend([0x0f, 0x10, 0x8f, 0xa0, 2, 0, 0]); // movups xmm1, [rdi + 0x2a0]
        code.extend([0xff, 0xb7, 0x80, 2, 0, 0, 0x9d]); // push [rdi + 0x280]; popfq
        code.extend([0x0f, 0xae, 0x97, 0xb0, 2, 0, 0]); // ldmxcsr [rdi + 0x2b0]
        let at = code.len();
        code.extend(instruction);
        code.extend([0x0f, 0xae, 0x9f, 0xb0, 2, 0, 0]); // stmxcsr [rdi + 0x2b0]
        code.extend([0x0f, 0xae, 0x97, 0xb4, 2, 0, 0]); // ldmxcsr [rdi + 0x2b4]
        code.extend([0x9c, 0x8f, 0x87, 0x80, 2, 0, 0]); // pushfq; pop [rdi + 0x280]
        code.extend([0x48, 0x89, 0x87, 0x88, 2, 0, 0]); // mov [rdi + 0x288], rax
        code.extend([0x0f, 0x11, 0x87, 0x90, 2, 0, 0]); // movups [rdi + 0x290], xmm0
        code.extend([0x0f, 0x11, 0x8f, 0xa0, 2, 0, 0]); // movups [rdi + 0x2a0], xmm1
        code.extend([0xdd, 0x37, 0xfc, 0xc3]); // fnsave [rdi]; cld; ret
        assert!(code.len() <= SIZE);
        // SAFETY: An anonymous private mapping at an address of the kernel's choice.
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
        assert!(
            page != libc::MAP_FAILED,
            "the tests need a page that is writable and executable"
        );
        let page = page.cast::<u8>();
        // SAFETY: `page` is `SIZE` bytes long, writable, and nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), page, code.len()) };
        Native { page, at }
    }

    /// Runs the instruction.
    pub(crate) fn run(&self, machine: &mut Machine) {
        // SAFETY: The page holds a whole function of this type, built in `new`. It follows the
        // System V convention: no register that a callee must keep is touched, the x87 state is as
        // after FNINIT at the end, MXCSR is its default, DF is clear. Besides its stack it writes
        // to `machine` only, at the places of its fields.
        unsafe {
            let code: extern "sysv64" fn(*mut Machine) = std::mem::transmute(self.page);
            code(machine);
        }
    }

    /// The address of the instruction.
    pub(crate) fn address(&self) -> u64 {
        self.page as u64 + self.at as u64
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: The mapping made in `new`; nothing runs in it any more.
        unsafe { libc::munmap(self.page.cast(), SIZE) };
    }
}
