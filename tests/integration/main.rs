//! Black-box tests: the real program on real folders, judged by what an operator can see.
//!
//! Sizes are small enough for every run; `scripts/full-fidelity.sh` and `scripts/kill-test.sh` run the same tests at
//! full size by the environment.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures real processes by the real clock"
)]

mod automatic;
mod bad_keys;
mod bad_plans;
mod bad_sources;
mod catalog;
mod consistency;
mod contract;
mod cut;
mod damage;
mod disk_full;
mod drills;
mod every_step;
mod fidelity;
mod guard;
mod handover;
mod harness;
mod homecoming;
mod hosthold;
mod incremental;
mod keeper;
mod kill;
mod lifecycle;
mod manifests;
mod memory;
mod neighbours;
mod odd_moments;
mod old_sites;
mod operator;
mod pairing_again;
mod places;
mod postgres;
mod private;
mod promotion;
mod replicas;
mod schedule;
mod shop;
mod snapshots;
