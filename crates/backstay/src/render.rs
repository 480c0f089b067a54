//! Answers of the daemon as text for people. Nothing here asks or decides: fixed input, fixed output.

mod drill;
mod point;
mod promotion;
mod site;
mod status;

pub(crate) use drill::{drill, drills};
pub(crate) use point::{diff, restore_points, restored, synced};
pub(crate) use promotion::{handover, promotion, promotions};
pub(crate) use site::{
    accepted, applied, audit, collected, pairs, plan, plans, proposed, rebuilt, replaced, unpaired, verified,
};
pub(crate) use status::{progress, status, statuses};

#[cfg(test)]
mod tests;
