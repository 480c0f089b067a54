//! Harness of the black-box suites: real `backstay` processes on real folders of this machine.
//!
//! Everything here panics on failure, as a test does. The harness knows the product by its contract alone (the
//! commands, their exit codes and their JSON); it links none of the product's crates, so nothing can be asserted
//! that an operator could not see.
//!
//! Invariants:
//! 1. A daemon started by a [`Site`] ends with it, also when the test panics.
//! 2. A daemon whose log holds an ERROR line or a panic fails its test, unless the test said that it expects one.
//! 3. Every wait is for a condition, with a deadline that fails the test naming the condition.
//! 4. Everything random comes from a seed that is printed.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a harness fails its test by panicking, and measures real processes by the real clock"
)]

mod cli;
mod compare;
mod crash;
pub mod kube;
mod loopfs;
mod manifests;
mod netns;
mod pair;
mod plan;
mod ports;
mod rig;
mod site;
pub mod tree;
mod wait;
mod witness;

pub use cli::{Output, run_backstay};
pub use compare::{assert_same, copy_tree, fingerprint, rsync_differences};
pub use crash::Crasher;
pub use loopfs::{FileSystem, LoopFs};
pub use manifests::{object, objects_under};
pub use netns::Wan;
pub use pair::{KeyOf, Pair};
pub use plan::Plan;
pub use ports::free_address;
pub use rig::{Rng, env_or, is_root, seed, skip};
pub use site::{Site, SiteOptions};
pub use wait::{eventually, eventually_some, seconds_between};
pub use witness::Witness;
