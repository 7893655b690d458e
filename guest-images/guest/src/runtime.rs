//! Where ring 3 begins and where a guest's own `main` is called.

use crate::{
    console,
    heap::{self, HeapSpace},
    pic,
    start_info::StartInfo,
};

/// What a guest's `main` is given.
pub struct Boot {
    /// The command line that the VM was started with.
    pub command_line: &'static str,
    /// Bytes of RAM that the loader told of.
    pub memory_bytes: u64,
}

/// Names a guest's `main`, a `fn(Boot) -> !`.
#[macro_export]
macro_rules! guest {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(start_info: usize) -> ! {
            let main: fn($crate::Boot) -> ! = $main;
            main($crate::Boot::from_loader(start_info))
        }
    };
}

impl Boot {
    /// Brings up console, heap and interrupt controller.
    ///
    /// Called once, by [`guest!`], with the address that the loader handed over.
    #[doc(hidden)]
    pub fn from_loader(start_info: usize) -> Self {
        let info = StartInfo::read(start_info);
        let space = HeapSpace::after_program(info.memory_end());
        heap::init(space);
        console::init();
        pic::init();
        Boot {
            command_line: info.command_line(),
            memory_bytes: info.memory_bytes(),
        }
    }

    /// The number that the command line gives as `name=number`, if it does.
    pub fn option(&self, name: &str) -> Option<u64> {
        self.command_line
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .find(|(given, _)| *given == name)
            .and_then(|(_, value)| value.parse().ok())
    }
}
