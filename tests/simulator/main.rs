//! The simulator: two real protocol objects and the real register of the arbiter, around them a
//! toy machine, a network that fails, and clients that count, in one thread on virtual time, all
//! from one seed.
//!
//! ```text
//!   clients ◀──▶ gateway ◀──▶ node A ◀── connections ──▶ node B     each node: protocol, toy
//!                               │                          │        machine, a little glue
//!                               └────────▶ arbiter ◀───────┘
//! ```
//!
//! The fault plan of a seed is either survivable, and then the VM must serve at the end (LIVE-1),
//! or anything at all, and then what happens must be safe. `checks` lists the invariants.
//!
//! ```text
//!   cargo test -p vmm --test simulator                                        the fixed seeds
//!   FTVM_SIM_SEEDS=1000000 cargo test --release -p vmm --test simulator       more of them
//!   FTVM_SIM_SEED=123 cargo test -p vmm --test simulator -- one_seed --nocapture
//! ```

mod arbiter;
mod checks;
mod coverage;
mod env;
mod gateway;
mod network;
mod node;
mod plan;
mod rng;
mod toy;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use coverage::{Coverage, Situation};
use trace::{Detail, Trace};
use world::World;

/// How many seeds `cargo test` runs.
const FIXED_SEEDS: u64 = 10_000;

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not `{text}`")),
    )
}

/// Runs one seed; if an invariant is broken, the world as it was then and what was broken.
fn run(seed: u64, detail: Detail) -> Result<World, (Box<World>, String)> {
    let mut world = World::new(seed, Trace::new(detail));
    match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(()) => Ok(world),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err((
                Box::new(world),
                text.unwrap_or_else(|| "a panic without words".to_owned()),
            ))
        }
    }
}

/// Runs a failing seed again and says all there is to say about it.
fn report(seed: u64) -> String {
    let Err((world, broken)) = run(seed, Detail::Last) else {
        return format!(
            "seed {seed} failed once and not again: the simulator is not deterministic"
        );
    };
    let events: String = world
        .env
        .trace
        .last()
        .map(|line| format!("{line}\n"))
        .collect();
    format!(
        "seed {seed}: {broken}\n\nthe last events:\n{events}\nto see all of them:\n    \
         FTVM_SIM_SEED={seed} cargo test -p vmm --test simulator -- one_seed --nocapture\n"
    )
}

/// Runs the seeds from 0 on, on every core.
fn run_seeds(seeds: u64) -> Coverage {
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let worker = || {
        let mut coverage = Coverage::default();
        while failed.load(Ordering::Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                break;
            }
            match run(seed, Detail::Off) {
                Ok(world) => coverage.add_run(&world.env.coverage),
                Err(_) => {
                    failed.fetch_min(seed, Ordering::Relaxed);
                }
            }
        }
        coverage
    };
    let mut coverage = Coverage::default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(worker)).collect();
        for worker in workers {
            coverage.add(
                &worker
                    .join()
                    .expect("a worker catches what its seeds throw"),
            );
        }
    });
    match failed.into_inner() {
        u64::MAX => coverage,
        seed => panic!("{}", report(seed)),
    }
}

/// OUT-1 to OUT-5, LOG-1 to LOG-5, FAIL-1 to FAIL-10, ONE-1, ONE-2 and LIVE-1.
#[test]
fn every_invariant_holds_over_many_seeds() {
    let seeds = from_environment("FTVM_SIM_SEEDS").unwrap_or(FIXED_SEEDS);
    let coverage = run_seeds(seeds);
    for situation in Situation::ALL {
        println!(
            "{:8} of {seeds} runs: {situation:?}",
            coverage.count(*situation)
        );
    }
    if seeds >= FIXED_SEEDS {
        let missing = coverage.missing();
        assert!(
            missing.is_empty(),
            "no seed led to {missing:?}: the simulator proves too little"
        );
    }
}

/// A seed repeats everything; with `FTVM_SIM_SEED` it shows it.
#[test]
fn one_seed() {
    let (seed, detail) = match from_environment("FTVM_SIM_SEED") {
        Some(seed) => (seed, Detail::Print),
        None => (1, Detail::Last),
    };
    let first = run(seed, detail).map_err(|(_, broken)| broken);
    let first = first.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    let second = run(seed, Detail::Last).map_err(|(_, broken)| broken);
    let second = second.expect("what went well once goes well again");
    assert_eq!(
        first.env.trace.hash(),
        second.env.trace.hash(),
        "a seed repeats its run"
    );
}
