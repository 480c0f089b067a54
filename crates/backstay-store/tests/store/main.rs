//! The store through its public face: sessions, commits, crashes, collection, damage, a full disk.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking, and their sizes are their own"
)]

mod collection;
mod crash;
mod damage;
mod difference;
mod fixture;
mod full;
mod hostile;
mod keys;
mod mounted;
mod patches;
mod sessions;
