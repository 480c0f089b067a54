//! Tests against real Kubernetes: control planes on loopback, and where it is root, clusters with nodes and pods.
//!
//! Where the programs are missing (see `scripts/kube-assets.sh`) each test counts itself as skipped.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures real processes by the real clock"
)]

mod control_plane;
mod controllers;
mod deploy;
mod drills;
mod frozen;
mod handover;
mod lifecycle;
mod nodes;
mod objects;
mod on_pods;
mod plans;
mod rules;
mod witness;
