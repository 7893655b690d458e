//! bench: computes, and does nothing else, for most of a second a round.
//!
//! Between two lines on the console there is no access to a device and no
//! interrupt, so on a CPU backend that counts accesses a whole round is one
//! position. Options: `rounds=N` powers off after N rounds; without it, or with
//! 0, it goes on for ever. `parts=N` leaves work out: the sum of 1 (a hash table),
//! 2 (sorting), 4 (a sieve) and 8 (SHA-256). `passes=N` is how often a round does it.
#![no_std]
#![no_main]

extern crate alloc;

mod sha256;
mod work;

use ftvm_guest::{Boot, power, println};

ftvm_guest::guest!(main);

fn main(boot: Boot) -> ! {
    let rounds = boot.option("rounds").unwrap_or(0);
    println!(
        "bench: {} MiB of memory, rounds={rounds}",
        boot.memory_bytes.div_ceil(1 << 20)
    );
    let mut work = work::Work::new(boot.option("parts"), boot.option("passes"));
    let mut round = 0;
    loop {
        round += 1;
        println!("bench: round {round} checksum {:016x}", work.round());
        if round == rounds {
            println!("bench: done");
            power::off();
        }
    }
}
