//! Objects between two control planes: captured on one, applied held on the other, released there.
//!
//! The library is used as the daemon uses it; what it did is judged through kubectl.

mod changes;
mod everything;
mod mapped;
mod rig;
mod sites;
mod there_and_back;
mod trouble;
