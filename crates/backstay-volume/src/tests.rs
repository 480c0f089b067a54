//! Tests of the crate as a whole: real trees on the file system of the machine, a store in memory between.

#![allow(clippy::cast_possible_truncation, reason = "the sizes of a test are small")]

mod apply;
mod block;
mod chunking;
mod clones;
mod elsewhere;
mod fidelity;
mod hostile;
mod incremental;
mod links;
mod live;
mod marks;
mod memory;
mod providers;
mod quiet;
mod restore;
mod state;
pub(crate) mod support;
mod tenants;
