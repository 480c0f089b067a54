//! Decisions of Backstay, without IO: when a plan's cycle runs, what a transfer sends and stores, which side may
//! send, what a promotion, a handover or a drill does next, who may run when the sites do not see each other, which
//! restore points stay, and which view is so much less than the last that nobody should take it unasked.
//!
//! Nothing here opens a file or a socket, reads a clock or draws from an unseeded source: `now` and events come
//! in, actions go out. So every decision can be tested in virtual time and a run repeats from its seed.

pub mod backoff;
pub mod consistency;
pub mod cycle;
mod draw;
pub mod drill;
pub mod handover;
pub mod lease;
pub mod plan_state;
pub mod promotion;
pub mod recv;
pub mod retention;
pub mod role;
pub mod schedule;
pub mod send;
pub mod shrink;
