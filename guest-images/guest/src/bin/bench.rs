//! tmp
#![no_std]
#![no_main]
fn main(_b: ftvm_guest::Boot) -> ! { ftvm_guest::println!("hi"); ftvm_guest::power::off() }
ftvm_guest::guest!(main);
