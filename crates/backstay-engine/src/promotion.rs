//! The promotion of one plan: computed as a value that prints, stored, then carried out step by step.
//!
//! 1. The new epoch is above every epoch either side is known to have, and its step comes before any that starts
//!    something (test `the_epoch_comes_before_anything_starts`).
//! 2. A promotion that was interrupted goes on from its stored form with the step it was in; every step is
//!    idempotent (test `a_stored_promotion_resumes_at_every_step`).
//! 3. It is refused beside an active peer that answers, and to a restore point that is not whole, unless the
//!    operator insists; each refusal names the way out (tests in `tests`).
//!
//! Left to others: carrying steps out, and storing the value after each change.

mod facts;
mod plan;
mod steps;

pub use facts::{PeerFacts, PointFacts, PromotionFacts, PromotionRefused};
pub use plan::{Apply, CountReason, CountedFrom, Outcome, Planned, PromotionPlan, plan};
pub use steps::{Step, StepError, StepName, StepState};

#[cfg(test)]
mod tests;
