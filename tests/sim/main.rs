//! Two sites and a witness in virtual time, driven by the decisions of the engine, under every fault there is.
//!
//! `SEED=7 cargo test -p backstay-tests --test sim` repeats one run; one that fails prints its last events.
//! `BACKSTAY_SEEDS` says how many runs; see scripts/simulate.sh.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    missing_docs,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

mod chaos;
mod check;
mod exec;
mod net;
mod node;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::world::{Mode, World};

const SEEDS: u64 = 200;
/// After everything is whole again, all of it must be over within so long, in virtual time.
const SETTLED_WITHIN: u64 = 900_000;
const TOLD: usize = 250;

struct Run {
    failure: Option<String>,
    events: u64,
    trace: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

fn run(seed: u64, traced: bool) -> Run {
    let mode = [Mode::Planned, Mode::Operator, Mode::Lease][(seed % 3) as usize];
    let world = World::new(seed, mode, traced);
    let outcome = catch_unwind(AssertUnwindSafe(|| drive(&world)));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.fail(format!("panic: {}", text.unwrap_or_default()));
    }
    let trace = world.trace.as_ref().map(|trace| trace.borrow().clone()).unwrap_or_default();
    let failure = world.failure.borrow().as_ref().map(|failure| format!("{mode:?}: {failure}"));
    Run { failure, events: world.exec.events.get(), trace, counts: world.counts.take() }
}

fn drive(world: &std::rc::Rc<World>) {
    world.begin();
    let storm = 30_000 + world.exec.draw(150_000);
    advance(world, storm);
    world.heal();
    let end = world.exec.now() + SETTLED_WITHIN;
    let mark = world.writes.get();
    let mut left = None;
    while world.failure.borrow().is_none() && world.exec.now() < end {
        advance(world, world.exec.now() + 5_000);
        left = world.unsettled(mark);
        if left.is_none() {
            world.check_acked();
            return;
        }
    }
    if let Some(left) = left {
        world.fail(format!("not over {} s after everything was whole again: {left}", SETTLED_WITHIN / 1000));
    }
}

fn advance(world: &World, until: u64) {
    while world.failure.borrow().is_none() && world.exec.step(until) {
        world.check();
        if world.exec.events.get().is_multiple_of(64) {
            world.check_acked();
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn what_must_never_happen_never_does() {
    std::panic::set_hook(Box::new(|_| {}));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("BACKSTAY_SEEDS").unwrap_or(SEEDS),
    };
    let (count, started) = (seeds.end - seeds.start, Instant::now());
    let (mut events, mut counts, mut failed) = (0, BTreeMap::<_, u64>::new(), Vec::new());
    for seed in seeds {
        let run = run(seed, false);
        events += run.events;
        run.counts.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
        if let Some(failure) = run.failure {
            failed.push((seed, failure));
            if number("BACKSTAY_ALL").is_none() {
                break;
            }
        }
    }
    drop(std::panic::take_hook());
    let seconds = started.elapsed().as_secs_f64();
    println!("{count} seeds, {events} events, {seconds:.1} s, {} failed; {counts:?}", failed.len());
    let Some((seed, failure)) = failed.first() else { return };
    let trace = run(*seed, true).trace;
    let from = if number("BACKSTAY_ALL").is_some() { trace.len() } else { trace.len().saturating_sub(TOLD) };
    trace[from..].iter().for_each(|line| println!("{line}"));
    failed.iter().for_each(|(seed, failure)| println!("seed {seed}: {failure}"));
    panic!("SEED={seed}: {failure}");
}
