//! The software CPU with a case's pages, at the same virtual addresses as in the native child.

use super::case::*;
use super::kernel::{Interrupted, Kernel, NO_EXECUTE, PAGE, USER, WRITABLE};

/// More positions than any case takes: REP instructions reach the end of the data pages first.
const LIMIT: u64 = 100_000;

/// RAM: the pages of cases, their tables, the kernel's.
const RAM_BYTES: u64 = 0x20000;

/// The software CPU, ready for cases.
pub(crate) struct Guest {
    kernel: Kernel,
    code_at: u64,
    data_at: u64,
}

impl Guest {
    pub(crate) fn new() -> Guest {
        let mut kernel = Kernel::new(RAM_BYTES);
        let mut pages = |from: u64, bytes: usize, bits: u64| {
            let physical: Vec<u64> = (0..bytes as u64)
                .step_by(PAGE as usize)
                .map(|_| kernel.allot())
                .collect();
            for (number, page) in physical.iter().enumerate() {
                kernel.map(from + number as u64 * PAGE, *page, USER | bits);
            }
            physical[0]
        };
        let code_at = pages(CODE, CODE_BYTES, 0);
        let data_at = pages(DATA, DATA_BYTES, WRITABLE | NO_EXECUTE);
        let read_only_at = pages(READ_ONLY, READ_ONLY_BYTES, NO_EXECUTE);
        kernel.put(code_at, &[INT3; CODE_BYTES]);
        kernel.put(read_only_at, &READ_ONLY_IMAGE);
        Guest {
            kernel,
            code_at,
            data_at,
        }
    }

    /// Executes a case.
    pub(crate) fn run(&mut self, case: &Case) -> Outcome {
        let mut code = case.code;
        code[0] = case.first_in_soft;
        let code = &code[..case.code_len as usize];
        let code_at = self.code_at + u64::from(case.code_at);
        self.kernel.put(code_at, code);
        self.kernel.put(self.data_at, &case.data);
        self.kernel.enter(&case.state);
        let interrupted = self.kernel.run(LIMIT);
        let Some(Interrupted {
            vector,
            error,
            cr2,
            state,
            ..
        }) = interrupted
        else {
            panic!("a case runs for ever: {code:02x?}");
        };
        let data = self.kernel.get(self.data_at);
        self.kernel.put(code_at, &[INT3; CODE_LEN][..code.len()]);
        Outcome {
            state,
            vector,
            error,
            cr2,
            data,
        }
    }
}
