//! The vocabulary of Backstay: ids, error classes, limits, the plan, the manifest, the restore point and the
//! frames two sites exchange.
//!
//! This crate is the leaf of the workspace: no tokio, no files, no sockets, no Kubernetes. Everything that is
//! written to disk or to the wire is defined here, once, with a version and golden bytes that pin it.

mod class;
mod consistency;
pub mod frame;
mod hash;
mod id;
pub mod limits;
pub mod manifest;
pub mod plan;
pub mod point;
mod time;

pub use class::{Class, Classify};
pub use hash::{ChunkParams, HashKey};
pub use id::{
    ChunkId, Epoch, InvalidName, PackId, PairId, PlanName, RestorePointId, SessionId, SiteId, VolumeName,
};
pub use time::{Span, Time};
